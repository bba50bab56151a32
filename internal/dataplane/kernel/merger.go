package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/mesh"
)

// merger is a pair of veth interfaces for packets whose outer headers are off. What leaves by one
// end arrives at the other, and there the kernel's GRO makes superpackets of it. GRO runs once for
// each interface that a packet arrives at: on the underlay it sees UDP, and no TCP inside.
// The zero value stands for no pair.
type merger struct {
	entry int // index of the end that packets leave by
	exit  int // index of the end where they arrive, merged
}

// The names of the ends. They are the same in every mesh, since a network namespace has one kernel
// engine at most.
const (
	mergerEntry = "meshd-gro0"
	mergerExit  = "meshd-gro1"
)

const (
	// mergerMTU is the largest that the kernel takes: every packet that arrived has to pass.
	mergerMTU = 65535
	// mergerAttempts is how many pairs in a row others may delete before that is an error.
	mergerAttempts = 3
)

// errForeign says that another program has taken the name of an end.
var errForeign = errors.New("meshd did not make it")

// mergerFeature tells which state a feature of an end has to be in, if it matters. GRO is what the
// pair is for, and a veth whose other end takes superpackets does not run it
// (veth_skb_is_eligible_for_gro in drivers/net/veth.c).
func mergerFeature(end, feature string) (wanted, matters bool) {
	if end == mergerExit {
		return true, feature == "rx-gro"
	}
	return false, strings.HasPrefix(feature, "tx-tcp") && strings.HasSuffix(feature, "-segmentation")
}

// setMerger makes the pair, or brings the one that exists to the wanted state. A new pair has
// a number of queues, which is to be one at least for each CPU. It needs CAP_NET_ADMIN, and Linux
// 5.13, where veths got GRO without XDP. The changes name what somebody had changed of a pair that
// existed.
func setMerger(queues int) (m merger, changes []mesh.Change, err error) {
	if release, old := kernelBefore(5, 13); old {
		return m, nil, fmt.Errorf("veth interfaces have GRO from Linux 5.13 on, and this is %s", release)
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return m, nil, fmt.Errorf("set features of %s: %w", mergerEntry, err)
	}
	defer tool.Close()
	for attempt := 1; ; attempt++ {
		m, changes, err = trySetMerger(queues, tool)
		// A pair that somebody deletes stays in the kernel's list for a moment, then only one
		// of its ends does.
		gone := errors.Is(err, errForeign) || m.entry != 0 && indexOf(mergerEntry) != m.entry
		if err == nil || !gone || attempt == mergerAttempts {
			return m, changes, err
		}
	}
}

// trySetMerger is setMerger for the pair that exists at the moment, which it also returns with an
// error.
func trySetMerger(queues int, tool *ethtool.Ethtool) (m merger, changes []mesh.Change, err error) {
	entry, exit, err := findMerger()
	fresh := err == nil && entry == nil
	if fresh {
		entry, exit, err = makeMerger(queues)
	}
	if err != nil {
		return m, nil, err
	}
	m = merger{entry.Attrs().Index, exit.Attrs().Index}
	// The end that comes up last can send at once, since it has its carrier by then.
	for _, end := range []netlink.Link{exit, entry} {
		repaired, err := setMergerEnd(end, tool)
		if err != nil {
			return m, changes, fmt.Errorf("set %s: %w", end.Attrs().Name, err)
		}
		if !fresh {
			changes = append(changes, repaired...)
		}
	}
	return m, changes, nil
}

// findMerger returns the ends, nil if there is no pair. It is an error if another interface has
// one of the names.
func findMerger() (entry, exit netlink.Link, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	ends := map[string]netlink.Link{}
	for _, l := range links {
		if name := l.Attrs().Name; name == mergerEntry || name == mergerExit {
			ends[name] = l
		}
	}
	entry, exit = ends[mergerEntry], ends[mergerExit]
	both := entry != nil && exit != nil && entry.Type() == "veth"
	if both && entry.Attrs().ParentIndex == exit.Attrs().Index {
		return entry, exit, nil
	}
	for name := range ends {
		return nil, nil, remedied{
			fmt.Errorf("the interface %s exists, and %w", name, errForeign), "ip link del " + name}
	}
	return nil, nil, nil
}

