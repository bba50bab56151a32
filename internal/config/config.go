// Package config turns /etc/mesh.toml into values. It reads the file, checks every rule
// and reports all faults at once, each with its place. The package knows nothing of this
// host: internal/daemon decides which node of the file this host is.
//
// A file passes five stations, each in a source file of its own:
//
//	gate      bounds what the TOML library gets to see, and finds unknown keys (stray, guess)
//	raw       the library's values, table by table; explain and hint say why there are none
//	value     one raw value becomes one typed value
//	validate  the rules between values: families, overlaps, names used twice
//	report    faults with line and column, in file order
//
// Files apart from these: shape.go is the table of what each value may be by itself, again.go parses only
// what differs from an earlier content, and edit.go adds a node to a file.
package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/source"
)

// DefaultPath is where the file lives on an installed host.
const DefaultPath = "/etc/mesh.toml"

// MaxSize bounds the file in bytes, so that a wrong path (an image) costs no memory. 10,000 nodes take
// about one MiB.
const MaxSize = 8 << 20

// A Config is one valid file. It is never changed after Load returns it and
// may be read by any number of goroutines.
type Config struct {
	Path string            // as given to Load
	Sum  [sha256.Size]byte // SHA-256 of the file's bytes
	// Meaning is equal on all hosts of a healthy mesh.
	Meaning Meaning

	Network    Network
	Dataplane  Dataplane
	Masquerade Masquerade
	Probe      Probe
	Metrics    Metrics
	Container  Container
	Transport  string // network.transport: how packets travel between nodes, "udp" or "wireguard"
	WireGuard  WireGuard
	Nodes      []Node  // in file order, at least one
	Allow      []Allow // in file order; none: everything is allowed

	shut bool   // see Shut
	doc  string // the text, to find the places of later faults and of warnings

	edit editable
}

// Fault returns the fault of a key ("network.interface") whose value is valid in itself
// but does not suit this host. The fault has the place of the value in the file. The
// message is formatted as by fmt.Sprintf; keys in it are shown. Fault may be called from any goroutine.
func (c *Config) Fault(key, format string, args ...any) Faults {
	r := report{path: c.Path, doc: c.doc, showKeys: true}
	r.add(key, format, args...)
	return r.result()
}

// NameFault returns the fault of a DNS name of a node, whose address does not suit. It is Fault otherwise.
func (c *Config) NameFault(name, format string, args ...any) Faults {
	for i, n := range c.Nodes {
		for j, a := range n.Addresses {
			if a.Name == name {
				return c.Fault(holder{i, j}.path(), format, args...)
			}
		}
		if n.Endpoint.Name == name {
			return c.Fault(nodePath(i)+".endpoint", format, args...)
		}
	}
	return c.Fault(nodeKey, format, args...)
}

// Text returns the bytes of the file.
func (c *Config) Text() string { return c.doc }

// SHA256 returns Sum in lower-case hex.
func (c *Config) SHA256() string { return hex.EncodeToString(c.Sum[:]) }

// Network is the [network] table.
type Network struct {
	Name      string         // a label for people, 1 to 64 printable characters
	CIDR      []netip.Prefix // the pod network: one prefix, or one of each family, masked
	Port      uint16         // UDP port of nodes whose address names none
	Interface string         // TUN name, 1 to 15 bytes
	MTU       int            // of the TUN, in bytes; 0: derive it from the underlay
}

