package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// This file reads the routing rules (`ip rule`), which decide in which tables the kernel looks
// for a packet's route. Without rules of other programs, table main decides about everything
// that this package asks.
//
//	selector  the fields of a rule that a packet has to match
//	action    what the rule does: look in a table, or refuse the packet
//
// The library's list lacks the action and l3mdev, so that a rule of type prohibit would look
// like one that looks in table 0.

// Actions of rules and other numbers of linux/fib_rules.h (FR_ACT_*).
const (
	actLookup      = 1 // FR_ACT_TO_TBL
	actGoto        = 2 // FR_ACT_GOTO
	actBlackhole   = 6
	actUnreachable = 7
	actProhibit    = 8

	ruleInverts     = 2  // FIB_RULE_INVERT
	sizeOfRule      = 12 // struct fib_rule_hdr
	standardMain    = 32766
	standardDefault = 32767
)

// actionNames are the actions that refuse packets, as `ip rule` prints them.
var actionNames = map[uint8]string{
	actBlackhole: "blackhole", actUnreachable: "unreachable", actProhibit: "prohibit",
}

// A rule is one routing rule. An empty field of the selector matches every packet.
type rule struct {
	v6       bool
	priority uint32
	action   uint8
	table    int // of actLookup; 0 for l3mdev

	invert     bool
	from, to   netip.Prefix
	in, out    string // names of interfaces; "lo" as in stands for packets of this host
	mark, mask uint32
	tos        uint8
	proto      uint8
	fromPorts  portRange
	toPorts    portRange
	l3mdev     bool // only packets of a VRF match
	others     bool // a selector that meshd does not know the value of, such as a user
	suppress   int  // the table's routes of this length or a shorter one do not count; -1: all do
}

// portRange is a range of ports, both included. The zero value is every port.
type portRange struct{ first, last uint16 }

func (r portRange) covers(port uint16) bool {
	return r == portRange{} || r.first <= port && port <= r.last
}

