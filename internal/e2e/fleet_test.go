package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/push"
)

// A fleet has seven hosts h1 to h7, a meshd and a real sshd on each. ssh leads to h7 through the mesh, and to
// the others by the underlay.
type fleet struct {
	*sealed
	hosts   []*nstest.Host   // h1 to h7
	daemons []*nstest.Daemon // of these
	path    string           // with the ssh that knows the hosts
}

// newFleet starts all of them, with a file that has their packets encrypted or not.
func newFleet(t *testing.T, encrypted bool) *fleet {
	t.Helper()
	nstest.RequirePrograms(t, "install openssh-server and openssh-client", "/usr/sbin/sshd", "ssh", "ssh-keygen")
	f := &fleet{sealed: &sealed{&world{t: t, dir: t.TempDir(), binary: meshd}, map[*nstest.Host]string{},
		map[*nstest.Host]string{}, map[*nstest.Host]*nstest.Daemon{}}}
	lab := nstest.LabForTest(t)
	for _, key := range []string{"host", "user"} {
		make := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f.at(key))
		if out, err := make.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // of sshd's privilege separation
		t.Fatal(err)
	}
	hosts := "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\nUser root\nPort 2222\n" +
		"IdentityFile " + f.at("user") + "\n"
	for i := 1; i <= 7; i++ {
		// Each has a second address that no other host reaches.
		h, err := lab.Host(fmt.Sprintf("h%d", i), fmt.Sprintf("172.18.0.%d/16", 10+i))
		if err == nil {
			err = h.IP("link add d0 type bridge", fmt.Sprintf("address add 10.9.9.%d/32 dev d0", i), "link set d0 up")
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.hosts = append(f.hosts, h); encrypted {
			f.addKey(h)
		}
	}
	for i, h := range f.hosts {
		i++
		file := f.write(f.doc(""))
		if encrypted {
			f.helper(h)
			f.daemons = append(f.daemons, f.begin(h, file))
		} else {
			f.daemons = append(f.daemons, f.start(h, file))
		}
		to := fmt.Sprintf("172.18.0.%d", 10+i)
		if i == 7 {
			to = "10.244.7.0"
		}
		hosts += fmt.Sprintf("Host h%d\n  HostName %s\n", i, to)
		f.sshd(i)
	}
	f.script("bin/ssh", `exec /usr/bin/ssh -F `+f.at("hosts")+` "$@"`)
	// Where there is a FIFO, an answer is kept back until somebody writes to it.
	f.script("remote", f.binary+` "$@" --socket "$SOCK" --config "$CONF"; code=$?
if [ "$1" = apply ] && [ -p "$SOCK.hold" ]; then cat "$SOCK.hold"; fi; exit $code`)
	f.put("hosts", hosts)
	f.path = "PATH=" + f.at("bin") + ":" + os.Getenv("PATH")
	for _, d := range f.daemons {
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	f.well("at the start")
	return f
}

// doc returns the file of the fleet with some more keys.
func (f *fleet) doc(more string) string {
	doc := "[network]\nname = \"fleet\"\ncidr = \"10.244.0.0/16\"\n"
	if len(f.public) > 0 {
		doc += "transport = \"wireguard\"\n"
	}
	for i, h := range f.hosts {
		doc += node(i+1, fmt.Sprintf("172.18.0.%d", 11+i))
		if key := f.public[h]; key != "" {
			doc += fmt.Sprintf("public_key = %q\n", key)
		}
	}
	return doc + more
}

// node returns the table of a node.
func node(i int, address string) string {
	return fmt.Sprintf("[[node]]\nname = \"h%d\"\naddress = %q\nsubnets = [\"10.244.%d.0/24\"]\n", i, address, i)
}

func (f *fleet) at(name string) string { return filepath.Join(f.dir, name) }

// put writes a file of the test, and returns its path.
func (f *fleet) put(name, text string) string {
	f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(f.at(name)), 0o755),
		os.WriteFile(f.at(name), []byte(text), 0o600)); err != nil {
		f.t.Fatal(err)
	}
	return f.at(name)
}

