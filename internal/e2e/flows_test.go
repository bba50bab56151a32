package e2e

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// waitFlows has flows counted, and waits until they are as they should be.
func waitFlows(t *testing.T, d *nstest.Daemon, q control.FlowQuery, what string,
	ok func(control.Flows) bool) (f control.Flows) {
	t.Helper()
	c, err := client(t, d), error(nil)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if f, err = c.CountFlows(t.Context(), control.FlowsLeaseMost, q); err != nil {
			t.Fatal(err)
		}
		if ok(f) {
			return f
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %+v", what, patience, f)
		}
	}
}

// Whoever asks sees which pods use the bandwidth, whatever engine moves packets, and counting ends by itself.
func TestTop(t *testing.T) {
	eachEngine(t, nstest.Busy, func(t *testing.T) {
		m := newMesh(t)
		m.settled()
		if f, err := client(t, m.w2).Flows(t.Context(), control.FlowQuery{}); err != nil ||
			f.State != control.FlowsOff || len(f.Rows) != 0 {
			t.Errorf("before somebody asks: %+v, %v", f, err)
		}
		// Nobody renews this lease.
		if _, err := client(t, m.cp).CountFlows(t.Context(), time.Second, control.FlowQuery{}); err != nil {
			t.Fatal(err)
		}
		counting := func(f control.Flows) bool { return f.State == control.FlowsCounted }
		for _, d := range []*nstest.Daemon{m.w, m.w2} {
			waitFlows(t, d, control.FlowQuery{}, "flows are counted", counting)
		}
		// Of packets that come alone one of four is noted: so many that what is noted is sure to be about right.
		run(t, m.PodW2a, "ping", "-c", "60", "-i", "0.01", "10.244.1.2")
		const size = 32 << 20
		transfer(t, m.PodW2b, m.PodW, "10.244.1.2:9000", size)

		// Headers and what was sent again come on top; a sample may be of an acknowledgement.
		about := func(n uint64) bool { return n > size*85/100 && n < size*13/10 }
		sent := waitFlows(t, m.w2, control.FlowQuery{Top: 5}, "the transfer is the busiest flow",
			func(f control.Flows) bool { return len(f.Rows) > 1 && about(f.Rows[0].Counted.TxBytes) })
		top := sent.Rows[0]
		if top.Peer != "worker" || top.Pod != "10.244.2.3" || top.Remote != "10.244.1.2" || top.Protocol != "tcp" ||
			top.RemotePort != 9000 || top.Port != 9000 || top.PodPort <= 9000 ||
			top.Counted.TxPackets < size/1472*8/10 || top.Counted.RxBytes == 0 || top.Counted.RxBytes > size/10 {
			t.Errorf("the sender's: %+v", top)
		}
		received := waitFlows(t, m.w, control.FlowQuery{By: control.ByPod, Top: 1}, "the receiver sees it, too",
			func(f control.Flows) bool { return len(f.Rows) == 1 && about(f.Rows[0].Counted.RxBytes) }).Rows[0]
		if received.Pod != "10.244.1.2" || received.Peer != "" || received.Flows < 2 ||
			received.Counted.RxPackets < size/1472*8/10 {
			t.Errorf("the receiver's: %+v", received)
		}
		t.Logf("of %d bytes: sent %+v, received %+v", size, top.Counted, received.Counted)
		checkTop(t, m.w)
		if err := m.cp.WaitEvent("flows_off"); err != nil {
			t.Error(err)
		}
		if f, err := client(t, m.cp).Flows(t.Context(), control.FlowQuery{}); err != nil ||
			f.State != control.FlowsOff || len(f.Rows) != 0 {
			t.Errorf("after the lease: %+v, %v", f, err)
		}
	})
}

// In a mesh that encrypts nothing counts flows: the command says so and what to look at instead, in words and
// as JSON, and it is no error. Nothing is left on.
func TestSealedTop(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	d := s.runAll(s.file())[1]
	run(t, s.PodW, "ping", "-c", "3", "-i", "0.2", "10.244.2.2")
	f := waitFlows(t, d, control.FlowQuery{}, "the daemon knows",
		func(f control.Flows) bool { return f.State != control.FlowsStarting })
	if f.State != control.FlowsSealed || len(f.Rows) != 0 || f.Total.Bytes() != 0 {
		t.Errorf("%+v", f)
	}
	out, err := exec.Command(meshd, "top", "--json", "--socket", d.Socket).Output()
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil || f.State != control.FlowsSealed {
		t.Errorf("%v: %s", err, out)
	}
	// A sentence, and no table: what a reader does with it is not to be parsed.
	out, err = exec.Command(meshd, "top", "--by", "pod", "--socket", d.Socket).Output()
	lines := strings.Count(string(out), "\n")
	if err != nil || lines != 1 || !strings.Contains(string(out), "meshd peers") {
		t.Errorf("%v: %q", err, out)
	}
}

// checkTop looks at what the command prints while the table has the transfer and the pings.
func checkTop(t *testing.T, d *nstest.Daemon) {
	t.Helper()
	var f control.Flows
	out, err := exec.Command(meshd, "top", "--json", "--by", "port", "-n", "5", "--socket", d.Socket).Output()
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	sums := func(r control.FlowRow) bool { return r.Protocol == "tcp" && r.Port == 9000 && r.Pod == "" }
	if err != nil || f.By != control.ByPort || f.Known < 2 || !slices.ContainsFunc(f.Rows, sums) {
		t.Errorf("%v: %s", err, out)
	}
}
