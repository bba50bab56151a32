package passing

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestIs(t *testing.T) {
	_, missing := os.Open("/nonexistent/file")
	for _, test := range []struct {
		name string
		err  error
		want bool
	}{
		{"none", nil, false},
		{"no descriptor", &fs.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}, true},
		{"no memory, wrapped", fmt.Errorf("rules: %w", syscall.ENOMEM), true},
		{"a busy port", &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}, true},
		{"a deadline", fmt.Errorf("read: %w", context.DeadlineExceeded), true},
		{"one of two", errors.Join(errors.New("no such option"), syscall.EBUSY), true},
		{"a missing file", missing, false},
		{"not permitted", syscall.EPERM, false},
		{"a wrong value", syscall.EINVAL, false},
		{"no such address", syscall.EADDRNOTAVAIL, false},
		{"a full disk", syscall.ENOSPC, false},
		{"no error of the kernel", errors.New("two nodes are this host"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Is(test.err); got != test.want {
				t.Errorf("%v: %v", test.err, got)
			}
		})
	}
}

// Two real ones: a port that another socket has, and a lock that another descriptor holds.
func TestRealReasons(t *testing.T) {
	first, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := net.ListenPacket("udp", first.LocalAddr().String())
	if err == nil {
		second.Close()
		t.Fatal("two sockets have one port")
	}
	if !Is(err) {
		t.Errorf("%v", err)
	}
	path := t.TempDir() + "/lock"
	for i := range 2 {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if (err != nil) != (i == 1) || Is(err) != (i == 1) {
			t.Errorf("lock %d: %v", i, err)
		}
	}
}
