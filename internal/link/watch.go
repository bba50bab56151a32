package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settle is how long messages are collected before changed is called: one `ip link set up`
// causes several, about the link, its addresses and its routes.
const settle = 50 * time.Millisecond

// Watch calls changed once at the start and then a moment after changes of this host's
// interfaces, addresses and routes. Lost messages count as a change. It blocks until ctx ends
// or changed returns false, and then returns nil; it returns an error if it cannot subscribe
// to the kernel's messages.
func Watch(ctx context.Context, changed func() bool) error {
	for {
		again, err := watch(ctx, changed)
		if err != nil || !again {
			return err
		}
	}
}

// watch is Watch for one subscription. again is true when messages were lost, which happens
// when hundreds come at once (ENOBUFS): the subscription is over then.
func watch(ctx context.Context, changed func() bool) (again bool, err error) {
	u := newUpdates()
	defer u.close()
	if err := u.subscribe(); err != nil {
		return false, err
	}
	for changed() {
		if alive := u.wait(ctx); ctx.Err() != nil {
			return false, nil
		} else if !alive {
			return true, nil
		}
	}
	return false, nil
}

// updates are the subscriptions to messages about interfaces, addresses and routes.
type updates struct {
	links     chan netlink.LinkUpdate
	addresses chan netlink.AddrUpdate
	routes    chan netlink.RouteUpdate
	lost      chan struct{} // has room for one, which is enough
	done      chan struct{} // closed to end the library's goroutines
	drains    []func()      // one for each subscription
}

// newUpdates makes the channels; nothing is subscribed to yet.
func newUpdates() *updates {
	return &updates{
		links:     make(chan netlink.LinkUpdate, 64),
		addresses: make(chan netlink.AddrUpdate, 64),
		routes:    make(chan netlink.RouteUpdate, 64),
		lost:      make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
}

// subscribe starts the three subscriptions. After an error, close ends those that exist.
func (u *updates) subscribe() error {
	onError := func(error) {
		select {
		case u.lost <- struct{}{}:
		default:
		}
	}
	links := netlink.LinkSubscribeOptions{ErrorCallback: onError}
	addresses := netlink.AddrSubscribeOptions{ErrorCallback: onError}
	routes := netlink.RouteSubscribeOptions{ErrorCallback: onError}
	if err := netlink.LinkSubscribeWithOptions(u.links, u.done, links); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	u.drains = append(u.drains, func() { drain(u.links) })
	if err := netlink.AddrSubscribeWithOptions(u.addresses, u.done, addresses); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	u.drains = append(u.drains, func() { drain(u.addresses) })
	if err := netlink.RouteSubscribeWithOptions(u.routes, u.done, routes); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	u.drains = append(u.drains, func() { drain(u.routes) })
	return nil
}

// close ends the subscriptions. The library's goroutines look at done between two sends, so the
// channels have to be read until the library closes them.
func (u *updates) close() {
	close(u.done)
	for _, drain := range u.drains {
		drain()
	}
}

// wait returns true a moment after the first message. It returns false when messages were
// lost, or when ctx ends.
func (u *updates) wait(ctx context.Context) (alive bool) {
	var settled <-chan time.Time
	for {
		ok := true
		select {
		case <-ctx.Done():
			return false
		case <-settled:
			return true
		case <-u.lost:
			return false
		case _, ok = <-u.links:
		case _, ok = <-u.addresses:
		case _, ok = <-u.routes:
		}
		if !ok { // the library closes a channel after an error
			return false
		}
		if settled == nil {
			settled = time.After(settle)
		}
	}
}

// drain reads a channel until it is closed.
func drain[T any](updates <-chan T) {
	for range updates {
	}
}

// WatchRules calls changed a moment after any program has changed routing rules. It works as
// WatchForwarding does; the library has no subscription to rules.
func WatchRules(ctx context.Context, changed func()) error {
	if err := listen(ctx, changed, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE); err != nil {
		return fmt.Errorf("watch routing rules: %w", err)
	}
	return nil
}

// listen calls changed a moment after messages of some groups of rtnetlink. Lost messages count
// as a change. It blocks until ctx ends, and then returns nil; it returns an error if the
// kernel's messages cannot be read.
func listen(ctx context.Context, changed func(), groups ...uint) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, socket.Close)() // ends Receive
	defer socket.Close()
	// hear waits for one message; a timeout, the end of ctx and lost messages are not errors.
	hear := func(within time.Duration) (err error) {
		timeout := unix.NsecToTimeval(within.Nanoseconds())
		if err = socket.SetReceiveTimeout(&timeout); err == nil {
			_, _, err = socket.Receive()
		}
		if ctx.Err() != nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
			return nil
		}
		return err
	}
	for {
		const forever = 0
		err := hear(forever)
		for until := time.Now().Add(settle); err == nil && ctx.Err() == nil && time.Now().Before(until); {
			// One command can cause many messages, as the global forwarding switch does.
			err = hear(max(time.Until(until), time.Millisecond))
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		changed()
	}
}
