package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// sshd is where Debian has it; it insists on being called by its whole path.
const sshd = "/usr/sbin/sshd"

// realSSH makes `ssh` of this test's PATH the system's own, whose host is a real sshd of this machine. ssh
// starts it itself and speaks to it over a pipe, so no port is taken and nothing is left behind. There,
// meshtui is this test, and its meshd the one at socket.
func realSSH(t *testing.T, socket string) (dir string) {
	t.Helper()
	if _, err := os.Stat(sshd); err != nil {
		t.Fatalf("%v: `make deps` installs it", err)
	}
	client, err := exec.LookPath("ssh")
	self, selfErr := os.Executable()
	me, meErr := user.Current()
	if err := errors.Join(err, selfErr, meErr); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // as the package's unit does before each start
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir = t.TempDir()
	for _, key := range []string{"host", "user"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).
			CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	path := dir + ":" + os.Getenv("PATH")
	for name, body := range map[string]string{
		"server": "HostKey " + dir + "/host\nAuthorizedKeysFile " + dir + "/user.pub\nStrictModes no\nUsePAM no\n" +
			"PermitRootLogin yes\nPasswordAuthentication no\nSetEnv PATH=" + path + "\n",
		"client": "IdentityFile " + dir + "/user\nIdentitiesOnly yes\nBatchMode yes\nIdentityAgent none\n" +
			"User " + me.Username + "\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n" +
			"ProxyCommand " + sshd + " -i -e -f " + dir + "/server 2>/dev/null\n",
		"ssh":     "#!/bin/sh\nexec " + client + " -F " + dir + "/client \"$@\"\n",
		"meshtui": fmt.Sprintf("#!/bin/sh\nMESHTUI_TEST_ARGS=\"$* --socket %s\" exec %s\n", socket, self),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", path)
	return dir
}

// Through a real ssh and a real sshd, meshtui shows what the meshd there says, says what is wrong there with
// its exit code, and ends the program there.
func TestRealSSH(t *testing.T) {
	dir := realSSH(t, fake(t))
	if code, out, errs := meshtui(t, "--host", "edge-1"); code != 0 || !strings.Contains(out, "edge-2 is down") {
		t.Fatalf("%d, %s%s", code, out, errs)
	}
	r, err := newRemote("edge-1", true)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	var seen []string
	err = r.Watch(t.Context(), 100*time.Millisecond, true, func(w control.Watched) error {
		if seen = append(seen, w.Type); len(seen) == 4 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || fmt.Sprint(seen) != "[hello snapshot event snapshot]" {
		t.Errorf("%v, %q", err, seen)
	}
	remove := func(name string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	remove("meshtui") // which PATH there had first; no other one is installed on a machine of tests
	if _, err := exec.LookPath("meshtui"); err != nil {
		code, _, errs := meshtui(t, "--host", "edge-1")
		if code != 1 || !strings.Contains(errs, "edge-1: meshtui is not installed on that host") {
			t.Errorf("%d, %s", code, errs)
		}
	}
	remove("user.pub")
	code, _, errs := meshtui(t, "--host", "edge-1")
	if code != 1 || !strings.Contains(errs, "Permission denied") ||
		!strings.Contains(errs, "log in without a password") {
		t.Errorf("%d, %s", code, errs)
	}
}

// What crosses the network each second is what has changed: of 1,000 peers all of which carry packets, a
// twentieth of a snapshot, which would be 1 MB. Here each line becomes a snapshot again.
func TestRealSSHSendsChanges(t *testing.T) {
	const peers = 1000
	n := uint64(0)
	realSSH(t, fakeOf(t, func() control.Status {
		n++
		s := control.Status{Schema: control.Schema, Node: "edge-1", Version: "9.9",
			Peers: make([]control.Peer, peers)}
		for i := range s.Peers {
			s.Peers[i] = control.Peer{Name: fmt.Sprintf("edge-%04d", i+2), State: control.Up,
				Address: "198.51.100.1:8285", Subnets: []string{"10.1.0.0/24"}, ConfigSHA256: strings.Repeat("9f", 32),
				Drops: map[string]uint64{"no_route": 0}, RxBytes: new(1000 * n), RxPackets: new(n), TxBytes: new(500 * n),
				TxPackets: new(n)}
		}
		return s
	}))
	stream := exec.Command("ssh", "edge-1", "meshtui", "--stream", "--changes", "--interval", "100ms")
	out, err := stream.StdoutPipe()
	if err == nil {
		err = stream.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	whole, changes := 0, 0
	lines := bufio.NewScanner(out)
	for lines.Buffer(nil, 16<<20); changes < 5 && lines.Scan(); {
		var line control.Watched
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		switch size := len(lines.Bytes()); line.Type {
		case "snapshot":
			whole = size
		case "changes":
			if changes++; size > whole/20 {
				t.Errorf("%d bytes of changes, where a snapshot has %d", size, whole)
			}
		}
	}
	if err := stream.Process.Kill(); err != nil || changes < 5 {
		t.Errorf("%v, %d lines of changes, %v", lines.Err(), changes, err)
	}
	_ = stream.Wait() // it was killed
	t.Logf("a snapshot has %d bytes", whole)

	r, err := newRemote("edge-1", true)
	if err != nil {
		t.Fatal(err)
	}
	enough, before := errors.New("enough"), uint64(0)
	err = r.Watch(t.Context(), 100*time.Millisecond, true, func(w control.Watched) error {
		if w.Status == nil {
			return nil
		}
		for _, p := range w.Status.Peers {
			if *p.RxBytes != 1000**p.RxPackets || *p.RxPackets != *w.Status.Peers[0].RxPackets {
				return fmt.Errorf("%s: %d bytes of %d packets", p.Name, *p.RxBytes, *p.RxPackets)
			}
		}
		first := before == 0
		if now := *w.Status.Peers[0].RxPackets; len(w.Status.Peers) != peers || now <= before {
			return fmt.Errorf("%d peers, %d packets after %d", len(w.Status.Peers), now, before)
		} else if before = now; !first {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || r.whole {
		t.Errorf("%v, whole: %v", err, r.whole)
	}
}
