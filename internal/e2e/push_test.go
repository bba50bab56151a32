package e2e

import (
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/push"
)

// ended returns how a step has ended on each host, by name.
func ended(news []push.News, step string) map[string]string {
	all := map[string]string{}
	for _, n := range news {
		if n.Step == step {
			all[n.Host] = n.State
		}
	}
	return all
}

// same returns what ended does if a step ends on all seven hosts alike.
func same(state string) string {
	all := map[string]string{}
	for i := 1; i <= 7; i++ {
		all[fmt.Sprintf("h%d", i)] = state
	}
	return fmt.Sprint(all)
}

// One file goes to seven hosts; one that a host refuses goes to none; one that cuts three hosts off comes
// back by itself, also on the host that ssh reaches by the mesh alone.
func TestPush(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	f := newFleet(t, false)
	stop := f.lost()
	good := f.doc(node(8, "172.18.0.18"))

	t.Run("refused by one host", func(t *testing.T) {
		// h5 has two nodes' addresses: it cannot tell which node it is.
		if err := f.daemons[4].Host.IP("address add 10.9.9.99/32 dev d0"); err != nil {
			t.Fatal(err)
		}
		news, exit := f.push(f.doc(node(8, "10.9.9.99")))
		if got := ended(news, push.StepPlan); exit != 1 || got["h5"] != push.StateRefused ||
			got["h1"] != push.StateOK || len(ended(news, push.StepApply)) > 0 {
			t.Errorf("exit %d: %v", exit, news)
		}
	})

	t.Run("cuts three hosts off", func(t *testing.T) {
		cut := good
		for _, i := range []string{"5", "6"} { // addresses that only these hosts have
			cut = strings.Replace(cut, `"172.18.0.1`+i+`"`, `"10.9.9.`+i+`"`, 1)
		}
		cut = strings.Replace(cut, `"172.18.0.17"`, `"172.18.0.17:9999"`, 1) // h7's firewall drops that port
		run(t, f.daemons[6].Host.Namespace, "nft",
			"add table ip wall; add chain ip wall in { type filter hook input priority -300; };"+
				"add rule ip wall in udp dport 9999 drop")
		news, exit := f.push(cut, "--confirm", "30s")
		if got := fmt.Sprint(ended(news, push.StepBack)); exit != 1 || got != same(push.StateOK) ||
			len(ended(news, push.StepConfirm)) > 0 {
			t.Errorf("exit %d: %v", exit, news)
		}
		f.well("healed by themselves")
	})

	t.Run("not all can be reached, and all are required", func(t *testing.T) {
		news, exit := f.push(good, "--require", "all") // h8 is not there yet
		if exit != 1 || ended(news, push.StepPlan)["h8"] != push.StateUnreachable ||
			len(ended(news, push.StepApply)) > 0 {
			t.Errorf("exit %d: %v", exit, news)
		}
	})

	t.Run("good", func(t *testing.T) {
		news, exit := f.push(good, "--canary", "1")
		if got := fmt.Sprint(ended(news, push.StepConfirm)); exit != 0 || got != same(push.StateOK) {
			t.Errorf("exit %d: %v", exit, news)
		}
		for _, d := range f.daemons {
			if s := status(t, d); len(s.Peers) != 7 || s.Config.Pending != nil {
				t.Errorf("%s: %d peers, %+v", s.Node, len(s.Peers), s.Config.Pending)
			}
			onDisk(t, d, "pushed", onEngine(t, good))
		}
	})
	if lost := stop(); lost != "0" {
		t.Errorf("a pair that no file names: %s", lost)
	}
}
