package nft

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// This file evaluates rules for a datagram. What it has no word for may hold.

// A judgement is what a rule does to a datagram.
type judgement struct {
	holds finding
	ports bool     // a condition of the rule is about a port of the datagram
	acts  bool     // the rule does more than to let the datagram pass, or to send it to other rules
	to    []string // chains to which it sends the datagram
}

// reader returns the elements of a set, or nil if nothing is to be known of them. verdicts tells that it
// is a map from which the verdict of the rule comes.
type reader func(set string, verdicts bool) *elements

// evaluator evaluates one rule.
type evaluator struct {
	*datagram
	registers
	elements reader
	judgement
	done bool // the rule has a verdict
}

// judge evaluates a rule.
func (d *datagram) judge(r *nftables.Rule, elements reader) judgement {
	e := evaluator{datagram: d, elements: elements, judgement: judgement{holds: always}}
	for _, one := range r.Exprs {
		e.step(one)
	}
	// A rule without a verdict counts, or does something that the library does not know.
	e.acts = e.acts || !e.done
	return e.judgement
}

// step evaluates one expression of a rule.
func (e *evaluator) step(one expr.Any) {
	switch one := one.(type) {
	case *expr.Cmp, *expr.Range, *expr.Lookup, *expr.Match:
		e.condition(one)
	case *expr.Limit, *expr.Connlimit, *expr.Quota:
		e.require(maybe)
	case *expr.Verdict:
		e.verdict(*one)
	case *expr.Target:
		e.done = e.done || one.Name == "ACCEPT" || one.Name == "RETURN"
		e.acts = e.acts || !e.done
	case *expr.Counter:
	default:
		e.acts = !e.loaded(one) || e.acts
	}
}

// loaded evaluates what only writes into registers; false: the expression does something else.
func (e *evaluator) loaded(one expr.Any) bool {
	anything := unknownBytes(largeRegister)
	switch one := one.(type) {
	case *expr.Payload:
		e.load(one.DestRegister, e.part(one.Base, one.Offset, one.Len))
		return one.OperationType == expr.PayloadLoad
	case *expr.Meta:
		e.load(one.Register, e.meta(one.Key))
		return !one.SourceRegister
	case *expr.Ct:
		e.load(one.Register, anything)
		return !one.SourceRegister
	case *expr.Exthdr:
		e.load(one.DestRegister, anything)
		return one.SourceRegister == 0
	case *expr.Immediate:
		e.load(one.Register, exactly(one.Data...))
	case *expr.Bitwise:
		e.bitwise(one)
	case *expr.Fib:
		e.load(one.Register, anything)
	case *expr.Hash:
		e.load(one.DestRegister, anything)
	case *expr.Numgen:
		e.load(one.Register, anything)
	default:
		return false
	}
	return true
}

// bitwise evaluates "and" with a mask and then "exclusive or". Without a mask it is a shift, of which
// nothing is known.
func (e *evaluator) bitwise(one *expr.Bitwise) {
	k := e.read(one.SourceRegister, int(min(one.Len, registerBytes)))
	for i := range k.value {
		if i >= len(one.Mask) || i >= len(one.Xor) {
			k.bits[i] = 0
			continue
		}
		k.value[i] = k.value[i]&one.Mask[i] ^ one.Xor[i]
		k.bits[i] |= ^one.Mask[i]
	}
	e.load(one.DestRegister, k)
}

// require adds a condition.
func (e *evaluator) require(f finding) { e.holds = min(e.holds, f) }

// condition evaluates a condition.
func (e *evaluator) condition(one expr.Any) {
	switch one := one.(type) {
	case *expr.Cmp:
		k := e.read(one.Register, len(one.Data))
		e.ports = e.ports || k.port
		e.require(compared(k, one.Op, one.Data))
	case *expr.Range:
		k := e.read(one.Register, len(one.FromData))
		e.ports = e.ports || k.port
		f := k.within(one.FromData, one.ToData)
		if one.Op == expr.CmpOpNeq {
			f = f.not()
		}
		e.require(f)
	case *expr.Lookup:
		e.lookup(one)
	case *expr.Match:
		e.xtables(one)
	}
}

// compared evaluates a comparison.
func compared(k known, op expr.CmpOp, with []byte) finding {
	zero, full := make([]byte, len(with)), bytes.Repeat([]byte{0xff}, len(with))
	switch op {
	case expr.CmpOpEq:
		return k.equal(with)
	case expr.CmpOpNeq:
		return k.equal(with).not()
	case expr.CmpOpLte:
		return k.within(zero, with)
	case expr.CmpOpGt:
		return k.within(zero, with).not()
	case expr.CmpOpGte:
		return k.within(with, full)
	case expr.CmpOpLt:
		return k.within(with, full).not()
	}
	return maybe
}

// lookup looks into a set or a map. A map may have verdicts.
func (e *evaluator) lookup(one *expr.Lookup) {
	verdicts := one.IsDestRegSet && one.DestRegister == unix.NFT_REG_VERDICT
	set := e.elements(one.SetName, verdicts)
	if set == nil {
		e.ports = e.ports || e.read(one.SourceRegister, largeRegister).port
		e.require(maybe)
		return
	}
	k := e.read(one.SourceRegister, set.length)
	e.ports = e.ports || k.port
	f, values := set.find(k)
	if one.Invert {
		f = f.not()
	}
	e.require(f)
	switch {
	case verdicts:
		for _, v := range values {
			code, chain := verdictOf(v)
			e.verdict(expr.Verdict{Kind: expr.VerdictKind(code), Chain: chain})
		}
	case one.IsDestRegSet:
		e.load(one.DestRegister, unknownBytes(largeRegister))
	}
}

