package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// This file puts rules of other programs into words like those of nft(8), for people to recognise
// them. It is no full decompiler: what it has no word for stands as the name of its expression.

// A Found is what stands at a Spot.
type Found struct {
	Hook Hook   // at which packets reach the spot
	Rule string // the rule in the words of nft, or the policy; at most maxRule bytes, and not cleaned
}

// maxRule bounds the text of a rule, in bytes.
const maxRule = 160

// Look returns what stands at a spot. The error says that nothing does any more.
func Look(at Spot) (f Found, err error) {
	conn, err := open()
	if err != nil {
		return f, err
	}
	family := familyOf(at.Family)
	base, err := chainOf(conn, family, at.Table, at.Base)
	if err != nil {
		return f, err
	}
	if base.Hooknum != nil {
		f.Hook = *base.Hooknum
	}
	if at.Handle == 0 {
		f.Rule = "policy drop"
		return f, nil
	}
	rules, err := listRules(conn, &nftables.Chain{Name: at.Chain, Table: base.Table})
	if err != nil {
		return f, err
	}
	for _, r := range rules {
		if r.Handle == at.Handle {
			f.Rule = describe(r)
			return f, nil
		}
	}
	return f, fmt.Errorf("find rule %d of chain %s %s: %w", at.Handle, at.Table, at.Chain, unix.ENOENT)
}

// chainOf returns a chain of the kernel.
func chainOf(conn *nftables.Conn, family nftables.TableFamily, table, name string) (*nftables.Chain, error) {
	all, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.Table.Name == table && c.Name == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("find chain %s %s: %w", table, name, unix.ENOENT)
}

// familyOf is the reverse of familyName.
func familyOf(name string) nftables.TableFamily {
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6,
		nftables.TableFamilyINet, nftables.TableFamilyNetdev, nftables.TableFamilyBridge} {
		if familyName(byte(f)) == name {
			return f
		}
	}
	return nftables.TableFamilyUnspecified
}

// describe returns the text of a rule.
func describe(r *nftables.Rule) string {
	var words []string
	loaded, mask := "", []byte(nil) // what the last expression put into a register
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if e.SourceRegister {
				words = append(words, metaWord(e.Key)+" set")
			}
			loaded, mask = metaWord(e.Key), nil
		case *expr.Payload:
			if e.OperationType == expr.PayloadWrite {
				words = append(words, "payload set")
			}
			loaded, mask = payloadWord(e), nil
		case *expr.Ct:
			loaded, mask = ctWord(e.Key), nil
		case *expr.Fib:
			loaded, mask = "fib", nil
		case *expr.Bitwise:
			mask = e.Mask
		case *expr.Cmp:
			words = append(words, comparison(loaded, e, mask))
		case *expr.Lookup:
			words = append(words, strings.TrimSpace(loaded+negation(e.Invert)+" @"+e.SetName))
		case *expr.Range:
			words = append(words, fmt.Sprintf("%s%s %s-%s", loaded, negation(e.Op == expr.CmpOpNeq),
				valueText(loaded, e.FromData, nil), valueText(loaded, e.ToData, nil)))
		case *expr.Counter, *expr.Immediate:
		default:
			words = append(words, actionWord(e))
		}
	}
	if c := commentOf(r); c != "" {
		words = append(words, fmt.Sprintf("comment %q", c))
	}
	words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
	return bounded(strings.Join(words, " "))
}

// bounded cuts what is longer than maxRule, between letters.
func bounded(s string) string {
	if len(s) > maxRule {
		s = s[:maxRule-len("...")] + "..."
	}
	return strings.ToValidUTF8(s, "")
}

// metaWord and ctWord name what is loaded, payloadWord a field of the packet.
func metaWord(key expr.MetaKey) string {
	name, ok := map[expr.MetaKey]string{
		expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyOIFNAME: "oifname", expr.MetaKeyIIF: "iif",
		expr.MetaKeyOIF: "oif", expr.MetaKeyMARK: "mark", expr.MetaKeyL4PROTO: "meta l4proto",
		expr.MetaKeyNFPROTO: "meta nfproto",
	}[key]
	if !ok {
		return "meta"
	}
	return name
}

func ctWord(key expr.CtKey) string {
	name, ok := map[expr.CtKey]string{
		expr.CtKeySTATE: "ct state", expr.CtKeySTATUS: "ct status", expr.CtKeyMARK: "ct mark",
	}[key]
	if !ok {
		return "ct"
	}
	return name
}

func payloadWord(e *expr.Payload) string {
	switch {
	case e.Base == expr.PayloadBaseTransportHeader && e.Len == 2 && e.Offset == 0:
		return "sport"
	case e.Base == expr.PayloadBaseTransportHeader && e.Len == 2 && e.Offset == 2:
		return "dport"
	case e.Base != expr.PayloadBaseNetworkHeader:
		return "payload"
	}
	for _, f := range Families {
		// A prefix of whole bytes is compared by loading fewer bytes.
		switch v6 := f.length; {
		case e.Len > v6 || e.Len == 4 && f.v6:
		case e.Offset == f.saddr:
			return f.word() + " saddr"
		case e.Offset == f.daddr:
			return f.word() + " daddr"
		}
	}
	return "payload"
}

