package kernel

import (
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// A neighbourhood is a host with programs, and a neighbour that is a container of the same
// machine: it bridges a veth of its own, where it may have programs, to the wire between them.
type neighbourhood struct {
	t         *testing.T
	host      *nstest.Host
	neighbour *nstest.Host
	address   net.HardwareAddr // of the host
	mesh      mesh.Mesh
	generator *generator
	tun       *nstest.Capture
	socket    *net.UDPConn // where meshd would listen
}

func newNeighbourhood(t *testing.T) *neighbourhood {
	nstest.Require(t)
	l, m := nstest.LabForTest(t), meshOver(false)
	n := &neighbourhood{t: t, mesh: m, generator: &generator{Rand: rand.New(rand.NewPCG(1, 1)), mesh: m}}
	var err error
	if n.host, err = l.Host("host", "172.18.0.2/16"); err != nil {
		t.Fatal(err)
	}
	if n.neighbour, err = l.Host("neighbour"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		// Neighbours' greetings would be counted, too.
		n.neighbour.Sysctl("ipv6.conf.all.disable_ipv6", "1"),
		n.neighbour.Sysctl("ipv6.conf.default.disable_ipv6", "1"),
		n.host.IP("tuntap add tun0 mode tun", "link set tun0 up"),
		n.neighbour.IP("link add br0 type bridge", "link add x0 type veth peer name x1", "link set eth0 master br0",
			"link set x1 master br0", "link set x0 up", "link set x1 up", "link set br0 up"),
	); err != nil {
		t.Fatal(err)
	}
	if n.tun, err = n.host.Capture("tun0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.tun.Close() })
	if err := n.host.Do(func() (err error) {
		n.socket, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(m.Peers[0].Underlay().AddrPort))
		if err != nil {
			return err
		}
		device, err := net.InterfaceByName("eth0")
		if err == nil {
			n.address = device.HardwareAddr
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.socket.Close() })
	return n
}

// index returns that of an interface.
func (n *neighbourhood) index(h *nstest.Host, name string) (index int) {
	n.t.Helper()
	if err := h.Do(func() error {
		device, err := net.InterfaceByName(name)
		if err == nil {
			index = device.Index
		}
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	return index
}

// attach has the host receive packets by programs, in some way.
func (n *neighbourhood) attach(p *Engine, receive string) {
	n.t.Helper()
	w := wantedOver(n.mesh, "tun0", receives[receive], n.index(n.host, "eth0"))
	err := n.host.Do(func() error { _, err := p.attach(w, n.index(n.host, "tun0")); return err })
	if r := p.counters(n.t); err != nil || r.Receive.String() != receive {
		n.t.Fatalf("%v; %s, %v", err, r.Receive, r.Refused)
	}
}

// do runs f in the neighbour on one CPU, so that what it sends arrives in order.
func (n *neighbourhood) do(f func() error) {
	n.t.Helper()
	if err := n.neighbour.Do(func() error {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var may, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &may); err != nil {
			return err
		}
		for cpu := 0; one.Count() == 0; cpu++ {
			if may.IsSet(cpu) {
				one.Set(cpu)
			}
		}
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return err
		}
		return f()
	}); err != nil {
		n.t.Fatal(err)
	}
}

// send sends frames by the neighbour's veth. It runs in the neighbour.
func send(frames ...[]byte) error {
	device, err := net.InterfaceByName("x0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, f := range frames {
		err = errors.Join(err, unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: device.Index}))
	}
	return err
}

// received is how many frames have come to the host.
func (n *neighbourhood) received() int {
	n.t.Helper()
	text, err := n.host.Run("cat", "/sys/class/net/eth0/statistics/rx_packets")
	if err != nil {
		n.t.Fatal(err)
	}
	count, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		n.t.Fatal(err)
	}
	return count
}

// await waits until the host has received a count of frames.
func (n *neighbourhood) await(count int) {
	n.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); n.received() < count; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%d frames have come, not %d", n.received(), count)
		}
	}
}

// inner returns an inner packet that is known again by a word.
func inner(src, word string) []byte {
	payload := binary.BigEndian.AppendUint16(nil, 7777)
	payload = binary.BigEndian.AppendUint16(payload, 7777)
	payload = binary.BigEndian.AppendUint16(payload, uint16(8+len(word)))
	payload = append(append(payload, 0, 0), word...)
	return ip4(netip.MustParseAddr(src), netip.MustParseAddr("10.244.0.2"), 0, 64, 17, payload)
}

// frame returns a frame to the host, or another MAC address.
func frame(to net.HardwareAddr, proto uint16, b []byte) []byte {
	f := append(append([]byte{}, to...), 2, 0, 0, 0, 0, 9)
	return append(binary.BigEndian.AppendUint16(f, proto), b...)
}

