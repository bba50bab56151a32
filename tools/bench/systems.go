package main

import (
	"debug/buildinfo"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// system is one way of joining the pods of two hosts.
type system struct {
	name  string
	mtu   int      // of a pod, bytes
	needs []string // programs
	rival string   // the program whose version a reader wants to know; empty: this kernel, or meshd
	start func(l *lab) error

	// Which engine of meshd it is, if any; the user engine can be asked for packets per call.
	kernel, user bool
}

// missing names a program that is not installed; empty if all are.
func (s *system) missing() string {
	for _, program := range s.needs {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	return ""
}

const (
	plainRouting = "plain routing"
	emptyXDP     = "empty XDP" // what XDP itself costs on the lab's wire, where it copies each packet
	vxlan        = "kernel VXLAN"
	kernelXDP    = "meshd kernel xdp"
	kernelTCX    = "meshd kernel tcx"
	userEngine   = "meshd user"
	autoEngine   = "meshd auto"
	noOffload    = "meshd user, no offload"
)

// systems returns all that can be measured, plain routing first: it is what the machine can do, and
// the bound of all others. A pod's MTU is what each system leaves of 1500 bytes: small packets are
// part of its price. By a bare wire only plain routing and meshd are compared: there is no native XDP.
func systems(binary string, bare bool) []*system {
	if bare {
		return []*system{
			{name: plainRouting, mtu: 1500, start: startRouting},
			{name: autoEngine, mtu: 1472, kernel: true, start: func(l *lab) error { return startMeshd(l, binary) }},
			{name: userEngine, mtu: 1472, user: true,
				start: func(l *lab) error { return startMeshd(l, binary, `engine = "user"`) }},
		}
	}
	wireguard, nebula := newest(binary, wireguardGo), newest(binary, "nebula")
	return []*system{
		{name: plainRouting, mtu: 1500, start: startRouting},
		{name: emptyXDP, mtu: 1500, start: startEmptyXDP},
		{name: vxlan, mtu: 1450, start: startVXLAN},
		{
			name:   kernelXDP,
			mtu:    1472,
			kernel: true,
			needs:  []string{binary},
			start:  func(l *lab) error { return startMeshd(l, binary, `engine = "kernel"`, `receive = "xdp"`) },
		},
		{
			name:   kernelTCX,
			mtu:    1472,
			kernel: true,
			needs:  []string{binary},
			start:  func(l *lab) error { return startMeshd(l, binary, `engine = "kernel"`, `receive = "tcx"`) },
		},
		{
			name:  userEngine,
			mtu:   1472,
			user:  true,
			needs: []string{binary},
			start: func(l *lab) error { return startMeshd(l, binary, `engine = "user"`) },
		},
		{
			name:  noOffload,
			mtu:   1472,
			user:  true,
			needs: []string{binary},
			start: func(l *lab) error { return startMeshd(l, binary, `engine = "user"`, `offload = "off"`) },
		},
		{name: sealed, mtu: 1440, needs: []string{binary, "wg"},
			start: func(l *lab) error { return startSealed(l, binary) }},
		{name: wireguardGo, mtu: 1420, rival: wireguard, needs: []string{wireguard, "wg"},
			start: func(l *lab) error { return startWireGuard(l, wireguard) }},
		{name: "nebula", mtu: 1440, rival: nebula, needs: []string{nebula, nebula + "-cert"},
			start: func(l *lab) error { return startNebula(l, nebula) }},
		{name: "tinc", mtu: 1400, rival: "tincd", needs: []string{"tincd"}, start: startTinc},
	}
}

// newest returns the path of a program of others that `make rivals` has built beside meshd. Debian's packages
// are years old, and slower by far.
func newest(binary, name string) string { return filepath.Join(filepath.Dir(binary), "rivals", name) }

// version tells the version of a rival: what Go has noted in it, or what it says.
func (s *system) version() string {
	path, err := exec.LookPath(s.rival)
	if err != nil {
		return ""
	}
	if info, err := buildinfo.ReadFile(path); err == nil && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	out, _ := exec.Command(path, "--version").Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// startRouting joins the pods without a tunnel.
func startRouting(l *lab) error {
	for i, h := range l.hosts {
		if err := h.IP(fmt.Sprintf("route add 10.244.%d.0/24 via 192.0.2.%d", 2-i, 2-i)); err != nil {
			return err
		}
	}
	return nil
}

// startEmptyXDP is plain routing on interfaces with an XDP program that lets everything pass.
func startEmptyXDP(l *lab) error {
	if err := startRouting(l); err != nil {
		return err
	}
	for _, h := range l.hosts {
		if err := h.Do(func() error {
			pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP,
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}}) // XDP_PASS
			if err != nil {
				return err
			}
			defer pass.Close() // the link keeps it
			device, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			at, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: device.Index,
				Flags: link.XDPDriverMode})
			if err == nil {
				l.links = append(l.links, at)
			}
			return err
		}); err != nil {
			return fmt.Errorf("attach an empty XDP program: %w", err)
		}
	}
	return nil
}

