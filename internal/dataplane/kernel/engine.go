package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/user"
	"example.org/meshd/internal/mesh"
)

// Engine is the user engine with programs around it, or without: it may change while
// packets flow. Its methods may be called at any time from any goroutine.
type Engine struct {
	*user.Engine
	log *slog.Logger

	mu       sync.Mutex
	finishes map[string]bool         // peers that are meshd
	mesh     *mesh.Mesh              // the last one; nil before
	programs *Programs               // nil: user space does it all
	receive  string                  // where the programs take packets
	refused  string                  // why not by XDP
	unmerged string                  // why TCP is not merged
	tun      int                     // the index of the TUN
	clean    bool                    // nothing of an earlier meshd is left
	optional bool                    // user space may do it all
	reason   string                  // why it does
	failed   bool                    // it was to be otherwise
	past     mesh.Traffic            // of programs that were taken away
	parts    map[string]mesh.Traffic // of them, by peer
}

// New returns an engine that has no programs.
func New(u *user.Engine, log *slog.Logger) *Engine {
	return &Engine{Engine: u, log: log, parts: map[string]mesh.Traffic{}, finishes: map[string]bool{}}
}

// Use has programs forward what is plain, as settings say; nil takes them away, those that an
// earlier meshd left, too, and why is the reason for it. If they cannot, user space does it
// all, which is an error unless settings say that they are optional. repaired tells, in words,
// what was not as it was left.
func (e *Engine) Use(s *Settings, why string) (repaired []string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s == nil {
		e.reason, e.failed = why, false
		if e.clean && e.programs == nil {
			return nil, nil
		}
		err := e.leave()
		_, cleanErr := CleanUp()
		e.clean = err == nil && cleanErr == nil
		return nil, errors.Join(err, cleanErr)
	}
	e.optional = s.Optional
	repaired, err = e.use(s)
	return repaired, e.settle(err)
}

// use begins with programs, or changes where they are.
func (e *Engine) use(s *Settings) (repaired []string, err error) {
	e.clean = false
	if e.programs == nil {
		programs, err := Load()
		if err != nil {
			return nil, err
		}
		e.programs = programs
		maps.Copy(programs.finishes, e.finishes)
		if e.mesh != nil {
			if err := programs.SetMesh(*e.mesh); err != nil {
				return nil, err
			}
		}
		if err := programs.Unpinned(); err != nil {
			e.log.Warn("packets will not flow while meshd is not running", "error", err, "event", "unpinned")
		}
	}
	repaired, err = e.programs.Attach(*s)
	if err != nil {
		return repaired, err
	}
	e.tun = s.TUN
	if err := e.programs.Unmerged(); err != nil && err.Error() != e.unmerged {
		e.unmerged = err.Error()
		e.log.Warn("TCP comes to pods packet by packet, which is slow", "error", err, "event", "unmerged")
	} else if err == nil {
		e.unmerged = ""
	}
	receive, refused := e.programs.Receive()
	if reason := strings.Join(refused, "; "); reason != "" && reason != e.refused {
		e.log.Warn("packets are taken by tcx", "error", reason, "event", "xdp_refused")
		e.refused = reason
	} else if reason == "" {
		e.refused = ""
	}
	e.receive = receive
	return repaired, e.look()
}

// settle draws the consequences of whether the programs could do what was asked.
func (e *Engine) settle(err error) error {
	if err == nil {
		if e.failed {
			e.log.Info("the kernel engine forwards again", "event", "kernel_engine")
		}
		e.reason, e.failed = "", false
		return nil
	}
	e.failed = true
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		e.log.Debug("the verifier's log", "log", fmt.Sprintf("%+v", verifier), "event", "verifier")
	}
	leaveErr := e.leave()
	before := e.reason
	e.reason = err.Error()
	if !e.optional {
		return errors.Join(err, leaveErr)
	}
	if before != e.reason { // said once
		e.log.Warn("the user engine forwards: the kernel engine cannot", "error", err, "event", "user_engine")
	}
	return leaveErr
}

