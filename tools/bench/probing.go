package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
)

// Names of what a mesh of many peers that all answer costs.
const (
	probedPeers  = 1000
	statusAnswer = "GET /v1/status, 1000 nodes"
	probingCost  = "probing 1000 peers, % of one CPU"
	probingTwice = "probing 1000 peers of two addresses, % of one CPU"
	ofThatOurs   = ", of that in meshd's own code"
)

// probingCosts names the figures of probing, in the order of the report.
func probingCosts() []string {
	return []string{probingCost, probingCost + ofThatOurs, probingTwice, probingTwice + ofThatOurs}
}

// takeProbing measures once what the probes of many peers cost.
func (b *bench) takeProbing(ctx context.Context, all times) error {
	for _, twice := range []bool{false, true} {
		if err := b.inLab(1472, func(l *lab) error { return l.probing(ctx, b.binary, all, twice) }); err != nil {
			return fmt.Errorf("probing: %w", err)
		}
	}
	return nil
}

// probing lets host b play 1000 nodes that answer as a kernel does, at one or at two addresses each, and
// measures what their probing costs the daemon of host a.
func (l *lab) probing(ctx context.Context, binary string, all times, twice bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	file, err := l.manyPeers(ctx, twice)
	if err != nil {
		return err
	}
	if err := l.spawn(0, binary, "run", "-c", file, "--socket", l.socket(0)); err != nil {
		return err
	}
	client := control.NewClient(l.socket(0))
	defer client.Close()
	up := func() (n int, err error) {
		s, err := client.Status(ctx)
		for _, p := range s.Peers {
			if p.State == control.Up {
				n++
			}
		}
		return n, err
	}
	allUp := func() error {
		n, err := up()
		if err == nil && n < probedPeers-2 {
			err = fmt.Errorf("%d peers are up", n)
		}
		return err
	}
	err = eventually(allUp)
	for range 3 { // two addresses of each take twice as long
		if err != nil {
			err = eventually(allUp)
		}
	}
	if err != nil {
		return err
	}
	// What is new is asked more often, and what a start has lost counts for half a minute.
	const settled, span = 35 * time.Second, 15 * time.Second
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settled):
	}
	pid := l.processes[len(l.processes)-1].Process.Pid
	before, ours, err := cpuOf(pid)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(span):
	}
	after, oursAfter, err := cpuOf(pid)
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / span.Seconds() }
	name := probingCost
	if twice {
		name = probingTwice
	}
	all[name], all[name+ofThatOurs] = percent(after-before), percent(oursAfter-ours)
	if twice {
		return err
	}
	began := time.Now()
	_, statusErr := client.Status(ctx)
	all[statusAnswer] = ms(time.Since(began))
	return errors.Join(err, statusErr)
}

// manyPeers has the second host answer at the addresses of all peers, and returns the mesh's
// file.
func (l *lab) manyPeers(ctx context.Context, twice bool) (file string, err error) {
	doc := strings.Replace(meshOf(probedPeers), "address = \"192.0.2.2\"", "address = \"172.18.0.2\"", 1)
	var addresses []string
	for i := 1; i < probedPeers; i++ {
		first := fmt.Sprintf("172.18.%d.%d", i/250, 1+i%250)
		addresses = append(addresses, "addr add "+first+"/32 dev lo")
		if twice {
			second := fmt.Sprintf("172.19.%d.%d", i/250, 1+i%250)
			addresses = append(addresses, "addr add "+second+"/32 dev lo")
			doc = strings.Replace(doc, `"`+first+`"`, fmt.Sprintf("[%q, %q]", first, second), 1)
		}
	}
	if err := l.hosts[1].IP(append(addresses, "link set lo up")...); err != nil {
		return "", err
	}
	if err := l.hosts[0].IP("route add 172.18.0.0/15 via 192.0.2.2"); err != nil {
		return "", err
	}
	if err := l.answer(ctx); err != nil {
		return "", err
	}
	file = filepath.Join(l.dir, "many.toml")
	return file, os.WriteFile(file, []byte(doc), 0o644)
}

// cpuOf returns the CPU time of a process so far, and how much of it was outside the kernel
// (proc_pid_stat(5)). The kernel's part has work of host b in it: a veth pair has the sender's thread
// receive as well.
func cpuOf(pid int) (all, user time.Duration, err error) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(line), ") ")
	fields := strings.Fields(rest)
	inUser, userErr := strconv.Atoi(fields[11])
	system, systemErr := strconv.Atoi(fields[12])
	const tick = 10 * time.Millisecond // USER_HZ is 100
	return time.Duration(inUser+system) * tick, time.Duration(inUser) * tick, errors.Join(userErr, systemErr)
}

// answer answers every echo that comes to port 8285 of any address of host b, from
// that address, until ctx ends.
func (l *lab) answer(ctx context.Context) error {
	var conn *net.UDPConn
	err := l.hosts[1].Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 8285})
		return err
	})
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if controlErr := raw.Control(func(fd uintptr) {
		// The questions come in bursts of hundreds. What does not fit would be loss, which costs the asker.
		const buffer = 16 << 20
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer))
	}); controlErr != nil || err != nil {
		return errors.Join(controlErr, err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	go func() {
		for b, info := make([]byte, 2048), make([]byte, 128); ; {
			n, controls, _, from, err := conn.ReadMsgUDPAddrPort(b, info)
			if err != nil {
				return
			}
			if _, ok := packet.Parse(b[:n]); !ok {
				continue
			}
			e, ok := packet.ParseEcho(b[:n])
			if !ok {
				continue
			}
			e.Src, e.Dst, e.Reply = e.Dst, e.Src, true
			// The destination of the question is the source of the answer.
			_, _, _ = conn.WriteMsgUDPAddrPort(e.Append(nil), source(info[:controls]), from)
		}
	}()
	return nil
}

// source turns the packet info of a datagram into that of its answer (ip(7)).
func source(controls []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(controls)
	if err != nil || len(messages) == 0 || len(messages[0].Data) < unix.SizeofInet4Pktinfo {
		return nil
	}
	to := netip.AddrFrom4([4]byte(messages[0].Data[4:8])) // ipi_spec_dst
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: to.As4()})
}
