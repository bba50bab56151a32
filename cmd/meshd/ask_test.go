package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/masq"
)

func TestRoute(t *testing.T) {
	via := control.Route{
		Schema: control.Schema, Peer: "edge-2", Prefix: "10.244.1.0/24", Address: "172.18.0.4:8285",
		Source:    "10.244.2.0",
		Interface: "mesh0", MTU: 1472, State: "up", Masquerade: masq.MeshToMesh,
	}
	sourceless := via
	sourceless.Source = ""
	agreed, elsewhere := via, via
	host := control.KernelRoute{Sender: control.SenderHost, Agrees: true, Device: "mesh0", Table: "main",
		Rule: "32766: from all lookup main", Source: "10.244.2.0", MTU: 1472}
	agreed.Kernel = []control.KernelRoute{host}
	refused := control.KernelRoute{Sender: control.SenderPods, Table: "52", Error: "no route to host"}
	diverted := control.KernelRoute{Sender: control.SenderHost, Device: "d0", Table: "52",
		Rule: "5270: from all lookup 52", Source: "172.18.0.3", MTU: 1500}
	elsewhere.Kernel = []control.KernelRoute{diverted, refused}
	half := via
	half.Kernel = []control.KernelRoute{host, {Sender: control.SenderPods, Device: "d0", Table: "52"}}
	outside := control.Route{Schema: control.Schema, Reason: "no node has it", Masquerade: masq.PodsToOutside}
	local := control.Route{Schema: control.Schema, Peer: "edge-1", Prefix: "10.244.2.0/24",
		Reason: "this node has it"}
	waiting := control.Route{Schema: control.Schema, Reason: "nothing is forwarded yet"}
	first := func(to string) string {
		return to + " via edge-2 at 172.18.0.4:8285 (10.244.1.0/24) dev mesh0 src 10.244.2.0 mtu 1472\n" +
			"peer edge-2 is up\nfrom a pod: keeps its address (rule mesh-to-mesh)\n"
	}
	for to, test := range map[string]struct {
		route control.Route
		want  line
	}{
		"10.244.1.2": {via, line{stdout: "10.244.1.2 via edge-2 at 172.18.0.4:8285 (10.244.1.0/24) " +
			"dev mesh0 src 10.244.2.0 mtu 1472\n" +
			"peer edge-2 is up\nfrom a pod: keeps its address (rule mesh-to-mesh)\n"}},
		"10.244.1.3": {sourceless, line{stdout: "10.244.1.3 via edge-2 at 172.18.0.4:8285 (10.244.1.0/24) " +
			"dev mesh0 " +
			"src (none: this node has no subnet of that family) mtu 1472\n" +
			"peer edge-2 is up\nfrom a pod: keeps its address (rule mesh-to-mesh)\n"}},
		"10.244.1.4": {agreed, line{stdout: first("10.244.1.4") +
			"the kernel agrees: dev mesh0 table main src 10.244.2.0 mtu 1472\n"}},
		"10.244.1.5": {elsewhere, line{code: exitNo, stdout: first("10.244.1.5") +
			"the kernel sends packets of this host elsewhere: dev d0 table 52 " +
			"(ip rule 5270: from all lookup 52)\n" +
			"the kernel drops packets of pods of this host: no route to host\n"}},
		"10.244.1.6": {half, line{code: exitNo, stdout: first("10.244.1.6") +
			"the kernel agrees about packets of this host\n" +
			"the kernel sends packets of pods of this host elsewhere: dev d0 table 52\n"}},
		"10.244.2.9": {local, line{stdout: "10.244.2.9 is local: in 10.244.2.0/24 of this node, edge-1; " +
			"packets to it do not pass the mesh\n"}},
		"127.0.0.1": {outside, line{code: exitNo,
			stdout: "127.0.0.1: no route in the mesh: no node has it\n"}},
		"10.9.9.9": {outside, line{code: exitNo,
			stdout: "10.9.9.9: no route in the mesh: no node has it\n" +
				"from a pod: leaves with this host's address (rule pods-to-outside)\n"}},
		"fd00::1": {waiting, line{code: exitNo,
			stdout: "fd00::1: no route in the mesh: nothing is forwarded yet\n"}},
	} {
		t.Run(to, func(t *testing.T) {
			socket := fake(t, control.Source{Route: func(a netip.Addr) control.Route {
				r := test.route
				r.To = a.String()
				return r
			}})
			test.want.args = []string{"route", to}
			test.want.try(t, socket)
			code, out, _ := meshd("route", "--json", to, "--socket", socket)
			if r := decode[control.Route](t, out); code != test.want.code || r.To != to ||
				r.Reason != test.route.Reason {
				t.Errorf("--json: %d, %q", code, out)
			}
		})
	}
}

