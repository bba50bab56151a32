package wireguard

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// This file speaks to an interface that is a process, by the protocol that all such processes share
// (https://www.wireguard.com/xplatform/): lines of key=value, and errno=0 at the end.

// ErrStranger says that the process behind a socket belongs to a user that must not get the private key.
var ErrStranger = errors.New("the process behind the socket runs neither as root nor as this user")

// mostBytes is how much of an answer is read: some 100,000 peers.
const mostBytes = 64 << 20

// A conversation is a connection to such a process, for one question.
type conversation struct{ net.Conn }

// user calls f with a conversation. The error is fs.ErrNotExist where no process answers for the interface:
// there is no socket, or one that a dead process left.
func (c client) user(name string, f func(conversation) error) error {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return fs.ErrNotExist
	}
	path := filepath.Join(c.folder, name+".sock")
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	conn, err := net.DialTimeout("unix", path, c.patience)
	if errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w: the process behind %s has ended", fs.ErrNotExist, path)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := trust(conn); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := conn.SetDeadline(time.Now().Add(c.patience)); err != nil {
		return err
	}
	if err := f(conversation{conn}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Runs tells whether a process that is the interface called name answers at its socket, also while the
// interface itself is not there. It waits a second at most.
func Runs(name string) bool {
	c := client{folder: Folder, patience: time.Second}
	return c.user(name, func(conversation) error { return nil }) == nil
}

// trust checks whose process listens. The kernel tells the user who called listen(2) (unix_listen in
// net/unix/af_unix.c), so nobody can exchange the socket between this check and its use.
func trust(conn net.Conn) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, controlErr); err != nil {
		return err
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: it has the uid %d", ErrStranger, peer.Uid)
	}
	return nil
}

// device asks for the whole interface.
func (c conversation) device(name string) (*wgtypes.Device, error) {
	if _, err := io.WriteString(c, "get=1\n\n"); err != nil {
		return nil, err
	}
	d, err := parseDevice(io.LimitReader(c, mostBytes))
	if err != nil {
		return nil, err
	}
	d.Name = name
	return d, nil
}

// configure asks for changes.
func (c conversation) configure(config wgtypes.Config) error {
	_, writeErr := c.Write(request(config))
	// A process that refuses a line answers and closes, perhaps before it has read the rest. What it has said
	// explains more than a broken pipe does.
	n, err := answer(io.LimitReader(c, 4096))
	if err != nil {
		return errors.Join(writeErr, err)
	}
	return errnoOf(n)
}

// request returns the lines that ask for changes. They end with an empty one.
func request(config wgtypes.Config) []byte {
	var b bytes.Buffer
	line := func(key string, value any) { fmt.Fprintf(&b, "%s=%v\n", key, value) }
	line("set", 1)
	if config.PrivateKey != nil {
		line("private_key", hex.EncodeToString(config.PrivateKey[:]))
	}
	if config.ListenPort != nil {
		line("listen_port", *config.ListenPort)
	}
	for _, p := range config.Peers {
		line("public_key", hex.EncodeToString(p.PublicKey[:]))
		if p.UpdateOnly { // before remove: that lets go of the peer
			line("update_only", true)
		}
		if p.Remove {
			line("remove", true)
		}
		if p.PresharedKey != nil {
			line("preshared_key", hex.EncodeToString(p.PresharedKey[:]))
		}
		if p.Endpoint != nil {
			line("endpoint", p.Endpoint)
		}
		if p.PersistentKeepaliveInterval != nil {
			line("persistent_keepalive_interval", int(p.PersistentKeepaliveInterval.Seconds()))
		}
		for i := range p.AllowedIPs {
			line("allowed_ip", &p.AllowedIPs[i])
		}
	}
	b.WriteString("\n")
	return b.Bytes()
}

// answer reads lines up to errno=N and returns N.
func answer(r io.Reader) (errno int, err error) {
	for s := bufio.NewScanner(r); ; {
		if !s.Scan() {
			return 0, errors.Join(errCut, s.Err())
		}
		if value, ok := strings.CutPrefix(s.Text(), "errno="); ok {
			return number(value)
		}
	}
}