// CIDROf returns the network's prefix that has the family of ip. ok is false if the
// network does not carry that family.
func (n Network) CIDROf(ip netip.Addr) (prefix netip.Prefix, ok bool) {
	for _, p := range n.CIDR {
		if p.Addr().Is4() == ip.Is4() {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// The transports.
const (
	TransportUDP       = "udp"       // bare, as flannel's udp backend sends them
	TransportWireGuard = "wireguard" // encrypted; then nothing is sent bare, whatever breaks
)

// Sealed tells whether the file asks for encryption.
func (c *Config) Sealed() bool { return c.Transport == TransportWireGuard }

// Keyed tells whether the file lists keys: then hosts are ready for encryption before it begins.
func (c *Config) Keyed() bool {
	return slices.ContainsFunc(c.Nodes, func(n Node) bool { return n.PublicKey.IsValid() })
}

// Words that are values of keys: "auto" and "off" of several, "all" of masquerade.forward,
// "kernel" and "user" of dataplane.engine.
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
	Receive string // "auto", "fou", "xdp", "tcx", "socket"
	Offload string // "auto", "off"
	Queues  int    // queues of the TUN, 1 to 256; 0: meshd chooses
	Spread  bool   // send each flow or queue from a source port of its own
}

// Masquerade is the [masquerade] table.
type Masquerade struct {
	Enabled     bool           // rewrite the source of packets that leave the mesh
	FullyRandom bool           // choose source ports at random (nft: masquerade fully-random)
	Exclude     []netip.Prefix // destinations that see the pod's own address
	Forward     bool           // accept the mesh's packets where the host's firewall drops them
	ForwardAll  bool           // accept all packets from and to the TUN, not only the usual ones
}

// Probe is the [probe] table.
type Probe struct {
	Interval time.Duration // between two probes of a peer, 100 ms to 1 h; 0: no probes
	Speed    bool          // other nodes may measure the throughput to this one
}

// Metrics is the [metrics] table.
type Metrics struct {
	Listen string // host:port of the HTTP listener; empty: the control socket only
}

// Container is the [container] table. Empty paths mean "do not write".
type Container struct {
	SubnetEnv string // absolute path of the file that flannel's CNI plugin reads
	CNIConf   string // absolute path of a CNI configuration list
}

// WireGuard is the [wireguard] table.
type WireGuard struct {
	Port       uint16 // UDP, of all nodes, 51820 by default
	PrivateKey string // absolute path, on each host, of the file with its private key
}

// defaultWireGuard is what a file without the table asks for.
var defaultWireGuard = WireGuard{Port: 51820, PrivateKey: "/etc/meshd/private.key"}

// A Node is one [[node]] table: a host and the prefixes behind it.
type Node struct {
	Name      string         // 1 to 63 characters of [a-z0-9.-], used once
	Addresses []Address      // where its meshd listens, in order of preference; none: it calls in (Sealed)
	Subnets   []netip.Prefix // pod subnets, at least one, inside the network's CIDR
	Routes    []Route        // further prefixes behind this node, outside the CIDR

	PublicKey mesh.Key // identifies the node; the zero value: it has none
	// NextKey is the key that the node is about to take, or has taken, in the place of PublicKey; the zero
	// value: it keeps its key.
	NextKey mesh.Key
	// Endpoint is where its WireGuard listens, if that is not its address with WireGuard.Port, such as behind
	// a router that forwards another port; the zero value: it is.
	Endpoint Address
	Via      string // the node that forwards between this one and others without an address; empty: none
}

// An Address is one place where a node listens: an IP address, or a DNS name that stands for some.
type Address struct {
	Name string // of DNS, in lower case and without a dot at its end; empty: AddrPort is the address
	// AddrPort is the address and the UDP port; Network.Port fills in a missing port. A name has a port
	// alone.
	netip.AddrPort
}

// A Route is one prefix behind a node.
type Route struct {
	netip.Prefix
	Metric int // of several nodes with the same prefix, the lowest one that is up carries it; 0 to 65535
}

// DefaultMetric is that of a route that names none.
const DefaultMetric = 100

// Prefixes returns the node's routes without their metrics.
func (n Node) Prefixes() (ps []netip.Prefix) {
	for _, r := range n.Routes {
		ps = append(ps, r.Prefix)
	}
	return ps
}

// Port returns the UDP port of the node's first address; 0 without one.
func (n Node) Port() uint16 {
	if len(n.Addresses) == 0 {
		return 0
	}
	return n.Addresses[0].Port()
}

// Address returns the address that the node prefers; the zero value for a name.
func (n Node) Address() netip.AddrPort {
	if len(n.Addresses) == 0 || n.Addresses[0].Name != "" {
		return netip.AddrPort{}
	}
	return n.Addresses[0].AddrPort
}

// Load reads and checks the file at path, by the rules of package source. The error of an unreadable
// file and of an invalid one is of type Faults. It returns soon, whatever the file system does.
func Load(path string) (*Config, error) {
	doc, err := source.Read(context.Background(), path, MaxSize)
	if err != nil {
		return nil, Unreadable(path, err)
	}
	return Parse(path, doc)
}

// Unreadable returns the fault of a file that cannot be read.
func Unreadable(path string, err error) Faults {
	return Faults{{Path: path, Message: err.Error()}}
}

// Parse checks doc, the bytes of a configuration file. path appears in messages, and tells
// which files the configuration must not write. The error, if any, is of type Faults.
func Parse(path string, doc []byte) (*Config, error) {
	return ParseContext(context.Background(), path, doc)
}

// ParseContext is Parse for a caller that may give up, such as a client of the control
// socket: it returns the cause of ctx soon after ctx ends. The TOML library cannot be
// interrupted, which delays the return by up to a second for the largest files.
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
	c.edit = editableOf(c.Nodes, r.found)
	c.Meaning = meaningOf(c)
	return c, nil
}
