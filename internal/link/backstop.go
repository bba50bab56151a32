package link

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Backstops are unreachable routes for what the mesh carries, behind all other routes. They decide
// while the TUN or its route is away: pods' packets are refused then, instead of leaving bare by the
// default route. They hang on no interface, so they stay while interfaces come and go, and when the
// daemon ends; only CleanUpBackstops removes them, or a reload that takes their prefix out.

// BackstopProtocol marks backstops. It is not Protocol: whoever flushes the mesh's routes, to mend
// something, must not take what stands behind them.
const BackstopProtocol = 86

// backstopMetric is the largest that fits an int on 32 bits, too: any other route for the prefix is
// better.
const backstopMetric = math.MaxInt32

func isBackstop(r netlink.Route) bool {
	return r.Protocol == BackstopProtocol && r.Type == unix.RTN_UNREACHABLE
}

// SetBackstops makes the backstops be those of prefixes. changed tells, in words, what was not as it
// should be; added are the prefixes that had none.
func SetBackstops(prefixes []netip.Prefix) (changed []string, added []netip.Prefix, err error) {
	routes, err := mainTable()
	if err != nil {
		return nil, nil, err
	}
	missing := make(map[netip.Prefix]bool, len(prefixes))
	for _, p := range prefixes {
		missing[p] = true
	}
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
			changed = append(changed, fmt.Sprintf("backstop for %s was there", p))
		}
	}
	for _, p := range prefixes {
		if !missing[p] {
			continue
		}
		delete(missing, p)
		// EEXIST: somebody else has the very route, and it does what ours would.
		if err := netlink.RouteAdd(backstop(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return changed, added, fmt.Errorf("add backstop route %s: %w", p, err)
		}
		changed, added = append(changed, fmt.Sprintf("backstop for %s was missing", p)), append(added, p)
	}
	return changed, added, nil
}

// RemoveBackstops removes the backstops of prefixes, as far as they are there.
func RemoveBackstops(prefixes []netip.Prefix) error {
	var errs []error
	for _, p := range prefixes {
		errs = append(errs, deleteBackstop(p))
	}
	return errors.Join(errs...)
}

// CleanUpBackstops removes all of them, whoever made them, and tells whether there were any.
func CleanUpBackstops() (removed bool, err error) {
	changed, _, err := SetBackstops(nil)
	return len(changed) > 0, err
}

func deleteBackstop(p netip.Prefix) error {
	if err := netlink.RouteDel(backstop(p)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete backstop route %s: %w", p, err)
	}
	return nil
}

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
