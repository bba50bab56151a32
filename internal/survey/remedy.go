package survey

import (
	"errors"
	"fmt"
	"strings"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
)

// Remedy returns what an operator can do about a host that no longer fits the plan in force, for a reason;
// empty if the reason says it. It only ever adds to what the host has: taking an interface down, or an
// address away, might cut off the operator.
func Remedy(p *plan.Plan, reason error) string {
	if !errors.Is(reason, plan.ErrNotHere) {
		return ""
	}
	if p.Self.CallsIn() { // it is known by its key alone
		return fmt.Sprintf("compare what `meshd key --public` prints with the public_key of %s in the file, and "+
			"correct what is wrong", p.Self.Name)
	}
	var addresses []string
	for _, a := range p.Self.Addresses {
		address := a.Name
		if address == "" {
			address = a.Addr().String()
		}
		addresses = append(addresses, address)
	}
	return remedy(strings.Join(addresses, " or "), link.Idle(p.Forwarding.Node.Underlay))
}

// remedy is Remedy for a node with some addresses, of whose interfaces some are idle. Interfaces come first:
// the kernel removes IPv6 addresses of one that is down, and a DHCP client those of one without a carrier.
func remedy(addresses string, idle []link.IdleDevice) string {
	if len(idle) == 0 {
		return "give this host the address " + addresses + " again, or correct the address of its node in the file"
	}
	first := "run `ip link set " + idle[0].Name + " up`"
	if idle[0].Up {
		first = "connect " + idle[0].Name + ", which has no carrier"
	}
	return first + ", and give it the address " + addresses + " again if that does not come back by itself"
}
