package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// This file reads the elements of sets. The library makes a value of 200 bytes and several allocations of
// each; with 20,000 of them, that takes five times as long as the kernel takes to list them.

// errAnotherKey says that a set of the name has keys of another length.
var errAnotherKey = errors.New("the set has other keys")

// errInterrupted says that a set was changed while the kernel listed it, so that elements may be missing
// from the list, or be in it twice.
var errInterrupted = errors.New("changed while it was listed")

// readElements returns the elements of a set whose keys have a length, in the order of the kernel. The
// error is ENOENT if there is no such set.
func readElements(t ID, set string, length int) (all []element, err error) {
	err = dumpElements(t, set, func(m netlink.Message) (err error) {
		all, err = appendElements(all, m, length)
		return err
	})
	return all, err
}

// appendElements appends the elements that one message lists.
func appendElements(all []element, m netlink.Message, length int) ([]element, error) {
	err := elementsIn(m, func(attributes []byte) error {
		e, n := readElement(attributes)
		if n != length {
			return errAnotherKey
		}
		all = append(all, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// dumpElements calls one with each message that lists elements of a set, in the order of the kernel. The
// error is ENOENT if there is no such set.
func dumpElements(t ID, set string, one func(netlink.Message) error) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	names := netlink.NewAttributeEncoder()
	names.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.name)
	names.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	request, err := names.Encode()
	if err != nil {
		return err
	}
	const list = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM
	answer, err := conn.Execute(nfMessage(list, netlink.Request|netlink.Dump, byte(t.family), 0, request))
	if err != nil {
		return fmt.Errorf("list set %s: %w", set, err)
	}
	for _, m := range answer {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return fmt.Errorf("list set %s: %w", set, errInterrupted)
		}
		if err := one(m); err != nil {
			return fmt.Errorf("list set %s: %w", set, err)
		}
	}
	return nil
}

// elementsIn calls one for each element that a message lists; see nf_tables_fill_setelem in
// net/netfilter/nf_tables_api.c.
func elementsIn(m netlink.Message, one func(attributes []byte) error) error {
	if len(m.Data) < genHeader {
		return nil
	}
	for a := first(m.Data[genHeader:]); a.ok; a = first(a.rest) {
		if a.kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for e := first(a.value); e.ok; e = first(e.rest) {
			if err := one(e.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// readElement reads the attributes of an element, and the length of its key; 0 if it has none.
func readElement(b []byte) (e element, length int) {
	for a := first(b); a.ok; a = first(a.rest) {
		switch a.kind {
		case unix.NFTA_SET_ELEM_KEY:
			if key := first(a.value); key.ok && key.kind == unix.NFTA_DATA_VALUE {
				length = len(key.value)
				copy(e.key[:], key.value)
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = number(a.value)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		}
	}
	return e, length
}

// attribute is the first of those that stand one after another in some bytes.
type attribute struct {
	kind        uint16 // without flags
	value, rest []byte // parts of the bytes
	ok          bool   // there is one, and it is whole
}

// first returns the first attribute. It allocates nothing, which netlink's decoder does for each list.
func first(b []byte) (a attribute) {
	if len(b) < unix.SizeofNlAttr {
		return a
	}
	length := int(binary.NativeEndian.Uint16(b))
	if length < unix.SizeofNlAttr || length > len(b) {
		return a
	}
	const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	padded := (length + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1)
	return attribute{kind: binary.NativeEndian.Uint16(b[2:]) &^ flags, value: b[unix.SizeofNlAttr:length],
		rest: b[min(padded, len(b)):], ok: true}
}