// script writes a program of the shell.
func (f *fleet) script(name, text string) {
	f.t.Helper()
	if err := os.Chmod(f.put(name, "#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		f.t.Fatal(err)
	}
}

// sshd starts the server of one host.
func (f *fleet) sshd(i int) {
	f.t.Helper()
	h, d := f.hosts[i-1], f.daemons[i-1]
	conf := f.put(fmt.Sprintf("sshd%d", i), "Port 2222\nPidFile none\nUsePAM no\nStrictModes no\n"+
		"PermitRootLogin yes\nHostKey "+f.at("host")+"\nAuthorizedKeysFile "+f.at("user")+".pub\n"+
		"SetEnv SOCK="+d.Socket+" CONF="+d.Config+"\n")
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	if err := h.Background(ctx, "/usr/sbin/sshd", "-D", "-e", "-f", conf); err != nil {
		f.t.Fatal(err)
	}
}

// well waits until every host hears all others, which have its file.
func (f *fleet) well(when string) {
	f.t.Helper()
	for _, d := range f.daemons {
		waitStatus(f.t, d, when, func(s control.Status) bool {
			return len(s.Peers) == 6 && s.Config.Pending == nil && !slices.ContainsFunc(s.Peers,
				func(p control.Peer) bool { return p.State != control.Up || p.ConfigMatch == nil || !*p.ConfigMatch })
		})
	}
}

// push pushes a file from h1, and returns what it told and its exit code. flags may have hosts; else it goes
// to all.
func (f *fleet) push(doc string, flags ...string) (news []push.News, exit int) {
	f.t.Helper()
	return f.startPush(doc, func(push.News) {}, flags...)()
}

// startPush is push that goes on until finish. hear gets all news at once, one call at a time.
func (f *fleet) startPush(doc string, hear func(push.News), flags ...string,
) (finish func() (news []push.News, exit int)) {
	f.t.Helper()
	file := f.put("push.toml", onEngine(f.t, doc))
	if !slices.ContainsFunc(flags, func(s string) bool { return strings.HasPrefix(s, "h") }) {
		flags = append(flags, "--all")
	}
	d := f.daemons[0]
	cmd := d.Host.Command("env", slices.Concat([]string{f.path, f.binary, "push", "--yes", "--command",
		f.at("remote"), "--socket", d.Socket, "--config", d.Config}, flags, []string{file})...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	var news []push.News
	done := make(chan error, 1)
	go func() {
		decoder := json.NewDecoder(out)
		for {
			var n push.News
			if err := decoder.Decode(&n); err != nil {
				done <- err
				return
			}
			news = append(news, n)
			hear(n)
		}
	}()
	return func() ([]push.News, int) {
		f.t.Helper()
		if err := <-done; !errors.Is(err, io.EOF) {
			f.t.Error(err)
		}
		exit := 0
		if err := cmd.Wait(); err != nil {
			exit = code(err)
		}
		f.t.Logf("exit code %d: %s", exit, &complaints)
		return news, exit
	}
}

// lost pings h3 from h2 through the mesh until stop, which returns how many packets were lost.
func (f *fleet) lost() (stop func() string) {
	f.t.Helper()
	cmd := f.daemons[1].Host.Command("ping", "-i", "0.05", "-I", "10.244.2.0", "10.244.3.0")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	return func() string {
		_ = cmd.Process.Signal(syscall.SIGINT) // it has ended if that fails, which its output shows
		_ = cmd.Wait()
		loss := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindStringSubmatch(out.String())
		if len(loss) != 3 || loss[1] == "0" {
			f.t.Errorf("ping: %s", out.String())
			return ""
		}
		if loss[1] == loss[2] {
			return "0"
		}
		return loss[1] + " sent, " + loss[2] + " received"
	}
}
