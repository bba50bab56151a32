package main

import (
	"bytes"
	"strings"
	"testing"
)

// twoFlows returns a ledger with two flows, which tells nobody.
func twoFlows() *ledger {
	l := &ledger{tell: func(int, *finding) {}}
	l.add(0, "user: a to b tcp4")
	l.add(0, "user: b to c udp6")
	return l
}

// A word tells where it belongs, and a fill is made of words wherever it begins and ends.
func TestWord(t *testing.T) {
	for _, position := range []uint64{0, 8, connectionRoom * 7, connectionRoom*7 + 65536, 1<<51 - 8} {
		if flow, back := whose(word(513, position)); flow != 513 || back != position {
			t.Errorf("%d of 513 belongs to %d of %d", position, back, flow)
		}
	}
	whole, part := make([]byte, 80), make([]byte, 29)
	fill(whole, 3, 160)
	fill(part, 3, 160+40)
	if !bytes.Equal(whole[40:69], part) {
		t.Errorf("%x is not a part of %x", part, whole)
	}
}

// Bytes are checked wherever a read cuts them, and what is wrong is found to the byte.
func TestChecker(t *testing.T) {
	sent := make([]byte, 1<<16)
	fill(sent, 0, 5*connectionRoom)
	other := make([]byte, 4096)
	fill(other, 1, 77*datagramRoom)
	for _, test := range []struct {
		name            string
		from, to        int // bytes that are replaced
		by              []byte
		position, wrong int
		is              string
	}{
		{name: "nothing", position: -1},
		{"one byte", 1001, 1002, []byte{sent[1001] ^ 1}, 1001, 1, "no content"},
		{"zeros", 5000, 5100, make([]byte, 100), 5000, 100, "zeros"},
		{"other content", 3003, 3803, other[:800], 3003, 800, "user: b to c udp6, position 0x4d0000"},
		{"the same flow, later", 8192, 9192, sent[16384:17384], 8192, 1000, "connection 5 at 16384"},
		{"the end", 65535, 65536, []byte{sent[65535] ^ 1}, 65535, 1, "no content"},
	} {
		for _, read := range []int{1 << 16, 1461, 13} {
			t.Run(test.name, func(t *testing.T) {
				came := bytes.Clone(sent)
				copy(came[test.from:test.to], test.by)
				c := &checker{ledger: twoFlows(), flow: 0, begin: 5 * connectionRoom}
				var f *finding
				for b := came; len(b) > 0 && f == nil; b = b[min(len(b), read):] {
					f = c.check(b[:min(len(b), read)])
				}
				if (f == nil) != (test.position < 0) {
					t.Fatalf("found %+v", f)
				}
				if f == nil {
					return
				}
				if f.Position != 5*connectionRoom+uint64(test.position) {
					t.Errorf("found at %d, want %d", f.Position%connectionRoom, test.position)
				}
				if read == 1<<16 && (f.Wrong != test.wrong || !strings.Contains(f.Is, test.is)) {
					t.Errorf("%d bytes are wrong, %s; want %d, %s", f.Wrong, f.Is, test.wrong, test.is)
				}
				if len(f.Came) > keptBytes || len(f.Before) > keptBefore {
					t.Errorf("%d and %d bytes are kept", len(f.Before), len(f.Came))
				}
			})
		}
	}
}

// A datagram is right, or something is said about it: what is cut, too long, changed, or of another flow.
func TestDatagram(t *testing.T) {
	size := func(number uint64) int { return sizeOf(1, number) }
	good := make([]byte, sizeOf(1, 9))
	fill(good, 1, 9*datagramRoom)
	another := make([]byte, 64)
	fill(another, 0, 9*datagramRoom)
	changed := bytes.Clone(good)
	changed[len(changed)-1] ^= 0x80
	for _, test := range []struct {
		name  string
		b     []byte
		right bool
		is    string
	}{
		{"good", good, true, ""},
		{"cut", good[:len(good)-1], false, "instead of"},
		{"longer", append(bytes.Clone(good), 0), false, "instead of"},
		{"changed", changed, false, ""},
		{"of another flow", another, false, "what belongs to user: a to b tcp4"},
		{"empty", nil, false, "no datagram of this flow"},
		{"short", good[:5], false, "no datagram of this flow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			number, f := twoFlows().checkDatagram(test.b, 1, size)
			if (f == nil) != test.right || test.right && number != 9 {
				t.Fatalf("datagram %d, %+v", number, f)
			}
			if f != nil && !strings.Contains(f.Is, test.is) {
				t.Errorf("it is %q, want %q", f.Is, test.is)
			}
		})
	}
}

// Sizes cover what they should: small ones, whole packets, and what needs fragments; a superpacket has two
// datagrams at least, of one size but for the last.
func TestSizes(t *testing.T) {
	small, cut := 0, 0
	for number := range uint64(2000) {
		switch n := sizeOf(4, number); {
		case n < 16 || n > 3000:
			t.Fatalf("%d bytes", n)
		case n < 100:
			small++
		case n > podMTU:
			cut++
		}
	}
	if small == 0 || cut == 0 {
		t.Errorf("%d small, %d to be cut", small, cut)
	}
	for super := range uint64(200) {
		var sizes []int
		for i := range uint64(gsoMost) {
			if n := gsoSize(4, super*gsoMost+i); n > 0 {
				sizes = append(sizes, n)
			}
		}
		last := len(sizes) - 1
		if last < 1 || sizes[last] > gsoSegment || sizes[last] < 16 {
			t.Fatalf("sizes %d", sizes)
		}
		for _, n := range sizes[:last] {
			if n != gsoSegment {
				t.Fatalf("sizes %d", sizes)
			}
		}
	}
}

// What arrives once, late, twice, or never is told apart.
func TestLedger(t *testing.T) {
	l := twoFlows()
	l.sends(1, 7)
	l.skips(1, func(number uint64) bool { return number == 6 })
	for _, number := range []uint64{0, 1, 3, 2, 3, 5, 7} {
		l.arrives(1, number)
	}
	if lost := l.losses(); len(lost) != 1 || lost[0].flow != l.name(1) || lost[0].count != 1 {
		t.Errorf("%+v", lost)
	}
	sum := l.sums(0, func(name string) bool { return strings.HasSuffix(name, "udp6") })
	if sum.sent != 7 || sum.arrived != 6 || sum.late != 1 || sum.duplicates != 1 {
		t.Errorf("%+v", sum)
	}
}

// Of many findings some are kept, and all are counted.
func TestFindingsAreBounded(t *testing.T) {
	l := twoFlows()
	for range 3 * mostFindings {
		l.alters(0, &finding{})
		l.breaks(0, errAltered)
	}
	if len(l.findings) != mostFindings || len(l.errors) != mostFindings || l.altered != 3*mostFindings {
		t.Errorf("%d and %d are kept, %d counted", len(l.findings), len(l.errors), l.altered)
	}
}
