package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.org/meshd/internal/nstest"
)

// again does something 20 times a second until the function that it returns is called.
func again(do func()) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			do()
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(stop); <-done }
}

// ips has another program run lines of ip(8) on worker2, 20 times a second. What it is refused is no less of
// a fault.
func ips(lines ...string) func(*faultRig) func() {
	return func(r *faultRig) func() {
		return again(func() {
			for _, line := range lines {
				_ = r.Worker2.IP(line)
			}
		})
	}
}

// onPath puts rules into the network between the hosts.
func onPath(rules string) func(*faultRig) func() {
	return func(r *faultRig) func() {
		run(r.t, r.Lab.Switch(), "nft", "add table bridge path; add chain bridge path pass "+
			"{ type filter hook forward priority 0; }; add rule bridge path pass "+rules)
		return func() { run(r.t, r.Lab.Switch(), healPath[0], healPath[1:]...) }
	}
}

// stopped stops a process of worker2 for as long as the fault lasts.
func stopped(r *faultRig) func() {
	r.signal(syscall.SIGSTOP)
	return func() { r.signal(syscall.SIGCONT) }
}

// killedWhileApplying kills the daemon ten times some milliseconds after the file has changed.
func killedWhileApplying(r *faultRig) func() {
	other := r.doc + fourth
	if r.engine == "sealed" {
		r.addKey(r.ControlPlane) // of a node that is not there
		other = strings.Replace(other, fourth, fourth+fmt.Sprintf("public_key = %q\n", r.public[r.ControlPlane]), 1)
	}
	for i := range 10 {
		if err := r.victim().WaitReady(); err != nil {
			r.t.Fatal(err)
		}
		r.edit([]string{other, r.doc}[i%2])
		time.Sleep(time.Duration(50+rand.IntN(300)) * time.Millisecond) // anywhere in it
		r.victim().Kill()
		r.reboot()
	}
	return func() { r.edit(r.doc) }
}

// outOfMemory has the kernel kill the daemon while it reads a large file.
func outOfMemory(r *faultRig) func() {
	group := fmt.Sprintf("/sys/fs/cgroup/memory/meshtest%d", os.Getpid())
	if err := os.Mkdir(group, 0o755); err != nil {
		nstest.Need(r.t, fmt.Errorf("no cgroup of version 1 to limit memory with: %w", err))
	}
	put := func(file, text string) {
		if err := os.WriteFile(group+"/"+file, []byte(text), 0o644); err != nil {
			r.t.Error(err)
		}
	}
	put("memory.limit_in_bytes", "2M")
	put("cgroup.procs", strconv.Itoa(r.victim().PID()))
	var doc strings.Builder
	doc.WriteString(strings.Replace(r.doc, "\"10.244.0.0/16\"", "\"10.0.0.0/8\"", 1))
	for i := range 3000 {
		fmt.Fprintf(&doc, "[[node]]\nname = \"n%d\"\naddress = \"198.18.%d.%d\"\n"+
			"subnets = [\"10.%d.%d.0/24\"]\n", i, i/250, 1+i%250, i/250, i%250)
	}
	r.edit(doc.String())
	eventually(r.t, "the kernel kills meshd", func() bool { return r.victim().State() != "running" },
		func() string { return r.victim().State() })
	r.edit(r.doc)
	r.reboot()
	return func() {
		eventually(r.t, "the group is empty", func() bool { return os.Remove(group) == nil },
			func() string { return group })
	}
}

// fullDisk puts a file system without room over a folder of the daemon, and does what makes it write there.
func fullDisk(folder func(*faultRig) string, write func(*faultRig)) func(*faultRig) func() {
	return func(r *faultRig) func() {
		inside := []string{"nsenter", "-t", strconv.Itoa(r.victim().PID()), "-m"}
		at := folder(r)
		mount := append(inside, "mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", at)
		run(r.t, r.Worker2.Namespace, mount[0], mount[1:]...)
		write(r)
		return func() {
			run(r.t, r.Worker2.Namespace, inside[0], append(inside[1:], "umount", at)...)
			r.edit(r.doc)
		}
	}
}

