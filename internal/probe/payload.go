package probe

import (
	"bytes"
	"encoding/binary"
)

// A payload is what an echo of ours carries:
//
//	 0  magic    8 bytes, with the version of this layout
//	 8  kind     1 byte: question or answer
//	 9           7 bytes, zero
//	16  nonce    8 bytes, chosen by who asks
//	24  hash     32 bytes: SHA-256 of the sender's file in force
//	56  version  24 bytes of text, filled with zeros
//	80           what a ping wants to be larger
//
// A kernel sends a question back as it is, so an echo reply that holds a question
// comes from a host that does not know meshd.
type payload struct {
	answer bool
	nonce  uint64
	Self
}

const (
	magic       = "meshd\x00\x01\n"
	kindAsk     = 'q'
	kindAnswer  = 'a'
	versionSize = 24

	// PayloadSize is how many bytes a probe's payload has; that of a ping may
	// have more.
	PayloadSize = 56 + versionSize
)

// parse reads a payload; ok is false if it is none of ours.
func parse(b []byte) (p payload, ok bool) {
	if len(b) < PayloadSize || string(b[:8]) != magic || b[8] != kindAsk && b[8] != kindAnswer {
		return p, false
	}
	p.answer = b[8] == kindAnswer
	p.nonce = binary.BigEndian.Uint64(b[16:])
	p.Hash = [32]byte(b[24:56])
	p.Version = printable(bytes.TrimRight(b[56:PayloadSize], "\x00"))
	return p, true
}

// printable keeps what a stranger sent us from a terminal.
func printable(b []byte) string {
	return string(bytes.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, b))
}

// write fills b, which has at least PayloadSize bytes, and leaves what is behind
// those as it is.
func (p payload) write(b []byte) {
	clear(b[:PayloadSize])
	copy(b, magic)
	b[8] = kindAsk
	if p.answer {
		b[8] = kindAnswer
	}
	binary.BigEndian.PutUint64(b[16:], p.nonce)
	copy(b[24:56], p.Hash[:])
	copy(b[56:PayloadSize], p.Version)
}