// verdict notes where the rule ends.
func (e *evaluator) verdict(v expr.Verdict) {
	e.done = true
	switch v.Kind {
	case expr.VerdictJump, expr.VerdictGoto:
		e.to = append(e.to, v.Chain)
	case expr.VerdictAccept, expr.VerdictReturn, expr.VerdictContinue:
	default:
		e.acts = true
	}
}

// xtables evaluates a match of iptables about ports; others may hold, but for a comment, which does.
func (e *evaluator) xtables(m *expr.Match) {
	switch info := m.Info.(type) {
	case *xt.Udp:
		e.ports = true
		e.require(e.inPorts(0, info.SrcPorts, info.InvFlags&xt.UdpInvSrcPorts != 0))
		e.require(e.inPorts(2, info.DstPorts, info.InvFlags&xt.UdpInvDestPorts != 0))
	case *xt.Unknown:
		if m.Name == "multiport" {
			e.ports = true
			e.require(e.multiport(*info))
			return
		}
		e.require(maybe)
	case *xt.Comment:
	default:
		e.require(maybe)
	}
}

// inPorts tells whether the port at an offset of the header is in a range.
func (e *evaluator) inPorts(at uint32, ports [2]uint16, invert bool) finding {
	k := e.part(expr.PayloadBaseTransportHeader, at, 2)
	f := k.within(binary.BigEndian.AppendUint16(nil, ports[0]), binary.BigEndian.AppendUint16(nil, ports[1]))
	if invert {
		return f.not()
	}
	return f
}

// Layout of struct xt_multiport_v1 (linux/netfilter/xt_multiport.h). Its ports are in the host's order.
const (
	multiportCount  = 1
	multiportPorts  = 2
	multiportRanges = 32 // a byte for each port: it begins a range, and the next one ends it
	multiportInvert = 47
	multiportMost   = 15

	multiportSource      = 0
	multiportDestination = 1
)

// multiport evaluates a list of ports.
func (e *evaluator) multiport(b []byte) finding {
	if len(b) <= multiportInvert {
		return maybe
	}
	offsets := []uint32{0, 2} // of either port
	switch b[0] {
	case multiportSource:
		offsets = offsets[:1]
	case multiportDestination:
		offsets = offsets[1:]
	}
	port := func(i int) uint16 { return binary.NativeEndian.Uint16(b[multiportPorts+2*i:]) }
	f := never
	for i := 0; i < min(int(b[multiportCount]), multiportMost); i++ {
		ports := [2]uint16{port(i), port(i)}
		if b[multiportRanges+i] != 0 && i+1 < multiportMost {
			i++
			ports[1] = port(i)
		}
		for _, at := range offsets {
			f = max(f, e.inPorts(at, ports, false))
		}
	}
	if b[multiportInvert] != 0 {
		return f.not()
	}
	return f
}

// elements are those of a set or a map.
type elements struct {
	length   int // of a key in bytes
	from, to [][]byte
	values   [][]byte // of a map; what stands for a verdict is as the kernel encodes it
}

// newElements reads what the kernel lists of a set.
func newElements(set *nftables.Set, list []nftables.SetElement) *elements {
	all := &elements{}
	if set.Interval && !set.Concatenation {
		list = slices.Clone(list)
		// An interval ends in front of the element that is marked as its end, where another may begin.
		slices.SortStableFunc(list, func(a, b nftables.SetElement) int {
			return cmp.Or(bytes.Compare(a.Key, b.Key), boolean(b.IntervalEnd)-boolean(a.IntervalEnd))
		})
	}
	for i, e := range list {
		if e.IntervalEnd {
			continue
		}
		all.length = max(all.length, len(e.Key))
		to := e.KeyEnd
		switch {
		case len(to) > 0:
		case !set.Interval || set.Concatenation:
			to = e.Key
		case i+1 < len(list):
			to = before(list[i+1].Key)
		default:
			to = bytes.Repeat([]byte{0xff}, len(e.Key))
		}
		all.from, all.to, all.values = append(all.from, e.Key), append(all.to, to), append(all.values, e.Val)
	}
	return all
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// before returns the number that is one less, of the same length.
func before(b []byte) []byte {
	b = bytes.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return b
}

// find looks for a key, and returns the values of all elements that it may be. Of concatenated keys each
// part begins at a small register. So it compares word by word, which is right for ports and prefixes, and
// may miss other ranges of IPv6 addresses.
func (s *elements) find(k known) (f finding, values [][]byte) {
	for i, from := range s.from {
		one := inWords(k, from, s.to[i])
		f = max(f, one)
		if one != never {
			values = append(values, s.values[i])
		}
	}
	return f, values
}

// inWords tells whether each word of 4 bytes of a key is between those of two others.
func inWords(k known, from, to []byte) finding {
	if len(from) != len(k.value) || len(to) != len(from) {
		return maybe
	}
	f := always
	for at := 0; at < len(from); at += smallRegister {
		end := min(at+smallRegister, len(from))
		word := known{value: k.value[at:end], bits: k.bits[at:end]}
		f = min(f, word.within(from[at:end], to[at:end]))
	}
	return f
}
