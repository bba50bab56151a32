package kernel

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	devices "example.org/meshd/internal/link"
	"example.org/meshd/internal/nstest"
)

// The service has CAP_BPF and CAP_NET_ADMIN alone: without CAP_PERFMON the verifier takes
// less of a program.
func TestLoadAsService(t *testing.T) {
	nstest.Require(t)
	if os.Getenv("MESH_AS_SERVICE") != "" {
		p := programsOf(t, meshOver(false))
		if _, err := p.xdpProgram(); err != nil {
			t.Error(err)
		}
		return
	}
	cmd := exec.Command("setpriv", "--bounding-set", "-all,+net_admin,+bpf", os.Args[0], "-test.run", "^TestLoadAsService$")
	cmd.Env = append(os.Environ(), "MESH_AS_SERVICE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// On kernels without tcx the programs are filters, which go again.
func TestFilters(t *testing.T) {
	nstest.Require(t)
	l := nstest.LabForTest(t)
	h, err := l.Host("host", "172.18.0.2/16")
	if err != nil {
		t.Fatal(err)
	}
	p := programsOf(t, meshOver(false))
	p.noTCX = true
	index := func(name string) (i int) {
		if err := h.Do(func() error {
			device, err := net.InterfaceByName(name)
			if err == nil {
				i = device.Index
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return i
	}
	filters := func() int {
		n := 0
		for _, direction := range []string{"ingress", "egress"} {
			for _, device := range []string{"eth0", "tun0"} {
				out, _ := h.Run("tc", "filter", "show", "dev", device, direction)
				n += strings.Count(out, "direct-action")
			}
		}
		return n
	}
	if err := h.IP("tuntap add tun0 mode tun", "link set tun0 up"); err != nil {
		t.Fatal(err)
	}
	s := Settings{TUN: index("tun0"), MTU: 1472, Address: netip.MustParseAddrPort("172.18.0.2:8285"), Underlay: []int{index("eth0")}, Receive: "tcx"}
	for range 2 { // the second time replaces
		if err := h.Do(func() error { _, err := p.Attach(s); return err }); err != nil {
			t.Fatal(err)
		}
		if n := filters(); n != 2 {
			t.Errorf("%d filters", n)
		}
		p.attached = map[attachment]hook{}
	}
	var found bool
	if err := h.Do(func() (err error) { found, err = devices.DetachClassifiers(); return err }); err != nil || !found || filters() != 0 {
		t.Errorf("found %v, %v, %d filters", found, err, filters())
	}
	if err := h.Do(func() error { _, err := p.Attach(s); return err }); err != nil {
		t.Fatal(err)
	}
	s.Receive = "socket"
	if err := h.Do(func() error { _, err := p.Attach(s); return err }); err != nil || filters() != 1 {
		t.Errorf("%v, %d filters", err, filters())
	}
	if err := h.Do(p.detach); err != nil || filters() != 0 {
		t.Errorf("%v, %d filters", err, filters())
	}
}

// XDP is never there without the program that takes what it marks to the TUN.
func TestOrderOfPlaces(t *testing.T) {
	s := Settings{TUN: 7, Underlay: []int{3, 2}, Receive: "xdp"}
	want := []attachment{{"in", 2}, {"in", 3}, {"out", 7}, {"xdp", 2}, {"xdp", 3}}
	if got := inOrder(s.places()); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
