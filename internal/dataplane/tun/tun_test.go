package tun

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/nstest"
)

func up(t *testing.T, n *nstest.Namespace) *Queue {
	t.Helper()
	if err := Create("mesh0"); err != nil {
		t.Fatal(err)
	}
	if err := n.IP("addr add 10.244.2.0/32 dev mesh0", "link set mesh0 mtu 1472 addrgenmode none",
		"link set mesh0 up", "route add 10.244.0.0/16 dev mesh0"); err != nil {
		t.Fatal(err)
	}
	q, err := Open("mesh0", true)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// room returns what Read needs for n frames.
func room(n int) (memory []byte, frames [][]byte) {
	return make([]byte, n*MaxFrame), make([][]byte, n)
}

func TestPacketsPass(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		defer q.Close()
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 244, 2, 0), Port: 7000})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		to := &net.UDPAddr{IP: net.IPv4(10, 244, 1, 2), Port: 7001}
		for i := range 3 {
			if _, err := conn.WriteTo([]byte{byte(i)}, to); err != nil {
				t.Fatal(err)
			}
		}
		memory, frames := room(8)
		size, err := q.Read(memory, frames)
		if err != nil || size != 3 {
			t.Fatalf("Read: %d, %v", size, err)
		}
		write := q.Writer()
		for i, frame := range frames[:size] {
			header, b, ok := virtio.Parse(frame)
			if !ok || !header.Complete(b) {
				t.Fatalf("frame % x", frame)
			}
			h, ok := packet.Parse(b)
			if !ok || h.Dst.String() != "10.244.1.2" || b[28] != byte(i) {
				t.Errorf("packet %d: %+v % x", i, h, b)
			}
			// Send it back: swap addresses and ports, which keeps both checksums.
			for n := range 4 {
				b[12+n], b[16+n] = b[16+n], b[12+n]
			}
			source := binary.BigEndian.Uint16(b[20:])
			copy(b[20:22], b[22:24])
			binary.BigEndian.PutUint16(b[22:], source)
			if err := write([][]byte{make([]byte, virtio.HeaderSize), b[:20], b[20:]}); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 10)
		for i := range 3 {
			got, from, err := conn.ReadFrom(buf)
			if err != nil || got != 1 || buf[0] != byte(i) || from.String() != to.String() {
				t.Errorf("reply %d: % x from %v, %v", i, buf[:got], from, err)
			}
		}
	})
}

// From the moment a queue is attached, nothing that is sent is lost, also on a
// device that was up without one.
func TestFirstPacketPasses(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		up(t, n).Close()
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 244, 1, 2), Port: 7001})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		memory, frames := room(1)
		for i := range 50 {
			q, err := Open("mesh0", true)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := conn.Write([]byte{byte(i)}); err != nil {
				t.Error(err)
			}
			if err := q.file.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Error(err)
			}
			if _, err := q.Read(memory, frames); err != nil || frames[0][virtio.HeaderSize+28] != byte(i) {
				t.Errorf("attachment %d: %v, % x", i, err, frames[0])
			}
			q.Close()
		}
	})
}

func TestCloseWakesRead(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		done := make(chan error)
		go func() {
			_, err := q.Read(room(1))
			done <- err
		}()
		q.Close()
		if err := <-done; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
	})
}

