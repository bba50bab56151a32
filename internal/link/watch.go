package link

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// settle is how long changes are collected before they are told: they come in
// crowds, a link with its addresses and routes.
const settle = 50 * time.Millisecond

// Watch calls changed once at the start and then a moment after changes of this
// host's interfaces, addresses and main routes, until ctx ends (nil), changed
// returns false (nil), or the kernel's messages cannot be read. Messages that are
// lost count as a change.
func Watch(ctx context.Context, changed func() bool) error {
	for {
		again, err := watch(ctx, changed)
		if err != nil || !again {
			return err
		}
	}
}

// watch does the work until messages are lost (again), which they are when
// hundreds come at once: then it subscribes anew.
func watch(ctx context.Context, changed func() bool) (again bool, err error) {
	done := make(chan struct{})
	lost := make(chan struct{}, 1)
	onError := func(error) {
		select {
		case lost <- struct{}{}:
		default:
		}
	}
	links, addresses, routes := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64), make(chan netlink.RouteUpdate, 64)
	var drains []func()
	defer func() {
		close(done)
		for _, drain := range drains { // until the library has noticed and closes it
			drain()
		}
	}()
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: onError}); err != nil {
		return false, fmt.Errorf("watch interfaces: %w", err)
	}
	drains = append(drains, func() { drain(links) })
	if err := netlink.AddrSubscribeWithOptions(addresses, done, netlink.AddrSubscribeOptions{ErrorCallback: onError}); err != nil {
		return false, fmt.Errorf("watch addresses: %w", err)
	}
	drains = append(drains, func() { drain(addresses) })
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: onError}); err != nil {
		return false, fmt.Errorf("watch routes: %w", err)
	}
	drains = append(drains, func() { drain(routes) })

	for changed() {
		var settled <-chan time.Time
		for waiting := true; waiting; {
			ok := true
			select {
			case <-ctx.Done():
				return false, nil
			case <-settled:
				waiting = false
				continue
			case <-lost:
				return true, nil
			case _, ok = <-links:
			case _, ok = <-addresses:
			case _, ok = <-routes:
			}
			if !ok {
				return true, nil
			}
			if settled == nil {
				settled = time.After(settle)
			}
		}
	}
	return false, nil
}

func drain[T any](updates <-chan T) {
	for range updates { // whatever is still on its way
	}
}
