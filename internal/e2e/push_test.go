package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	*world
	daemons []*nstest.Daemon // of h1 to h7
	path    string           // with the ssh that knows the hosts
}

// newFleet starts all of them.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	nstest.RequirePrograms(t, "install openssh-server and openssh-client", "/usr/sbin/sshd", "ssh", "ssh-keygen")
	f := &fleet{world: &world{t: t, dir: t.TempDir(), binary: meshd}}
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
		d := f.start(h, f.write(f.doc("")))
		f.daemons = append(f.daemons, d)
		to := fmt.Sprintf("172.18.0.%d", 10+i)
		if i == 7 {
			to = "10.244.7.0"
		}
		hosts += fmt.Sprintf("Host h%d\n  HostName %s\n", i, to)
		f.sshd(i, h, d)
	}
	f.script("bin/ssh", `exec /usr/bin/ssh -F `+f.at("hosts")+` "$@"`)
	f.script("remote", `exec `+f.binary+` "$@" --socket "$SOCK" --config "$CONF"`)
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
	for i := 1; i <= 7; i++ {
		doc += node(i, fmt.Sprintf("172.18.0.%d", 10+i))
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
func (f *fleet) sshd(i int, h *nstest.Host, d *nstest.Daemon) {
	f.t.Helper()
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

// push pushes a file from h1 to all, and returns what it told and its exit code.
func (f *fleet) push(doc string, flags ...string) (news []push.News, exit int) {
	f.t.Helper()
	file := f.put("push.toml", onEngine(f.t, doc))
	d := f.daemons[0]
	cmd := d.Host.Command("env", slices.Concat([]string{f.path, f.binary, "push", "--all", "--yes",
		"--command", f.at("remote"), "--socket", d.Socket, "--config", d.Config, file}, flags)...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		exit = code(err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); {
		var n push.News
		if err := decoder.Decode(&n); err != nil {
			f.t.Fatalf("%v: %s%s", err, out, &complaints)
		}
		news = append(news, n)
	}
	f.t.Logf("exit code %d: %s", exit, &complaints)
	return news, exit
}

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

// One file goes to seven hosts; one that a host refuses goes to none; one that cuts three hosts off comes
// back by itself, also on the host that ssh reaches by the mesh alone.
func TestPush(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	f := newFleet(t)
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