// Each word that a daemon gives for masquerading has its own sentence.
func TestFates(t *testing.T) {
	cidr := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	settings := masq.Settings{Mesh: cidr, Exclude: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
	seen := map[string]string{}
	words := []string{control.MasqueradeOff}
	for _, to := range []string{"10.244.1.2", "10.0.0.1", "224.0.0.1", "9.9.9.9"} {
		words = append(words, masq.Explain(settings, netip.MustParseAddr(to)))
	}
	for _, word := range words {
		fate := fateOf(control.Route{Masquerade: word})
		if fate == "" || fate == fateOf(control.Route{Masquerade: word + "?"}) {
			t.Errorf("%s has no sentence", word)
		}
		if other, twice := seen[fate]; twice {
			t.Errorf("%s and %s have one sentence", word, other)
		}
		seen[fate] = word
	}
	if fate := fateOf(control.Route{}); fate != "" {
		t.Errorf("nothing known: %q", fate)
	}
	if fate := fateOf(control.Route{Masquerade: "a-new-rule"}); !strings.Contains(fate, "a-new-rule") {
		t.Errorf("of a newer daemon: %q", fate)
	}
}

// pinging serves a daemon that answers two of three pings to "b", and none that is large.
func pinging(t *testing.T) (socket string) {
	var asked atomic.Int64
	return fake(t, control.Source{
		Status: func() control.Status { return control.Status{Schema: control.Schema, Node: "edge-1"} },
		Ping: func(_ context.Context, r control.PingRequest) (control.Ping, bool, error) {
			p := control.Ping{Schema: control.Schema, Peer: r.Peer, Size: 28 + max(r.Size, 80)}
			switch n := asked.Add(1); {
			case r.Size > 1000:
				p.Error = "larger than the path to the peer"
			case n%3 != 0:
				p.RTTMS = new(float64(n))
			}
			return p, r.Peer == "b", nil
		},
	})
}

const fourPings = `108 bytes from b: seq=1 time=1.000 ms
108 bytes from b: seq=2 time=2.000 ms
108 bytes to b: seq=3 no answer
108 bytes from b: seq=4 time=4.000 ms
4 sent, 3 received, 25% loss
rtt min/median/max 1.000/2.000/4.000 ms
`

// -n is the count; -c counts, too, if a number follows, and is the file otherwise.
func TestPingCounts(t *testing.T) {
	for _, flags := range []string{
		"-n 4", "-n4", "--count 4", "--count=4", "-c 4", "-c4", "-c=4", "-c +4", "-c file -n 4", "-n 4 -c ./4",
		"--config 4 -n 4",
	} {
		t.Run(flags, func(t *testing.T) {
			want := line{stdout: fourPings}
			want.args = append(strings.Fields("ping b -i 10ms"), strings.Fields(flags)...)
			want.try(t, pinging(t))
			want.args = append(strings.Fields(flags), strings.Fields("-i 10ms ping b")...)
			want.try(t, pinging(t))
		})
	}
	for _, flags := range []string{
		"-n 5x", "--count 5x", "--count=", "-n -1", "-n 0", "-c 5x", "-c 5x b", "-c -1", "-c 0",
		"-c 99999999999999999999", "-n", "-c",
		"-i 1ms", "-i soon", "-s large",
	} {
		t.Run(flags, func(t *testing.T) {
			args := append(strings.Fields("--socket /nonexistent ping b"), strings.Fields(flags)...)
			if code, out, _ := meshd(args...); code != exitUsage || out != "" {
				t.Errorf("%d, %q", code, out)
			}
		})
	}
}

func TestPingWithoutAnAnswer(t *testing.T) {
	socket := pinging(t)
	line{strings.Fields("ping b -n 1 -s 1400"), exitNo,
		"1428 bytes to b: seq=1 not sent: larger than the path to the peer\n1 sent, 0 received, 100% loss\n",
		""}.try(t, socket)
	code, out, _ := meshd("ping", "--json", "b", "-n", "2", "-i", "10ms", "-s", "1400", "--socket", socket)
	p := decode[pinged](t, out)
	if code != exitNo || p.Sent != 2 || p.Received != 0 || p.Loss != 1 || p.MedianMS != nil ||
		len(p.Replies) != 2 ||
		p.Replies[1].Error == "" || p.Schema != control.Schema {
		t.Errorf("%d, %+v", code, p)
	}
	for _, name := range []string{"x", "edge-1"} {
		if code, out, errs := meshd("ping", name, "--socket", socket); code != exitNo || out != "" ||
			!strings.Contains(errs, name) {
			t.Errorf("%s: %d, %q, %q", name, code, out, errs)
		}
	}
}

// Ctrl-C ends a ping with what was measured until then.
func TestPingInterrupted(t *testing.T) {
	socket := pinging(t)
	ctx, interrupt := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"ping", "b", "-n", "1000", "-i", "1h", "--socket", socket}, writer, io.Discard)
		writer.Close()
	}()
	lines := bufio.NewScanner(reader)
	if !lines.Scan() {
		t.Fatal("no answer")
	}
	interrupt()
	var rest []string
	for lines.Scan() {
		rest = append(rest, lines.Text())
	}
	if err := <-done; err != nil || len(rest) != 2 || rest[0] != "1 sent, 1 received, 0% loss" {
		t.Errorf("%v, %q", err, rest)
	}
}

