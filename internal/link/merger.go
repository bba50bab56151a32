package link

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Merger is a pair of interfaces for packets whose outer headers are off: what goes out by
// one end comes in by the other, and there the kernel's GRO makes superpackets of it, which
// it can do only once for each interface that a packet comes in by.
type Merger struct {
	Entry int // index of the end that packets go out by
	Exit  int // index of the end that they come in by, merged
}

// The ends' names, which are the same in every mesh: a network namespace has one kernel engine.
const (
	MergerEntry = "meshd-gro0"
	MergerExit  = "meshd-gro1"
)

// mergerFeature tells whether one end should have a feature, if that matters. GRO is what the
// pair is for, and a veth that takes superpackets does without (veth_skb_is_eligible_for_gro
// in drivers/net/veth.c).
func mergerFeature(end, feature string) (wanted, matters bool) {
	if end == MergerExit {
		return true, feature == "rx-gro"
	}
	return false, strings.HasPrefix(feature, "tx-tcp") && strings.HasSuffix(feature, "-segmentation")
}

// SetMerger makes the pair, or makes it what it should be; a new one has a number of queues,
// at least one for each CPU. It needs CAP_NET_ADMIN, and Linux 5.13, where veths got their GRO.
// changed tells, in words, what of a pair that was there was not as it should be.
func SetMerger(queues int) (m Merger, changed []string, err error) {
	if release, old := kernelBefore(5, 13); old {
		return m, nil, fmt.Errorf("veth interfaces merge from Linux 5.13 on, and this is %s", release)
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return m, nil, fmt.Errorf("set features of %s: %w", MergerEntry, err)
	}
	defer tool.Close()
	for attempt := 1; ; attempt++ {
		m, changed, err = setMerger(queues, tool)
		// A pair that somebody deletes is still listed when the first news of it comes, and
		// for a moment only one of its ends is.
		gone := errors.Is(err, errForeign) || m.Entry != 0 && Index(MergerEntry) != m.Entry
		if err == nil || !gone || attempt == mergerAttempts {
			return m, changed, err
		}
	}
}

// mergerAttempts is how many pairs in a row others may delete before that is an error.
const mergerAttempts = 3

// setMerger is SetMerger for the pair that there is at the moment, which it returns with an
// error, too.
func setMerger(queues int, tool *ethtool.Ethtool) (m Merger, changed []string, err error) {
	entry, exit, err := findMerger()
	fresh := err == nil && entry == nil
	if fresh {
		entry, exit, err = makeMerger(queues)
	}
	if err != nil {
		return m, nil, err
	}
	m = Merger{entry.Attrs().Index, exit.Attrs().Index}
	// The one that comes up last can send at once: it has its carrier by then.
	for _, end := range []netlink.Link{exit, entry} {
		what, err := setMergerEnd(end, tool)
		if err != nil {
			return m, changed, fmt.Errorf("set %s: %w", end.Attrs().Name, err)
		}
		if !fresh {
			changed = append(changed, what...)
		}
	}
	return m, changed, nil
}

// findMerger returns the ends, nil if there are none. What else has their names is an error.
func findMerger() (entry, exit netlink.Link, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	ends := map[string]netlink.Link{}
	for _, l := range links {
		if name := l.Attrs().Name; name == MergerEntry || name == MergerExit {
			ends[name] = l
		}
	}
	entry, exit = ends[MergerEntry], ends[MergerExit]
	if entry != nil && exit != nil && entry.Type() == "veth" && entry.Attrs().ParentIndex == exit.Attrs().Index {
		return entry, exit, nil
	}
	for name := range ends {
		return nil, nil, fmt.Errorf("the interface %s exists, and %w: `ip link del %s`", name, errForeign, name)
	}
	return nil, nil, nil
}

var errForeign = errors.New("meshd did not make it")

// kernelBefore tells whether the running kernel is older than a version.
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
	pair.Name, pair.PeerName = MergerEntry, MergerExit
	pair.NumTxQueues, pair.NumRxQueues = queues, queues
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, nil, fmt.Errorf("make %s: %w", MergerEntry, err)
	}
	entry, exit, err = findMerger()
	if err == nil && entry == nil { // somebody was faster
		err = fmt.Errorf("make %s: it was deleted or renamed at once", MergerEntry)
	}
	return entry, exit, err
}

// mergerMTU is the largest that the kernel takes: whatever came in has to pass.
const mergerMTU = 65535

// setMergerEnd makes one end what it should be, and then brings it up.
func setMergerEnd(end netlink.Link, tool *ethtool.Ethtool) (changed []string, err error) {
	name := end.Attrs().Name
	features, err := tool.Features(name)
	if err != nil {
		return nil, fmt.Errorf("read its features: %w", err)
	}
	for feature, on := range features {
		if wanted, matters := mergerFeature(name, feature); matters && on != wanted {
			if err := tool.Change(name, map[string]bool{feature: wanted}); err != nil {
				return nil, fmt.Errorf("set its feature %s: %w", feature, err)
			}
			changed = append(changed, fmt.Sprintf("%s was %s", feature, map[bool]string{true: "on", false: "off"}[on]))
		}
	}
	steps := []func(netlink.Link, Settings) ([]string, error){setSilent, setMTU, setUp}
	for _, step := range steps {
		what, err := step(end, Settings{Interface: name, MTU: mergerMTU})
		if err != nil {
			return nil, err
		}
		changed = append(changed, what...)
	}
	for i, what := range changed {
		changed[i] = name + ": " + what
	}
	return changed, nil
}

// DeleteMerger deletes the pair, if it is there.
func DeleteMerger() (found bool, err error) {
	entry, _, err := findMerger()
	if errors.Is(err, errForeign) {
		return false, nil
	}
	if err != nil || entry == nil {
		return false, err
	}
	if err := netlink.LinkDel(entry); err != nil && !errors.Is(err, unix.ENODEV) {
		return false, fmt.Errorf("delete %s: %w", MergerEntry, err)
	}
	return true, nil
}
