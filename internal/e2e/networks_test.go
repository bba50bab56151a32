package e2e

import (
	"errors"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// A host that forwards because of the mesh alone does not connect its other networks by it: not two
// LANs, nor the underlay and a LAN, over both families; pods reach other hosts and the outside. What
// others ask for is theirs: with ip_forward on, LANs reach each other again.
func TestForwardingBetweenOthers(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	for _, key := range []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding"} {
		if err := w.Worker2.Sysctl(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	lans := map[string]*nstest.Namespace{}
	for name, subnet := range map[string][2]string{"lan0": {"192.168.1.", "fd01::"}, "lan1": {"192.168.2.",
		"fd02::"}} {
		n := nstest.ForTest(t)
		lans[name] = n
		if err := errors.Join(
			w.Worker2.IP("link add "+name+" type veth peer name eth0 netns "+n.Name, "link set "+name+" up",
				"addr add "+subnet[0]+"1/24 dev "+name, "addr add "+subnet[1]+"1/64 dev "+name+" nodad"),
			n.IP("link set eth0 up", "addr add "+subnet[0]+"2/24 dev eth0",
				"addr add "+subnet[1]+"2/64 dev eth0 nodad",
				"route add default via "+subnet[0]+"1", "route add default via "+subnet[1]+"1"),
		); err != nil {
			t.Fatal(err)
		}
	}
	m := &mesh{world: w}
	file := w.write(dualStack("172.18.0.%d"))
	m.w, m.w2 = w.start(w.Worker, file), w.start(w.Worker2, file, "--sysctl")
	for _, d := range []*nstest.Daemon{m.w, m.w2} {
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	outside := m.outside()
	if err := outside.IP("route add 192.168.0.0/16 via 172.18.0.3"); err != nil {
		t.Fatal(err)
	}
	// The first solicitation of a neighbour may be lost on a bridge that has just been made, and the
	// kernel asks again after a second.
	reaches := func(n *nstest.Namespace, to string) bool {
		_, err := n.Run("ping", "-c", "3", "-i", "1", "-W", "1", to)
		return err == nil
	}
	tests := []struct {
		name string
		from *nstest.Namespace
		to   string
		want bool
	}{
		{"pod to remote pod, IPv4", m.PodW2b, "10.244.1.2", true},
		{"pod to remote pod, IPv6", m.PodW2b, "fd00:10:244:1::2", true},
		{"remote pod to pod", m.PodW, "10.244.2.3", true},
		{"pod to the outside", m.PodW2b, "172.18.0.77", true},
		{"LAN to LAN, IPv4", lans["lan0"], "192.168.2.2", false},
		{"LAN to LAN, IPv6", lans["lan0"], "fd02::2", false},
		{"LAN to LAN and back, IPv6", lans["lan1"], "fd01::2", false},
		{"underlay to LAN", outside.Namespace, "192.168.1.2", false},
		{"LAN to underlay", lans["lan0"], "172.18.0.77", false},
	}
	// What does not arrive takes three seconds, so all are asked at once.
	reached := make([]chan bool, len(tests))
	for i, test := range tests {
		reached[i] = make(chan bool, 1)
		go func() { reached[i] <- reaches(test.from, test.to) }()
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := <-reached[i]; got != test.want {
				t.Errorf("%s reaches %s: %v, want %v", test.from.Name, test.to, got, test.want)
			}
		})
	}
	if got := run(t, m.Worker2.Namespace, "sysctl", "-n", "net.ipv4.ip_forward"); got != "0\n" {
		t.Errorf("ip_forward is %s", got)
	}

	// Another program turns forwarding on, as Docker does.
	if err := w.Worker2.Sysctl("ipv4.ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, m.w2, "the LANs reach each other",
		func(control.Status) bool { return reaches(lans["lan0"], "192.168.2.2") })
	if reaches(lans["lan0"], "fd02::2") {
		t.Error("the LANs reach each other over IPv6")
	}
}
