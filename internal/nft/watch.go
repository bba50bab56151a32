package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls changed once at the start and then whenever somebody has changed something of ours,
// with the name of the program that did it (16 bytes at most, empty if unknown): a table of
// ours, a base chain, whose policy may have changed, or a rule in a chain for which guests returns
// true. Everything else in the tables of others is no concern of ours, and neither is what we did
// ourselves.
//
// It blocks until ctx ends (nil), changed returns an error, or the kernel's messages cannot be read.
func Watch(ctx context.Context, guests func(table, chain string) bool, changed func(by string) error) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	if err := changed(""); err != nil {
		return err
	}
	touched := false // somebody changed us in the transaction that is being told
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // messages were lost: look for ourselves
			if err := changed(""); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		}
		for _, m := range messages {
			by, own, end := generation(m)
			if !end {
				touched = touched || concerns(m, guests)
				continue
			}
			if touched && !own {
				if err := changed(by); err != nil {
					return err
				}
			}
			touched = false
		}
	}
}

// Messages of NFNL_SUBSYS_NFTABLES: 4 bytes of struct nfgenmsg, then attributes.
// The kernel tells the parts of a transaction and then its author
// (nf_tables_gen_notify in net/netfilter/nf_tables_api.c).
const (
	genMessage = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	genHeader  = 4
	// the table's name stands in attribute 1 of tables, chains, rules, sets,
	// elements and objects alike: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, ...
	tableAttribute = 1
)

// generation returns the author if m ends a transaction, and whether that was a
// thread of ours. The kernel tells a thread's number; where it counts otherwise
// than we do, in a PID namespace, nothing is taken for our own.
func generation(m netlink.Message) (by string, own, end bool) {
	if m.Header.Type != genMessage {
		return "", false, false
	}
	thread := uint32(0)
	for _, a := range attributes(m) {
		switch a.Type {
		case unix.NFTA_GEN_PROC_NAME:
			by = text(a.Data)
		case unix.NFTA_GEN_PROC_PID:
			if len(a.Data) == 4 {
				thread = binary.BigEndian.Uint32(a.Data)
			}
		}
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", thread))
	return by, err == nil && strings.TrimSpace(string(name)) == by, true
}

// concerns tells whether a message may be about what we keep: our tables, a base chain, or a rule in
// a chain of others where rules of ours stand.
func concerns(m netlink.Message, guests func(table, chain string) bool) bool {
	var table, chain string
	hook := false
	kind := m.Header.Type & 0xff
	for _, a := range attributes(m) {
		switch {
		case a.Type == tableAttribute:
			table = text(a.Data)
		case a.Type == unix.NFTA_RULE_CHAIN:
			chain = text(a.Data)
		}
		hook = hook || a.Type&^unix.NLA_F_NESTED == unix.NFTA_CHAIN_HOOK
	}
	switch kind {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		return Ours(table) || hook
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		return Ours(table) || guests(table, chain)
	}
	return Ours(table)
}

// attributes returns those of m; none if it is too short or damaged.
func attributes(m netlink.Message) []netlink.Attribute {
	if len(m.Data) < genHeader {
		return nil
	}
	all, err := netlink.UnmarshalAttributes(m.Data[genHeader:])
	if err != nil {
		return nil
	}
	return all
}

// text returns a C string.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