// noDescriptors lets worker2's daemon open nothing more, and takes its TUN away.
func noDescriptors(r *faultRig) func() {
	pid := strconv.Itoa(r.victim().PID())
	limit := func(n string) { run(r.t, r.Worker2.Namespace, "prlimit", "--pid", pid, "--nofile="+n) }
	limit(strconv.Itoa(descriptors(r.t, r.victim())+1) + ":4096")
	r.ip(r.Worker2, "link del mesh0")
	return func() { limit("4096:4096") }
}

// portTaken has another program take the port while the daemon is away, so that the next one waits for it.
func portTaken(r *faultRig) func() {
	r.victim().Kill()
	var taken net.PacketConn
	eventually(r.t, "another program has the port", func() bool {
		return r.Worker2.Do(func() (err error) {
			taken, err = net.ListenPacket("udp4", "172.18.0.3:8285")
			return err
		}) == nil
	}, func() string { return "" })
	r.reboot()
	return func() { taken.Close() }
}

// duplicated has the network deliver each frame from worker2 to worker twice.
func duplicated(r *faultRig) func() {
	sw := r.Lab.Switch()
	run(r.t, sw, "nft", fmt.Sprintf("add table netdev twice; "+
		"add chain netdev twice in { type filter hook ingress device %q priority 0; }; "+
		"add rule netdev twice in ip daddr 172.18.0.4 dup to %q", r.Worker2.Port(), r.Worker.Port()))
	return func() { run(r.t, sw, "nft", "delete table netdev twice") }
}

// reordered has frames of worker2 pass each other on the way.
func reordered(r *faultRig) func() {
	end, err := r.Worker2.Reorder()
	if err != nil {
		r.t.Fatal(err)
	}
	return func() {
		if err := end(); err != nil {
			r.t.Error(err)
		}
	}
}

// flapping takes the underlay's link down and up. The default route goes with it, as a link's routes do.
func flapping(r *faultRig) func() {
	end := again(func() {
		_ = r.Worker2.IP("link set eth0 down")
		_ = r.Worker2.IP("link set eth0 up")
	})
	return func() { end(); r.ip(r.Worker2, defaultRoute) }
}

// mtus has the network carry less and less, and more again, while no host's interface tells.
func mtus(r *faultRig) func() {
	sizes, i := []int{1300, 1450, 1200, 1000}, 0
	step := func() {
		if err := r.Lab.SetUnderlayMTU(sizes[i%len(sizes)]); err != nil {
			r.t.Error(err)
		}
	}
	step()
	return func() {
		for i = 1; i < len(sizes); i++ {
			step()
			time.Sleep(time.Second) // as long as each lasts
		}
		if err := r.Lab.SetUnderlayMTU(1500); err != nil {
			r.t.Error(err)
		}
	}
}

// routeTaken has another program insist on a route of its own.
func routeTaken(r *faultRig) func() {
	const route = "10.244.1.0/24 via 172.18.0.2 dev eth0"
	end := ips("route replace " + route)(r)
	return func() {
		end()
		_ = r.Worker2.IP("route del " + route) // unless meshd has replaced it
	}
}

// swappedKeys is the file in which two nodes have each other's key.
func swappedKeys(r *faultRig) func() {
	a, b := r.public[r.Worker], r.public[r.ControlPlane]
	r.edit(strings.NewReplacer(a, b, b, a).Replace(r.doc))
	return func() { r.edit(r.doc) }
}

// lies has DNS tell another address of worker, or none.
func lies(text string) func(*faultRig) func() {
	return func(r *faultRig) func() {
		r.names(text)
		return func() { r.names("172.18.0.4 worker.test\n") }
	}
}

func stateFolder(r *faultRig) string { return r.victim().Socket + ".state" }
func runFolder(*faultRig) string     { return "/run/flannel" }

