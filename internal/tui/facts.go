package tui

import (
	"fmt"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// Facts of the node, as the overview, the dashboard and the text without a terminal show
// them. Each is made of the status alone, so that they never differ between screens; how they
// stand beside each other is the screen's.

// label begins a line of facts.
func label(word string) cell.Line { return cell.Styled(cell.Dim, fmt.Sprintf(" %-8s ", word)) }

// facts tell of the node, its file, its data plane and its peers in lines of w cells. A node
// that has not found itself yet has no data plane, and all figures of one would be zero.
func facts(v view, w int) []cell.Line {
	s := v.status
	if s.Node == "" {
		unknown := fmt.Sprintf("unknown yet   meshd %s  pid %d  up %s",
			s.Version, s.PID, words.Span(v.uptime()))
		return []cell.Line{
			label("NODE").Add(cell.Plain, unknown),
			label("CONFIG").Join(configFacts(v, w-10)),
		}
	}
	node := fmt.Sprintf("  %s   up %s   meshd %s  pid %d",
		words.HostPort(s.Network), words.Span(v.uptime()), s.Version, s.PID)
	plane := cell.Text(planeFacts(s) + "  offload " + offloads(s))
	lines := []cell.Line{
		label("NODE").Add(cell.Strong, s.Node).Add(cell.Plain, node),
		label("CONFIG").Join(configFacts(v, w-10)),
		label("PLANE").Join(plane).Join(refused(s)),
	}
	if s.WireGuard != nil {
		lines = append(lines, label("LOCK").Join(lockFacts(s)))
	}
	if len(s.Allow.Rules) > 0 {
		lines = append(lines, label("ALLOW").Join(allowFacts(s)))
	}
	return append(lines, label("DROPS").Join(dropFacts(v)), label("PEERS").Join(peerFacts(s)))
}

// allowFacts tell of the rules about who may reach whom; in colour while they drop packets.
func allowFacts(s *control.Status) cell.Line {
	role := cell.Plain
	if s.Allow.DroppedLastMinute > 0 {
		role = cell.Warn
	}
	return cell.Styled(role, words.Allow(s.Allow))
}

// configFacts tell of the file in w cells; how long it took to apply gives way first, then
// the middle of the path.
func configFacts(v view, w int) cell.Line {
	c := v.status.Config
	if c.Applied.IsZero() {
		return cell.Text(cell.FitMiddle(c.Path, min(w, cell.Width(c.Path))) + "  not in force yet")
	}
	path, generation := cell.Width(c.Path), fmt.Sprintf("  gen %d  applied ", c.Generation)
	rest := generation + applied(v, true)
	if path+len(rest) > w {
		rest = generation + applied(v, false)
	}
	return cell.Text(cell.FitMiddle(c.Path, max(12, min(path, w-len(rest)))) + rest)
}

// applied tells when which file was applied, and if asked for how long that took.
func applied(v view, took bool) string {
	c, ms := v.status.Config, ""
	if took {
		ms = fmt.Sprintf(", %.0f ms", c.LastReload.DurationMS)
	}
	ago := words.Span(v.daemonNow().Sub(c.Applied))
	return fmt.Sprintf("%s (%s ago%s)  sha %.6s", words.Clock(c.Applied), ago, ms, c.SHA256)
}

// planeFacts tell how packets move: the engine, the device, how many queues.
func planeFacts(s *control.Status) string {
	return fmt.Sprintf("%s  tun %s mtu %d  queues %d", engine(s.Dataplane),
		s.Network.Interface, s.Network.MTU, s.Dataplane.Queues)
}

// engine is what moves packets: the kernel's receives in several ways.
func engine(d control.Dataplane) string {
	if d.Engine == "kernel" {
		return d.Engine + "/" + d.Receive
	}
	return d.Engine
}

// shortOffloads are names for offloads that mostly come together, in the order in which
// they are shown.
var shortOffloads = strings.NewReplacer("tso4 tso6", "tso", "udp_gso", "gso", "udp_gro", "gro")

// offloads are those in use.
func offloads(s *control.Status) string {
	if len(s.Dataplane.Offloads) == 0 {
		return "off"
	}
	return shortOffloads.Replace(strings.Join(s.Dataplane.Offloads, " "))
}

// refused are offloads that the kernel or a device refused at run time; mostly none. They
// stand beside those in use, since traffic is slower without anything being wrong.
func refused(s *control.Status) cell.Line {
	if len(s.Dataplane.Refused) == 0 {
		return nil
	}
	return cell.Styled(cell.Strong, "  refused "+strings.Join(s.Dataplane.Refused, " "))
}

// engineWord names the engine in the header.
func engineWord(d control.Dataplane) string {
	for _, offload := range d.Offloads {
		if d.Engine == "user" && offload == "udp_gso" { // without it the user engine is slow
			return d.Engine + "+gso"
		}
	}
	return d.Engine
}

// peerFacts count peers, and the prefixes behind them: how much of the network cannot be
// reached is what an operator is asked first.
func peerFacts(s *control.Status) cell.Line {
	n := countStates(s.Peers)
	line := cell.Styled(cell.Good, fmt.Sprintf("%d up", n.up))
	for _, more := range n.quiet() {
		line = line.Add(cell.Accent, "   "+more)
	}
	for _, more := range n.troubled() {
		line = line.Add(more.role, fmt.Sprintf("   %d %s", more.n, more.word))
	}
	if n.unknown > 0 {
		line = line.Add(cell.Dim, fmt.Sprintf("   %d unknown", n.unknown))
	}
	subnets, unreachable := 0, 0
	for _, p := range s.Peers {
		behind := len(p.Subnets) + len(p.Routes)
		subnets += behind
		if p.State == control.Down && p.Drain == nil {
			unreachable += behind
		}
	}
	line = line.Add(cell.Plain, fmt.Sprintf("   subnets %d", subnets))
	if unreachable > 0 {
		line = line.Add(cell.Bad, fmt.Sprintf(" (%d unreachable)", unreachable))
	}
	return line
}
