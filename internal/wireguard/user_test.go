package wireguard

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	wireguardgo "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/budget"
)

// serve has f answer whoever connects to the socket of an interface in a new folder, and returns a client.
func serve(t *testing.T, f func(net.Conn)) client {
	t.Helper()
	c := client{folder: t.TempDir(), patience: 20 * time.Second}
	listener, err := net.Listen("unix", filepath.Join(c.folder, testInterface+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f(conn)
		}
	}()
	return c
}

// say answers every question with a text and closes the connection.
func say(text string) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		var asked []byte
		for b := make([]byte, 4096); !bytes.HasSuffix(asked, []byte("\n\n")); {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			asked = append(asked, b[:n]...)
		}
		_, _ = c.Write([]byte(text))
	}
}

// wireguard-go itself, without a network, ends in each of 200 random states.
func TestRandomStatesOfUserSpace(t *testing.T) {
	d := wireguardgo.NewDevice(tuntest.NewChannelTUN().TUN(), conn.NewDefaultBind(),
		wireguardgo.NewLogger(wireguardgo.LogLevelSilent, ""))
	defer d.Close()
	c := serve(t, d.IpcHandle)
	for seed := range uint64(200) {
		s := randomSettings(rand.New(rand.NewPCG(seed, 3)))
		if _, err := Set(c, s); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got, err := c.Device(testInterface)
		if err != nil {
			t.Fatal(err)
		}
		if diff := differs(got, s); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		if again, err := Set(c, s); err != nil || len(again) > 0 {
			t.Fatalf("seed %d again: %q, %v", seed, again, err)
		}
	}
	state, err := Read(c, testInterface)
	if err != nil || !state.User {
		t.Errorf("%+v, %v", state, err)
	}
}

// Answers that are none are errors with their reasons, and no answer can keep the caller.
func TestBadAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(net.Conn)
		want   error
	}{
		"refused":      {say("errno=-98\n\n"), unix.EADDRINUSE},
		"refused, old": {say("errno=13\n\n"), unix.EACCES},
		"nothing":      {say(""), errCut},
		"no end":       {say("listen_port=1\n"), errCut},
		"no value":     {say("listen_port\nerrno=0\n"), nil},
		"no number":    {say("errno=x\n"), nil},
		"closed":       {func(c net.Conn) { c.Close() }, nil},
		"long line":    {say(strings.Repeat("x", 1<<20)), errCut},
		"hangs":        {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, test.answer)
			if name == "hangs" {
				c.patience = 50 * time.Millisecond
			}
			if _, err := c.Device(testInterface); err == nil || !errors.Is(err, test.want) && test.want != nil {
				t.Errorf("get: %v, want %v", err, test.want)
			}
			if name == "no value" { // is no fault of an answer to set
				return
			}
			err := c.ConfigureDevice(testInterface, wgtypes.Config{ListenPort: new(int)})
			if err == nil || !errors.Is(err, test.want) && test.want != nil {
				t.Errorf("set: %v, want %v", err, test.want)
			}
		})
	}
}

// An answer without end is read up to a bound.
func TestEndlessAnswer(t *testing.T) {
	c := serve(t, func(conn net.Conn) {
		defer conn.Close()
		block := bytes.Repeat([]byte("listen_port=1\n"), 1000)
		for {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	})
	// The bound cuts the last line.
	if _, err := c.Device(testInterface); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// A process of another user is not spoken to; one that has ended, or that never was, leaves it to the kernel.
func TestWhoListens(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("as this user, only the absence of a process is tested")
	}
	c := client{folder: t.TempDir(), patience: time.Second}
	path := filepath.Join(c.folder, testInterface+".sock")
	for _, name := range []string{"", ".", "..", "../x", testInterface} {
		if _, err := Read(c, name); !errors.Is(err, ErrNone) {
			t.Errorf("%q: %v", name, err)
		}
	}
	address, err := net.ResolveUnixAddr("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	if err := c.user(testInterface, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a socket of a process that has ended: %v", err)
	}
	if os.Geteuid() == 0 {
		testStranger(t, c, path)
	}
}

// testStranger has another user listen at path.
func testStranger(t *testing.T, c client, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(os.Remove(path), unix.Bind(fd, &unix.SockaddrUnix{Name: path})); err != nil {
		t.Fatal(err)
	}
	if err := listenAs(fd, 65534); err != nil {
		t.Fatal(err)
	}
	private := privateKey(1).key
	err = c.ConfigureDevice(testInterface, wgtypes.Config{PrivateKey: &private})
	if !errors.Is(err, ErrStranger) {
		t.Errorf("a process of another user: %v", err)
	}
}

// listenAs calls listen(2) on a thread that has another user for that.
func listenAs(fd, uid int) error {
	done := make(chan error)
	go func() {
		// The raw call is about this thread alone; the thread ends with its goroutine, as another user.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		done <- unix.Listen(fd, 4)
	}()
	return <-done
}

// What is asked for and what is told are one language: a text that is parsed, asked for, and parsed again is
// the same interface.
func TestProtocol(t *testing.T) {
	alive := 25 * time.Second
	port := 51820
	key := privateKey(3).key
	config := wgtypes.Config{PrivateKey: &key, ListenPort: &port, Peers: []wgtypes.PeerConfig{{
		PublicKey: wgtypes.Key(publicKey(1)), Endpoint: udpAddr(netip.MustParseAddrPort("[2001:db8::1]:7")),
		PersistentKeepaliveInterval: &alive, AllowedIPs: ipNets(prefixPool[:3]), PresharedKey: &key,
	}}}
	text := strings.Replace(string(request(config)), "set=1\n", "", 1)
	text += "last_handshake_time_sec=3\nlast_handshake_time_nsec=0\nrx_bytes=5\ntx_bytes=6\n" +
		"protocol_version=1\nerrno=0\n\n"
	d, err := parseDevice(strings.NewReader(strings.Replace(text, "\n\n", "\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	p := d.Peers[0]
	if d.PrivateKey != key || d.PublicKey != key.PublicKey() || d.ListenPort != port || len(d.Peers) != 1 ||
		p.PublicKey != wgtypes.Key(publicKey(1)) || p.Endpoint.String() != "[2001:db8::1]:7" ||
		p.PresharedKey != key || p.PersistentKeepaliveInterval != alive || len(p.AllowedIPs) != 3 ||
		p.ReceiveBytes != 5 || p.TransmitBytes != 6 || !p.LastHandshakeTime.Equal(time.Unix(3, 0)) {
		t.Errorf("%+v", d)
	}
}

// No answer crashes the parser, and no key is in an error.
func FuzzParseDevice(f *testing.F) {
	key := strings.Repeat("0a", 32)
	f.Add("private_key=" + key + "\nlisten_port=1\npublic_key=" + key +
		"\nallowed_ip=10.0.0.0/8\nendpoint=[::1%1]:1\nerrno=0\n")
	f.Add("public_key=" + key + "\nlast_handshake_time_sec=1\nlast_handshake_time_nsec=2\nrx_bytes=1\n" +
		"errno=-22\n")
	f.Fuzz(func(t *testing.T, text string) {
		defer budget.Of(t)()
		d, err := parseDevice(strings.NewReader(text))
		if (d == nil) != (err != nil) {
			t.Errorf("%v, %v", d, err)
		}
	})
}
