// Package nft keeps nftables rules as wanted. It is the one room that speaks to nftables; masq and
// filter say what the rules are.
//
//	Table    what one table of ours should be: sets and base chains with rules. A pure value
//	Keeper   makes the kernel match tables, in one transaction, and counts what rules match
//	Guests   rules of ours in base chains of others
//	Standby  a copy of tables that nobody else can touch, for as long as this process lives
//	Watch    tells when somebody changed something of ours
//
// What is in the kernel is always compared with what is wanted, rule by rule and element by element.
// Nothing that was read back is remembered as the truth: another program may have written it.
package nft

import (
	"errors"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Ours tells whether a table is one of meshd's, by its name.
func Ours(table string) bool { return table == "meshd" || strings.HasPrefix(table, "meshd-") }

// Exprs are the expressions of a rule, or of a part of one, as the kernel evaluates them.
type Exprs = []expr.Any

// Join puts the parts of a rule together.
func Join(parts ...Exprs) (all Exprs) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// open returns a connection whose buffers hold a whole transaction: with 10,000 prefixes it has
// megabytes, and half of one must never be sent.
func open(options ...nftables.ConnOption) (*nftables.Conn, error) {
	const size = 16 << 20
	return nftables.New(append(options, nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(size), c.SetReadBuffer(size))
	}))...)
}

// Family is what differs between IPv4 and IPv6, and in a table of both.
type Family struct {
	v6     bool
	table  nftables.TableFamily // of the table that rules stand in
	key    nftables.SetDatatype
	saddr  uint32 // offset of the source address in the IP header, bytes
	daddr  uint32
	length uint32 // of an address, bytes
}

// IPv4 and IPv6 are for tables of one family each.
var (
	IPv4 = Family{table: nftables.TableFamilyIPv4, key: nftables.TypeIPAddr, saddr: 12, daddr: 16, length: 4}
	IPv6 = Family{v6: true, table: nftables.TableFamilyIPv6, key: nftables.TypeIP6Addr, saddr: 8, daddr: 24, length: 16}
)

// Families are both.
var Families = []Family{IPv4, IPv6}

// V6 tells whether it is IPv6.
func (f Family) V6() bool { return f.v6 }

// InBoth returns the family for a table of both families (inet): a rule of it looks at the protocol
// first, by Guard.
func (f Family) InBoth() Family {
	f.table = nftables.TableFamilyINet
	return f
}

// Suffix distinguishes the names of sets of the two families in a table of both; it is empty
// otherwise.
func (f Family) Suffix() string {
	switch {
	case f.table != nftables.TableFamilyINet:
		return ""
	case f.v6:
		return "6"
	}
	return "4"
}

// Guard matches packets of the family in a table of both; it is empty in a table of one.
func (f Family) Guard() Exprs {
	if f.table != nftables.TableFamilyINet {
		return nil
	}
	return Exprs{
		// [ meta load nfproto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		// [ cmp eq reg 1 0x00000002 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(f.protocol())}},
	}
}

// protocol returns the family of the addresses, also in a table of both.
func (f Family) protocol() uint32 {
	if f.v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
