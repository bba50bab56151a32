package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf/link"

	"example.org/meshd/internal/foreign"
)

// A network namespace ends without a word, and its pins stay: about 1 MB of kernel memory for each
// container that has run a meshd. No kernel tells which namespaces there are, so a folder of another
// one is taken for left behind if nothing shows life:
//
//	lock   a meshd that pins there holds one
//	link   a program at an interface: the kernel detaches it when the interface ends, and a
//	       namespace ends with its interfaces
//	age    a meshd that is about to pin has made the folder a moment ago

// settled is how long nothing must have changed in a folder before it is taken for left behind.
const settled = time.Minute

// hold locks the folder at a path, so that no other meshd takes it for left behind. The lock ends with
// the process. Without it packets flow all the same, so an error is none.
func hold(path string) *os.File {
	f, err := foreign.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	lock, err := f.Lock(false)
	if err != nil {
		return nil
	}
	return lock
}

// removeIfGone removes the folder of another network namespace if that is gone. What this user may not
// look into or remove stays: it is for that user's meshd to remove.
func removeIfGone(all *foreign.Folder, name string) {
	if !strings.HasPrefix(name, "net-") {
		return
	}
	f, err := all.Folder(name)
	if err != nil {
		return
	}
	defer f.Close()
	if time.Since(f.Changed()) < settled {
		return
	}
	lock, err := f.Lock(true)
	if err != nil {
		return
	}
	defer lock.Close()
	pins, err := f.Names()
	if err != nil {
		return
	}
	for _, pin := range pins {
		if strings.HasPrefix(pin, "link-") && attachedAt(filepath.Join(f.Path(), pin)) {
			return
		}
	}
	_ = removePinsIn(all, name)
}

// attachedAt tells whether a pinned program is, or may be, at an interface.
func attachedAt(path string) bool {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return true
	}
	defer l.Close()
	if _, err := l.Info(); err != nil {
		return true
	}
	return interfaceOf(l) != 0
}
