package peers

import (
	"fmt"

	"example.org/meshd/internal/mesh"
)

// Loss is how many plain probes were lost lately, in half a minute or more.
type Loss struct {
	Probes, Lost int
	// Runs is how many times a probe was lost after one that was answered.
	Runs int
}

// Share returns the share of lost probes, 0 to 1.
func (l Loss) Share() float64 {
	if l.Probes == 0 {
		return 0
	}
	return float64(l.Lost) / float64(l.Probes)
}

// Limits of loss. A single run, such as the restart of a peer's meshd or one lost probe, is no loss: it
// is over, or ends as another state.
const (
	lossDegrades = 0.02
	lossFails    = 0.20
	lossRuns     = 2
)

// Loses is what of pods' packets a peer does not get, while plain probes pass.
type Loses struct {
	NoChecksum bool  // UDP datagrams without a checksum, as programs send
	Spread     bool  // datagrams from ports other than the mesh's
	DSCP       uint8 // packets with this value; 0: they pass
	Forwarded  bool  // packets that the peer has to forward
}

// conditions tells of loss.
func (l Loss) conditions(peer string) []mesh.Condition {
	severity := mesh.Degraded
	switch {
	case l.Runs < lossRuns || l.Share() < lossDegrades:
		return nil
	case l.Share() >= lossFails:
		severity = mesh.Failed
	}
	return []mesh.Condition{{Kind: mesh.PeerLoss, Severity: severity, Peer: peer,
		Cause:  fmt.Sprintf("%d of the last %d probes", l.Lost, l.Probes),
		Remedy: "`meshd ping PEER` shows the loss: look at the underlay between both hosts"}}
}

// PathMTU is how large packets to a peer may be, in bytes without outer headers. The zero value: it is not
// measured, and the interface limits them.
type PathMTU struct {
	InUse     int
	Least     int  // that is searched for
	Most      int  // that this host can send to the peer
	Interface int  // MTU of the TUN
	Proven    bool // a probe of the size in use was answered
	Nothing   bool // no size passes but that of plain probes
}

// limit is the size for the engines; 0 if the interface limits packets enough.
func (p PathMTU) limit() int {
	if p.InUse < p.Interface {
		return p.InUse
	}
	return 0
}

// conditions tells what does not fit. Once a size is found, pods are told of it and their connections
// keep to it: that is a fact to know, and no fault.
func (p PathMTU) conditions(peer string) []mesh.Condition {
	c := mesh.Condition{Kind: mesh.PathLarge, Peer: peer}
	switch {
	case p.Nothing:
		c.Severity, c.Subject = mesh.Degraded, fmt.Sprint(p.Least-1)
		c.Remedy = "look for what drops large UDP datagrams on the way: `meshd ping PEER -s SIZE` shows what passes"
	case p.InUse < p.Most && p.Proven:
		c.Severity, c.Subject = mesh.Info, fmt.Sprint(p.InUse)
		c.Cause = "probed; pods are told the size that fits"
		c.Remedy = "nothing has to be done; have the network carry more for more throughput"
	default:
		return nil
	}
	return []mesh.Condition{c}
}

// conditions tells what the path to a peer does not carry.
func (l Loses) conditions(peer string) (all []mesh.Condition) {
	about := func(kind mesh.Kind, severity mesh.Severity, subject, remedy string) {
		all = append(all, mesh.Condition{
			Kind: kind, Severity: severity, Peer: peer, Subject: subject, Remedy: remedy})
	}
	if l.NoChecksum {
		about(mesh.PathChecksum, mesh.Degraded, "", "`dataplane.engine = \"user\"` sends "+
			"all packets with a checksum; or have the network pass UDP without one (RFC 768)")
	}
	if l.Spread && !l.NoChecksum {
		about(mesh.PathPort, mesh.Degraded, "", "set `dataplane.spread = false`, "+
			"or have the network pass all source ports")
	}
	if l.DSCP > 0 {
		about(mesh.PathDSCP, mesh.Degraded, fmt.Sprint(l.DSCP), fmt.Sprintf(
			"have the network pass UDP with DSCP value %d, or have pods not set it", l.DSCP))
	}
	if l.Forwarded {
		about(mesh.PathForwarding, mesh.Failed, "", "`meshd status` there names the rule that drops them")
	}
	return all
}
