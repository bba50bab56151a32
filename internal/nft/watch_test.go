package nft

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
)

// message returns one of the kernel's: a kind of NFNL_SUBSYS_NFTABLES and attributes.
func message(t testing.TB, kind int, attributes ...netlink.Attribute) netlink.Message {
	t.Helper()
	b, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		t.Fatal(err)
	}
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)},
		Data: append(make([]byte, genHeader), b...)}
}

// name returns an attribute that is a C string.
func name(kind uint16, text string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: append([]byte(text), 0)}
}

// Which messages are about something of meshd's.
func TestConcerns(t *testing.T) {
	hook := netlink.Attribute{Type: unix.NFTA_CHAIN_HOOK | unix.NLA_F_NESTED, Data: nil}
	hosts := func(table, chain string) bool { return table == "filter" && chain == "FORWARD" }
	for what, test := range map[string]struct {
		message netlink.Message
		want    bool
	}{
		"our table":              {message(t, unix.NFT_MSG_DELTABLE, name(tableAttribute, "meshd")), true},
		"our other table":        {message(t, unix.NFT_MSG_NEWTABLE, name(tableAttribute, "meshd-filter")), true},
		"another table":          {message(t, unix.NFT_MSG_DELTABLE, name(tableAttribute, "filter")), false},
		"elements of ours":       {message(t, unix.NFT_MSG_DELSETELEM, name(tableAttribute, "meshd")), true},
		"elements of others":     {message(t, unix.NFT_MSG_NEWSETELEM, name(tableAttribute, "docker")), false},
		"a base chain of others": {message(t, unix.NFT_MSG_NEWCHAIN, name(tableAttribute, "filter"), hook), true},
		"another chain":          {message(t, unix.NFT_MSG_NEWCHAIN, name(tableAttribute, "filter")), false},
		"a chain of ours":        {message(t, unix.NFT_MSG_DELCHAIN, name(tableAttribute, "meshd")), true},
		"a rule in front of ours": {message(t, unix.NFT_MSG_NEWRULE, name(tableAttribute, "filter"),
			name(unix.NFTA_RULE_CHAIN, "FORWARD")), true},
		"a rule elsewhere": {message(t, unix.NFT_MSG_NEWRULE, name(tableAttribute, "filter"),
			name(unix.NFTA_RULE_CHAIN, "INPUT")), false},
		"nothing": {netlink.Message{}, false},
		"damaged": {netlink.Message{Data: []byte{0, 0, 0, 0, 255, 255, 1}}, false},
	} {
		t.Run(what, func(t *testing.T) {
			if got := concerns(test.message, hosts); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// The last message of a transaction names its author, and a thread of this process is recognised
// by its number and its name together.
func TestGeneration(t *testing.T) {
	number := func(n int) netlink.Attribute {
		return netlink.Attribute{Type: unix.NFTA_GEN_PROC_PID, Data: binary.BigEndian.AppendUint32(nil, uint32(n))}
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	comm := strings.TrimSpace(string(b))
	gen := func(attributes ...netlink.Attribute) netlink.Message {
		return message(t, unix.NFT_MSG_NEWGEN, attributes...)
	}
	for what, test := range map[string]struct {
		message  netlink.Message
		by       string
		own, end bool
	}{
		"this process": {gen(name(unix.NFTA_GEN_PROC_NAME, comm), number(os.Getpid())), comm, true, true},
		"another program with the number": {gen(name(unix.NFTA_GEN_PROC_NAME, "nft"), number(os.Getpid())),
			"nft", false, true},
		"another process of the name": {gen(name(unix.NFTA_GEN_PROC_NAME, comm), number(1<<30)), comm, false, true},
		"without a name":              {gen(number(1 << 30)), "", false, true},
		"with a short number": {gen(name(unix.NFTA_GEN_PROC_NAME, "nft"),
			netlink.Attribute{Type: unix.NFTA_GEN_PROC_PID, Data: []byte{1}}), "nft", false, true},
		"a part of it": {message(t, unix.NFT_MSG_NEWRULE, name(tableAttribute, "meshd")), "", false, false},
		"nothing":      {netlink.Message{}, "", false, false},
	} {
		t.Run(what, func(t *testing.T) {
			by, own, end := generation(test.message)
			if by != test.by || own != test.own || end != test.end {
				t.Errorf("%q, %v, %v, want %q, %v, %v", by, own, end, test.by, test.own, test.end)
			}
		})
	}
}

// No bytes in a message make the readers fail: names in it are those of any program.
func FuzzMessages(f *testing.F) {
	m := message(f, unix.NFT_MSG_NEWRULE, name(tableAttribute, "filter"), name(unix.NFTA_RULE_CHAIN, "FORWARD"))
	f.Add(uint16(m.Header.Type), m.Data)
	f.Add(uint16(genMessage), []byte{0, 0, 0, 0, 4, 0, 2, 0})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		defer budget.Of(t)()
		m := netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: data}
		concerns(m, func(table, chain string) bool {
			if len(table)+len(chain) > len(data) {
				t.Errorf("%q, %q from %d bytes", table, chain, len(data))
			}
			return false
		})
		if by, _, end := generation(m); end != (kind == genMessage) || len(by) > len(data) {
			t.Errorf("%q, %v", by, end)
		}
	})
}
