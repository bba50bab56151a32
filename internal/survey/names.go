package survey

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/resolve"
)

// Names keeps the addresses of the DNS names of files, in the words of plans. All of its methods may be
// called from any goroutine.
type Names struct {
	*resolve.Resolver
	file   *atomic.Pointer[func(name string, ip netip.Addr) bool] // what the file followed says of addresses
	log    *slog.Logger
	folder string        // where answers are kept; empty: they are not
	news   chan struct{} // answers have changed
}

// NewNames returns Names that follow no file, with the answers that are kept in a state folder; empty: none
// are. changed is called when answers have changed.
func NewNames(log *slog.Logger, folder string, changed func(), dial resolve.Dialer) Names {
	n := Names{file: &atomic.Pointer[func(string, netip.Addr) bool]{}, log: log, folder: folder,
		news: make(chan struct{}, 1)}
	var kept map[string]resolve.Answer
	if folder != "" {
		kept = keptAnswers(folder, log)
	}
	tell := func() {
		select {
		case n.news <- struct{}{}:
		default: // somebody knows already
		}
		changed()
	}
	n.Resolver = resolve.New(resolve.Options{Log: log, Changed: tell, Dial: dial, Kept: kept,
		Usable: func(name string, ip netip.Addr) bool {
			usable := n.file.Load()
			return usable == nil || (*usable)(name, ip)
		}})
	return n
}

// Known returns what is known of all names that were asked for.
func (n Names) Known() map[string]plan.Name {
	known := map[string]plan.Name{}
	for name, a := range n.Answers() {
		one := plan.Name{Addrs: a.Addrs, At: a.At}
		if a.Err != nil {
			one.Cause = a.Err.Error()
		}
		known[name] = one
	}
	return known
}

// Check asks for the names of a file once, until ctx ends, and returns the faults of those that have no
// address or that stand for one that cannot be a node's. dial is nil but for tests.
func Check(ctx context.Context, log *slog.Logger, c *config.Config, dial resolve.Dialer) (all config.Faults) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	names := NewNames(log, "", func() {}, dial)
	go func() { _ = names.Run(ctx) }() // ends with this call
	names.Resolver.Await(ctx, plan.Names(c))
	known := names.Known()
	for _, name := range plan.Names(c) {
		if _, asked := known[name]; !asked {
			known[name] = plan.Name{Cause: "there was no time to ask for it"}
		}
	}
	for _, problem := range plan.Expand(c, known).Conditions() {
		says := "has no address"
		if problem.Kind == mesh.NameUnusable {
			says = "stands for an address that cannot be used"
		}
		all = append(all, c.NameFault(problem.Subject, "%q %s: %s", problem.Subject, says, problem.Cause)...)
	}
	return all
}

// Follow has the names of a file asked for from now on, and no others.
func (n Names) Follow(c *config.Config) {
	names := plan.Names(c)
	if len(names) > 0 {
		usable := plan.Usable(c)
		n.file.Store(&usable)
	}
	n.Resolver.Follow(names)
}

// awaited is how long a new file waits for its new names: a peer whose address becomes a name would have
// none until DNS answers.
const awaited = time.Second

// Await has the names of a further file asked for, and waits for a moment until each was asked for once. A
// file without new names does not wait.
func (n Names) Await(ctx context.Context, c *config.Config) {
	names := plan.Names(c)
	if len(names) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, awaited)
	defer cancel()
	n.Resolver.Await(ctx, names)
}

// Doubt has the names of those nodes asked for soon that fail, or that have no address yet. Without a plan
// those are all nodes of a file: one of them may be this host.
func (n Names) Doubt(c *config.Config, p *plan.Plan, fails func(node string) bool) {
	if p == nil {
		for _, name := range plan.Names(c) {
			n.Resolver.Doubt(name)
		}
		return
	}
	for i, node := range p.Config.Nodes {
		for _, a := range node.Addresses {
			if a.Name != "" && (len(p.Engine.Mesh.Peers[i].Addresses) == 0 || fails(node.Name)) {
				n.Resolver.Doubt(a.Name)
			}
		}
		if name := node.Endpoint.Name; name != "" && fails(node.Name) {
			n.Resolver.Doubt(name)
		}
	}
}
