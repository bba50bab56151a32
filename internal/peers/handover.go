package peers

import "time"

// This file decides whether what a peer sends is left to the socket. Programs take datagrams in
// before the host's own rules see them: INPUT, raw, netdev ingress, inbound IPsec, rp_filter.
// Probes always come by the socket. So where no probe of a peer comes in, the host may not want
// its data either, and its rules have to decide:
//
//	programs ---- no answer, and nothing by the socket for quiet -----> handed over
//	handed over - a datagram came by the socket: the rules allow it --> programs, for trustFor
//	either ------ the peer answers ----------------------------------> programs
//
// A peer whose meshd is stopped looks the same at first: its programs send on, and nothing answers.
// Its data then comes by the socket, which tells the two apart. Rules may change, so that
// is tried again every trustFor.

// Parameters of the rule.
const (
	// quiet is how long the socket has to hear nothing of a peer that does not answer. A peer
	// that hears no answer either still asks, usually every second.
	quiet = 3 * time.Second
	// trustFor is how long programs take the data of a peer that does not answer, after its data
	// was let in by the socket. Each trial may let packets overtake each other, so it is not short.
	trustFor = 10 * time.Second
	// onItsWay is longer than a datagram takes from the programs to the socket's reader.
	onItsWay = time.Second
)

// Heard is when the last acceptable packet of a peer came in by each way; zero if none did.
type Heard struct {
	Socket   time.Time // an echo or data, past all rules of the host
	Programs time.Time // data, past none of them
	// Left is when the last datagram of the peer, probes among them, passed the programs that left it
	// to the socket. The host's rules come after that.
	Left time.Time
}

// Latest returns when the last acceptable packet came, by whichever way.
func (h Heard) Latest() time.Time {
	if h.Programs.After(h.Socket) {
		return h.Programs
	}
	return h.Socket
}

// handover is what the rule remembers of one peer.
type handover struct {
	handed  bool      // what the peer sends is left to the socket
	at      time.Time // when that began
	again   time.Time // no trial before this time
	refused bool      // what is left to the socket does not come in there
}

// unanswered tells whether probes ask the peer in vain. Until the first verdict nothing is known.
func (f *Facts) unanswered() bool {
	return f.Asked && f.State != Up && f.State != Unknown && f.State != ""
}

// Hear takes over when the peer was heard by each way, and decides again who takes its data in. It
// is to be called every second or so while the peer is among those of Registry.Unheard.
func (f *Facts) Hear(now time.Time, h Heard) {
	switch {
	case !f.unanswered():
		f.handover = handover{}
	case f.handed && h.Socket.After(f.at):
		f.handover = handover{again: now.Add(trustFor)}
	case !f.handed && now.Sub(h.Socket) >= quiet && !now.Before(f.again):
		f.handed, f.at = true, now
	}
	f.refused = f.handed && h.Left.Sub(h.Socket) >= onItsWay
}

// Refused tells whether datagrams of the peer reach this host, and the socket gets none of them:
// some rule of this host drops them. It is false for a peer that sends nothing.
func (f *Facts) Refused() bool { return f.unanswered() && f.refused }

// Heed returns the indices of those peers of which Facts.Hear would decide something else by when they were
// heard: of thousands that stay down, none.
func (r *Registry) Heed(now time.Time, names []string, heard []Heard) (changed []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, name := range names {
		was := r.of(name)
		is := *was
		if is.Hear(now, heard[i]); is.handover != was.handover {
			changed = append(changed, i)
		}
	}
	return changed
}

// Unheard returns the peers that Facts.Hear has to decide about: those that do not answer, or did
// not at the last call.
func (r *Registry) Unheard() []string {
	return r.which(func(f *Facts) bool { return f.unanswered() || f.handover != handover{} })
}

// Refused returns the peers of which Facts.Refused is true, in no order.
func (r *Registry) Refused() []string { return r.which((*Facts).Refused) }

// which returns the peers whose facts are as asked for.
func (r *Registry) which(are func(*Facts) bool) (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, f := range r.facts {
		if are(f) {
			names = append(names, name)
		}
	}
	return names
}