// A queue that was left is taken over for its own TUN alone. The error for another names the one that it
// belongs to, and the file is closed.
func TestAdopt(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		defer q.Close()
		left := func() *os.File {
			fd, err := unix.FcntlInt(q.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			return os.NewFile(uintptr(fd), "tun-0")
		}
		other := left()
		_, err := Adopt(other, "mesh1", true)
		if err == nil || !strings.Contains(err.Error(), `"mesh0"`) {
			t.Errorf("a queue of another TUN: %v", err)
		}
		if err := other.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the file was left open: %v", err)
		}
		again, err := Adopt(left(), "mesh0", true)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestDeletedDeviceEndsRead(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		defer q.Close()
		done := make(chan error)
		go func() {
			_, err := q.Read(room(1))
			done <- err
		}()
		if err := n.IP("link del mesh0"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err == nil || errors.Is(err, os.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
	})
}

func TestDeviceOutlivesItsQueues(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		up(t, n).Close()
		q := func() *Queue { // taken over with its address and routes
			if err := Create("mesh0"); err != nil {
				t.Fatal(err)
			}
			q, err := Open("mesh0", true)
			if err != nil {
				t.Fatal(err)
			}
			return q
		}()
		defer q.Close()
		out, err := n.Run("ip", "route", "show", "dev", "mesh0")
		if err != nil || !strings.HasPrefix(out, "10.244.0.0/16 scope link") {
			t.Errorf("%q, %v", out, err)
		}
	})
}

// A device that could not be marked as ours is gone with its file, as it would be if the process were killed
// before that. One that exists stays.
func TestUnclaimedDeviceEnds(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		refused := errors.New("refused")
		refuse := func(string) error { return refused }
		there := func() bool { _, err := net.InterfaceByName("mesh0"); return err == nil }
		if err := Create("mesh0", refuse); !errors.Is(err, refused) || there() {
			t.Errorf("%v, and the device exists: %v", err, there())
		}
		claimed := ""
		if err := Create("mesh0", func(name string) error { claimed = name; return nil }); err != nil || !there() ||
			claimed != "mesh0" {
			t.Errorf("%v, claimed %q", err, claimed)
		}
		if err := Create("mesh0", refuse); !errors.Is(err, refused) || !there() {
			t.Errorf("%v, and the device that was there exists: %v", err, there())
		}
	})
}

// The usual refusals get an advice, and keep their cause; others stay as they are.
func TestExplain(t *testing.T) {
	for name, test := range map[string]struct {
		err     error
		advised bool
	}{
		"too many queues":    {unix.E2BIG, true},
		"no driver":          {unix.ENOENT, true},
		"no device":          {unix.ENODEV, true},
		"no such device":     {unix.ENXIO, true},
		"not allowed":        {unix.EPERM, true},
		"not accessible":     {&fs.PathError{Op: "open", Path: device, Err: unix.EACCES}, true},
		"of another program": {unix.EINVAL, true},
		"open elsewhere":     {unix.EBUSY, true},
		"another error":      {unix.EIO, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := explain("mesh0", test.err)
			if !errors.Is(got, test.err) || (got.Error() != test.err.Error()) != test.advised {
				t.Errorf("%v, want an advice: %v", got, test.advised)
			}
		})
	}
	if err := explain("mesh0", nil); err != nil {
		t.Errorf("nothing is wrong: %v", err)
	}
}

// The kernel gets the best offer that it accepts, and every other error ends the queue.
func TestAgree(t *testing.T) {
	defer func(f func(int, int) error) { setOffload = f }(setOffload)
	for name, test := range map[string]struct {
		offload bool
		accepts int // the flags that the kernel knows
		want    string
		calls   int
	}{
		"all":              {true, offloadTSO | offloadUSO, "tso4 tso6 uso", 1},
		"before Linux 6.2": {true, offloadTSO, "tso4 tso6", 2},
		"nothing":          {true, 0, "", 3},
		"off":              {false, offloadTSO | offloadUSO, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			setOffload = func(_, flags int) error {
				calls++
				if flags&^test.accepts != 0 {
					return unix.EINVAL
				}
				return nil
			}
			got, err := agree(0, test.offload)
			if err != nil || strings.Join(got, " ") != test.want || calls != test.calls {
				t.Errorf("%q after %d calls, %v, want %q after %d", got, calls, err, test.want, test.calls)
			}
		})
	}
	setOffload = func(int, int) error { return unix.EBADF }
	if got, err := agree(0, true); !errors.Is(err, unix.EBADF) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestForeignInterfaceIsExplained(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link add mesh0 type bridge", "tuntap add mesh1 mode tun"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"mesh0", "mesh1"} {
			if err := Create(name); !errors.Is(err, unix.EINVAL) {
				t.Errorf("Create(%s): %v", name, err)
			}
		}
	})
}

