package survey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/passing"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/wireguard"
)

// ownKey reads the key of this host where a file needs it: one without keys leaves the disk alone. It takes
// two seconds at most for each of the files of a key that it needs: one, two while the file lists next keys,
// and three if it does not list this host's. The error is one that passes, of a file that needs the key.
func ownKey(c *config.Config) (own plan.OwnKey, err error) {
	if !needsKey(c) {
		return own, nil
	}
	path := c.WireGuard.PrivateKey
	private, err := wireguard.ReadKey(context.Background(), path)
	if err != nil {
		if c.NeedsKey() && passing.Is(err) {
			return own, err
		}
		return plan.OwnKey{KeyErr: err, KeyRemedy: KeyRemedy(path, err)}, nil
	}
	own.Key = private.Public()
	if !slices.ContainsFunc(c.Nodes, func(n config.Node) bool { return n.HasKey(own.Key) }) {
		own.KeyNext, own.KeyBefore = aside(wireguard.NextPath(path)), aside(wireguard.OldPath(path))
	}
	if own.KeyExposed = exposed(c, private); own.KeyExposed.IsValid() {
		own.KeyRemedy = fmt.Sprintf("delete %s on this host, run `meshd key`, and write what it prints as the "+
			"public_key of its node", path)
	}
	if slices.ContainsFunc(c.Nodes, func(n config.Node) bool { return n.NextKey.IsValid() }) {
		path := wireguard.NextPath(path)
		next, err := wireguard.ReadKeyFile(context.Background(), path)
		if key := exposed(c, next); err == nil && key.IsValid() {
			own.KeyExposed = key
			own.KeyRemedy = fmt.Sprintf("delete %s on this host, run `meshd key --next`, and write what it prints as "+
				"the next_public_key of its node", path)
		}
	}
	return own, nil
}

// aside returns the public key of a file that stands beside the key of this host; the zero value: there is
// none that can be read.
func aside(path string) mesh.Key {
	private, err := wireguard.ReadKeyFile(context.Background(), path)
	if err != nil {
		return mesh.Key{}
	}
	return private.Public()
}

// exposed returns the key of a file that is a private key; the zero value: none is.
func exposed(c *config.Config, private wireguard.Private) mesh.Key {
	for _, n := range c.Nodes {
		for _, key := range []mesh.Key{n.PublicKey, n.NextKey} {
			if private.Is(key) {
				return key
			}
		}
	}
	return mesh.Key{}
}

// OwnKey returns the public key of this host where a file lists keys; the zero value: it has none, or none
// that can be read.
func OwnKey(c *config.Config) mesh.Key {
	own, err := ownKey(c)
	if err != nil {
		return mesh.Key{}
	}
	return own.Key
}

// KeyRemedy returns what an operator can do where wireguard.ReadKey found no key at a path.
func KeyRemedy(path string, err error) string {
	switch {
	case errors.Is(err, wireguard.ErrNoKey):
		return "run `meshd key` as root, and write what it prints as the public_key of this host's node"
	case errors.Is(err, wireguard.ErrOpenKey):
		return fmt.Sprintf("run `chmod 400 %s`; if another user may have read it, make a new key", path)
	case errors.Is(err, wireguard.ErrForeignKey), errors.Is(err, wireguard.ErrBadKey):
		return fmt.Sprintf("move %s away, and run `meshd key` to make a new key", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("run `chown meshd %s` for the service; root reads it in any case", path)
	}
	return fmt.Sprintf("make %s readable for the user meshd", path)
}