// startVXLAN is what flannel's default backend does: the kernel's own encapsulation.
func startVXLAN(l *lab) error {
	for i, h := range l.hosts {
		self, peer := i+1, 2-i
		if err := h.IP(
			fmt.Sprintf("link add vx type vxlan id 1 local 192.0.2.%d remote 192.0.2.%d dstport 4789 dev eth0", self,
				peer),
			fmt.Sprintf("addr add 10.9.9.%d/24 dev vx", self), "link set vx up",
			fmt.Sprintf("route add 10.244.%d.0/24 via 10.9.9.%d", peer, peer)); err != nil {
			return err
		}
	}
	return nil
}

// startMeshd runs the daemon on both hosts, with keys of the section [dataplane]. It returns once
// each knows that the other lives.
func startMeshd(l *lab, binary string, keys ...string) error {
	// The tunnel alone, as with the others: none of them brings rules.
	doc := "[network]\ncidr = \"10.244.0.0/16\"\n[masquerade]\nenabled = false\nforward = false\n[dataplane]\n" +
		strings.Join(
			keys, "\n") + "\n"
	for i := range l.hosts {
		doc += fmt.Sprintf("[[node]]\nname = \"%c\"\naddress = \"192.0.2.%d\"\nsubnets = [\"10.244.%d.0/24\"]\n",
			'a'+i, i+1, i+1)
	}
	file := filepath.Join(l.dir, "mesh.toml")
	if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
		return err
	}
	for i := range l.hosts {
		if err := l.spawn(i, binary, "run", "-c", file, "--socket", l.socket(i)); err != nil {
			return err
		}
	}
	for i, h := range l.hosts { // the kernel engine sends to peers that it knows
		peer := fmt.Sprintf("peer:%c", 'b'-i)
		if err := eventually(func() error {
			_, err := h.Run(binary, "wait", peer, "--socket",
				l.socket(i))
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// socket is a daemon's control socket; hosts share the machine's files.
func (l *lab) socket(host int) string { return filepath.Join(l.dir, fmt.Sprintf("%d.sock", host)) }

// startWireGuard runs WireGuard in user space, which does the same copies as the user engine, and
// encrypts.
func startWireGuard(l *lab, program string) error {
	keys, public, err := newKeys()
	if err != nil {
		return err
	}
	for i, h := range l.hosts {
		peer := 2 - i
		dev := fmt.Sprintf("wgbench%d", i) // its control socket is named after it
		if err := l.spawn(i, program, "-f", dev); err != nil {
			return err
		}
		doc := fmt.Sprintf(
			"[Interface]\nPrivateKey = %s\nListenPort = 51820\n"+
				"[Peer]\nPublicKey = %s\nEndpoint = 192.0.2.%d:51820\nAllowedIPs = 10.244.%d.0/24\n",
			keys[i], public[1-i], peer, peer)
		file := filepath.Join(l.dir, dev+".conf")
		if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
			return err
		}
		if err := eventually(func() error { _, err := h.Run("wg", "setconf", dev, file); return err }); err != nil {
			return err
		}
		if err := h.IP(fmt.Sprintf("link set %s mtu 1420 up", dev), fmt.Sprintf("route add 10.244.%d.0/24 dev %s",
			peer, dev)); err != nil {
			return err
		}
	}
	return nil
}

// startNebula runs nebula without a lighthouse: both addresses are known, so nothing is measured of
// how they are found. It is nebula at its best: with its offloads, which it leaves off by default, and with
// the largest MTU that this wire carries (1500 less 60).
func startNebula(l *lab, program string) error {
	cert := func(args ...string) error {
		cmd := exec.Command(program+"-cert", args...)
		cmd.Dir = l.dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("nebula-cert: %w: %s", err, out)
		}
		return nil
	}
	if err := cert("ca", "-name", "bench"); err != nil {
		return err
	}
	for i, h := range l.hosts {
		self, peer := i+1, 2-i
		name := fmt.Sprintf("n%d", self)
		if err := cert("sign", "-name", name, "-ip", fmt.Sprintf("10.9.9.%d/24", self), "-subnets",
			fmt.Sprintf("10.244.%d.0/24", self)); err != nil {
			return err
		}
		doc := fmt.Sprintf(`pki: {ca: %[1]s/ca.crt, cert: %[1]s/%[2]s.crt, key: %[1]s/%[2]s.key}
static_host_map: {"10.9.9.%[3]d": ["192.0.2.%[3]d:4242"]}
lighthouse: {am_lighthouse: false}
listen: {host: 0.0.0.0, port: 4242, udp_offloads: true}
tun: {dev: nebula, mtu: 1440, use_offloads: true,
  unsafe_routes: [{route: 10.244.%[3]d.0/24, via: 10.9.9.%[3]d}]}
firewall:
  outbound: [{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}]
  inbound: [{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}]
`, l.dir, name, peer)
		file := filepath.Join(l.dir, name+".yml")
		if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
			return err
		}
		if err := l.spawn(i, program, "-config", file); err != nil {
			return err
		}
		if err := eventually(func() error {
			_, err := h.Run("ip", "link", "show",
				"nebula")
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// startTinc runs tinc 1.0, whose configuration is a folder for each host.
func startTinc(l *lab) error {
	for i := range l.hosts {
		self, peer := i+1, 2-i
		dir := filepath.Join(l.dir, fmt.Sprintf("tinc%d", self))
		if err := os.MkdirAll(filepath.Join(dir, "hosts"), 0o755); err != nil {
			return err
		}
		conf := fmt.Sprintf("Name = n%d\nConnectTo = n%d\nInterface = tinc\nDeviceType = tun\n", self, peer)
		up := fmt.Sprintf(
			"#!/bin/sh\nip link set $INTERFACE mtu 1400 up\nip route add 10.244.%d.0/24 dev $INTERFACE\n", peer)
		host := fmt.Sprintf("Address = 192.0.2.%d\nSubnet = 10.244.%d.0/24\n", self, self)
		for name, text := range map[string]string{"tinc.conf": conf, "tinc-up": up, fmt.Sprintf("hosts/n%d",
			self): host} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				return err
			}
		}
		if out, err := exec.Command("tincd", "-c", dir, "-K2048").CombinedOutput(); err != nil {
			return fmt.Errorf("tincd -K: %w: %s", err, out)
		}
	}
	for i := range l.hosts { // each knows the other's key
		self, peer := fmt.Sprint(i+1), fmt.Sprint(2-i)
		key, err := os.ReadFile(filepath.Join(l.dir, "tinc"+self, "hosts", "n"+self))
		if err == nil {
			err = os.WriteFile(filepath.Join(l.dir, "tinc"+peer, "hosts", "n"+self), key, 0o644)
		}
		if err != nil {
			return err
		}
	}
	for i := range l.hosts {
		self := fmt.Sprint(i + 1)
		if err := l.spawn(i, "tincd", "-D", "-c", filepath.Join(l.dir, "tinc"+self),
			"--pidfile="+filepath.Join(l.dir, "tinc"+self+".pid")); err != nil {
			return err
		}
	}
	return nil
}
