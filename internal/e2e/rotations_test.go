package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// activate runs `meshd key --activate` on the host of a daemon, which is asked about the others.
func (s *sealed) activate(d *nstest.Daemon) (out string, code int) {
	s.t.Helper()
	return ask(d, "key", "--activate", "-c", d.Config, "--private-key",
		filepath.Join(s.keys[d.Host], "private.key"))
}

// listing returns a file that lists next keys, by hosts, beside the keys.
func (s *sealed) listing(doc string, next map[*nstest.Host]string) string {
	for h, key := range next {
		line := fmt.Sprintf("public_key = %q\n", s.public[h])
		doc = strings.Replace(doc, line, line+fmt.Sprintf("next_public_key = %q\n", key), 1)
	}
	return doc
}

// ownKey waits until a node uses a key.
func ownKey(t testing.TB, d *nstest.Daemon, key string) {
	t.Helper()
	waitStatus(t, d, "it uses "+key, func(st control.Status) bool {
		return st.WireGuard != nil && st.WireGuard.PublicKey == key
	})
}

// Nodes behind NAT and the hub between them change their keys, one by one, and all at once while none of them
// hears of another: then no node knows which key another one has. All find each other again.
func TestKeysBehindNAT(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	s.hide(s.Worker, 21)
	s.hide(s.Worker2, 22)
	doc := s.vans("via = \"hub-1\"\n")
	all := s.runAll(doc)
	names := map[*nstest.Daemon]string{all[0]: "hub-1", all[1]: "van-1", all[2]: "van-2"}
	streams := map[string]*timed{
		"to van-1":       startTimed(t, s.PodCP, s.PodW, "10.244.0.2:7000", "10.244.1.2:7000", 500),
		"from van-1":     startTimed(t, s.PodW, s.PodCP, "10.244.1.2:7001", "10.244.0.2:7001", 500),
		"van-2 to van-1": startTimed(t, s.PodW2a, s.PodW, "10.244.2.2:7002", "10.244.1.2:7002", 500),
		"hub-1 to van-2": startTimed(t, s.PodCP, s.PodW2a, "10.244.0.2:7003", "10.244.2.2:7003", 500),
	}
	finish := startTalk(t, s.PodW2a, s.PodW, "10.244.1.2:7004")
	const hub = "table inet cut { chain in { type filter hook input priority 0; udp dport 51820 drop; }; " +
		"chain out { type filter hook output priority 0; udp sport 51820 drop; }; }"
	for _, turn := range []struct {
		name string
		who  []*nstest.Daemon
		cut  bool
	}{{"a box", all[1:2], false}, {"the hub", all[:1], false}, {"all at once", all, false},
		{"all, apart from each other", all, true}} {
		t.Run(turn.name, func(t *testing.T) {
			next := map[*nstest.Host]string{}
			for _, d := range turn.who {
				next[d.Host] = s.key(d.Host, "--next")
			}
			s.apply(s.listing(doc, next), all...)
			was := time.Now()
			if turn.cut {
				run(t, s.ControlPlane.Namespace, "nft", hub)
			}
			for _, d := range turn.who {
				s.key(d.Host, "--activate")
			}
			for _, d := range turn.who {
				ownKey(t, d, next[d.Host])
			}
			if turn.cut {
				run(t, s.ControlPlane.Namespace, "nft", "delete table inet cut")
			}
			for _, d := range all {
				for _, o := range turn.who {
					// Boxes have no session of their own: the hub is between them.
					if d == o || d != all[0] && o != all[0] {
						continue
					}
					waitStatus(t, d, "the new key of "+names[o]+" is in use", func(st control.Status) bool {
						used, _ := usedKeys(st, names[o])
						return used == next[o.Host]
					})
				}
			}
			for name, stream := range streams {
				s.arrive(stream, turn.name)
				lost, gap := stream.gapSince(was)
				t.Logf("%s: %d packets lost, none for %v", name, lost, gap)
			}
			for h, key := range next {
				doc, s.public[h] = strings.Replace(doc, s.public[h], key, 1), key
			}
			s.apply(doc, all...)
		})
	}
	finish()
	for name, stream := range streams {
		s.arrive(stream, "all turns on the way "+name)
		stream.finish()
	}
}

