package probe

import (
	"fmt"
	"unique"
)

// Meaning is the beginning of the hash of what a file means: comments, white space and order do not
// count. The zero value is unknown: a meshd that does not tell it.
type Meaning [6]byte

// Self is what a node tells the other nodes about itself.
type Self struct {
	Hash    [32]byte // SHA-256 of the file in use
	Meaning Meaning  // of the file in use
	Version string   // of meshd; at most the first 24 bytes are sent
}

// isMeshd tells whether a node is one that tells of itself.
func (s Self) isMeshd() bool { return s.Hash != [32]byte{} }

// A word is a Self of which there is one in memory, however many peers say the same. The zero word is that
// of a peer that has said nothing.
type word struct{ handle unique.Handle[Self] }

func wordOf(s Self) word {
	if s == (Self{}) {
		return word{}
	}
	return word{unique.Make(s)}
}

func (w word) self() (s Self) {
	if w != (word{}) {
		s = w.handle.Value()
	}
	return s
}

// SameFile tells whether two nodes use the same file: one of the same meaning where both tell it, else
// one of the same text.
func (s Self) SameFile(other Self) bool {
	if s.Meaning != (Meaning{}) && other.Meaning != (Meaning{}) {
		return s.Meaning == other.Meaning
	}
	return s.Hash == other.Hash
}

// File names the file in few digits: by its meaning if that is known, else by its text. It is empty for
// a program that tells of no file.
func (s Self) File() string {
	switch {
	case s.Hash == ([32]byte{}):
		return ""
	case s.Meaning != (Meaning{}):
		return fmt.Sprintf("%x", s.Meaning[:4])
	}
	return fmt.Sprintf("%x", s.Hash[:4])
}

// Files returns the names by which a peer that uses the same file may name it.
func (s Self) Files() []string {
	return []string{fmt.Sprintf("%x", s.Meaning[:4]), fmt.Sprintf("%x", s.Hash[:4])}
}