// honest returns what a peer sends, to a MAC address.
func (n *neighbourhood) honest(to net.HardwareAddr, word string) []byte {
	b := n.generator.outer(n.mesh.Peers[1].Underlay().AddrPort, 0, inner("10.244.1.2", word))
	return frame(to, 0x0800, b[14:])
}

// injected returns the words of packets that came to the TUN, until a datagram of a peer does
// that is sent behind them.
func (n *neighbourhood) injected() (words []string) {
	n.t.Helper()
	n.do(func() error { return send(n.honest(n.address, "word:end")) })
	for {
		b, err := n.tun.Next(10*time.Second, func(b []byte) bool { return strings.Contains(string(b), "word:") })
		if err != nil {
			n.t.Fatal(err)
		}
		_, word, _ := strings.Cut(string(b), "word:")
		if word == "end" {
			return words
		}
		words = append(words, word)
	}
}

// metadataOf is an XDP program that puts words in front of all frames.
func metadataOf(words []uint32) asm.Instructions {
	size := int32(4 * len(words))
	program := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, -size),
		asm.FnXdpAdjustMeta.Call(),
		asm.LoadMem(asm.R1, asm.R6, 8, asm.Word), // data_meta of struct xdp_md
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word), // data
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, size),
		asm.JGT.Reg(asm.R3, asm.R2, "pass"),
	}
	for i, word := range words {
		program = append(program, asm.StoreImm(asm.R1, int16(4*i), int64(int32(word)), asm.Word))
	}
	return append(program, asm.Mov.Imm(asm.R0, 2).WithSymbol("pass"), asm.Return()) // XDP_PASS
}

// loadProgram loads a program of the neighbour's.
func loadProgram(t *testing.T, kind ebpf.ProgramType, instructions asm.Instructions) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, Instructions: instructions, License: "GPL"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

// A neighbour on the same machine writes metadata in front of bare packets with any source: no
// packet is delivered, wherever the host receives, not even with the secret mark.
func TestForeignMetadata(t *testing.T) {
	n := newNeighbourhood(t)
	for _, receive := range []string{"tcx", "xdp"} {
		p := programsOf(t, n.mesh)
		n.attach(p, receive)
		old, zeros := []uint32{0x6d657368}, make([]uint32, 8)
		stolen := p.settings.Mark.Words[:]
		for name, words := range map[string][]uint32{
			"old": old, "old, longer": {old[0], old[0], old[0], old[0]},
			"zeros": zeros[:4], "more zeros": zeros, "short": zeros[:1],
			"stolen": stolen, "stolen, longer": append(stolen[:4:4], zeros[:3]...),
		} {
			t.Run(receive+"/"+name, func(t *testing.T) {
				n.t = t
				program := loadProgram(t, ebpf.XDP, metadataOf(words))
				before, seen := p.counters(t), n.received()
				lies := uint64(0)
				n.do(func() error {
					device, err := net.InterfaceByName("x1")
					if err != nil {
						return err
					}
					l, err := link.AttachXDP(link.XDPOptions{
						Program: program, Interface: device.Index, Flags: link.XDPDriverMode,
					})
					if err != nil {
						return err
					}
					for _, src := range []string{"8.8.4.4", "10.244.2.2", "10.244.0.3", "10.244.1.2"} {
						err = errors.Join(err, send(frame(n.address, 0x0800, inner(src, "word:"+src))))
						lies++
					}
					n.await(seen + int(lies))
					return errors.Join(err, l.Close())
				})
				if words := n.injected(); words != nil {
					t.Errorf("injected %v", words)
				}
				after := p.counters(t).Totals
				if after.RxPackets != before.Totals.RxPackets+1 { // the peer's datagram
					t.Errorf("%d packets received, before %d", after.RxPackets, before.Totals.RxPackets)
				}
				dropped := after.Drops[mesh.WrongDestination] - before.Totals.Drops[mesh.WrongDestination]
				want := uint64(0) // where XDP stands it takes all marks off, and where not, nothing is marked
				if receive == "tcx" && strings.HasPrefix(name, "stolen") {
					want = lies
				}
				if dropped != want {
					t.Errorf("%d of %d are counted as dropped", dropped, lies)
				}
			})
			n.t = t
		}
		if err := n.host.Do(p.leave); err != nil {
			t.Fatal(err)
		}
	}
}

// vlanOf is a tc program that tags all frames, as a card does: beside the frame, not in it.
var vlanOf = asm.Instructions{
	asm.Mov.Imm(asm.R2, int32(networkOrder(0x8100))),
	asm.Mov.Imm(asm.R3, 7),
	asm.FnSkbVlanPush.Call(),
	asm.Mov.Imm(asm.R0, -1), // TCX_NEXT
	asm.Return(),
}

