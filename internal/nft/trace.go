package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Trace reads what rules the kernel evaluates for packets that a rule with SetTrace has marked. It is
// the kernel's own account, so it is true whatever the rules are made of. A Trace belongs to one
// goroutine. It needs CAP_NET_ADMIN.
type Trace struct{ conn *netlink.Conn }

// A Spot is a place in the rules: a rule of a chain, or the chain's policy.
type Spot struct {
	Family string // "ip", "ip6", "inet", "netdev"
	Table  string
	Base   string // the base chain by which the packet came to Chain; the same at times
	Chain  string
	Handle uint64 // of the rule; 0: the policy of the chain
}

// step is one message of a trace.
type step struct {
	id     uint32 // of the packet
	spot   Spot
	ends   bool // the packet ends here: dropped, or left to a program of user space
	jumps  bool // to the chain named to
	to     string
	family byte
}

// OpenTrace begins to read.
func OpenTrace() (*Trace, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("trace rules: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		return nil, errors.Join(fmt.Errorf("trace rules: %w", err), conn.Close())
	}
	return &Trace{conn}, nil
}

// Close ends reading.
func (t *Trace) Close() error { return t.conn.Close() }

// maxSteps bounds how long a trace may be that End looks at.
const maxSteps = 4096

// A Fate is what became of a traced packet.
type Fate uint8

// The fates.
const (
	Unseen  Fate = iota // no rule has seen it in time
	Lost                // rules have seen it, and no rule has dropped it, yet it did not arrive
	Dropped             // a rule has dropped it
	Passed              // meshd's own rules have taken it, behind all others
)

// End waits until a traced packet ends, for as long as patience, and returns the place if a rule of
// another program has dropped it. The caller has sent one packet since the last End.
func (t *Trace) End(patience time.Duration) (at Spot, fate Fate, err error) {
	if err := t.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return Spot{}, Unseen, err
	}
	var steps []step
	for len(steps) < maxSteps {
		messages, err := t.conn.Receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && len(steps) == 0:
			return Spot{}, Unseen, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return Spot{}, Lost, nil
		case err != nil: // also ENOBUFS, as the trace has holes then: the caller tries again
			return Spot{}, Unseen, fmt.Errorf("trace rules: %w", err)
		}
		for _, m := range messages {
			s, ok := stepOf(m)
			if !ok {
				continue
			}
			steps = append(steps, s)
			switch {
			case s.ends && s.spot.Table == LastTable:
				return s.spot, Passed, nil
			case s.ends:
				return baseOf(steps), Dropped, nil
			}
		}
	}
	return Spot{}, Unseen, nil
}

// baseOf returns the spot of the last step, with the base chain from which jumps led there.
func baseOf(steps []step) Spot {
	last := steps[len(steps)-1]
	at := last.spot
	at.Base = at.Chain
	for i := len(steps) - 2; i >= 0; i-- {
		s := steps[i]
		if s.id == last.id && s.jumps && s.to == at.Base && s.spot.Table == at.Table && s.family == last.family {
			at.Base = s.spot.Chain
		}
	}
	return at
}

// Kinds of steps (enum nft_trace_types), and verdicts of the kernel (linux/netfilter.h).
const (
	tracePolicy = 1
	traceRule   = 3

	verdictMask  = 0xff // NF_VERDICT_MASK: the rest has the error of a drop or the number of a queue
	verdictDrop  = 0
	verdictQueue = 3
)

// stepOf reads a message of a trace; ok is false if it is another one, or damaged.
func stepOf(m netlink.Message) (s step, ok bool) {
	if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_TRACE || len(m.Data) < genHeader {
		return s, false
	}
	s.family = m.Data[0]
	s.spot.Family = familyName(s.family)
	var kind uint32
	code, policy := int32(-1), uint32(1)
	for _, a := range attributes(m) {
		switch a.Type &^ unix.NLA_F_NESTED {
		case unix.NFTA_TRACE_TABLE:
			s.spot.Table = text(a.Data)
		case unix.NFTA_TRACE_CHAIN:
			s.spot.Chain = text(a.Data)
		case unix.NFTA_TRACE_RULE_HANDLE:
			if len(a.Data) == 8 {
				s.spot.Handle = binary.BigEndian.Uint64(a.Data)
			}
		case unix.NFTA_TRACE_ID:
			s.id = number(a.Data)
		case unix.NFTA_TRACE_TYPE:
			kind = number(a.Data)
		case unix.NFTA_TRACE_POLICY:
			policy = number(a.Data)
		case unix.NFTA_TRACE_VERDICT:
			code, s.to = verdictOf(a.Data)
		}
	}
	s.jumps = s.to != ""
	switch kind {
	case tracePolicy:
		s.ends, s.spot.Handle = policy&verdictMask == verdictDrop, 0
	case traceRule:
		s.ends = code >= 0 && (code&verdictMask == verdictDrop || code&verdictMask == verdictQueue)
	}
	return s, kind != 0
}

// number reads a number of 4 bytes; other lengths are 0.
func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// verdictOf reads a nested verdict: its code, and the chain of a jump. The code is -1, which means
// to go on, if the attribute is damaged.
func verdictOf(b []byte) (code int32, chain string) {
	code = -1
	inner, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return code, ""
	}
	for _, a := range inner {
		switch {
		case a.Type == unix.NFTA_VERDICT_CODE && len(a.Data) == 4:
			code = int32(binary.BigEndian.Uint32(a.Data))
		case a.Type == unix.NFTA_VERDICT_CHAIN:
			chain = text(a.Data)
		}
	}
	return code, chain
}

// familyName returns the word of nft(8) for a family of tables; empty if it has none.
func familyName(family byte) string {
	return map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet",
		unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_ARP: "arp"}[family]
}

// SetTrace has the kernel tell Traces of all rules that a packet meets from here on.
func SetTrace() Exprs {
	return Exprs{
		// [ immediate reg 1 0x00000001 ]
		&expr.Immediate{Register: 1, Data: []byte{1}},
		// [ meta set nftrace with reg 1 ]
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1},
	}
}
