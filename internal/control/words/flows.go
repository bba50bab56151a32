package words

import (
	"net"
	"strconv"

	"example.org/meshd/internal/control"
)

// FlowsState says why there are no flows to be seen; empty: there are, or nothing moves.
func FlowsState(f control.Flows) string {
	switch f.State {
	case control.FlowsOff:
		return "flows are not counted: run `meshd top` as root or in the group mesh-admin"
	case control.FlowsStarting:
		return "counting flows ..."
	case control.FlowsSealed:
		return "flows are not measured while packets travel encrypted: `meshd peers` shows the bytes of each peer"
	case control.FlowsFailed:
		return "flows cannot be counted: " + f.Cause
	case control.FlowsCounted:
		return ""
	}
	return "flows are " + f.State // of a newer daemon
}

// FlowPort names the service of a row: "tcp/5432", "icmp", or what the row does not tell.
func FlowPort(r control.FlowRow) string {
	if r.Protocol == "" {
		return Unknown
	}
	if r.Port == 0 {
		return r.Protocol
	}
	return r.Protocol + "/" + strconv.Itoa(int(r.Port))
}

// FlowEnd writes one end of a flow: an address, with its port if that is not the one of FlowPort.
func FlowEnd(address string, port uint16, r control.FlowRow) string {
	if port == 0 || port == r.Port {
		return address
	}
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}

// FlowShare writes a share of 0 to 1: what is less than one percent, and not nothing, is "<1%".
func FlowShare(share float64) string {
	if share > 0 && share < 0.005 {
		return "<1%"
	}
	return Percent(&share)
}
