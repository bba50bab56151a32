package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A mode is one way of joining the pods of two hosts. A pod's MTU, in bytes, is what it leaves of 1500.
type mode struct {
	mtu  int
	join func(l *lab) error
}

// absentError says why a mode cannot be measured.
type absentError struct{ reason string }

// Error returns the reason.
func (e *absentError) Error() string { return e.reason }

// modes are all of them. WireGuard by hand has the MTU that meshd gives it, so that packets are alike.
var modes = map[string]mode{
	"plain":   {1500, joinPlain},
	"vxlan":   {1450, joinVXLAN},
	"ipipfou": {1472, joinFOU},
	"wg":      {1440, joinWireGuard},
	"tcx":     {1472, func(l *lab) error { return l.joinMeshd("kernel", "tcx") }},
	"fou":     {1472, func(l *lab) error { return l.joinMeshd("kernel", "fou") }},
	"xdp":     {1472, func(l *lab) error { return l.joinMeshd("kernel", "xdp") }},
	"user":    {1472, func(l *lab) error { return l.joinMeshd("user", "") }},

	"tcx+flows":  {1472, func(l *lab) error { return l.joinCounting("kernel", "tcx") }},
	"user+flows": {1472, func(l *lab) error { return l.joinCounting("user", "") }},
	"sealed":     {1440, func(l *lab) error { return l.joinSealed() }},
}

// each has ip(8) do lines on each host; in a line {me}, {peer} are the hosts' numbers.
func (l *lab) each(lines ...string) error {
	var errs []error
	for i, h := range l.hosts {
		numbers := strings.NewReplacer("{me}", fmt.Sprint(i+1), "{peer}", fmt.Sprint(2-i))
		all := make([]string, len(lines))
		for n, line := range lines {
			all[n] = numbers.Replace(line)
		}
		errs = append(errs, h.IP(all...))
	}
	return errors.Join(errs...)
}

// joinPlain joins the pods without a tunnel: the bound of all others.
func joinPlain(l *lab) error { return l.each("route add 10.244.{peer}.0/24 via 192.0.2.{peer}") }

// joinVXLAN is what flannel's default backend does: the kernel's own encapsulation.
func joinVXLAN(l *lab) error {
	return l.each(
		"link add vx type vxlan id 1 local 192.0.2.{me} remote 192.0.2.{peer} dstport 4789 dev eth0",
		"addr add 10.9.9.{me}/24 dev vx", "link set vx up", "route add 10.244.{peer}.0/24 via 10.9.9.{peer}")
}

// joinFOU is meshd's encapsulation by the kernel alone.
func joinFOU(l *lab) error {
	return l.each("fou add port 8285 ipproto 4",
		"link add ipip type ipip local 192.0.2.{me} remote 192.0.2.{peer} "+
			"encap fou encap-sport 8285 encap-dport 8285",
		"link set ipip mtu 1472 up", "route add 10.244.{peer}.0/24 dev ipip")
}

// newKey makes the key of a host in a folder of its own, and returns the public one.
func (l *lab) newKey(host int) (folder, public string, err error) {
	folder = filepath.Join(l.dir, fmt.Sprint("host", host))
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", "", err
	}
	public, err = output(meshd, "key", "--private-key", filepath.Join(folder, "private.key"))
	return folder, public, err
}

// joinWireGuard joins the hosts by the kernel's WireGuard, as wg(8) and ip(8) can.
func joinWireGuard(l *lab) error {
	var folders, public [2]string
	for i := range l.hosts {
		var err error
		if folders[i], public[i], err = l.newKey(i); err != nil {
			return err
		}
	}
	if err := l.each("link add wg0 type wireguard"); err != nil {
		return err
	}
	for i, h := range l.hosts {
		if _, err := h.Run("wg", "set", "wg0", "listen-port", "51820", "private-key",
			filepath.Join(folders[i], "private.key"), "peer", public[1-i], "endpoint",
			fmt.Sprintf("192.0.2.%d:51820", 2-i), "allowed-ips", fmt.Sprintf("10.244.%d.0/24", 2-i)); err != nil {
			return err
		}
	}
	return l.each("link set wg0 mtu 1440 up", "route add 10.244.{peer}.0/24 dev wg0")
}

// meshd is the daemon.
const meshd = "/run/bin/meshd"

// tunnelAlone is the beginning of a file: the tunnel alone, as with the others, none of which brings rules.
const tunnelAlone = "[network]\ncidr = \"10.244.0.0/16\"\n[masquerade]\nenabled = false\nforward = false\n"

