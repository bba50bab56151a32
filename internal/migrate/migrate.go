// Package migrate reads what other systems know of hosts and their networks, and drafts a
// mesh.toml of it. It is a room of its own because it knows other people's formats and
// nothing of ours but the file's words; nothing here touches a host.
package migrate

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// A File is one input.
type File struct {
	Name    string // for messages
	Content []byte
}

// A Draft is a mesh.toml to be, in the order in which it is written.
type Draft struct {
	From string // "flannel", "WireGuard"
	CIDR []netip.Prefix
	Port int // 0: the default

	NoPods bool // the nodes' subnets are addresses of their own: there is nothing for container runtimes
	Nodes  []Node
	Notes  []string // what could not be carried over, a sentence each
}

// A Node is one host of a draft.
type Node struct {
	Name    string
	Address string // IP, or IP:port; empty if it is unknown
	Subnets []netip.Prefix
	Routes  []netip.Prefix
}

func (d *Draft) note(format string, args ...any) {
	n := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) { // it becomes a line of comment
			return ' '
		}
		return r
	}, fmt.Sprintf(format, args...))
	if !slices.Contains(d.Notes, n) {
		d.Notes = append(d.Notes, n)
	}
}

// TOML returns the file. It says in comments what could not be carried over, and is not
// accepted by `meshd check` where something is missing.
func (d *Draft) TOML() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# /etc/mesh.toml, drafted from %s by `meshd init`: one file, the same on every host.\n", d.From)
	fmt.Fprintf(&b, "# `meshd init` alone prints a file that explains every key.\n")
	if len(d.Notes) > 0 {
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
	if d.NoPods {
		b.WriteString("\n[container]\nsubnet_env = \"\" # no node has room for pods\n")
	}
	for _, n := range d.Nodes {
		fmt.Fprintf(&b, "\n[[node]]\nname    = %s\n", strconv.Quote(n.Name))
		if n.Address == "" {
			b.WriteString("address = \"\" # FILL IN: where the other hosts reach it\n")
		} else {
			fmt.Fprintf(&b, "address = %s\n", strconv.Quote(n.Address))
		}
		fmt.Fprintf(&b, "subnets = %s", list(n.Subnets))
		if len(n.Subnets) == 0 {
			b.WriteString(" # FILL IN: its pods, inside cidr")
		}
		b.WriteString("\n")
		if len(n.Routes) > 0 {
			fmt.Fprintf(&b, "routes  = %s\n", list(n.Routes))
		}
	}
	return b.Bytes()
}

func list(ps []netip.Prefix) string {
	var words []string
	for _, p := range ps {
		words = append(words, strconv.Quote(p.String()))
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// finish gives every node a name of its own, and the nodes an order.
func (d *Draft) finish() {
	slices.SortStableFunc(d.Nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(firstSubnet(a), firstSubnet(b)), cmp.Compare(a.Name, b.Name))
	})
	taken := map[string]bool{}
	for i := range d.Nodes {
		n := &d.Nodes[i]
		base := nodeName(n.Name)
		if base == "" {
			base = "node-" + nodeName(cmp.Or(n.Address, strconv.Itoa(i+1)))
		}
		n.Name = base
		for k := 2; taken[n.Name]; k++ {
			n.Name = fmt.Sprintf("%s-%d", base, k)
		}
		taken[n.Name] = true
	}
}

// firstSubnet returns something that sorts as the first subnet does.
func firstSubnet(n Node) string {
	if len(n.Subnets) == 0 {
		return "\xff"
	}
	a := n.Subnets[0].Addr().As16()
	return string(a[:])
}

var noName = regexp.MustCompile(`[^a-z0-9.-]+`)

// nodeName makes a name of a node of words.
func nodeName(words string) string {
	return strings.Trim(noName.ReplaceAllString(strings.ToLower(words), "-"), "-.")
}
