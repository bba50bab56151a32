package seal

import (
	"net/netip"
	"slices"
	"time"
)

// patience is how long an address is tried at which a peer does not answer. WireGuard repeats a handshake
// after 5 s (REKEY_TIMEOUT in drivers/net/wireguard/messages.h).
const patience = 6 * time.Second

// A caller decides at which of its addresses one peer is called. WireGuard itself answers where the last
// authenticated packet came from, which follows a peer that moves. So an address is written only where that
// does not help: the file or a name has another one, or the peer does not answer.
type caller struct {
	wrote netip.AddrPort // the address that was wanted last; invalid: none was
	since time.Time      // when it was called there

	had  []netip.AddrPort // the addresses of the last decision
	gone []netip.AddrPort // those that the last edit took away
	till time.Time        // until when the peer is called back from them
}

// settling is how long a peer is called back from addresses that it has no longer.
const settling = time.Minute

// edit notes which addresses the peer has now. Both ends answer where the other one sends from, so packets in
// flight can keep both at an address that the file no longer has. They are called back for a while, and not
// for ever: a name may be ahead of the host behind it.
func (c *caller) edit(endpoints []netip.AddrPort, now time.Time) {
	if slices.Equal(c.had, endpoints) {
		return
	}
	c.gone = slices.DeleteFunc(slices.Clone(c.had), func(e netip.AddrPort) bool {
		return slices.Contains(endpoints, e)
	})
	c.had, c.till = slices.Clone(endpoints), now.Add(settling)
}

// decide returns the address to call, and whether that is to be done now, though the interface may have
// another one. is is the interface's; fails tells that the peer does not answer.
func (c *caller) decide(endpoints []netip.AddrPort, is netip.AddrPort, fails bool, now time.Time) (
	to netip.AddrPort, call bool) {
	if len(endpoints) == 0 {
		*c = caller{}
		return netip.AddrPort{}, false
	}
	c.edit(endpoints, now)
	at := slices.Index(endpoints, c.wrote)
	switch {
	case slices.Contains(c.gone, is) && now.Before(c.till):
		return c.call(endpoints[max(at, 0)], now), true
	case at >= 0 && !fails, at >= 0 && now.Sub(c.since) < patience:
		return c.wrote, false
	case at >= 0 && is != c.wrote: // it has roamed, and is not there any more
		return c.call(endpoints[at], now), true
	case at >= 0 && len(endpoints) == 1:
		return c.wrote, false
	case at >= 0:
		return c.call(endpoints[(at+1)%len(endpoints)], now), true
	case c.wrote.IsValid(): // the file or a name has changed
		return c.call(endpoints[0], now), true
	case slices.Contains(endpoints, is): // an earlier run has set it, or the choice of one
		return c.call(is, now), false
	}
	return c.call(endpoints[0], now), false // of a new peer it is set in any case
}

// call notes that an address is called from now on, and returns it.
func (c *caller) call(to netip.AddrPort, now time.Time) netip.AddrPort {
	c.wrote, c.since = to, now
	return to
}
