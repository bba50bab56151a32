package probe

import (
	"bytes"
	"encoding/binary"
	"strings"

	"example.org/meshd/internal/mesh"
)

// A payload is the content of an echo of meshd's:
//
//	 0  magic    8 bytes, with the version of this layout
//	 8  kind     1 byte: question or answer
//	 9  flags    1 byte, see Flags
//	10  meaning  6 bytes: the beginning of the hash of what the sender's file means; zero: unknown
//	16  nonce    8 bytes, chosen by the sender of the question
//	24  hash     32 bytes: SHA-256 of the file that the sender uses
//	56  version  24 bytes of text, filled with zeros
//	80           more bytes of a ping of that size, or what drain.go says
//
// All numbers are big endian. A kernel returns a question unchanged, so an echo reply that holds a
// question comes from a host without meshd. A meshd before these fields sends zeros in bytes 9 to 15.
type payload struct {
	answer bool
	flags  Flags
	nonce  uint64
	Self
	drain *mesh.Drain // of a question; nil: it says nothing of a maintenance
}

// Flags is what a node tells one other node besides Self. Bits without a name here are ignored.
type Flags uint8

// The flags.
const (
	Unheard    Flags = 1 << iota // the sender gets no answers from the receiver
	Draining                     // the sender wants no new traffic, see drain.go
	Sealed                       // the sender encrypts; worth nothing unless it comes inside the tunnel
	Unmeasured                   // forwarded probes end unanswered at the sender: nothing there leads to pods
	Brief                        // of a question: its answer may be of PayloadSize, so only the way there counts
	Sending                      // a shared prefix of the sender goes by the receiver
	Aware                        // the sender knows that the receiver is in maintenance
)

// Has tells whether all of some flags are set.
func (f Flags) Has(some Flags) bool { return f&some == some }

// FlagsOf returns what the sender of a payload tells; ok is false for what is none of meshd's. An echo reply
// of a kernel has what this node asked, and so says nothing.
func FlagsOf(b []byte, isReply bool) (f Flags, ok bool) {
	said, ok := parse(b)
	return said.flags, ok && said.answer == isReply
}

// Values and sizes of the fields.
const (
	magic       = "meshd\x00\x01\n"
	kindAsk     = 'q'
	kindAnswer  = 'a'
	versionSize = 24
	flagsAt     = 9

	// PayloadSize is the size of a probe's payload in bytes. A ping may have more.
	PayloadSize = 56 + versionSize
)

// parse reads a payload; ok is false if b is not one.
func parse(b []byte) (p payload, ok bool) {
	if len(b) < PayloadSize || string(b[:8]) != magic || b[8] != kindAsk && b[8] != kindAnswer {
		return p, false
	}
	p.answer = b[8] == kindAnswer
	p.flags, p.Meaning = Flags(b[flagsAt]), Meaning(b[10:16])
	p.nonce = binary.BigEndian.Uint64(b[16:])
	p.Hash = [32]byte(b[24:56])
	p.Version = printable(bytes.TrimRight(b[56:PayloadSize], "\x00"))
	if !p.answer && p.flags.Has(Draining) {
		p.drain = drainOf(b)
	}
	return p, true
}

// printable keeps ASCII letters, digits and signs only: the text comes from another host and is shown
// on terminals.
func printable(b []byte) string {
	return string(bytes.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, b))
}

// write writes the payload into the first PayloadSize bytes of b and leaves the others alone.
func (p payload) write(b []byte) {
	clear(b[:PayloadSize])
	copy(b, magic)
	b[8] = kindAsk
	if p.answer {
		b[8] = kindAnswer
	}
	b[flagsAt] = byte(p.flags)
	copy(b[10:16], p.Meaning[:])
	binary.BigEndian.PutUint64(b[16:], p.nonce)
	copy(b[24:56], p.Hash[:])
	copy(b[56:PayloadSize], shortVersion(p.Version))
}

// shortVersion is as much of a version as a probe has room for. One that is cut ends where a part of it does:
// half of a commit's name is nobody's version.
func shortVersion(version string) string {
	if len(version) <= versionSize {
		return version
	}
	if end := strings.LastIndexAny(version[:versionSize+1], ".+~-"); end > 0 {
		return version[:end]
	}
	return version[:versionSize]
}
