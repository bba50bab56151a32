package survey

import (
	"context"
	"slices"
	"sync"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/wireguard"
)

// Keys tells when the private key of this host is another one than the last look at the host has found. The
// file is read each second: it has 45 bytes, no file system loses news of it, and the way to it may lead over
// links. All methods may be called from any goroutine.
type Keys struct {
	changed func()

	mu   sync.Mutex // guards the fields below
	path string     // of the key that the last look needed; empty: it needed none
	key  mesh.Key   // the public one; the zero value: there was none
	rest time.Time  // until then nothing is read
}

// NewKeys returns Keys that call a function for each change, until a look at the host has seen it.
func NewKeys(changed func()) *Keys { return &Keys{changed: changed} }

// read takes over what a look has found that had a file in mind.
func (k *Keys) read(c *config.Config, own plan.OwnKey, err error) {
	if k == nil || err != nil { // it is looked at again in any case
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.path, k.key = "", own.Key
	if needsKey(c) {
		k.path = c.WireGuard.PrivateKey
	}
}

// needsKey tells whether a host needs a private key for a file.
func needsKey(c *config.Config) bool {
	return c.NeedsKey() ||
		slices.ContainsFunc(c.Nodes, func(n config.Node) bool { return n.PublicKey.IsValid() })
}

// keyRest bounds how often the key is read: a file system that hangs takes its time for each reading.
var keyRest = backoff.Rest{Share: 50, Most: 10 * time.Second}

// Look reads the key, and calls changed if it is another one. It is called each second.
func (k *Keys) Look(now time.Time) {
	k.mu.Lock()
	path, key, rests := k.path, k.key, now.Before(k.rest)
	k.mu.Unlock()
	if path == "" || rests {
		return
	}
	began := time.Now()
	private, err := wireguard.ReadKey(context.Background(), path)
	k.mu.Lock()
	k.rest = now.Add(keyRest.After(time.Since(began)))
	changed := k.path == path && k.key == key && err == nil && private.Public() != key
	k.mu.Unlock()
	if changed {
		k.changed()
	}
}
