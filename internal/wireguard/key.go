package wireguard

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/foreign"
	"example.org/meshd/internal/mesh"
)

// The private key of a host is a file of one line, base64 as `wg genkey` writes it:
//
//	read    $CREDENTIALS_DIRECTORY/private.key of the service manager first, else a path of the host
//	make    once, never over another file: whoever has lost the key has another node's identity
//	change  in the steps of next.go
//
// No error and no other text has what is in the file.

// Why there is no private key; test with errors.Is.
var (
	ErrNoKey = errors.New("there is no private key")
	// ErrOpenKey says that the mode of the file lets others read the key.
	ErrOpenKey = errors.New("others may read the private key")
	// ErrForeignKey says that another user than root, meshd or that of this process has the file, or may
	// exchange it.
	ErrForeignKey = errors.New("the private key is not in the hands of root or meshd")
	// ErrBadKey says that the file is not a regular one with a key in it.
	ErrBadKey = errors.New("the file does not hold a private key")
	// ErrKeyExists says that a file is there, which is never overwritten.
	ErrKeyExists = errors.New("there is a file already")
	// ErrHangs is a passing reason (package passing).
	ErrHangs = fmt.Errorf("the file system does not answer: %w", context.DeadlineExceeded)
)

const (
	credential  = "private.key" // its name among the credentials of the service
	mostHanging = 4             // reads that a file system may never answer
	mostOfKey   = 128           // of the file; a key has 44 and a line feed
	mostLinks   = 8             // from a path to the file
	keyMode     = 0o400
	folderMode  = 0o755 // others find the file, and may not read it

	openToOthers fs.FileMode = 0o077 // no bit of them is in the mode of a key
)

// Variables for tests.
var (
	serviceUser = "meshd"         // that the service runs as
	keyPatience = 2 * time.Second // how long a file system may take: the reconciler waits for it
)

// hanging holds an element for each read under way.
var hanging = make(chan struct{}, mostHanging)

// ReadKey reads the private key of this host from the credentials of the service, or else from the file at
// path. The error has one of ErrNoKey, ErrOpenKey, ErrForeignKey, ErrBadKey and ErrHangs in it, or an error
// of the file system such as fs.ErrPermission, and the path. ReadKey returns within 2 s, and soon after ctx
// ends, whatever the file system does. It may be called from any goroutine.
func ReadKey(ctx context.Context, path string) (Private, error) {
	return timely(ctx, path, func() (Private, error) { return readKey(path) })
}

// timely has a key read, and does not wait for a file system that does not answer.
func timely(ctx context.Context, path string, read func() (Private, error)) (Private, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, keyPatience, ErrHangs)
	defer cancel()
	select {
	case hanging <- struct{}{}:
	case <-ctx.Done():
		return Private{}, fmt.Errorf("read %s: %w", path, context.Cause(ctx))
	}
	type result struct {
		key Private
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-hanging }()
		key, err := read()
		done <- result{key, err}
	}()
	select {
	case r := <-done:
		return r.key, r.err
	case <-ctx.Done():
		return Private{}, fmt.Errorf("read %s: %w", path, context.Cause(ctx))
	}
}

// readKey is ReadKey without a deadline.
func readKey(path string) (Private, error) {
	if folder := os.Getenv("CREDENTIALS_DIRECTORY"); folder != "" {
		// systemd alone can write there. It may let the service read by an access control list, whose mask
		// looks like a group that may read.
		key, err := readFile(filepath.Join(folder, credential), 0)
		if !errors.Is(err, ErrNoKey) {
			return key, err
		}
	}
	return readFile(path, openToOthers)
}