func TestEvents(t *testing.T) {
	events := control.NewEvents()
	socket := fake(t, control.Source{Events: events})
	long := time.Now().Add(-2 * time.Hour)
	events.Add(control.Event{At: long, Level: "info", Kind: "reloaded", Message: "reloaded",
		Fields: map[string]string{"generation": "2", "changes": "+ peer b", "cause": "", "quoted": `a"b`}})
	events.Add(control.Event{At: time.Now(), Level: "error", Kind: "peer_down", Peer: "b",
		Message: "peer is down"})
	code, out, errs := meshd("events", "--socket", socket)
	lines := strings.Split(out, "\n")
	if code != 0 || errs != "" || len(lines) != 3 {
		t.Fatalf("%d, %q, %q", code, out, errs)
	}
	for i, want := range []string{
		long.Local().Format("2006-01-02 15:04:05") +
			` INFO  reloaded (changes + peer b, generation 2, quoted a"b)`,
		` ERROR b is down: it does not answer`,
	} {
		if !strings.HasSuffix(lines[i], want) {
			t.Errorf("line %d is %q, want ...%q", i, lines[i], want)
		}
	}
	code, out, _ = meshd("events", "--since", "1h", "--json", "--socket", socket)
	if e := decode[control.Event](t, out); code != 0 || e.Kind != "peer_down" || e.Seq != 2 {
		t.Errorf("--since: %d, %q", code, out)
	}
}

// Which events are shown, and that those that repeat are one line.
func TestEventsSelected(t *testing.T) {
	events := control.NewEvents()
	socket := fake(t, control.Source{Events: events,
		Status: func() control.Status { return sample(time.Now()) }})
	day := 24 * time.Hour
	for i, e := range []control.Event{
		{Level: "info", Kind: "reloaded", Message: "reloaded", At: time.Now().Add(-3 * day)},
		{Level: "warn", Kind: "peer_stale", Peer: "edge-2", Message: "peer is stale"},
		{Level: "warn", Kind: "peer_stale", Peer: "edge-2", Message: "peer is stale"},
		{Level: "warn", Kind: "peer_stale", Peer: "edge-2", Message: "peer is stale"},
		{Level: "info", Kind: "peer_up", Peer: "edge-2", Message: "peer is up"},
		{Level: "error", Kind: "peer_down", Message: "2 peers are down", Fields: map[string]string{
			"peers": "edge-2 edge-3"}},
		{Level: "warn", Kind: "reload_rejected", Message: "rejected",
			Fields: map[string]string{"error": "a:1: x\na:2: y\na:3: z"}},
	} {
		if e.At.IsZero() {
			e.At = time.Now().Add(time.Duration(i-60) * time.Minute)
		}
		events.Add(e)
	}
	for args, want := range map[string][]string{
		"":                                    {"reloaded", "3 times", "is up", "2 peers", "a:1: x (and 2 more)"},
		"--level warn":                        {"3 times", "2 peers", "rejected"},
		"--level error":                       {"2 peers"},
		"-n 2":                                {"2 peers", "rejected"},
		"-n 0":                                {},
		"edge-2":                              {"3 times", "is up", "2 peers"},
		"10.244.1.7":                          {"3 times", "is up", "2 peers"},
		"edge-2 -n 1":                         {"2 peers"},
		"edge-3":                              {"2 peers"},
		"edge-9":                              {},
		"--since 1d":                          {"3 times", "is up", "2 peers", "rejected"},
		"--since 57m -n 9":                    {"is up", "2 peers", "rejected"},
		"--level info --since 4d edge-2 -n 2": {"is up", "2 peers"},
	} {
		t.Run(args, func(t *testing.T) {
			code, out, _ := meshd(append(append([]string{"events"}, strings.Fields(args)...), "--socket", socket)...)
			lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			if out == "" {
				lines = nil
			}
			if code != 0 || len(lines) != len(want) {
				t.Fatalf("%d, %q", code, lines)
			}
			for i, word := range want {
				if !strings.Contains(lines[i], word) {
					t.Errorf("no %q in %q", word, lines[i])
				}
			}
		})
	}
}