// errCut says that an answer has no end.
var errCut = errors.New("the answer ends too early")

// errnoOf returns the error for a number of errno.h; nil for 0. wireguard-go tells them negative.
func errnoOf(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("refused: %w", unix.Errno(max(n, -n)))
}

// parseDevice reads an answer to get=1. Keys that it does not know are skipped, since processes of later
// versions may tell more.
func parseDevice(r io.Reader) (*wgtypes.Device, error) {
	d := &wgtypes.Device{Type: wgtypes.Userspace}
	var handshake [2]int64 // of the last peer: seconds, nanoseconds
	s := bufio.NewScanner(r)
	for s.Scan() {
		key, value, ok := strings.Cut(s.Text(), "=")
		if !ok {
			return nil, fmt.Errorf("the line %.40q has no value", s.Text())
		}
		var err error
		var n int
		switch {
		case key == "errno":
			if n, err = number(value); err == nil && n != 0 {
				return nil, errnoOf(n)
			}
			if err == nil {
				d.PublicKey = d.PrivateKey.PublicKey()
				return d, nil
			}
		case key == "public_key":
			handshake = [2]int64{}
			d.Peers = append(d.Peers, wgtypes.Peer{})
			d.Peers[len(d.Peers)-1].PublicKey, err = hexKey(value)
		case len(d.Peers) > 0:
			err = parsePeer(&d.Peers[len(d.Peers)-1], &handshake, key, value)
		case key == "private_key":
			d.PrivateKey, err = hexKey(value)
		case key == "listen_port":
			d.ListenPort, err = number(value)
		}
		if err != nil { // without the value: it may be a key
			return nil, fmt.Errorf("read %.40q: %w", key, err)
		}
	}
	return nil, errors.Join(errCut, s.Err())
}

// parsePeer reads one line of a peer.
func parsePeer(p *wgtypes.Peer, handshake *[2]int64, key, value string) (err error) {
	switch key {
	case "preshared_key":
		p.PresharedKey, err = hexKey(value)
	case "endpoint":
		var a netip.AddrPort // and not ResolveUDPAddr, which asks DNS for names
		if a, err = netip.ParseAddrPort(value); err == nil {
			p.Endpoint = net.UDPAddrFromAddrPort(a)
		}
	case "allowed_ip":
		var prefix netip.Prefix
		if prefix, err = netip.ParsePrefix(value); err == nil {
			p.AllowedIPs = append(p.AllowedIPs, ipNet(prefix.Masked()))
		}
	case "persistent_keepalive_interval":
		var n int
		n, err = number(value)
		p.PersistentKeepaliveInterval = time.Duration(n) * time.Second
	case "last_handshake_time_sec":
		handshake[0], err = strconv.ParseInt(value, 10, 64)
	case "last_handshake_time_nsec":
		handshake[1], err = strconv.ParseInt(value, 10, 64)
		if *handshake != [2]int64{} { // both are 0 where there was none
			p.LastHandshakeTime = time.Unix(handshake[0], handshake[1])
		}
	case "rx_bytes":
		p.ReceiveBytes, err = strconv.ParseInt(value, 10, 64)
	case "tx_bytes":
		p.TransmitBytes, err = strconv.ParseInt(value, 10, 64)
	}
	return err
}

// number reads a number of at most 31 bits and a sign.
func number(value string) (int, error) {
	n, err := strconv.ParseInt(value, 10, 32)
	return int(n), err
}

// hexKey reads a key in hexadecimal, as this protocol has it.
func hexKey(value string) (k wgtypes.Key, err error) {
	if len(value) != hex.EncodedLen(len(k)) {
		return k, fmt.Errorf("a key has %d digits, and this has %d", hex.EncodedLen(len(k)), len(value))
	}
	if _, err := hex.Decode(k[:], []byte(value)); err != nil {
		return wgtypes.Key{}, errors.New("a key has hexadecimal digits only") // hex tells the digit
	}
	return k, nil
}