// readFile reads the key in a file whose mode has none of some bits.
func readFile(path string, closed fs.FileMode) (Private, error) {
	f, err := open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Private{}, fmt.Errorf("%w at %s", ErrNoKey, path)
	case errors.Is(err, foreign.ErrNotRegular):
		return Private{}, fmt.Errorf("%s: %w: it is not a regular file", path, ErrBadKey)
	case errors.Is(err, foreign.ErrUntrusted):
		return Private{}, fmt.Errorf("%s: %w: %w", path, ErrForeignKey, err)
	case err != nil:
		return Private{}, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	if by := f.Author(); !trusted(by) {
		return Private{}, fmt.Errorf("%s: %w: user %d may change it", path, ErrForeignKey, by)
	}
	if f.Mode()&closed != 0 {
		return Private{}, fmt.Errorf("%s: %w (mode %#o)", path, ErrOpenKey, f.Mode())
	}
	text, err := f.Read(mostOfKey)
	if errors.Is(err, foreign.ErrTooLarge) {
		return Private{}, fmt.Errorf("%s: %w: it has more than %d bytes", path, ErrBadKey, mostOfKey)
	}
	if err != nil {
		return Private{}, fmt.Errorf("read %s: %w", path, err)
	}
	key, err := parsePrivate(string(text))
	if err != nil {
		return Private{}, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// open finds the file at a path. A symbolic link at its end is followed if nobody else can have made it: some
// hosts keep secrets elsewhere, and link to them.
func open(path string) (*foreign.File, error) {
	for range mostLinks {
		f, err := foreign.OpenFile(path)
		if !errors.Is(err, foreign.ErrNotRegular) {
			return f, err
		}
		// Whoever exchanges the link meanwhile has only chosen another file, which is checked itself.
		var s unix.Stat_t
		if unix.Lstat(path, &s) != nil || s.Mode&unix.S_IFMT != unix.S_IFLNK {
			return nil, foreign.ErrNotRegular
		}
		if !trusted(s.Uid) {
			return nil, fmt.Errorf("user %d made the symbolic link %s: %w", s.Uid, path, foreign.ErrUntrusted)
		}
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return nil, unix.ELOOP
}

// trusted tells whether a user may have the private key of this host: root, the user of this process, or that
// of the service, whose key root reads, too.
func trusted(uid uint32) bool {
	if uid == 0 || int(uid) == os.Geteuid() {
		return true
	}
	service, _, ok := serviceIDs()
	return ok && int(uid) == service
}

// serviceIDs returns the user and the group of the service; ok is false where it is not installed.
func serviceIDs() (uid, gid int, ok bool) {
	u, err := user.Lookup(serviceUser)
	if err != nil {
		return 0, 0, false
	}
	uid, err = strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return uid, gid, err == nil && gidErr == nil
}

// parsePrivate reads the text of a key file. The error, ErrBadKey, does not repeat it.
func parsePrivate(text string) (p Private, err error) {
	text = strings.TrimSpace(text)
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	switch {
	case err != nil || len(b) != len(p.key):
		return Private{}, fmt.Errorf("%w: it has to be one line, base64 of 32 bytes", ErrBadKey)
	case wgtypes.Key(b) == wgtypes.Key{}:
		return Private{}, fmt.Errorf("%w: it is all zeros", ErrBadKey)
	}
	return Private{clamped(wgtypes.Key(b))}, nil
}

// Format implements fmt.Formatter: no verb prints the key.
func (p Private) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, p.String()) }

// Is tells whether a key of a file that everybody reads is this private one.
func (p Private) Is(k mesh.Key) bool { return p.IsValid() && clamped(wgtypes.Key(k)) == p.key }

// MakeKey makes a new private key and writes it into a new file at path, which belongs to the user of the
// service, where there is one and this process is root's; else to that of this process. Nobody else may read
// the file. The folder is made if it is missing, its parent is not. The error has ErrKeyExists in it if
// there is something at the path: a key is never overwritten. MakeKey returns when the key would survive a
// power cut.
func MakeKey(path string) (Private, error) {
	generated, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return Private{}, fmt.Errorf("make a private key: %w", err)
	}
	folder := filepath.Dir(path)
	if err := makeFolder(folder); err != nil {
		return Private{}, err
	}
	if err := writeKey(folder, filepath.Base(path), generated.String()+"\n"); err != nil {
		return Private{}, fmt.Errorf("write %s: %w", path, err)
	}
	return Private{generated}, nil
}

// makeFolder makes the folder of the key, and refuses one to which others could add files.
func makeFolder(folder string) error {
	if err := os.Mkdir(folder, folderMode); err == nil {
		err = os.Chmod(folder, folderMode) // whatever the umask is
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := foreign.Open(folder)
	if err != nil {
		return err
	}
	f.Close()
	return nil
}

// writeKey writes a new file into a folder, whole or not at all.
func writeKey(folder, name, text string) error {
	dir, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := dir.Lstat(name); err == nil {
		return ErrKeyExists
	}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	beside := "." + name + "." + hex.EncodeToString(random[:])
	file, err := dir.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, keyMode)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Remove(beside) }() // it has another name by then, if all went well
	_, err = file.WriteString(text)
	if uid, gid, ok := serviceIDs(); err == nil && ok && os.Geteuid() == 0 {
		err = file.Chown(uid, gid)
	}
	if err == nil {
		err = file.Chmod(keyMode)
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return settle(folder, beside, name)
}

// settle gives a file its name, unless there is something of that name, and waits for the disk.
func settle(folder, from, to string) error {
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	fd := int(dir.Fd())
	err = unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not of this file system: a second name
		err = unix.Linkat(fd, from, fd, to, 0)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return ErrKeyExists
	case err != nil:
		return err
	}
	return dir.Sync()
}