func (f Family) word() string { return familyName(byte(f.protocol())) }

func negation(not bool) string {
	if not {
		return " !="
	}
	return ""
}

// comparison returns one condition of a rule.
func comparison(loaded string, e *expr.Cmp, mask []byte) string {
	not := negation(e.Op == expr.CmpOpNeq)
	value := valueText(loaded, e.Data, mask)
	switch {
	case strings.HasSuffix(loaded, "ifname"), strings.HasSuffix(loaded, "addr"):
	case loaded == "ct state" && mask != nil: // ( state & invalid ) != 0
		return "ct state " + stateText(mask)
	case loaded == "ct status" && mask != nil:
		return fmt.Sprintf("ct status & 0x%x", mask)
	case mask != nil:
		value = fmt.Sprintf("& 0x%x == %s", mask, value)
	}
	return strings.TrimSpace(loaded + not + " " + value)
}

// valueText returns what something loaded is compared with.
func valueText(loaded string, b, mask []byte) string {
	switch {
	case strings.HasSuffix(loaded, "ifname"):
		return fmt.Sprintf("%q", interfacePattern(b))
	case strings.HasSuffix(loaded, "addr"):
		return addressText(loaded, b, mask)
	case strings.HasSuffix(loaded, "port") && len(b) == 2:
		return fmt.Sprint(binary.BigEndian.Uint16(b))
	case loaded == metaWord(expr.MetaKeyL4PROTO) && len(b) == 1 && b[0] == unix.IPPROTO_UDP:
		return "udp"
	}
	return fmt.Sprintf("0x%x", b)
}

// portsText returns the words of iptables for ports of UDP.
func portsText(m *xt.Udp) string {
	text := "udp"
	for _, one := range []struct {
		word  string
		ports [2]uint16
		not   bool
	}{
		{" sport", m.SrcPorts, m.InvFlags&xt.UdpInvSrcPorts != 0},
		{" dport", m.DstPorts, m.InvFlags&xt.UdpInvDestPorts != 0},
	} {
		switch {
		case one.ports == [2]uint16{0, math.MaxUint16}:
			continue
		case one.ports[0] == one.ports[1]:
			text += fmt.Sprintf("%s%s %d", one.word, negation(one.not), one.ports[0])
		default:
			text += fmt.Sprintf("%s%s %d-%d", one.word, negation(one.not), one.ports[0], one.ports[1])
		}
	}
	return text
}

// interfacePattern returns the name of an interface; without a terminating zero it is a beginning.
func interfacePattern(b []byte) string {
	name, _, whole := bytes.Cut(b, []byte{0})
	if !whole && len(b) < unix.IFNAMSIZ {
		return string(name) + "*"
	}
	return string(name)
}

// addressText returns an address or a prefix.
func addressText(field string, b, mask []byte) string {
	size := 4
	if strings.HasPrefix(field, "ip6") {
		size = 16
	}
	bits := len(b) * 8
	if mask != nil {
		bits = ones(mask)
	}
	full := make([]byte, size)
	copy(full, b)
	address, _ := netip.AddrFromSlice(full)
	if bits == size*8 {
		return address.String()
	}
	return netip.PrefixFrom(address, bits).String()
}

// ones returns how many bits of a mask are set at its beginning.
func ones(mask []byte) (n int) {
	for n < len(mask)*8 && mask[n/8]&(0x80>>(n%8)) != 0 {
		n++
	}
	return n
}

// stateText names the states of a connection in a mask, which is in the order of the host's bytes.
func stateText(mask []byte) string {
	var names []string
	for bit, name := range []string{"invalid", "established", "related", "new"} {
		if len(mask) == 4 && binaryutil.NativeEndian.Uint32(mask)&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// actionWord names what a rule does, or a match of iptables.
func actionWord(e expr.Any) string {
	switch e := e.(type) {
	case *expr.Verdict:
		return strings.TrimSpace(map[expr.VerdictKind]string{expr.VerdictDrop: "drop", expr.VerdictAccept: "accept",
			expr.VerdictJump: "jump", expr.VerdictGoto: "goto", expr.VerdictReturn: "return"}[e.Kind] + " " + e.Chain)
	case *expr.Reject:
		return "reject"
	case *expr.Queue:
		return "queue"
	case *expr.Log:
		return "log"
	case *expr.Match:
		if e.Name == "comment" {
			return "" // stands at the end
		}
		if m, ok := e.Info.(*xt.Udp); ok {
			return portsText(m)
		}
		return "-m " + e.Name
	case *expr.Target:
		return "-j " + e.Name
	}
	name := strings.TrimPrefix(fmt.Sprintf("%T", e), "*expr.")
	return strings.ToLower(name)
}
