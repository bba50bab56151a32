package tui

import (
	"fmt"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// Kinds of problems that say how a peer's packets are kept secret, or that they are not.
const (
	sendsClear  = "sends_clear"
	noHandshake = "no_handshake"
)

// lock is how packets to and from a peer are kept secret, in a glyph and a word. The problem that a peer
// sends in the clear counts more than a session, since it is the one to act on.
func lock(s *control.Status, p control.Peer) (glyph, word string, role cell.Role) {
	refused := false
	for _, problem := range s.Health.Problems {
		switch mine := problem.Peer == p.Name; {
		case problem.Kind == sendsClear && mine:
			return "○", "CLEAR", cell.Bad
		case problem.Kind == noHandshake && (mine || problem.Peer == ""): // of a group, or of all
			refused = true
		}
	}
	w := p.WireGuard
	switch {
	case w == nil:
		return "?", "none", cell.Dim
	case w.Path != control.PathDirect:
		return "◇", "relayed", cell.Accent
	case w.State == control.WireGuardReady:
		return "◐", "ready", cell.Accent
	case w.State == control.WireGuardWaiting:
		return "○", "waiting", cell.Warn
	case w.State == control.WireGuardLagging:
		return "◐", "lagging", cell.Warn
	case w.InSession(s.Now):
		return "●", "sealed", cell.Good
	case refused:
		return "○", "refused", cell.Bad
	}
	return "◐", "idle", cell.Dim // nothing was sent for three minutes
}

// handshake is how long ago the last handshake with a peer was, of which there has to be one.
func handshake(s *control.Status, p control.Peer) string {
	return words.Age(s.Now.Sub(*p.WireGuard.LatestHandshake))
}

// lockCell is the lock in the table of peers, with the age of the handshake.
func lockCell(v view, p control.Peer, _ int) (string, cell.Role) {
	glyph, word, role := lock(v.status, p)
	if p.WireGuard == nil || p.WireGuard.LatestHandshake == nil || role == cell.Accent || word == "CLEAR" {
		return glyph + " " + word, role
	}
	return fmt.Sprintf("%s %s %s", glyph, word, handshake(v.status, p)), role
}

// lockFacts tell who encrypts, and count the locks.
func lockFacts(s *control.Status) cell.Line {
	w := s.WireGuard
	by, role := w.Implementation, cell.Plain
	switch by {
	case "":
		by, role = "nobody encrypts: nothing leaves", cell.Bad
	case control.WireGuardUser:
		by = "user space"
	}
	line := cell.Styled(role, by)
	type count struct {
		n    int
		role cell.Role
	}
	counts := map[string]count{}
	for _, p := range s.Peers {
		_, word, role := lock(s, p)
		counts[word] = count{counts[word].n + 1, role}
	}
	// The worst comes first: narrow screens cut the end.
	for _, word := range []string{"CLEAR", "refused", "waiting", "lagging", "ready", "sealed", "relayed", "idle",
		"none"} {
		if c := counts[word]; c.n > 0 {
			line = line.Add(c.role, fmt.Sprintf("   %d %s", c.n, word))
		}
	}
	return line.Add(cell.Dim, fmt.Sprintf("   %s mtu %d  udp %d", w.Interface, w.MTU, w.Port))
}

// aboutLock is the line of a peer's page; none while packets are not encrypted.
func aboutLock(v view, p control.Peer) []cell.Line {
	w := p.WireGuard
	if w == nil {
		return nil
	}
	glyph, word, role := lock(v.status, p)
	line := peerLabel("lock").Add(role, glyph+" "+word)
	switch {
	case w.Path != control.PathDirect:
		return []cell.Line{line.Add(cell.Plain, "   "+w.Path)}
	case w.LatestHandshake == nil:
		line = line.Add(cell.Plain, "   no handshake yet")
	default:
		line = line.Add(cell.Plain, "   handshake "+handshake(v.status, p)+" ago")
	}
	switch {
	case w.Endpoint == "":
		line = line.Add(cell.Strong, "   has not called yet")
	case w.Roamed:
		line = line.Add(cell.Strong, "   roamed to "+w.Endpoint)
	default:
		line = line.Add(cell.Plain, "   at "+w.Endpoint)
	}
	key := w.PublicKey
	if first, _, ok := strings.Cut(key, "="); ok && len(first) > 8 { // enough to tell keys apart
		key = first[:8] + "…"
	}
	return []cell.Line{line.Add(cell.Dim, "   key "+key)}
}
