// Package config turns /etc/mesh.toml into values: it reads the file, checks
// every rule of it and reports all faults at once with their places. It knows
// nothing of this host; which node is "me" is decided by internal/daemon.
package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"time"
)

// DefaultPath is where the file lives on an installed host.
const DefaultPath = "/etc/mesh.toml"

// maxSize bounds the file in bytes; 10,000 nodes take about one MiB.
const maxSize = 8 << 20

// A Config is one valid file. It is never changed after Load returns it and
// may be read by any number of goroutines.
type Config struct {
	Path string            // as given to Load
	Sum  [sha256.Size]byte // SHA-256 of the file's bytes; equal on all hosts of a healthy mesh

	Network    Network
	Dataplane  Dataplane
	Masquerade Masquerade
	Probe      Probe
	Metrics    Metrics
	Container  Container
	Nodes      []Node // in file order, at least one

	doc string // for the places of faults that are found later
}

// Fault returns what is wrong with the value of a key ("network.interface") though the
// file itself is good, with its place.
func (c *Config) Fault(key, format string, args ...any) Faults {
	r := report{path: c.Path, doc: c.doc}
	r.add(key, format, args...)
	return r.result()
}

// SHA256 returns Sum in lower-case hex.
func (c *Config) SHA256() string { return hex.EncodeToString(c.Sum[:]) }

// Network is the [network] table.
type Network struct {
	Name      string         // label for people
	CIDR      []netip.Prefix // the pod network: one prefix, or one of each family
	Port      uint16         // UDP port of nodes whose address names none
	Interface string         // TUN name, 1 to 15 bytes
	MTU       int            // of the TUN, bytes; 0: derive it from the underlay
}

// CIDROf returns the network's prefix of the family of ip; ok is false if the
// network does not carry that family.
func (n Network) CIDROf(ip netip.Addr) (prefix netip.Prefix, ok bool) {
	for _, p := range n.CIDR {
		if p.Addr().Is4() == ip.Is4() {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Values of the keys in [dataplane] that name a way of working.
const (
	Auto         = "auto"
	Off          = "off"
	Everything   = "all"
	EngineKernel = "kernel"
	EngineUser   = "user"
)

// Dataplane is the [dataplane] table.
type Dataplane struct {
	Engine  string // "auto", "kernel", "user"
	Receive string // "auto", "xdp", "tcx", "socket"
	Offload string // "auto", "off"
	Queues  int    // 0: as many as useful
	Spread  bool   // each flow or queue is sent from a port of its own
}

// Masquerade is the [masquerade] table.
type Masquerade struct {
	Enabled     bool
	FullyRandom bool
	Exclude     []netip.Prefix // destinations that see the pod's own address
	Forward     bool           // accept the mesh's packets where the host drops what it forwards
	ForwardAll  bool           // not only within the mesh, from pods, and to published ports
}

// Probe is the [probe] table.
type Probe struct {
	Interval time.Duration // 0: probing is off
}

// Metrics is the [metrics] table.
type Metrics struct {
	Listen string // host:port, or empty: control socket only
}

// Container is the [container] table. Empty paths mean "do not write".
type Container struct {
	SubnetEnv string
	CNIConf   string
}

// A Node is one [[node]] table: a host and the prefixes behind it.
type Node struct {
	Name    string
	Address netip.AddrPort // underlay address; the port is filled in from Network.Port
	Subnets []netip.Prefix // pod subnets, at least one, inside the network's CIDR
	Routes  []netip.Prefix // further prefixes reached through this node, outside the CIDR
}

// Load reads and checks the file at path. A file that cannot be read or is not
// acceptable gives Faults as the error.
func Load(path string) (*Config, error) {
	doc, err := read(path)
	if err != nil {
		return nil, Faults{{Path: path, Message: err.Error()}}
	}
	return Parse(path, doc)
}

// EmptyHash is the SHA256 of a file without content.
const EmptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Hash returns the SHA256 of the file at path as it is now.
func Hash(path string) (string, error) {
	doc, err := read(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:]), nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("cannot read the file: %w: the service runs as user meshd, so it has to be readable for all: `chmod 644 %s`", err, path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", err)
	}
	defer f.Close()
	doc, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", err)
	}
	if len(doc) > maxSize {
		return nil, fmt.Errorf("larger than %d MiB: not a mesh configuration", maxSize>>20)
	}
	return doc, nil
}

// Parse checks doc, the bytes of a configuration file; path is only used in
// messages. The error, if any, is of type Faults.
func Parse(path string, doc []byte) (*Config, error) {
	return ParseContext(context.Background(), path, doc)
}

// ParseContext is Parse for somebody who may leave: it returns ctx's cause soon after
// ctx ends, a second later at most if the file is among the largest.
func ParseContext(ctx context.Context, path string, doc []byte) (*Config, error) {
	r := &report{path: path, doc: string(doc)}
	raw := decode(ctx, r.doc, r)
	c := validate(ctx, raw, r)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if faults := r.result(); len(faults) > 0 {
		return nil, faults
	}
	c.Path, c.Sum, c.doc = path, sha256.Sum256(doc), r.doc
	return c, nil
}
