package configs

import (
	"fmt"
	"net/netip"
	"strings"
)

// Marks of the starter file: between them are the nodes of its example.
const (
	firstNode = "\n[[node]]\n"
	behind    = "\n# Everything below is optional."
)

// thisNode is a node with the name and the address of a host.
const thisNode = `
[[node]]
name    = %q
address = %q
subnets = ["10.244.1.0/24"]
`

// For returns the starter file with one node: a host of this name and underlay address, which must
// be valid in the file.
func For(name string, address netip.Addr) []byte {
	head, _, _ := strings.Cut(string(Starter), firstNode)
	_, tail, _ := strings.Cut(string(Starter), behind)
	network := beside(address)
	node := fmt.Sprintf(network.Replace(thisNode), name, address.String())
	// No node that does not exist, not even in a comment: it would be in the way of the one that
	// `meshd init --add`, which the head names, writes.
	return []byte(network.Replace(head) + node + behind + tail)
}

// Minimal is For without the keys that have a default, and without what explains them.
func Minimal(name string, address netip.Addr) []byte {
	const head = `# /etc/mesh.toml, the same on every host; mesh.toml(5) explains every key.
[network]
cidr = "10.244.0.0/16"
`
	network := beside(address)
	return []byte(network.Replace(head) + fmt.Sprintf(network.Replace(thisNode), name, address.String()))
}

// Encrypted returns a file of For or Minimal in which the node has a public key and packets are encrypted. An
// address that is not valid is left out: such a node calls the others.
func Encrypted(doc []byte, key string) []byte {
	const bare = "# transport = \"udp\"      # \"wireguard\": encrypt; every node needs a public_key\n"
	const sealed = "transport = \"wireguard\"\n"
	text := strings.Replace(string(doc), bare, sealed, 1)
	if !strings.Contains(text, "\n"+sealed) {
		text = strings.Replace(text, "\n\n[[node]]", "\n"+sealed+"\n[[node]]", 1)
	}
	text = strings.Replace(text, fmt.Sprintf("address = %q\n", netip.Addr{}), "", 1)
	head, node, _ := strings.Cut(text, firstNode)
	subnets, rest, _ := strings.Cut(node, "]\n")
	return fmt.Appendf(nil, "%s%s%s]\npublic_key = %q\n%s", head, firstNode, subnets, key, rest)
}

// beside returns what moves the pod network of the example away from an underlay address.
func beside(address netip.Addr) *strings.Replacer {
	const example = "10.244."
	if strings.HasPrefix(address.String(), example) {
		return strings.NewReplacer(example, "10.245.")
	}
	return strings.NewReplacer()
}
