// Package nft brings nftables rules into the wanted state and keeps them there. It is the only
// room that talks to nftables; masq and filter decide what the rules are.
//
//	Table    the wanted state of one table of meshd's: sets, and base chains with rules
//	Keeper   makes the kernel match tables, in one transaction, and counts what rules match
//	         NewOwner makes one whose tables no other program can change
//	Guests   rules of meshd's in base chains of other programs
//	Standby  a copy of tables that other programs cannot change while this process lives
//	Watch    tells when another program has changed something of meshd's
//	Exprs    what a rule does, built of the words in match.go
//
// Each call but Keeper.Edit compares the kernel's state with the wanted one, rule by rule and element by
// element. The package never takes what it has read for what it has written: another program
// may have changed it since.
package nft

import (
	"errors"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Ours reports whether a table belongs to meshd, by its name.
func Ours(table string) bool { return table == "meshd" || strings.HasPrefix(table, "meshd-") }

// Exprs are the expressions of a rule, or of a part of one, as the kernel evaluates them.
type Exprs = []expr.Any

// Join concatenates the parts of a rule. The result shares no memory with them.
func Join(parts ...Exprs) (all Exprs) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// Sizes of buffers that hold a whole transaction and its answers, in bytes: a million boxes of two addresses
// of IPv6 take 80 to 120 MB. The kernel takes that memory while it reads, and no longer.
const (
	transaction = 128 << 20
	answers     = 16 << 20
)

// open returns a connection whose buffers hold a whole transaction. With 10,000 prefixes a
// transaction has megabytes, and a part of one must never be sent.
func open(options ...nftables.ConnOption) (*nftables.Conn, error) {
	return nftables.New(append(options, nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(transaction), c.SetReadBuffer(answers))
	}))...)
}

// Family is an address family, as seen from a table: of that family alone, or of both.
type Family struct {
	v6     bool
	table  nftables.TableFamily // of the table that the rules are in
	key    nftables.SetDatatype // of a set of addresses
	saddr  uint32               // offset of the source address in the IP header, in bytes
	daddr  uint32               // offset of the destination address
	length uint32               // of an address, in bytes
}

// IPv4 and IPv6 are for tables of one family each (ip, ip6).
var (
	IPv4 = Family{table: nftables.TableFamilyIPv4, key: nftables.TypeIPAddr, saddr: 12, daddr: 16, length: 4}
	IPv6 = Family{v6: true, table: nftables.TableFamilyIPv6, key: nftables.TypeIP6Addr,
		saddr: 8, daddr: 24, length: 16}
)

// Families lists both families. It must not be changed.
var Families = []Family{IPv4, IPv6}

// V6 reports whether the family is IPv6.
func (f Family) V6() bool { return f.v6 }

// InBoth returns the family for a table of both families (inet). A rule there has to begin
// with Guard, which looks at the protocol: the offsets of addresses differ.
func (f Family) InBoth() Family {
	f.table = nftables.TableFamilyINet
	return f
}

// AtDevice returns the family for a table of chains at devices (netdev), whose rules begin as those in a
// table of both families do.
func (f Family) AtDevice() Family {
	f.table = nftables.TableFamilyNetdev
	return f
}

// alone reports whether a table has this family alone.
func (f Family) alone() bool {
	return f.table == nftables.TableFamilyIPv4 || f.table == nftables.TableFamilyIPv6
}

// Suffix is the end of the names of the family's sets: "4" or "6" in a table of both families,
// where each family has a set of its own, and empty in a table of one.
func (f Family) Suffix() string {
	switch {
	case f.alone():
		return ""
	case f.v6:
		return "6"
	}
	return "4"
}

// Guard matches packets of the family in a table of both families. In a table of one family
// it is empty.
func (f Family) Guard() Exprs {
	switch f.table {
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6:
		return nil
	case nftables.TableFamilyNetdev: // it has no number of a family for packets of both
		return Exprs{
			// [ meta load protocol => reg 1 ]
			&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
			// [ cmp eq reg 1 0x00000008 ]
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(f.etherType())},
		}
	}
	return Exprs{
		// [ meta load nfproto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		// [ cmp eq reg 1 0x00000002 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(f.protocol())}},
	}
}

// etherType returns the number of the family's packets on Ethernet (IEEE 802).
func (f Family) etherType() uint16 {
	if f.v6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

// protocol returns the kernel's number of the address family, also in a table of both.
func (f Family) protocol() uint32 {
	if f.v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
