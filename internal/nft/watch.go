package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls changed once at the start and then each time another program has changed
// something that concerns meshd: a table of meshd's, a base chain (its policy may have changed),
// or a rule in a chain for which guests returns true. by is the name of the program, at most 15
// bytes, empty if it is unknown. Lost messages count as a change by an unknown program. Changes
// of this process do not count.
//
// Watch blocks until ctx ends, and then returns nil. It returns the error of changed, or that of
// reading the kernel's messages.
func Watch(ctx context.Context, guests func(table, chain string) bool, changed func(by string) error) error {
	conn, err := listen(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := changed(""); err != nil {
		return err
	}
	touched := false // the transaction whose messages arrive now concerns meshd
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // messages were lost
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

// WatchAll calls changed once at the start and then after each transaction of any program, this one among
// them, and where messages were lost. It blocks until ctx ends, and then returns nil; it returns an error if
// the kernel's messages cannot be read.
func WatchAll(ctx context.Context, changed func()) error {
	conn, err := listen(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for changed(); ; {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed()
			continue
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		}
		if slices.ContainsFunc(messages, func(m netlink.Message) bool { return m.Header.Type == genMessage }) {
			changed()
		}
	}
}

// listen opens a connection with the kernel's news of nftables. The end of ctx ends Receive.
func listen(ctx context.Context) (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	// Our own start with 10,000 nodes is told by 2 MB of messages. If they do not fit, they are lost, which
	// counts as a change: all that was just written would be read back.
	if err := errors.Join(conn.SetReadBuffer(transaction), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return nil, errors.Join(fmt.Errorf("watch nftables: %w", err), conn.Close())
	}
	return conn, nil
}

// Messages of NFNL_SUBSYS_NFTABLES have 4 bytes of struct nfgenmsg and then attributes. After
// the messages of a transaction the kernel sends one with the transaction's author
// (nf_tables_gen_notify in net/netfilter/nf_tables_api.c).
const (
	genMessage = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	genHeader  = 4
	// Attribute 1 is the name of the table in messages about tables, chains, rules, sets, elements
	// and objects: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on.
	tableAttribute = 1
)

// generation returns the name of the author if m ends a transaction (end), and whether the
// author is a thread of this process (own). The kernel sends the thread's number as the initial
// PID namespace counts. Inside another PID namespace that number means another thread or none;
// the comparison of names then says that the author is another program, and the worst is one
// check too many.
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

// concerns reports whether a message may be about something of meshd's: a table of its own, a
// base chain, or a rule in a chain that hosts rules of meshd's.
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

// attributes returns the attributes of m; none if the message is too short or damaged.
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

// text returns the bytes up to the terminating zero of a C string, if it has one.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
