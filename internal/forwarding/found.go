package forwarding

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/netns"
	"example.org/meshd/internal/state"
)

// found tells what of the host's forwarding is on only because meshd turned it on: all of it was
// found off. It is kept in the state folder, where `meshd cleanup` finds it. The service writes it
// and root reads it, so whatever is in it can do no more than turn forwarding off.
type found struct {
	Where string `json:"where"` // which boot and which network namespace it holds for
	IPv4  []int  `json:"ipv4"`  // interfaces, by index
	IPv6  bool   `json:"ipv6"`  // the global switch
}

const (
	foundFile   = "forwarding.json"
	foundAtMost = 1 << 20 // bytes: more interfaces than a host has
)

// empty tells whether there is nothing to note; Where alone is nothing.
func (f found) empty() bool { return len(f.IPv4) == 0 && !f.IPv6 }

// readFound reads the note in a folder; one of another boot is empty, as one that is missing is.
func readFound(folder string) (f found, err error) {
	here, err := where()
	if err != nil {
		return f, err
	}
	doc, err := state.Read(folder, foundFile, foundAtMost)
	if errors.Is(err, fs.ErrNotExist) {
		return found{Where: here}, nil
	}
	if err == nil {
		f, err = decodeFound(doc)
	}
	if err != nil {
		return found{Where: here}, fmt.Errorf("read how forwarding was found: %w", err)
	}
	if f.Where != here {
		return found{Where: here}, nil
	}
	return f, nil
}

// decodeFound takes nothing but what save writes.
func decodeFound(doc []byte) (f found, err error) {
	decoder := json.NewDecoder(bytes.NewReader(doc))
	// A field of a later version may mean that something else has to be turned off: better to say that
	// it is not understood than to forget it.
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return found{}, fmt.Errorf("%s: %w", foundFile, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return found{}, fmt.Errorf("%s: more than one value", foundFile)
	}
	if slices.ContainsFunc(f.IPv4, func(index int) bool { return index <= 0 || index > 1<<31-1 }) {
		return found{}, fmt.Errorf("%s: an index that no interface has", foundFile)
	}
	return f, nil
}

// save writes the note whole or not at all, or removes it if there is nothing to note. It need not
// survive a power cut, which ends what it tells of.
func (f found) save(folder string) error {
	if f.empty() {
		if _, err := state.Remove(folder, foundFile); err != nil {
			return fmt.Errorf("forget how forwarding was found: %w", err)
		}
		return nil
	}
	doc, err := json.Marshal(f)
	if err == nil {
		err = state.Note(folder, foundFile, append(doc, '\n'))
	}
	if err != nil {
		return fmt.Errorf("note how forwarding was found: %w", err)
	}
	return nil
}

// where names this boot and this network namespace. Containers share the host's boot.
func where() (string, error) {
	boot, err := bootID()
	if err != nil {
		return "", fmt.Errorf("read which boot this is: %w", err)
	}
	namespace, err := netns.Current()
	if err != nil {
		return "", fmt.Errorf("find out which network namespace this is: %w", err)
	}
	name := fmt.Sprintf("cookie-%d", namespace.Cookie)
	if namespace.Cookie == 0 {
		name = fmt.Sprintf("inode-%d", namespace.Inode)
	}
	return strings.TrimSpace(string(boot)) + "/" + name, nil
}

// bootID returns the kernel's name of this boot. systemd-nspawn lays another one over that in /proc,
// which a service with a /proc of its own (ProtectProc=) does not see: so who may, as root may, looks
// into a fresh one, too.
func bootID() ([]byte, error) {
	const name = "sys/kernel/random/boot_id"
	if proc, err := freshProc(); err == nil {
		defer unix.Close(proc)
		if fd, err := unix.Openat(proc, name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			file := os.NewFile(uintptr(fd), name)
			defer file.Close()
			return io.ReadAll(file)
		}
	}
	return os.ReadFile("/proc/" + name)
}

// freshProc returns a mount of proc that is attached nowhere (Linux 5.2, CAP_SYS_ADMIN).
func freshProc() (mount int, err error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
}
