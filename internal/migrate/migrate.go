// Package migrate reads the state of flannel or Kubernetes or the configuration of WireGuard and drafts a
// mesh.toml from it. It is a room of its own because it knows the formats of other programs,
// and of meshd only the keys of its file. Nothing here touches a host.
//
//	File   one input, as another program printed or keeps it
//	Draft  what the inputs say together, in the terms of mesh.toml
//	Note   a sentence about something that mesh.toml cannot express; a comment in the file
//
// Input comes from other programs and may be anything: a note or a value never adds a line
// of its own to the file (FuzzFlannel, FuzzWireGuard), and keys never become part of it.
package migrate

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
)

// Bounds of the input. What is larger is no mesh that one file can describe.
const (
	MaxInput = 64 << 20 // bytes of one file: `kubectl get nodes -o json` prints 30 kB for a node
	maxDocs  = 10_000   // JSON or YAML documents of one file: a manifest has about ten
	maxNodes = 20_000   // of a draft
	maxNotes = 200      // of a draft; the others are counted
)

// Errors of input; test with errors.Is.
var (
	// ErrUnknown says that an input has none of the known forms.
	ErrUnknown = errors.New("unknown input: expected flannel's net-conf.json, kube-flannel.yml, leases from " +
		"etcd, or the output of `kubectl get nodes -o json`")
	// ErrInvalid says that the form of an input is known but a value in it is not valid.
	ErrInvalid = errors.New("invalid input")
	// ErrTooLarge says that an input exceeds a bound.
	ErrTooLarge = errors.New("too large")
)

// A File is one input.
type File struct {
	Name    string // for messages, and a host without another name
	Content []byte
}

// text returns the content as UTF-8 without a byte order mark. PowerShell's `>` writes such a mark,
// or UTF-16.
func (f File) text() ([]byte, error) {
	if len(f.Content) > MaxInput {
		return nil, fmt.Errorf("%w: the limit is %d MiB", ErrTooLarge, MaxInput>>20)
	}
	for mark, order := range map[string]binary.ByteOrder{
		"\xff\xfe": binary.LittleEndian, "\xfe\xff": binary.BigEndian,
	} {
		if wide, ok := bytes.CutPrefix(f.Content, []byte(mark)); ok {
			units := make([]uint16, len(wide)/2)
			for i := range units {
				units[i] = order.Uint16(wide[2*i:])
			}
			return []byte(string(utf16.Decode(units))), nil
		}
	}
	return bytes.TrimPrefix(f.Content, []byte("\xef\xbb\xbf")), nil
}

// A Draft is the content of a mesh.toml, in the order in which it is written.
type Draft struct {
	From string         // "flannel", "Kubernetes" or "WireGuard"
	CIDR []netip.Prefix // the pod network, masked; empty if the input does not say it
	Port int            // UDP port; 0: meshd's default
	// WGPort is wireguard.port of an encrypted mesh; 0: it is not encrypted.
	WGPort int

	// NoPods says that each node's subnets are single addresses: there is no room for pods, so
	// nothing is written for container runtimes.
	NoPods bool
	// CNIConf is container.cni_conf; empty: no configuration for a container runtime is written.
	CNIConf string
	Nodes   []Node   // sorted by subnet, with names that are unique
	Notes   []string // a sentence for each thing that could not be carried over

	losses losses
}

// A Node is one host of a draft.
type Node struct {
	Name    string         // of the characters that mesh.toml allows, once the draft is finished
	Address string         // IP, IP:port, or a DNS name; empty if it is unknown, or has none
	CallsIn bool           // it has none: it calls the others
	Subnets []netip.Prefix // inside the draft's CIDR
	Routes  []netip.Prefix // outside of it

	// Of an encrypted mesh.
	PublicKey string // in base64; empty: no input has it
	Endpoint  string // host:port where others call it; empty: its address with WGPort
	Via       string // the node that forwards for it; empty: none
}

// TOML returns the file. Comments list what could not be carried over. Where the input lacks
// something, the value is empty and marked FILL IN, and `meshd check` rejects the file until
// somebody does.
func (d *Draft) TOML() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# /etc/mesh.toml, drafted from %s by `meshd init`: one file, the same on every host.\n",
		d.From)
	fmt.Fprintf(&b, "# `meshd init` alone prints a file that explains every key.\n")
	if len(d.Notes) > 0 { // note has made one line of each
		b.WriteString("#\n# Not carried over:\n")
		for _, n := range d.Notes {
			fmt.Fprintf(&b, "#  - %s\n", n)
		}
	}
	b.WriteString("\n[network]\n")
	if len(d.CIDR) == 0 {
		b.WriteString("cidr = [] # FILL IN: the network of all pods\n")
	} else {
		fmt.Fprintf(&b, "cidr = %s\n", list(d.CIDR))
	}
	if d.Port != 0 {
		fmt.Fprintf(&b, "port = %d\n", d.Port)
	}
	if d.WGPort != 0 {
		fmt.Fprintf(&b, "transport = \"wireguard\"\n\n[wireguard]\nport = %d\n", d.WGPort)
	}
	if d.NoPods {
		b.WriteString("\n[container]\nsubnet_env = \"\" # no node has room for pods\n")
	}
	if d.CNIConf != "" {
		fmt.Fprintf(&b, "\n[container]\ncni_conf = %s\n", strconv.Quote(d.CNIConf))
	}
	for _, n := range d.Nodes {
		d.node(&b, n)
	}
	return b.Bytes()
}

