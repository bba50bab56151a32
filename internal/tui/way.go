package tui

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// How this host reaches a peer: by which device, from which address. That is no part of a status, since the
// kernel has to be asked for each peer; it is asked for the peer whose page is open.

// wayMsg is the answer about one peer.
type wayMsg struct {
	peer string
	way  *control.KernelRoute // nil: the daemon does not tell
}

// ways are the answers of peers whose pages were opened.
type ways struct {
	known map[string]control.KernelRoute
	asked map[string]time.Time
}

// waysKept bounds them.
const waysKept = 20

// askWay asks about the peer under the cursor if its answer is too old.
func (m *Model) askWay() tea.Cmd {
	p, ok := m.view().selected()
	if !ok || len(p.Subnets) == 0 || m.now.Sub(m.data.ways.asked[p.Name]) < historyEvery {
		return nil
	}
	prefix, err := netip.ParsePrefix(p.Subnets[0])
	if err != nil {
		return nil
	}
	w := &m.data.ways
	if w.known == nil || len(w.asked) >= waysKept {
		*w = ways{map[string]control.KernelRoute{}, map[string]time.Time{}}
	}
	w.asked[p.Name] = m.now
	asker := m.options.Asker
	return ask(askTimeout, func(ctx context.Context) tea.Msg {
		r, err := asker.Route(ctx, prefix.Addr())
		if err != nil || r.Peer != p.Name { // another one carries what both have
			return wayMsg{peer: p.Name}
		}
		return wayMsg{p.Name, r.Underlay}
	})
}

// found keeps an answer.
func (w *ways) found(msg wayMsg) {
	if msg.way == nil || w.known == nil {
		delete(w.known, msg.peer)
		return
	}
	w.known[msg.peer] = *msg.way
}

// aboutWay is the line of a peer's page about the underlay, and how the peer takes packets; none where
// nothing is known of either.
//
//	underlay   eth0 from 172.18.0.3  mtu 1500   merged packets: meshd there
func aboutWay(v view, p control.Peer) []cell.Line {
	line := peerLabel("underlay")
	way, known := v.ways.known[p.Name]
	switch {
	case known && way.Error != "":
		line = line.Add(cell.Bad, "the kernel drops: "+way.Error+"   ")
	case known:
		line = line.Add(cell.Plain, fmt.Sprintf("%s from %s  mtu %d   ", way.Device, way.Source, way.MTU))
	}
	switch {
	case p.WireGuard != nil: // which has a line of its own
	case p.Version == "" && p.IsUp():
		return []cell.Line{line.Add(cell.Plain, "plain packets: flannel there, or a bare kernel")}
	case known && p.Version != "": // its meshd finishes checksums, so that what TCP sends stays together
		line = line.Add(cell.Dim, "merged packets: meshd there")
	}
	if !known {
		return nil
	}
	return []cell.Line{line}
}