// leave takes the programs away, and keeps what they have counted.
func (e *Engine) leave() error {
	if e.programs == nil {
		return nil
	}
	p := e.programs
	e.programs = nil
	err := p.detach()
	peers, total, countErr := p.Counters()
	e.past.Add(total)
	for name, t := range peers {
		sum := e.parts[name]
		sum.Add(t)
		e.parts[name] = sum
	}
	return errors.Join(err, countErr, p.Close())
}

// Finishes says whether a peer is meshd: see Programs.Finishes.
func (e *Engine) Finishes(peer string, yes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finishes[peer] = yes
	if e.programs == nil {
		return
	}
	if err := e.programs.Finishes(peer, yes); err != nil {
		e.log.Error("a peer is served by user space", "peer", peer, "error", err, "event", "tables_failed")
	}
}

// SetMesh implements dataplane.Engine.
func (e *Engine) SetMesh(m mesh.Mesh) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.Engine.SetMesh(m); err != nil {
		return err
	}
	e.mesh = &m
	if e.programs == nil {
		return nil
	}
	return e.settle(e.programs.SetMesh(m))
}

// Counters implements dataplane.Engine.
func (e *Engine) Counters() dataplane.Counters {
	c := e.Engine.Counters()
	e.mu.Lock()
	defer e.mu.Unlock()
	c.Totals.Add(e.past)
	peers := map[string]mesh.Traffic{}
	if e.programs != nil {
		now, total, err := e.programs.Counters()
		if err != nil {
			e.log.Error("the kernel's counters cannot be read", "error", err, "event", "counters_failed")
		}
		c.Totals.Add(total)
		peers = now
	}
	for name, t := range c.Peers {
		t.Add(peers[name])
		t.Add(e.parts[name])
		c.Peers[name] = t
	}
	return c
}

// LastSeen implements dataplane.Engine.
func (e *Engine) LastSeen(peer string) time.Time {
	seen := e.Engine.LastSeen(peer)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.programs == nil {
		return seen
	}
	if at := e.programs.LastSeen(peer); at.After(seen) {
		return at
	}
	return seen
}

// Info implements dataplane.Engine.
func (e *Engine) Info() dataplane.Info {
	info := e.Engine.Info()
	e.mu.Lock()
	defer e.mu.Unlock()
	info.Reason = e.reason
	if e.programs == nil {
		return info
	}
	info.Reason = e.refused
	info.Engine, info.Receive, info.Captured = "kernel", e.receive, e.programs.Watched()
	info.Unmerged = e.unmerged
	if err := e.programs.Unpinned(); err != nil {
		info.Unpinned = err.Error()
	}
	handed, err := e.programs.Handed()
	if err != nil {
		e.log.Error("the kernel's counters cannot be read", "error", err, "event", "counters_failed")
	}
	info.Handed = handed
	return info
}

// WatchCaptures looks whether somebody captures on the TUN. The kernel has no news of that:
// it is to be called every second or so.
func (e *Engine) WatchCaptures() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.look(); err != nil {
		e.log.Error("a capture on the TUN may see only what comes in", "error", err, "event", "watch_failed")
	}
}

// look has packets out go where a capture sees them, if there is one. The caller holds mu.
func (e *Engine) look() error {
	if e.programs == nil {
		return nil
	}
	sockets, err := os.ReadFile("/proc/net/packet")
	if err != nil {
		return err
	}
	return e.programs.Watch(captured(string(sockets), e.tun))
}

// captured tells whether /proc/net/packet has a socket for all packets of an interface, or
// of every one.
func captured(sockets string, device int) bool {
	const protocol, index = 3, 4 // columns; packet_seq_show in the kernel's net/packet/af_packet.c
	for line := range strings.Lines(sockets) {
		words := strings.Fields(line)
		if len(words) > index && words[protocol] == fmt.Sprintf("%04x", unix.ETH_P_ALL) && (words[index] == "0" || words[index] == strconv.Itoa(device)) {
			return true
		}
	}
	return false
}
