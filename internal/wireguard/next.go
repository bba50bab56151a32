package wireguard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/foreign"
)

// A host changes its private key with three files beside each other:
//
//	PATH.next   the next key, which others have to know before it is of use
//	PATH        the key in use
//	PATH.old    the one before, to go back to
//
// There is a key at PATH at any time, the old or the next one, even over a power cut.

// NextPath returns where the next private key of a host is, and OldPath where the one before is.
func NextPath(path string) string { return path + ".next" }

// OldPath is described at NextPath.
func OldPath(path string) string { return path + ".old" }

// ReadKeyFile is ReadKey for the file at a path alone, whatever the credentials of the service are.
func ReadKeyFile(ctx context.Context, path string) (Private, error) {
	return timely(ctx, path, func() (Private, error) { return readFile(path, openToOthers) })
}

// ActivateKey makes the next key of a host its key, and keeps the one before at OldPath, in the place of an
// older one. The errors are those of ReadKeyFile for the next key, and of the file system. It returns when
// the change would survive a power cut. After an error the key at path is the one before, or the next one.
func ActivateKey(ctx context.Context, path string) (Private, error) {
	next, err := ReadKeyFile(ctx, NextPath(path))
	if err != nil {
		return Private{}, err
	}
	folder := filepath.Dir(path)
	trusted, err := foreign.Open(folder)
	if err != nil {
		return Private{}, err
	}
	trusted.Close()
	if err := activate(folder, filepath.Base(path)); err != nil {
		return Private{}, fmt.Errorf("replace %s: %w", path, err)
	}
	return next, nil
}

// activate renames the files of ActivateKey. The old key gets its second name first, so that there is no
// moment without it.
func activate(folder, name string) error {
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	fd := int(dir.Fd())
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	beside := "." + name + "." + hex.EncodeToString(random[:])
	switch err := unix.Linkat(fd, name, fd, beside, 0); {
	case errors.Is(err, fs.ErrNotExist): // whoever deleted the key has no way back
	case err != nil:
		return err
	default:
		if err := unix.Renameat(fd, beside, fd, OldPath(name)); err != nil {
			return errors.Join(err, unix.Unlinkat(fd, beside, 0))
		}
		// Two names of one file are left alone by rename(2), which then removes neither.
		_ = unix.Unlinkat(fd, beside, 0)
	}
	if err := unix.Renameat(fd, NextPath(name), fd, name); err != nil {
		return err
	}
	return dir.Sync()
}
