package news

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/rate"
)

// Ways logs where packets go now: to which address of a peer, and by which of several peers. One
// goroutine at a time may use it.
type Ways struct {
	log       *slog.Logger
	addresses rate.Gathering[left]
	carriers  rate.Gathering[peers.Move]
}

// left is a peer whose packets go to another address.
type left struct {
	peer     string
	from, to netip.AddrPort
}

// NewWays returns Ways that write to a log.
func NewWays(log *slog.Logger) *Ways {
	return &Ways{log: log, addresses: rate.Gathering[left]{Window: time.Second},
		carriers: rate.Gathering[peers.Move]{Window: time.Second}}
}

// Left takes that packets to a peer go to another address; the zero value is the first one.
func (w *Ways) Left(peer string, from, to netip.AddrPort, now time.Time) {
	kind := "away"
	if !to.IsValid() {
		kind = "back"
	}
	w.addresses.Add(kind, left{peer, from, to})
	w.Tell(now)
}

// Moved takes that another peer carries a shared prefix.
func (w *Ways) Moved(m peers.Move, now time.Time) {
	w.carriers.Add(m.From+" "+m.To, m)
	w.Tell(now)
}

// Tell logs what is due. It is to be called every second.
func (w *Ways) Tell(now time.Time) {
	for _, group := range w.addresses.Due(now) {
		w.tellAddresses(group.Kind == "back", group.News)
	}
	for _, group := range w.carriers.Due(now) {
		first := group.News[0]
		about := []any{"prefix", first.Prefix.String(), "from", first.From, "peer", first.To, "event",
			"carrier_changed"}
		if len(group.News) > 1 {
			about = append(about, "count", len(group.News))
		}
		level := slog.LevelWarn
		if first.Announced {
			level = slog.LevelInfo
		}
		w.log.Log(context.Background(), level, "another peer carries a shared prefix", about...)
	}
}

func (w *Ways) tellAddresses(back bool, all []left) {
	level, event := w.log.Warn, "address_left"
	what := "packets go to another address, since the one before does not answer"
	if back {
		level, event, what = w.log.Info, "address_preferred", "packets go to the preferred address again"
	}
	if len(all) == 1 {
		about := []any{"peer", all[0].peer, "event", event}
		if all[0].to.IsValid() {
			about = append(about, "address", all[0].to.String())
		}
		level(what, about...)
		return
	}
	names := make([]string, len(all))
	for i, one := range all {
		names[i] = one.peer
	}
	level(fmt.Sprintf("%d peers: %s", len(all), what), append(list(names), "event", event)...)
}
