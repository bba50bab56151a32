package nft

import (
	"bytes"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// This file finds which addresses of pods rules of other programs name. Docker, say, drops packets to
// each container by a rule of its own, so a probe to another address of the subnet tells nothing.

// Mentions returns addresses inside some prefixes that rules of other programs compare destinations
// with, at most most of them and each once. Of a prefix in a rule it returns one address. It needs
// CAP_NET_ADMIN.
func Mentions(within []netip.Prefix, most int) (found []netip.Addr, err error) {
	conn, err := open()
	if err != nil {
		return nil, err
	}
	m := mentions{conn: conn, within: within, most: most, seen: map[netip.Addr]bool{}}
	for _, family := range []nftables.TableFamily{
		nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet,
	} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return m.found, err
		}
		for _, c := range chains {
			if Ours(c.Table.Name) || c.Type == nftables.ChainTypeNAT {
				continue
			}
			rules, err := listRules(conn, c)
			if err != nil { // the chain is gone meanwhile
				continue
			}
			for _, r := range rules {
				m.rule(r)
			}
		}
	}
	return m.found, nil
}

// Generation returns a number that changes with every change of the ruleset. It costs much less than
// reading rules.
func Generation() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	const getGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
	answer, err := conn.Execute(nfMessage(getGeneration, netlink.Request, unix.AF_UNSPEC, 0))
	if err != nil {
		return 0, err
	}
	for _, m := range answer {
		for _, a := range attributes(m) {
			if a.Type == unix.NFTA_GEN_ID {
				return number(a.Data), nil
			}
		}
	}
	return 0, unix.ENODATA
}

// mentions collects addresses.
type mentions struct {
	conn   *nftables.Conn
	within []netip.Prefix
	most   int
	seen   map[netip.Addr]bool
	found  []netip.Addr
}

// rule collects the destinations of one rule.
func (m *mentions) rule(r *nftables.Rule) {
	var field *Family // the destination that the register holds
	var mask []byte
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Payload:
			field, mask = destinationOf(e), nil
		case *expr.Bitwise:
			mask = e.Mask
		case *expr.Cmp:
			if field != nil {
				m.add(e.Data, int(field.length), mask)
			}
			field = nil
		case *expr.Range:
			if field != nil {
				m.add(e.FromData, int(field.length), nil)
			}
		case *expr.Lookup:
			if field != nil {
				m.set(r.Table, e.SetName, int(field.length))
			}
			field = nil
		}
	}
}

// destinationOf returns the family whose destination address, or the beginning of it, is loaded.
func destinationOf(e *expr.Payload) *Family {
	if e.Base != expr.PayloadBaseNetworkHeader {
		return nil
	}
	for i := range Families {
		if f := &Families[i]; e.Offset == f.daddr && e.Len <= f.length {
			return f
		}
	}
	return nil
}

// set collects the elements of a set or a map.
func (m *mentions) set(t *nftables.Table, name string, length int) {
	if len(m.found) >= m.most {
		return
	}
	set, err := m.conn.GetSetByName(t, name)
	if err != nil {
		return
	}
	elements, err := m.conn.GetSetElements(set)
	if err != nil {
		return
	}
	for _, e := range elements {
		if len(e.Key) == length && !e.IntervalEnd {
			m.add(e.Key, length, nil)
		}
	}
}

// add takes an address, or the first address of a prefix behind the network's own.
func (m *mentions) add(b []byte, length int, mask []byte) {
	if len(m.found) >= m.most || len(b) > length {
		return
	}
	address, ok := netip.AddrFromSlice(append(bytes.Clone(b), make([]byte, length-len(b))...))
	if !ok {
		return
	}
	bits := len(b) * 8
	if mask != nil {
		bits = ones(mask)
	}
	for _, p := range m.within {
		if !p.Contains(address) || bits <= p.Bits() { // the whole prefix is what any probe shows
			continue
		}
		if bits < address.BitLen() {
			address = address.Next()
		}
		if !m.seen[address] {
			m.seen[address] = true
			m.found = append(m.found, address)
		}
		return
	}
}