// node writes one node of the file.
func (d *Draft) node(b *bytes.Buffer, n Node) {
	fmt.Fprintf(b, "\n[[node]]\nname    = %s\n", strconv.Quote(n.Name))
	switch {
	case n.Address != "":
		fmt.Fprintf(b, "address = %s\n", strconv.Quote(n.Address))
	case !n.CallsIn:
		b.WriteString("address = \"\" # FILL IN: where the other hosts reach it\n")
	}
	fmt.Fprintf(b, "subnets = %s", list(n.Subnets))
	if len(n.Subnets) == 0 {
		b.WriteString(" # FILL IN: its pods, inside cidr")
	}
	b.WriteString("\n")
	if len(n.Routes) > 0 {
		fmt.Fprintf(b, "routes  = %s\n", list(n.Routes))
	}
	if d.WGPort == 0 {
		return
	}
	fmt.Fprintf(b, "public_key = %s", strconv.Quote(n.PublicKey))
	if n.PublicKey == "" {
		b.WriteString(" # FILL IN: what `meshd key` prints on this host")
	}
	b.WriteString("\n")
	if n.Endpoint != "" {
		fmt.Fprintf(b, "endpoint = %s\n", strconv.Quote(n.Endpoint))
	}
	if n.Via != "" {
		fmt.Fprintf(b, "via = %s\n", strconv.Quote(n.Via))
	}
}

// list formats prefixes as a TOML list of strings.
func list(ps []netip.Prefix) string {
	var words []string
	for _, p := range ps {
		words = append(words, strconv.Quote(p.String()))
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// finish sorts the nodes, so that the order of the input files does not matter, gives each a valid
// and unique name, and writes the notes with these names.
func (d *Draft) finish() {
	order := make([]int, len(d.Nodes)) // of the nodes, by the numbers that losses know
	for i := range order {
		order[i] = i
	}
	// By address and not by text: 10.0.9.0 comes before 10.0.10.0.
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := d.Nodes[i], d.Nodes[j]
		return cmp.Or(cmp.Compare(firstSubnet(a), firstSubnet(b)), cmp.Compare(a.Name, b.Name))
	})
	taken, next := map[string]bool{}, map[string]int{}
	for i, id := range order {
		n := &d.Nodes[id]
		base := nodeName(n.Name)
		if base == "" { // etcd knows no names, and a peer may have no comment
			base = "node-" + nodeName(cmp.Or(n.Address, strconv.Itoa(i+1)))
		}
		n.Name = base
		for k := max(2, next[base]); taken[n.Name]; k++ {
			n.Name = fmt.Sprintf("%s-%d", base, k)
			next[base] = k + 1
		}
		taken[n.Name] = true
	}
	d.families()
	d.Notes = d.losses.notes(d.Nodes)
	sorted := make([]Node, 0, len(order))
	for _, id := range order {
		sorted = append(sorted, d.Nodes[id])
	}
	d.Nodes = sorted
}

// families notes that hosts with addresses of different families cannot reach each other.
func (d *Draft) families() {
	var v4, v6 []int
	for id, n := range d.Nodes {
		if a, err := netip.ParseAddr(n.Address); err != nil {
			continue
		} else if a.Is4() {
			v4 = append(v4, id)
		} else {
			v6 = append(v6, id)
		}
	}
	few, family := v6, "IPv6"
	if len(v4) < len(v6) {
		few, family = v4, "IPv4"
	}
	if len(v4) == 0 || len(v6) == 0 {
		return
	}
	for _, id := range few {
		d.losses.of(id, "the "+family+" address", "the others have addresses of the other family, and the two "+
			"cannot reach each other: give all hosts addresses of one family")
	}
}

// firstSubnet returns a string that sorts as the node's first subnet does; nodes without one
// come last.
func firstSubnet(n Node) string {
	if len(n.Subnets) == 0 {
		return "\xff"
	}
	a := n.Subnets[0].Addr().As16()
	return string(a[:])
}

// pattern returns a pattern that is compiled when it is needed: most processes migrate nothing.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// noName matches what a node's name in mesh.toml cannot have.
var noName = regexp.MustCompile(`[^a-z0-9.-]+`)

// nodeName turns words into a valid name of a node; empty if nothing of them is valid.
func nodeName(words string) string {
	return strings.Trim(noName.ReplaceAllString(strings.ToLower(words), "-"), "-.")
}
