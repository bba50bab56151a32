package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/push"
)

// powerCut ends all processes of a host at once, and takes what a boot would not find: what they had in /run
// and in the kernel.
func (f *fleet) powerCut(i int) {
	f.t.Helper()
	h, d := f.hosts[i-1], f.daemons[i-1]
	pids, err := f.pids(h)
	for _, pid := range pids {
		if kill := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(kill, syscall.ESRCH) {
			err = errors.Join(err, kill)
		}
	}
	d.Kill() // they have ended; this waits
	if helper := f.helpers[h]; helper != nil {
		helper.Kill()
	}
	if err := errors.Join(err, h.IP("link del mesh0"), os.RemoveAll(d.Run), os.RemoveAll(d.Socket),
		os.RemoveAll(h.WireGuardFolder())); err != nil {
		f.t.Fatal(err)
	}
	run(f.t, h.Namespace, "nft", "flush", "ruleset")
}

// pids returns the processes of a host.
func (f *fleet) pids(h *nstest.Host) (all []int, err error) {
	f.t.Helper()
	out, err := exec.Command("ip", "netns", "pids", h.Namespace.Name).Output()
	for _, word := range strings.Fields(string(out)) {
		var pid int
		if _, err := fmt.Sscan(word, &pid); err != nil {
			return nil, err
		}
		all = append(all, pid)
	}
	return all, err
}

// boot starts a host again after a power cut. The kernel has another boot's id then.
func (f *fleet) boot(i int) {
	f.t.Helper()
	h := f.hosts[i-1]
	f.helper(h)
	id := f.put("boot_id", "00000000-0000-4000-8000-000000000000\n")
	f.daemons[i-1] = f.begin(h, f.daemons[i-1].Config, "sh", "-c",
		`mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, id)
	f.sshd(i)
}

// wrongKeys returns the file of the fleet with keys of nobody for h5, h6 and h7.
func (f *fleet) wrongKeys() string {
	f.t.Helper()
	doc := f.doc("")
	for _, h := range f.hosts[4:] {
		right, private := f.public[h], f.keys[h]
		f.addKey(h)
		doc = strings.Replace(doc, right, f.public[h], 1)
		f.public[h], f.keys[h] = right, private
	}
	return doc
}

// A file with wrong keys of three hosts goes to none where these hosts can say so. Where they are not asked
// it cuts them off, and comes back by itself. A host that loses its power between apply and confirm comes
// back with the file before, as all others do. No pair loses a packet that no change names.
func TestPushSealed(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	f := newFleet(t, true)
	stop := f.lost()
	wrong := f.wrongKeys()

	t.Run("the hosts refuse wrong keys of their own", func(t *testing.T) {
		news, exit := f.push(wrong)
		got := ended(news, push.StepPlan)
		for i := 1; i <= 7; i++ {
			want := push.StateOK
			if i >= 5 {
				want = push.StateRefused
			}
			if name := fmt.Sprintf("h%d", i); got[name] != want {
				t.Errorf("plan on %s: %s, want %s", name, got[name], want)
			}
		}
		if exit != 1 || len(ended(news, push.StepApply)) > 0 {
			t.Errorf("exit %d: %v", exit, news)
		}
	})

	t.Run("wrong keys cut three hosts off", func(t *testing.T) {
		finish := f.startPush(wrong, func(push.News) {}, "h1", "h2", "h3", "h4", "--confirm", "20s")
		for _, name := range []string{"h5", "h6", "h7"} {
			waitPeer(t, f.daemons[0], name, "is cut off", func(p control.Peer) bool { return !p.Serves() })
		}
		news, exit := finish()
		back := fmt.Sprint(ended(news, push.StepBack))
		if exit != 1 || len(ended(news, push.StepConfirm)) > 0 || back != "map[h1:ok h2:ok h3:ok h4:ok]" {
			t.Errorf("exit %d: %v", exit, news)
		}
		f.well("healed by themselves")
	})

	t.Run("a power cut between apply and confirm", func(t *testing.T) { f.loses(t, 4) })
	if lost := stop(); lost != "0" {
		t.Errorf("a pair that no file names: %s", lost)
	}
}

// loses has a host lose its power when it has applied a file that is pushed, and boot when the others have
// gone back.
func (f *fleet) loses(t *testing.T, i int) {
	d := f.daemons[i-1]
	hold := d.Socket + ".hold"
	if err := syscall.Mkfifo(hold, 0o600); err != nil {
		t.Fatal(err)
	}
	others, told := make(chan struct{}), sync.Once{}
	good := f.doc("[[allow]]\nfrom = [\"outside\"]\nto = [\"h6\"]\nproto = [\"tcp/443\"]\n")
	finish := f.startPush(good, func(n push.News) {
		if n.Step == push.StepBack {
			told.Do(func() { close(others) })
		}
	}, "--confirm", "30s")
	// The last that an apply does is to write the file.
	eventually(t, "the file is applied", func() bool {
		doc, err := os.ReadFile(d.Config)
		return err == nil && string(doc) == onEngine(t, good)
	}, d.Log)
	if s := status(t, d); s.Config.Pending == nil {
		t.Errorf("%+v", s.Config)
	}
	f.powerCut(i)
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	select {
	case <-others:
	case <-time.After(2 * nstest.Patience):
		t.Error("no host has gone back")
	}
	f.boot(i)
	news, exit := finish()
	if got := fmt.Sprint(ended(news, push.StepBack)); exit != 1 || got != same(push.StateOK) ||
		len(ended(news, push.StepConfirm)) > 0 {
		t.Errorf("exit %d: %v", exit, news)
	}
	f.well("with its power back")
	d = f.daemons[i-1]
	if s := status(t, d); !isTakenBack(s) {
		t.Errorf("%+v, %q", s.Config, problems(s))
	}
	// Nobody has asked it to: what push asks for has a user.
	if files := filesOf(t, d); files[0].Cause != "taken_back" || files[0].By != "" ||
		files[1].Cause != "apply" || files[1].Outcome != "taken_back" {
		t.Errorf("%+v", files)
	}
	onDisk(t, d, "meshd may not write it", onEngine(t, good))
	followed(t, d, onEngine(t, f.doc("")))
}
