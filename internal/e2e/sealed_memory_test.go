package e2e

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// A pod that sends as fast as it can, to nodes that are silent and to one that answers, does not fill the
// memory of the process that encrypts.
func TestSealedMemory(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	const (
		limit            = 256 << 10 // KiB, half of MemoryMax in packaging/meshd-wireguard.service
		silent, messages = 24, 2000
	)
	s := newSealed(t)
	s.binary = shipped // a race detector has memory of its own
	doc := s.file()
	for n := range silent {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		doc += fmt.Sprintf("[[node]]\nname = \"silent-%d\"\naddress = \"172.18.0.%d\"\n"+
			"subnets = [\"10.244.%d.0/24\"]\npublic_key = %q\n", n, 100+n, 100+n,
			base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()))
	}
	for _, h := range []*nstest.Host{s.Worker, s.Worker2} {
		s.helper(h)
		s.run(h, doc)
	}
	run(t, s.PodW2b, "ping", "-c", "1", "-w", "10", "10.244.1.2")
	for n := range silent {
		burst(t, s.PodW2b, fmt.Sprintf("10.244.%d.2", 100+n), messages)
		run(t, s.PodW2b, "ping", "-c", "1", "-w", "10", "10.244.1.2")
	}
	burst(t, s.PodW2b, "10.244.1.2", 10*messages)
	// By an uplink that is slow, and holds more than the socket may, packets leave only now and then.
	run(t, s.Worker2.Namespace, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "50mbit",
		"burst", "32kb", "limit", "100mb")
	burst(t, s.PodW2b, "10.244.1.2", 10*messages)
	run(t, s.Worker2.Namespace, "tc", "qdisc", "del", "dev", "eth0", "root")
	run(t, s.PodW2b, "ping", "-c", "1", "-w", "10", "10.244.1.2")
	helper := s.helpers[s.Worker2]
	if helper == nil { // the kernel encrypts, which holds 1,024 packets of a peer
		return
	}
	most := memoryKiB(t, helper.PID(), "VmHWM")
	t.Logf("at most %d MiB", most>>10)
	if most > limit {
		t.Errorf("%d KiB, more than %d", most, limit)
	}
}

// burst sends superpackets of UDP to an address as fast as it can.
func burst(t *testing.T, from *nstest.Namespace, to string, messages int) {
	t.Helper()
	const segment, segments = 500, 120
	err := from.Do(func() error {
		conn, err := net.Dial("udp4", net.JoinHostPort(to, "7000"))
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		var optionErr error
		err = raw.Control(func(fd uintptr) {
			optionErr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment)
		})
		if err = errors.Join(err, optionErr); err != nil {
			return err
		}
		b := make([]byte, segments*segment)
		for range messages {
			// ICMP says that nothing listens, or that there is no way for now.
			if _, err := conn.Write(b); err != nil && !errors.As(err, new(unix.Errno)) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