// Programs take those frames that a socket would be given, and no others: by MAC address and
// VLAN, whether the tag is in the frame or beside it.
func TestFramesOfOthers(t *testing.T) {
	n := newNeighbourhood(t)
	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	tag := func(word string) []byte {
		f := n.honest(n.address, word)
		return append(append(append([]byte{}, f[:12]...), 0x81, 0, 0, 7), f[12:]...)
	}
	frames := [][]byte{
		n.honest(n.address, "word:own"), n.honest(net.HardwareAddr{2, 0, 0, 0, 0, 77}, "word:other"),
		n.honest(broadcast, "word:broadcast"), n.honest(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, "word:multicast"),
		tag("word:tagged"),
	}
	vlan := loadProgram(t, ebpf.SchedCLS, vlanOf)
	arrived := func(programs bool) map[string]bool {
		t.Helper()
		seen := n.received()
		n.do(func() error {
			device, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			l, err := link.AttachTCX(link.TCXOptions{
				Program: vlan, Interface: device.Index, Attach: ebpf.AttachTCXEgress,
			})
			if err != nil {
				return err
			}
			err = send(n.honest(n.address, "word:beside"))
			n.await(seen + 1)
			return errors.Join(err, l.Close(), send(frames...))
		})
		all := map[string]bool{}
		if programs {
			for _, word := range n.injected() {
				all[word] = true
			}
		}
		n.do(func() error { return send(n.honest(broadcast, "word:end")) })
		if err := n.socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for b := make([]byte, 2000); ; {
			size, err := n.socket.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			_, word, _ := strings.Cut(string(b[:size]), "word:")
			if word == "end" {
				return all
			}
			all[word] = true
		}
	}
	want := map[string]bool{"own": true, "broadcast": true, "multicast": true}
	if got := arrived(false); !maps.Equal(got, want) {
		t.Fatalf("without programs %v come to a socket", got)
	}
	for _, receive := range []string{"tcx", "xdp"} {
		p := programsOf(t, n.mesh)
		n.attach(p, receive)
		if got := arrived(true); !maps.Equal(got, want) {
			t.Errorf("%s: %v", receive, got)
		}
		// XDP took two that it could not know to be tagged (a bridge takes tags out of frames);
		// they are counted.
		drops := p.counters(t).Totals.Drops[mesh.WrongDestination]
		if tagged := map[string]uint64{"xdp": 2}[receive]; drops != tagged {
			t.Errorf("%s: %d drops", receive, drops)
		}
		if err := n.host.Do(p.leave); err != nil {
			t.Fatal(err)
		}
	}
}

// A capture on the underlay sees all frames, and takes nothing away from the programs.
func TestCaptureOnUnderlay(t *testing.T) {
	n := newNeighbourhood(t)
	wire, err := n.host.Capture("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	for _, receive := range []string{"tcx", "xdp"} {
		p := programsOf(t, n.mesh)
		n.attach(p, receive)
		if words := n.injected(); words != nil {
			t.Errorf("%s: %v", receive, words)
		}
		end := func(b []byte) bool { return strings.Contains(string(b), "word:end") }
		if _, err := wire.Next(10*time.Second, end); err != nil {
			t.Errorf("%s: on the wire: %v", receive, err)
		}
		if err := n.host.Do(p.leave); err != nil {
			t.Fatal(err)
		}
	}
}

// What the programs know of an interface follows it: its MAC address, and whether XDP is there.
func TestDevicesAreKnown(t *testing.T) {
	n := newNeighbourhood(t)
	p := programsOf(t, n.mesh)
	known := func(want ...net.HardwareAddr) {
		t.Helper()
		var settings meshSettings
		if err := p.handle().Configured.Lookup(uint32(0), &settings); err != nil {
			t.Fatal(err)
		}
		var all [len(settings.Devices)]meshDevice
		for i, address := range want {
			all[i].Index = uint32(n.index(n.host, "eth0"))
			copy(all[i].Address[:], address)
		}
		if settings.Devices != all {
			t.Errorf("known %v, want %v", settings.Devices, all)
		}
	}
	n.attach(p, "xdp") // the loopback's entry of the trial runs goes
	known(n.address)
	other := net.HardwareAddr{2, 0, 0, 0, 0, 0x55}
	change := []string{"link set eth0 down", "link set eth0 address " + other.String(), "link set eth0 up"}
	if err := n.host.IP(change...); err != nil {
		t.Fatal(err)
	}
	n.attach(p, "xdp")
	known(other)
	n.address = other
	if words := n.injected(); words != nil {
		t.Errorf("%v", words)
	}
	n.attach(p, "tcx")
	known()
}