// A host does not take its next key while others do not list it. Where the file is rolled back afterwards,
// the host keeps the key and the file in force, says so, and is back once it has the key before. A file that
// was rejected for want of a key is applied when there is one.
func TestKeyThatTheFileLost(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	doc, host := s.file(), s.Worker2
	all := s.runAll(doc)
	d, others := all[2], all[:2]
	name, path := status(t, d).Node, filepath.Join(s.keys[host], "private.key")
	next := s.key(host, "--next")
	listed := s.listing(doc, map[*nstest.Host]string{host: next})

	s.apply(listed, d)
	if out, code := s.activate(d); code != 1 || s.key(host, "--public") != s.public[host] {
		t.Errorf("activated while others do not list the key: exit %d, %s", code, out)
	}
	s.apply(listed, others...)
	if out, code := s.activate(d); code != 0 { // it waits until the others have told of their file
		t.Fatalf("exit %d: %s", code, out)
	}
	ownKey(t, d, next)
	for _, o := range others {
		waitStatus(t, o, "the new key is in use", func(st control.Status) bool {
			used, _ := usedKeys(st, name)
			return used == next
		})
	}

	s.apply(doc, others...)
	s.rejected(d, doc)
	if pingsArrive(t, s.PodW2b, s.PodW, "10.244.1.2") {
		t.Error("pings arrive with a key that the others do not list")
	}
	if st := status(t, d); st.Config.LastReload.OK || st.WireGuard.PublicKey != next {
		t.Errorf("after the rollback: %+v, %+v", st.Config, st.WireGuard)
	}
	was := time.Now()
	if err := os.Rename(path+".old", path); err != nil {
		t.Fatal(err)
	}
	s.takes(d, "the file that was rejected", func(st control.Status) bool {
		return st.WireGuard != nil && st.WireGuard.PublicKey == s.public[host]
	})
	t.Logf("applied %v after the key was there", time.Since(was).Round(time.Millisecond))
	if !pingsArrive(t, s.PodW2b, s.PodW, "10.244.1.2") {
		t.Error("no ping arrives with the key before")
	}
	s.keyComesLate(d, doc, path)
}

// rejected gives a daemon a file that it has to reject.
func (s *sealed) rejected(d *nstest.Daemon, doc string) {
	s.t.Helper()
	if err := os.WriteFile(d.Config, []byte(doc), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if out, code := ask(d, "reload"); code != 1 {
		s.t.Errorf("exit %d: %s", code, out)
	}
}

// takes waits until a daemon has applied a file by itself.
func (s *sealed) takes(d *nstest.Daemon, what string, ok func(control.Status) bool) {
	s.t.Helper()
	waitStatus(s.t, d, what, func(st control.Status) bool { return st.Config.LastReload.OK && ok(st) })
}

// keyComesLate gives a host without a key the files of both edits, and then the key.
func (s *sealed) keyComesLate(d *nstest.Daemon, doc, path string) {
	s.t.Helper()
	var plain string
	keys := strings.Replace(doc, "transport = \"wireguard\"\n", "", 1)
	for line := range strings.Lines(keys) {
		if !strings.HasPrefix(line, "public_key") {
			plain += line
		}
	}
	s.apply(plain, d)
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			s.t.Fatal(err)
		}
	}
	move(path, path+".away")
	s.apply(keys, d)
	if kinds := problems(status(s.t, d)); len(kinds) != 1 || kinds[0] != "not_prepared" {
		s.t.Errorf("without a key: %q", kinds)
	}
	move(path+".away", path)
	s.takes(d, "it is prepared", func(st control.Status) bool {
		return st.WireGuard != nil && st.WireGuard.State == control.WireGuardPrepared
	})
	s.apply(plain, d)
	move(path, path+".away")
	s.rejected(d, doc)
	move(path+".away", path)
	s.takes(d, "it encrypts", func(st control.Status) bool {
		return st.WireGuard != nil && st.WireGuard.State == control.WireGuardSealed
	})
}