var faults = []fault{
	{name: "meshd is stopped (SIGSTOP) for 5 s", begin: stopped, lasts: 5 * time.Second},
	{name: "meshd is stopped (SIGSTOP) for 60 s", begin: stopped, lasts: time.Minute,
		kinds: []string{"peer_silent", "peer_down"}},
	{name: "the process that encrypts is stopped for 5 s", only: "sealed", lasts: 5 * time.Second,
		begin: func(r *faultRig) func() {
			pid := r.helpers[r.Worker2].PID()
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			return func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
		}},
	{name: "kill -9 while an edit is applied, 10 times", begin: killedWhileApplying},
	{name: "the kernel kills meshd for its memory", begin: outOfMemory},
	{name: "the state folder's disk is full", lasts: time.Second, kinds: []string{"state_failed"},
		begin: fullDisk(stateFolder, func(r *faultRig) { r.edit(r.doc + "# another text\n") })},
	{name: "/run/flannel has no room", lasts: time.Second, kinds: []string{"files_failed"}, brief: true,
		begin: fullDisk(runFolder, func(r *faultRig) { r.signal(syscall.SIGHUP) })},
	{name: "no descriptor is free, and the TUN goes", lasts: time.Second, begin: noDescriptors,
		kinds: []string{"cannot_apply"}},
	{name: "the underlay's link flaps for 5 s", lasts: 5 * time.Second, begin: flapping},
	{name: "30 % of all packets are lost", lasts: time.Second, kinds: []string{"peer_loss"},
		begin: onPath("ip protocol udp numgen random mod 100 < 30 drop")},
	{name: "packets arrive twice", lasts: 5 * time.Second, begin: duplicated},
	{name: "packets pass each other", lasts: 5 * time.Second, begin: reordered},
	{name: "nothing passes from worker to worker2", lasts: time.Second,
		kinds: []string{"peer_one_way", "peer_down", "peer_silent"},
		begin: onPath("ip saddr 172.18.0.4 ip daddr 172.18.0.3 drop")},
	{name: "nothing passes between any hosts", lasts: time.Second, kinds: []string{"peer_down"},
		begin: onPath("ip protocol udp drop")},
	{name: "the network carries 1300, 1450, 1200, 1000 bytes", lasts: time.Second, kinds: []string{"path_large"},
		begin: mtus},
	{name: "another program has the port", lasts: 3 * time.Second, begin: portTaken},
	{name: "another program takes the TUN's name 20 times a second", lasts: 5 * time.Second,
		kinds: []string{"repairs_endless"}, begin: ips("link del mesh0", "tuntap add mesh0 mode tun")},
	{name: "another program deletes meshd-wg 20 times a second", only: "sealed", lasts: 5 * time.Second,
		kinds: []string{"repairs_endless", "wireguard_refused"}, begin: ips("link del meshd-wg")},
	{name: "another program flushes meshd's routes 20 times a second", lasts: 5 * time.Second,
		kinds: []string{"repairs_endless"}, begin: ips("route flush proto 85")},
	{name: "another program takes a peer's route 20 times a second", lasts: 5 * time.Second,
		kinds: []string{"repairs_endless", "route_shadowed"},
		begin: routeTaken, astray: true},
	{name: "another program flushes all rules 20 times a second", lasts: 5 * time.Second,
		kinds: []string{"repairs_endless"}, begin: func(r *faultRig) func() {
			return again(func() { _, _ = r.Worker2.Run("nft", "flush", "ruleset") })
		}},
	{name: "another program removes the control socket", lasts: time.Second, begin: func(r *faultRig) func() {
		if err := os.Remove(r.victim().Socket); err != nil {
			r.t.Error(err)
		}
		return func() {}
	}},
	{name: "two peers have each other's key in the file", only: "sealed", lasts: time.Second, begin: swappedKeys,
		kinds: []string{"no_handshake", "peer_down", "peer_one_way", "peer_silent"}},
	{name: "DNS names a pod's address for a peer", named: true, begin: lies("10.244.2.2 worker.test\n"),
		kinds: []string{"name_unusable", "name_stale"}},
	{name: "DNS names another node's address for a peer", named: true, begin: lies("172.18.0.2 worker.test\n"),
		kinds: []string{"name_unusable", "name_stale"}},
	{name: "DNS knows a peer's name no more", named: true, begin: lies("172.18.0.4 another.test\n"),
		kinds: []string{"name_stale"}},
}
