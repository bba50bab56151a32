package link

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A backstop is an unreachable route for a prefix of the mesh, with the worst metric. It takes
// effect while the TUN or its route is missing: the kernel then rejects pods' packets, instead
// of sending them unencapsulated by the default route. A backstop belongs to no interface, so
// it stays while interfaces come and go and after the daemon has ended. Only
// CleanUpBackstops, or a reload without its prefix, removes it.

// BackstopProtocol marks backstops. It is not Protocol, so that `ip route flush proto 85`, by
// somebody who wants to repair something, does not remove them.
const BackstopProtocol = 86

// backstopMetric is the largest metric that fits an int on 32-bit machines, too: the kernel
// prefers every other route for the prefix.
const backstopMetric = math.MaxInt32

// isBackstop reports whether a route is one of meshd's backstops.
func isBackstop(r netlink.Route) bool {
	return r.Protocol == BackstopProtocol && r.Type == unix.RTN_UNREACHABLE
}

// SetBackstops adds the missing backstops of prefixes and removes all others. changed
// describes each difference that it found, for the log; added are the prefixes whose backstop
// was missing, for an undo by RemoveBackstops. Both are valid also after an error.
func SetBackstops(prefixes []netip.Prefix) (changed []string, added []netip.Prefix, err error) {
	routes, err := mainTable()
	if err != nil {
		return nil, nil, err
	}
	missing := setOf(prefixes)
	for _, r := range routes {
		p := destination(r)
		switch {
		case !isBackstop(r):
		case missing[p]:
			delete(missing, p)
		default:
			if err := deleteBackstop(p); err != nil {
				return changed, added, err
			}
			changed = append(changed, fmt.Sprintf("backstop for %s was unwanted", p))
		}
	}
	for _, p := range prefixes {
		if !missing[p] {
			continue
		}
		delete(missing, p) // a prefix that is listed twice
		// EEXIST: another program has made the same route, which does the same.
		if err := netlink.RouteAdd(backstop(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return changed, added, fmt.Errorf("add backstop route %s: %w", p, err)
		}
		changed, added = append(changed, fmt.Sprintf("backstop for %s was missing", p)), append(added, p)
	}
	return changed, added, nil
}

// RemoveBackstops removes the backstops of prefixes. A missing one is not an error.
func RemoveBackstops(prefixes []netip.Prefix) error {
	var errs []error
	for _, p := range prefixes {
		errs = append(errs, deleteBackstop(p))
	}
	return errors.Join(errs...)
}

// CleanUpBackstops removes all backstops of this host and reports whether it found any.
func CleanUpBackstops() (removed bool, err error) {
	changed, _, err := SetBackstops(nil)
	return len(changed) > 0, err
}

// deleteBackstop removes one backstop, if it exists.
func deleteBackstop(p netip.Prefix) error {
	if err := netlink.RouteDel(backstop(p)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete backstop route %s: %w", p, err)
	}
	return nil
}

// backstop returns the route that is the backstop of p.
func backstop(p netip.Prefix) *netlink.Route {
	family := netlink.FAMILY_V4
	if p.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	return &netlink.Route{
		Dst: toIPNet(p), Type: unix.RTN_UNREACHABLE, Protocol: BackstopProtocol, Priority: backstopMetric,
		Table: unix.RT_TABLE_MAIN, Family: family,
	}
}