// joinMeshd runs the daemon with an engine, and a way of receiving unless that is empty.
func (l *lab) joinMeshd(engine, receive string) error {
	doc := tunnelAlone + fmt.Sprintf("[dataplane]\nengine = %q\n", engine)
	if receive != "" {
		doc += fmt.Sprintf("receive = %q\n", receive)
	}
	for i := range l.hosts {
		doc += node(i)
	}
	if err := l.start(doc, [2]string{l.dir, l.dir}); err != nil {
		return err
	}
	return l.is("receive", receive, func(s status) string { return s.Dataplane.Receive })
}

// joinCounting runs the daemon as joinMeshd does, and has both hosts count flows for as long as the lab
// lives: `meshd top --watch` holds the lease, as that of an operator does. What it and the daemon execute
// once in two seconds is in the figures, too.
func (l *lab) joinCounting(engine, receive string) error {
	if err := l.joinMeshd(engine, receive); err != nil {
		return err
	}
	for i, h := range l.hosts {
		if err := l.spawn(h.Command(meshd, "top", "--watch", "--socket", l.socket(i))); err != nil {
			return err
		}
		out, err := h.Run(meshd, "top", "--json", "--socket", l.socket(i)) // waits until there is an interval
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		var flows struct{ State, Cause string }
		if err := json.Unmarshal([]byte(out), &flows); err != nil {
			return err
		}
		if flows.State != "counted" {
			return &absentError{fmt.Sprintf("flows are %s: %s", flows.State, flows.Cause)}
		}
	}
	return nil
}

// joinSealed runs the daemon with encryption.
func (l *lab) joinSealed() error {
	doc, folders := strings.Replace(tunnelAlone, "[masquerade]", "transport = \"wireguard\"\n[masquerade]", 1),
		[2]string{}
	for i := range l.hosts {
		folder, public, err := l.newKey(i)
		if err != nil {
			return err
		}
		folders[i] = folder
		doc += node(i) + fmt.Sprintf("public_key = %q\n", public)
	}
	if err := l.start(doc, folders); err != nil {
		return err
	}
	return l.is("encryption", "kernel", func(s status) string { return s.WireGuard.Implementation })
}

// node returns what a file says of a host.
func node(host int) string {
	return fmt.Sprintf("[[node]]\nname = \"%c\"\naddress = \"192.0.2.%d\"\nsubnets = [\"10.244.%d.0/24\"]\n",
		'a'+host, host+1, host+1)
}

// pinning is a script that runs a program where it can pin: `ip netns exec` mounts /sys anew. Without pins
// programs end with the daemon, and fou is not to be had.
const pinning = `mountpoint -q /sys/fs/bpf || mount -t bpf -o mode=0700 bpf /sys/fs/bpf; exec "$@"`

// start starts the daemon on both hosts, with a key in a folder, and returns once each knows that the other
// lives.
func (l *lab) start(doc string, folders [2]string) error {
	file := filepath.Join(l.dir, "mesh.toml")
	if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
		return err
	}
	if _, err := output(meshd, "check", "-c", file); err != nil {
		_, fault, _ := strings.Cut(err.Error(), "error: ")
		fault, _, _ = strings.Cut(fault, "\n")
		return &absentError{fault}
	}
	for i, h := range l.hosts {
		if err := l.spawn(h.Command("sh", "-c", pinning, "sh", "env", "CREDENTIALS_DIRECTORY="+folders[i], meshd,
			"run", "-c", file, "--socket", l.socket(i))); err != nil {
			return err
		}
	}
	for i, h := range l.hosts {
		// Before the daemon has its socket, there is nothing that could wait.
		err := errors.New("not tried")
		for try := 0; err != nil; try++ {
			if _, err = h.Run(meshd, "wait", fmt.Sprintf("peer:%c", 'b'-i), "--socket", l.socket(i)); try == 50 {
				return fmt.Errorf("%w\n%s", err, l.logs())
			}
		}
	}
	return nil
}

// socket is a daemon's control socket; hosts share the machine's files.
func (l *lab) socket(host int) string { return filepath.Join(l.dir, fmt.Sprintf("%d.sock", host)) }

// status is what is read of a daemon's.
type status struct {
	Dataplane struct{ Receive, Reason string }
	WireGuard struct{ Implementation string }
}

// is waits until daemons do it in a way, and says that the mode is absent if they do it in another one: peers
// may know each other before a daemon has done all that the file says.
func (l *lab) is(what, wanted string, of func(status) string) error {
	for i, h := range l.hosts {
		for try := 0; wanted != ""; try++ {
			out, err := h.Run(meshd, "status", "--json", "--socket", l.socket(i))
			if err != nil && out == "" {
				return err
			}
			var s status
			if err := json.Unmarshal([]byte(out), &s); err != nil {
				return err
			}
			got := of(s)
			if got == wanted {
				break
			}
			if try == 20 {
				return &absentError{fmt.Sprintf("%s is %q and not %q here: %s", what, got, wanted, s.Dataplane.Reason)}
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}
