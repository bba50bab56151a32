package main

import (
	"encoding/binary"
	"fmt"
	"time"
)

// What flows carry is made from where it belongs, word by word, so that the receiver needs nothing but the
// flow and the place to check each byte. And the other way round: a word that arrived in the wrong place
// tells where it belongs.
//
//	flow      one sender and one receiver of one kind of traffic, 16 bits
//	position  bytes: of a connection the offset, of a datagram its number and the offset in it
//	word      8 bytes, flow and position / 8, scrambled so that no two words look alike

// factor scrambles words, and inverse undoes it: factor * inverse is 1 modulo 2^64.
const (
	factor  = 0x9e3779b97f4a7c15
	inverse = 0xf1de83e19937733d
)

// Positions of a flow are divided among its datagrams or connections.
const (
	datagramRoom   = 1 << 16 // bytes that a datagram has at most
	connectionRoom = 1 << 36 // bytes that a connection has at most
	wordBits       = 48      // a flow has so many words, 2 PiB
)

// word returns the content of a flow at a position, which is a multiple of 8.
func word(flow uint16, position uint64) uint64 {
	w := (uint64(flow)<<wordBits | position/8&(1<<wordBits-1)) * factor
	return w ^ w>>32 // its low bits would be those of the position
}

// whose returns where a word belongs. Every word belongs somewhere: only two in a row mean anything.
func whose(w uint64) (flow uint16, position uint64) {
	w = (w ^ w>>32) * inverse
	return uint16(w >> wordBits), w & (1<<wordBits - 1) * 8
}

// fill writes the content of a flow from a position on, a multiple of 8. The last word may be cut.
func fill(b []byte, flow uint16, position uint64) {
	var last [8]byte
	for ; len(b) >= 8; b, position = b[8:], position+8 {
		binary.BigEndian.PutUint64(b, word(flow, position))
	}
	binary.BigEndian.PutUint64(last[:], word(flow, position))
	copy(b, last[:])
}

// A finding is a place where other bytes arrived than were sent.
type finding struct {
	Flow     string
	At       time.Time
	Position uint64 // of the first wrong byte, in the flow
	Wrong    int    // how many bytes follow until a right word comes, in what was looked at
	Came     []byte // from there on, at most keptBytes
	Before   []byte // the bytes before, at most keptBefore
	Is       string // what is known of the bytes that came
	Events   []string
}

// Bounds of what a finding keeps, in bytes.
const (
	keptBytes  = 2048
	keptBefore = 64
)

// difference returns the first byte in which b is not the content of a flow, or -1, and how many bytes follow
// until the next right word.
func difference(b []byte, flow uint16, position uint64) (first, wrong int) {
	want := make([]byte, len(b)+8)
	skew := int(position % 8) // content is made in whole words
	fill(want, flow, position-uint64(skew))
	want = want[skew : skew+len(b)]
	first = -1
	for i := range b {
		if b[i] != want[i] {
			first = i
			break
		}
	}
	if first < 0 {
		return first, 0
	}
	for last := first; last < len(b); last++ {
		// Single bytes agree by chance.
		if end := last + 8; end <= len(b) && string(b[last:end]) == string(want[last:end]) {
			return first, last - first
		}
	}
	return first, len(b) - first
}

// found makes a finding of bytes that came at a position, of which those from first on are wrong.
func (l *ledger) found(flow uint16, b []byte, position uint64, first, wrong int) finding {
	came := b[first:min(len(b), first+keptBytes)]
	return finding{
		Flow: l.name(flow), At: time.Now(), Position: position + uint64(first), Wrong: wrong,
		Came: append([]byte(nil), came...), Before: append([]byte(nil), b[max(0, first-keptBefore):first]...),
		Is: l.identify(came[:min(len(came), wrong)]),
	}
}

// identify tells which content bytes are, by two words in a row that belong behind one another to a flow that
// exists. They may begin anywhere.
func (l *ledger) identify(b []byte) string {
	zeros := 0
	for zeros < len(b) && b[zeros] == 0 {
		zeros++
	}
	if zeros >= 8 {
		return fmt.Sprintf("%d zeros", zeros)
	}
	for i := 0; i+16 <= len(b); i++ {
		flow, position := whose(binary.BigEndian.Uint64(b[i:]))
		next, behind := whose(binary.BigEndian.Uint64(b[i+8:]))
		if next == flow && behind == position+8 && l.name(flow) != "" {
			return fmt.Sprintf("from byte %d on: what belongs to %s, %s", i, l.name(flow), place(position))
		}
	}
	return "no content of any flow"
}

// place tells a position as both kinds of flows divide it.
func place(position uint64) string {
	return fmt.Sprintf("position %#x (connection %d at %d, or datagram %d at %d)", position,
		position/connectionRoom, position%connectionRoom, position/datagramRoom, position%datagramRoom)
}

// A checker checks the bytes of a connection as they arrive.
type checker struct {
	ledger   *ledger
	flow     uint16
	begin    uint64 // position of the connection's first byte
	position uint64 // bytes that were checked
}

// check checks the next bytes of the connection; nil: they are right.
func (c *checker) check(b []byte) *finding {
	at := c.begin + c.position
	c.position += uint64(len(b))
	first, wrong := difference(b, c.flow, at)
	if first < 0 {
		return nil
	}
	f := c.ledger.found(c.flow, b, at, first, wrong)
	return &f
}

// sizeOf returns how many bytes the datagram of a number has: any size from 16 bytes on, up to one byte more
// than fits into one packet for one of sixteen, which hosts cut. Both ends know it without being told.
func sizeOf(flow uint16, number uint64) int {
	random := word(flow^0x5555, number*datagramRoom) >> 20
	if random%16 == 0 {
		return 1500 + int(random>>8%1500)
	}
	return 16 + int(random>>8%1380)
}

// numbered returns which datagram of a flow b begins as, or false if it begins as none.
func numbered(b []byte, flow uint16) (number uint64, ok bool) {
	if len(b) < 8 {
		return 0, false
	}
	is, position := whose(binary.BigEndian.Uint64(b))
	return position / datagramRoom, is == flow && position%datagramRoom == 0
}

// connectionOf returns which connection of a flow begins with b, which has 8 bytes; false: none does.
func connectionOf(b []byte, flow uint16) (number uint64, ok bool) {
	is, position := whose(binary.BigEndian.Uint64(b))
	return position / connectionRoom, is == flow && position%connectionRoom == 0
}

// checkDatagram checks a datagram of a flow that should have a size, which is asked for by its number.
func (l *ledger) checkDatagram(b []byte, flow uint16, size func(number uint64) int) (number uint64,
	f *finding) {
	number, ok := numbered(b, flow)
	if !ok {
		altered := l.found(flow, b, 0, 0, len(b))
		altered.Is = "no datagram of this flow: " + altered.Is
		return 0, &altered
	}
	at := number * datagramRoom
	first, wrong := difference(b, flow, at)
	if first < 0 && len(b) != size(number) {
		first = min(len(b), size(number))
		wrong = len(b) - first
	}
	if first < 0 {
		return number, nil
	}
	altered := l.found(flow, b, at, first, wrong)
	if len(b) != size(number) {
		altered.Is = fmt.Sprintf("%d bytes instead of %d; %s", len(b), size(number), altered.Is)
	}
	return number, &altered
}
