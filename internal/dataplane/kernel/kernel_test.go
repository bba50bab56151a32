package kernel

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// The service has CAP_BPF and CAP_NET_ADMIN alone: without CAP_PERFMON the verifier takes
// less of a program.
func TestLoadAsService(t *testing.T) {
	nstest.Require(t)
	if os.Getenv("MESH_AS_SERVICE") != "" {
		p := programsOf(t, meshOver(false))
		if _, err := p.handle().loadXDP(); err != nil {
			t.Error(err)
		}
		return
	}
	cmd := exec.Command("setpriv", "--bounding-set", "-all,+net_admin,+bpf",
		os.Args[0], "-test.run", "^TestLoadAsService$")
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
	// filters tells where there are some, sorted.
	filters := func() string {
		var places []string
		for _, direction := range []string{"egress", "ingress"} {
			for _, device := range []string{"eth0", "meshd-gro0", "meshd-gro1", "tun0"} {
				out, _ := h.Run("tc", "filter", "show", "dev", device, direction)
				for range strings.Count(out, "direct-action") {
					places = append(places, device+" "+direction)
				}
			}
		}
		return strings.Join(places, ", ")
	}
	const all, out = "tun0 egress, eth0 ingress, meshd-gro1 ingress", "tun0 egress"
	if err := h.IP("tuntap add tun0 mode tun", "link set tun0 up"); err != nil {
		t.Fatal(err)
	}
	tun, eth0 := index("tun0"), index("eth0")
	attach := func(p *Engine, receive, want string) {
		t.Helper()
		w := wantedOver(meshOver(false), "tun0", receives[receive], eth0)
		var merging bool
		err := h.Do(func() error {
			_, err := p.attach(w, tun)
			merging = indexOf(mergerEntry) != 0
			return err
		})
		if err != nil || filters() != want {
			t.Errorf("%v, filters at %s", err, filters())
		}
		if merging != (receive == "tcx") {
			t.Errorf("with %s there is a merger: %v", receive, merging)
		}
	}
	attach(p, "tcx", all)
	attach(p, "tcx", all)

	// The next daemon knows what the last one has left, without pins, and has it do what its
	// own maps say; it takes away what is not wanted.
	next := programsOf(t, meshOver(false))
	next.noTCX = true
	if err := h.Do(next.adopt); err != nil || len(next.attached) != 3 {
		t.Errorf("%v, %v", err, next.attached)
	}
	attach(next, "socket", out)
	attach(next, "tcx", all)

	// What others take away comes again.
	for _, device := range []string{"eth0", "meshd-gro1", "tun0"} {
		if out, err := h.Run("tc", "qdisc", "del", "dev", device, "clsact"); err != nil {
			t.Fatal(err, out)
		}
	}
	attach(next, "tcx", all)
	if err := h.IP("link del meshd-gro0"); err != nil {
		t.Fatal(err)
	}
	attach(next, "tcx", all)

	if err := h.Do(next.detach); err != nil || filters() != "" {
		t.Errorf("%v, filters at %s", err, filters())
	}
	attach(next, "tcx", all)
	var found bool
	err = h.Do(func() (err error) { found, err = deleteFilters(); return err })
	if err != nil || !found || filters() != "" {
		t.Errorf("found %v, %v, filters at %s", found, err, filters())
	}
}