// kernelBefore tells whether the running kernel is older than a version, and which it is.
func kernelBefore(major, minor int) (release string, old bool) {
	var u unix.Utsname
	var has [2]int
	if err := unix.Uname(&u); err != nil {
		return "", false
	}
	release = unix.ByteSliceToString(u.Release[:])
	_, err := fmt.Sscanf(release, "%d.%d", &has[0], &has[1])
	return release, err == nil && slices.Compare(has[:], []int{major, minor}) < 0
}

func makeMerger(queues int) (entry, exit netlink.Link, err error) {
	pair := netlink.NewVeth(netlink.NewLinkAttrs())
	pair.Name, pair.PeerName = mergerEntry, mergerExit
	pair.NumTxQueues, pair.NumRxQueues = queues, queues
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, nil, fmt.Errorf("make %s: %w", mergerEntry, err)
	}
	entry, exit, err = findMerger()
	if err == nil && entry == nil {
		err = fmt.Errorf("make %s: another program deleted or renamed it at once", mergerEntry)
	}
	return entry, exit, err
}

// setMergerEnd brings one end to the wanted state, and up last.
func setMergerEnd(end netlink.Link, tool *ethtool.Ethtool) (changes []mesh.Change, err error) {
	name := end.Attrs().Name
	repaired := func(field, old, now string) {
		changes = append(changes, mesh.Change{Op: mesh.Repaired, Kind: mesh.ChangedInterface,
			Subject: name, Field: field, Old: old, New: now})
	}
	features, err := tool.Features(name)
	if err != nil {
		return nil, fmt.Errorf("read its features: %w", err)
	}
	words := map[bool]string{true: "on", false: "off"}
	for feature, on := range features {
		if wanted, matters := mergerFeature(name, feature); matters && on != wanted {
			if err := tool.Change(name, map[string]bool{feature: wanted}); err != nil {
				return nil, fmt.Errorf("set its feature %s: %w", feature, err)
			}
			repaired(feature, words[on], words[wanted])
		}
	}
	// The kernel is to have no address of its own there, or it would speak by the pair. Without
	// IPv6 the setting does not exist. A hardened service cannot write it, so netlink does.
	const none = 1 // IN6_ADDR_GEN_MODE_NONE of include/uapi/linux/if_link.h
	if mode := addressMode(name); mode != "" && mode != fmt.Sprint(none) {
		if err := netlink.LinkSetIP6AddrGenMode(end, none); err != nil {
			return nil, fmt.Errorf("set addr_gen_mode: %w", err)
		}
		repaired("addr_gen_mode", mode, fmt.Sprint(none))
	}
	if mtu := end.Attrs().MTU; mtu != mergerMTU {
		if err := netlink.LinkSetMTU(end, mergerMTU); err != nil {
			return nil, fmt.Errorf("set MTU: %w", err)
		}
		repaired("mtu", fmt.Sprint(mtu), fmt.Sprint(mergerMTU))
	}
	if end.Attrs().RawFlags&unix.IFF_UP == 0 {
		if err := netlink.LinkSetUp(end); err != nil {
			return nil, fmt.Errorf("bring up: %w", err)
		}
		repaired("state", "down", "up")
	}
	return changes, nil
}

// addressMode returns how the kernel makes IPv6 addresses of an end; empty if it makes none.
func addressMode(name string) string {
	mode, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/addr_gen_mode")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(mode))
}

// mergerOverflow returns how many packets the kernel dropped because the backlog of the pair was
// full (tx_dropped of the entry), since the pair was made.
func mergerOverflow() (uint64, error) {
	entry, err := netlink.LinkByName(mergerEntry)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", mergerEntry, err)
	}
	if entry.Attrs().Statistics == nil {
		return 0, nil
	}
	return entry.Attrs().Statistics.TxDropped, nil
}

// deleteMerger deletes the pair, if it exists.
func deleteMerger() (found bool, err error) {
	entry, _, err := findMerger()
	if errors.Is(err, errForeign) {
		return false, nil
	}
	if err != nil || entry == nil {
		return false, err
	}
	if err := netlink.LinkDel(entry); err != nil && !errors.Is(err, unix.ENODEV) {
		return false, fmt.Errorf("delete %s: %w", mergerEntry, err)
	}
	return true, nil
}

// retry runs a netlink dump again when the kernel says that the list changed during the dump
// (NLM_F_DUMP_INTR).
func retry[T any](dump func() ([]T, error)) ([]T, error) {
	var list []T
	var err error
	for range 10 {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return list, err
}