// What the kernel refuses leaves nothing open, and what it grants is inherited by nobody: a meshd that fights
// over the name for days would have no descriptor left.
func TestRefusedDeviceLeavesNoFile(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		defer q.Close()
		if err := n.IP("tuntap add mesh1 mode tun"); err != nil {
			t.Fatal(err)
		}
		before := drivers(t)
		for range 10 {
			if err := Create("mesh1"); !errors.Is(err, unix.EINVAL) {
				t.Errorf("Create(mesh1): %v", err)
			}
			if err := Create("mesh0", func(string) error {
				for fd := range drivers(t) {
					if marks, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || marks&unix.FD_CLOEXEC == 0 {
						t.Errorf("descriptor %d outlives exec: %v", fd, err)
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		if now := drivers(t); !maps.Equal(now, before) {
			t.Errorf("descriptors %v, before %v", now, before)
		}
		if err := n.IP("link show mesh0"); err != nil || q.closed.Load() {
			t.Errorf("the queue that was there: %v", err)
		}
	})
}

// drivers returns the descriptors of the driver that this process has open.
func drivers(t *testing.T) map[int]bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	have := map[int]bool{}
	for _, e := range entries {
		if path, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && path == device {
			fd, err := strconv.Atoi(e.Name())
			if err != nil {
				t.Error(err)
			}
			have[fd] = true
		}
	}
	return have
}

func TestReadDoesNotAllocate(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		q := up(t, n)
		defer q.Close()
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 244, 1, 2), Port: 7001})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		memory, frames := room(4)
		payload, write, parts := make([]byte, 64), q.Writer(), make([][]byte, 1)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := conn.Write(payload); err != nil {
				t.Error(err)
			}
			if _, err := q.Read(memory, frames); err != nil {
				t.Error(err)
			}
			parts[0] = frames[0]
			if err := write(parts); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// Whatever an older kernel does not know is left out; what it knows is asked for.
func TestOffloadsAreAgreed(t *testing.T) {
	defer func(f func(int, int) error) { setOffload = f }(setOffload)
	real := setOffload
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		up(t, n).Close()
		for _, test := range []struct {
			name    string
			offload bool
			refuse  int
			want    string
		}{
			{"all", true, 0, "tso4 tso6 uso"},
			{"off", false, 0, ""},
			{"before Linux 6.2", true, unix.TUN_F_USO4, "tso4 tso6"},
			{"none", true, unix.TUN_F_CSUM, ""},
		} {
			setOffload = func(fd, flags int) error {
				if flags&test.refuse != 0 {
					return unix.EINVAL
				}
				return real(fd, flags)
			}
			q, err := Open("mesh0", test.offload)
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
				return
			}
			if got := strings.Join(q.Offloads(), " "); got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
			out, err := n.Run("ethtool", "-k", "mesh0")
			on := strings.Contains(out, "tx-tcp-segmentation: on")
			if err != nil || on != strings.Contains(test.want, "tso4") {
				t.Errorf("%s: the kernel says %s, %v", test.name, out, err)
			}
			q.Close()
		}
		setOffload = func(int, int) error { return unix.EPERM }
		if _, err := Open("mesh0", true); !errors.Is(err, unix.EPERM) {
			t.Errorf("Open: %v", err)
		}
	})
}

// The kernel makes a device for whoever attaches to one that is missing. Such a device has no claim of
// meshd's, and must not stay.
func TestAttachingMakesNoDevice(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if queues, err := OpenGroup("mesh0", true, 2); err == nil {
			t.Errorf("%d queues of a device that was never made", len(queues))
		}
		if _, err := net.InterfaceByName("mesh0"); err == nil {
			t.Error("there is a device")
		}
		if err := Create("mesh0"); err != nil {
			t.Fatal(err)
		}
		q, err := Open("mesh0", true)
		if err != nil {
			t.Fatal(err)
		}
		q.Close()
	})
}
