package probe

import "time"

// A Glance is what whoever looks at thousands of peers every second needs: what a chart shows of each, and
// whether a Report would tell something that no Change tells. It costs a tenth of a Report.
type Glance struct {
	State        State
	Probes       int           // of which Loss is computed; 0: nothing is known
	Loss         float64       // as of Figures
	LastAnswered bool          // as of Figures
	Last         time.Duration // as of Figures; 0 if no probe was answered
	// News tells that a Report is due: loss comes and goes with time, an address that packets could go
	// back to gets better, or the peer tells something else of what it hears.
	News bool
}

// Glance returns what is known of a peer in short; ok is false if it is not followed. News is told once:
// whoever gets it has to ask for a Report.
func (p *Prober) Glance(name string) (g Glance, ok bool) {
	one := (*p.peers.Load())[name]
	if one == nil {
		return g, false
	}
	active := one.active.Load()
	return one.paths[active].glance(active > 0), true
}

// glance returns what is known of the path in short. second tells that packets go this way though another
// one is preferred.
func (p *path) glance(second bool) Glance {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := Glance{State: p.state, Last: p.window.last()}
	g.Loss, g.Probes = p.window.loss()
	g.LastAnswered = p.window.answered()
	now := unrest{seen: true, notHeard: !p.unheard.IsZero(), moves: p.moves(second)}
	// At first, so that engines learn of each peer what is known; and once more when unrest has ended.
	g.News, p.unrest = now.moves || now != p.unrest, now
	return g
}

// unrest is what of a Report changes though no Change tells of it.
type unrest struct {
	seen     bool // there was a glance
	notHeard bool
	moves    bool // something changes with each probe, or with time
}

// moves tells whether what follows from a Report may be another thing each second. Of a path that is the
// preferred one, and is well, every turn is a Change. What was lost is of no interest where nothing is
// answered, and a Change tells when that ends. p.mu is held.
func (p *path) moves(second bool) bool {
	for i := range p.forms {
		if p.forms[i].fails { // the DSCP value that fails may be another one
			return true
		}
	}
	loses := (p.state == Up || p.state == Stale) && p.recent.sum().Lost > 0
	coming := p.formsNew || p.pathsNew // the Change comes with the next Work
	return second || loses || coming || p.quick && !p.isWell()
}

// isWell tells whether a path answers everything. p.mu is held.
func (p *path) isWell() bool { return p.state == Up && !p.doubt.silent && !p.goodAt.IsZero() }