// Programs get every event.
func TestEventsInJSON(t *testing.T) {
	events := control.NewEvents()
	for range 3 {
		events.Add(control.Event{At: time.Now(), Level: "warn", Kind: "peer_stale", Peer: "b"})
	}
	socket := fake(t, control.Source{Events: events})
	for args, want := range map[string]int{"": 3, "-n 2": 2, "--level error": 0} {
		code, out, errs := meshd(append(strings.Fields("events --json "+args), "--socket", socket)...)
		if code != 0 || errs != "" || strings.Count(out, "\n") != want {
			t.Errorf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
}

// Following shows the events that there are, then new ones, until Ctrl-C, which is no error.
func TestEventsFollow(t *testing.T) {
	events := control.NewEvents()
	events.Add(control.Event{Kind: "first"})
	socket := fake(t, control.Source{Events: events})
	ctx, interrupt := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"events", "-f", "--json", "--socket", socket}, writer, io.Discard)
		writer.Close()
	}()
	lines := bufio.NewScanner(reader)
	for _, kind := range []string{"first", "second", "third"} {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		if e := decode[control.Event](t, lines.Text()); e.Kind != kind {
			t.Fatalf("%+v, not %s", e, kind)
		}
		events.Add(control.Event{Kind: map[string]string{"first": "second", "second": "third"}[kind]})
	}
	interrupt()
	go io.Copy(io.Discard, reader) // the fourth event may be on its way
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWait(t *testing.T) {
	var asked atomic.Int64
	status := sample(time.Now())
	socket := fake(t, control.Source{
		Status: func() control.Status { return status },
		Ready: func(context.Context) error {
			if asked.Add(1) == 1 {
				return errors.New("no address yet")
			}
			return nil
		},
	})
	for name, test := range map[string]struct {
		args string
		code int
		says string
	}{
		"ready, the second time": {"ready", 0, ""},
		"a peer that is up":      {"peer:edge-2", 0, ""},
		"a peer by its address":  {"peer:172.18.0.4", 0, ""},
		"a peer that is not":     {"peer:edge-3 --timeout 0.3", exitTimeout, control.Unknown},
		"no such peer":           {"peer:x --timeout 300ms", exitTimeout, `"x"`},
		"no daemon":              {"ready --timeout 300ms --socket " + socket + "x", exitTimeout, socket + "x"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := meshd(append([]string{"--socket", socket, "wait"}, strings.Fields(test.args)...)...)
			if code != test.code || out != "" || !strings.Contains(errs, test.says) || (errs == "") != (code == 0) {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
		})
	}
	code, out, _ := meshd("wait", "ready", "--json", "--socket", socket)
	if r := decode[control.Ready](t, out); code != 0 || !r.OK {
		t.Errorf("--json: %d, %q", code, out)
	}
}

// What time does not cure ends waiting at once; a deadline says what was missing last.
func TestWaitFor(t *testing.T) {
	for _, final := range []error{nil, control.ErrPermission, control.ErrMismatch} {
		t.Run(fmt.Sprint(final), func(t *testing.T) {
			asked := 0
			err := waitFor(t.Context(), func(context.Context) error {
				if asked++; asked == 1 {
					return control.ErrNotRunning
				}
				return final
			})
			if !errors.Is(err, final) || asked != 2 {
				t.Errorf("%v after %d questions", err, asked)
			}
		})
	}
	t.Run("a deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			asked := 0
			err := waitFor(ctx, func(context.Context) error { asked++; return control.ErrNotRunning })
			late, ok := errors.AsType[notInTime](err)
			if !ok || !errors.Is(late.last, control.ErrNotRunning) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			if asked < 9 || asked > 11 {
				t.Errorf("%d questions in a second of the test's clock", asked)
			}
		})
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		err := waitFor(ctx, func(context.Context) error { interrupt(); return control.ErrNotRunning })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}
