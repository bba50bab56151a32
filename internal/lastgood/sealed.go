package lastgood

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"example.org/meshd/internal/state"
)

// This file remembers that packets of this host travel encrypted, apart from the last good file: that one may
// be older, and may have them travel bare.

// SealedName is the name of the note in the state folder, and sealedMost bounds it, in bytes.
const (
	SealedName = "sealed"
	sealedMost = 1 << 20
)

// sealed is the note.
type sealed struct {
	Path     string         `json:"path"`     // of the file that asks for it
	Prefixes []netip.Prefix `json:"prefixes"` // what must not leave bare
}

// Sealed returns what must never leave this host bare, since a file at a path that was in force here asks for
// encryption; ok is false if none does. A note that makes no sense counts as one without prefixes.
func Sealed(folder, path string) (prefixes []netip.Prefix, ok bool) {
	doc, err := state.Read(folder, SealedName, sealedMost)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	var note sealed
	if err != nil || json.Unmarshal(doc, &note) != nil {
		return nil, true
	}
	for _, p := range note.Prefixes {
		if !p.IsValid() || p != p.Masked() || p.Bits() == 0 {
			return nil, true
		}
	}
	return note.Prefixes, note.Path == path
}

// noteSealed writes or removes the note. It comes before a file that asks for encryption is kept, and after
// one that does not.
func noteSealed(folder string, f File) error {
	if f.Sealed == nil {
		_, err := state.Remove(folder, SealedName)
		return err
	}
	doc, err := json.Marshal(sealed{f.Path, f.Sealed})
	if err == nil {
		err = state.Write(folder, SealedName, doc)
	}
	if err != nil {
		return fmt.Errorf("note that packets are encrypted: %w", err)
	}
	return nil
}