// readRules lists the rules of a family in the order in which the kernel tries them.
func readRules(v6 bool) ([]rule, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(familyOf(v6)))
	messages, err := retry(func() ([][]byte, error) {
		return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	rules := make([]rule, 0, len(messages))
	for _, m := range messages {
		r, err := parseRule(m)
		if err != nil {
			return nil, fmt.Errorf("list routing rules: %w", err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// familyOf returns the number of a family for the kernel.
func familyOf(v6 bool) int {
	if v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// parseRule reads one message of the kernel's list: struct fib_rule_hdr and attributes.
func parseRule(message []byte) (rule, error) {
	if len(message) < sizeOfRule {
		return rule{}, errShort
	}
	r := rule{
		v6: message[0] == unix.AF_INET6, tos: message[3], table: int(message[4]), action: message[7],
		invert: binary.NativeEndian.Uint32(message[8:])&ruleInverts != 0, suppress: -1,
	}
	err := attributes(message[sizeOfRule:], func(kind uint16, value []byte) error {
		return r.note(kind, value, message[1], message[2])
	})
	return r, err
}

// note takes over one attribute. toBits and fromBits are the lengths of the two prefixes.
func (r *rule) note(kind uint16, value []byte, toBits, fromBits uint8) (err error) {
	number := func() (n int) {
		err = noteNumber(&n, value)
		return n
	}
	ports := func() portRange { // struct fib_rule_port_range
		if len(value) < 4 {
			err = errShort
			return portRange{}
		}
		return portRange{binary.NativeEndian.Uint16(value), binary.NativeEndian.Uint16(value[2:])}
	}
	switch kind {
	case nl.FRA_DST:
		r.to, err = prefixOf(value, toBits)
	case nl.FRA_SRC:
		r.from, err = prefixOf(value, fromBits)
	case nl.FRA_IIFNAME:
		r.in = string(bytes.TrimRight(value, "\x00"))
	case nl.FRA_OIFNAME:
		r.out = string(bytes.TrimRight(value, "\x00"))
	case nl.FRA_PRIORITY:
		r.priority = uint32(number())
	case nl.FRA_TABLE:
		r.table = number()
	case nl.FRA_FWMARK:
		r.mark = uint32(number())
	case nl.FRA_FWMASK:
		r.mask = uint32(number())
	case nl.FRA_SUPPRESS_PREFIXLEN:
		r.suppress = number() // -1 as the kernel has it, too
	case nl.FRA_SPORT_RANGE:
		r.fromPorts = ports()
	case nl.FRA_DPORT_RANGE:
		r.toPorts = ports()
	case nl.FRA_IP_PROTO:
		r.proto = firstByte(value)
	case unix.FRA_L3MDEV:
		r.l3mdev = firstByte(value) != 0
	case nl.FRA_UID_RANGE, nl.FRA_TUN_ID:
		r.others = true
	}
	return err
}

// firstByte returns the first byte of an attribute; 0 if it has none.
func firstByte(value []byte) uint8 {
	if len(value) == 0 {
		return 0
	}
	return value[0]
}

// prefixOf makes a prefix of an attribute's address and a length.
func prefixOf(value []byte, bits uint8) (netip.Prefix, error) {
	ip, ok := netip.AddrFromSlice(value)
	if !ok {
		return netip.Prefix{}, errShort
	}
	return ip.Prefix(int(bits))
}

// selects reports whether the selector can match a packet. Where meshd does not know what the
// packet has, such as the user of a socket, it can.
func (r rule) selects(q question) bool {
	in := q.inName
	if q.in == 0 {
		in = "lo" // as the kernel names packets of this host here (fib_rule_match)
	}
	matches := (!r.to.IsValid() || r.to.Contains(q.to)) &&
		(!r.from.IsValid() || r.from.Bits() == 0 || q.from.IsValid() && r.from.Contains(q.from)) &&
		(r.in == "" || r.in == in) && r.out == "" &&
		(r.mark^q.mark)&r.mask == 0 && r.tos == 0 && !r.l3mdev &&
		(r.proto == 0 || r.proto == q.proto()) &&
		r.fromPorts.covers(q.fromPort) && r.toPorts.covers(q.toPort)
	return r.v6 == q.to.Is6() && (matches != r.invert || r.others)
}

// String prints the rule as `ip rule` does: a person has to find it there.
func (r rule) String() string {
	words := []string{strconv.FormatUint(uint64(r.priority), 10) + ":"}
	add := func(present bool, more ...string) {
		if present {
			words = append(words, more...)
		}
	}
	add(r.invert, "not")
	from := "all"
	if r.from.IsValid() {
		from = r.from.String()
	}
	add(true, "from", from)
	add(r.to.IsValid(), "to", r.to.String())
	add(r.tos != 0, "tos", fmt.Sprintf("%#x", r.tos))
	mark := fmt.Sprintf("%#x", r.mark)
	if r.mask != 0xffffffff {
		mark += fmt.Sprintf("/%#x", r.mask)
	}
	add(r.mark|r.mask != 0, "fwmark", mark)
	add(r.in != "", "iif", r.in)
	add(r.out != "", "oif", r.out)
	add(r.proto == unix.IPPROTO_UDP, "ipproto", "udp")
	add(r.proto != 0 && r.proto != unix.IPPROTO_UDP, "ipproto", strconv.Itoa(int(r.proto)))
	add(r.fromPorts != portRange{}, "sport", r.fromPorts.String())
	add(r.toPorts != portRange{}, "dport", r.toPorts.String())
	switch name, refuses := actionNames[r.action]; {
	case refuses:
		add(true, name)
	case r.action == actGoto:
		add(true, "goto")
	default:
		add(true, "lookup", tableName(r.table))
	}
	add(r.suppress >= 0, "suppress_prefixlength", strconv.Itoa(r.suppress))
	return strings.Join(words, " ")
}

// String prints the range as `ip rule` does.
func (r portRange) String() string {
	if r.first == r.last {
		return strconv.Itoa(int(r.first))
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

// tableName returns the name of a table, as `ip rule` accepts it.
func tableName(table int) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return strconv.Itoa(table)
}

// standard reports whether a family has the kernel's own rules only (fib_default_rules_init
// in net/ipv4/fib_rules.c, fib6_rules_net_init in net/ipv6/fib6_rules.c). Then table main
// decides about every address that is not this host's.
func standard(rules []rule) bool {
	return !slices.ContainsFunc(rules, func(r rule) bool {
		plain := rule{v6: r.v6, priority: r.priority, action: actLookup, table: r.table, suppress: -1}
		switch r.priority {
		case 0:
			return r != plain || r.table != unix.RT_TABLE_LOCAL
		case standardMain:
			return r != plain || r.table != unix.RT_TABLE_MAIN
		case standardDefault:
			return r != plain || r.table != unix.RT_TABLE_DEFAULT
		}
		return true
	}) && slices.ContainsFunc(rules, func(r rule) bool { return r.priority == standardMain })
}
