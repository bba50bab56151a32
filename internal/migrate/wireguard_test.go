package migrate

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Public keys of tests; publicA belongs to keyA.
const (
	publicA = "QiyOemIn17yhNQs+K7cnn3iXuHu2hUt4PGDoAxGuMHk="
	publicB = "jSD4x7v7mvPaTvUy7UTvxozmQrxdDFyx17kblsdO3wI="
)

// wgDraft returns the draft of configurations that are valid: name, content, name, ...
func wgDraft(t *testing.T, namesAndContents ...string) *Draft {
	t.Helper()
	var files []File
	for pair := range slices.Chunk(namesAndContents, 2) {
		files = append(files, File{pair[0], []byte(pair[1])})
	}
	d, err := FromWireGuard(files)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// One file describes its host and the peers; what is outside of the network is a route.
func TestOneConfiguration(t *testing.T) {
	d := wgDraft(t, "edge.conf", "[Interface]\nAddress = 10.8.0.1/24\nPrivateKey = "+keyA+"\n"+
		"[Peer]\nPublicKey = "+publicB+"\nEndpoint = 192.0.2.2:51820\n"+
		"AllowedIPs = 10.8.0.2, 10.8.0.64/26\nAllowedIPs = 192.168.7.1/24, 0.0.0.0/0\n")
	want := []Node{
		{Name: "edge", CallsIn: true, Subnets: prefixesOf("10.8.0.1/32"), PublicKey: publicA},
		{Name: "node-192.0.2.2", Address: "192.0.2.2", Subnets: prefixesOf("10.8.0.2/32", "10.8.0.64/26"),
			Routes: prefixesOf("192.168.7.0/24"), PublicKey: publicB},
	}
	if !reflect.DeepEqual(d.Nodes, want) {
		t.Errorf("got %+v\nwant %+v", d.Nodes, want)
	}
	if !slices.Equal(d.CIDR, prefixesOf("10.8.0.0/24")) {
		t.Errorf("network %v", d.CIDR)
	}
}

// The public key joins what two files say of one host: its own part and that of a peer.
func TestFilesCompleteEachOther(t *testing.T) {
	d := wgDraft(t,
		"a.conf", "[Interface]\nAddress = 10.8.0.1/24\nPrivateKey = "+keyA+"\n",
		"b.conf", "[Interface]\nAddress = 10.8.0.2/24\n[Peer]\nPublicKey = "+publicA+
			"\nEndpoint = [2001:db8::1]:51820\nAllowedIPs = 10.8.0.1/32, 192.168.1.0/24\n")
	if len(d.Nodes) != 2 {
		t.Fatalf("%+v", d.Nodes)
	}
	want := Node{Name: "a", Address: "2001:db8::1", Subnets: prefixesOf("10.8.0.1/32"),
		Routes: prefixesOf("192.168.1.0/24"), PublicKey: publicA}
	if !reflect.DeepEqual(d.Nodes[0], want) {
		t.Errorf("got %+v\nwant %+v", d.Nodes[0], want)
	}
}

// The first endpoint stays, and a note tells of the other one.
func TestTwoEndpoints(t *testing.T) {
	peer := "[Interface]\n[Peer]\nPublicKey = " + publicA + "\nAllowedIPs = 10.0.0.1\nEndpoint = "
	one := wgDraft(t, "b.conf", peer+"192.0.2.1:1", "c.conf", peer+"192.0.2.1:1")
	two := wgDraft(t, "b.conf", peer+"192.0.2.1:1", "c.conf", peer+"192.0.2.9:1")
	for _, d := range []*Draft{one, two} {
		i := slices.IndexFunc(d.Nodes, func(n Node) bool { return n.Address != "" })
		if i < 0 || d.Nodes[i].Address != "192.0.2.1" {
			t.Errorf("%+v", d.Nodes)
		}
	}
	if len(two.Notes) != len(one.Notes)+1 {
		t.Errorf("%q and %q", one.Notes, two.Notes)
	}
}

// The network follows from the tunnel's addresses.
func TestNetworkOfAddresses(t *testing.T) {
	for name, test := range map[string]struct {
		addresses, allowed string
		want               []netip.Prefix
	}{
		"with a length":        {"10.8.0.1/24", "10.8.0.2/32", prefixesOf("10.8.0.0/24")},
		"single addresses":     {"10.0.0.1/32", "10.0.0.2/32", prefixesOf("10.0.0.0/30")},
		"without a length":     {"10.0.0.1", "10.0.0.9", prefixesOf("10.0.0.0/28")},
		"both families":        {"10.8.0.1/24, fd08::1/64", "10.8.0.2", prefixesOf("10.8.0.0/24", "fd08::/64")},
		"of different lengths": {"10.8.0.1/24, 10.8.1.1/24", "10.8.0.2", prefixesOf("10.8.0.0/23")},
		"nothing in common":    {"10.0.0.1/24, 192.168.0.1/24", "10.0.0.2", nil},
		"none":                 {"", "10.0.0.2", nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := wgDraft(t, "a.conf", "[Interface]\nAddress = "+test.addresses+"\nPrivateKey = "+keyA+
				"\n[Peer]\nPublicKey = "+publicB+"\nAllowedIPs = "+test.allowed+"\n")
			if !slices.Equal(d.CIDR, test.want) {
				t.Errorf("%v, want %v", d.CIDR, test.want)
			}
		})
	}
}

// slowCover is the oracle of cover: the first prefix that contains both, from the longest on.
func slowCover(a, b netip.Prefix) netip.Prefix {
	for bits := min(a.Bits(), b.Bits()); bits >= 0; bits-- {
		p := netip.PrefixFrom(a.Addr(), bits).Masked()
		if p.Contains(a.Addr()) && p.Contains(b.Addr()) {
			return p
		}
	}
	return netip.Prefix{}
}

func TestCover(t *testing.T) {
	all := prefixesOf("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.1.0/24", "10.128.0.1/32", "192.168.0.0/16",
		"255.255.255.255/32")
	for _, a := range all {
		for _, b := range all {
			if got, want := cover(a, b), slowCover(a, b); got != want {
				t.Errorf("cover(%s, %s) = %s, want %s", a, b, got, want)
			}
		}
	}
}

// The name of a host comes from a comment that can be one, or else from the file.
func TestNamesInComments(t *testing.T) {
	for comment, want := range map[string]string{
		"edge-1": "edge-1", "Name = edge-1": "edge-1", "name=Büro 3": "Büro 3",
		"edge (in the hall)": "edge (in the hall)",
		"PublicKey = abc":    "", "": "", "- a list": "", strings.Repeat("a", 33): "", "a/b": "", "key: value": "",
	} {
		t.Run(comment, func(t *testing.T) {
			if got := nameIn(comment); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// Sections have their keys in order, whatever their case and blanks, and their comment.
func TestSections(t *testing.T) {
	got, err := sections([]byte("# first\n[Interface]\n\n  MTU=1400 # a remark\n# between\nDNS = a = b\n" +
		"\n[PEER]\n# below\nx=\n"))
	want := []section{
		{"interface", 2, "first", []wgKey{{"mtu", "1400", 4}, {"dns", "a = b", 6}}},
		{"peer", 8, "below", []wgKey{{"x", "", 10}}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	if value := got[0].get("dns"); value != "a = b" {
		t.Errorf("get: %q", value)
	}
	if value := got[0].get("none"); value != "" {
		t.Errorf("get of a key that is not there: %q", value)
	}
}

// A road warrior knows one address of the tunnel, and its peer as the way to all others: that is no
// network for two, and not the peer's own.
func TestRoadWarrior(t *testing.T) {
	for name, test := range map[string]struct {
		address, allowed string
		cidr             []netip.Prefix
		routes           []netip.Prefix // of the peer
	}{
		"all traffic": {"10.8.0.2/32", "0.0.0.0/0, ::/0", nil, nil},
		"the tunnel":  {"10.8.0.2/32", "10.8.0.0/24", prefixesOf("10.8.0.0/24"), nil},
		"the tunnel and a LAN": {"10.8.0.2", "10.8.0.0/24, 192.168.7.0/24", prefixesOf("10.8.0.0/24"),
			prefixesOf("192.168.7.0/24")},
		"with a length":          {"10.8.0.2/24", "10.8.0.0/24", prefixesOf("10.8.0.0/24"), nil},
		"more than the tunnel":   {"10.8.0.2/24", "10.0.0.0/8", prefixesOf("10.8.0.0/24"), nil},
		"the longer of two ways": {"10.8.0.2/32", "10.0.0.0/8, 10.8.0.0/16", prefixesOf("10.8.0.0/16"), nil},
		"a way of both families": {"10.8.0.2/32, fd08::2/128", "10.8.0.0/24, fd08::/64",
			prefixesOf("10.8.0.0/24", "fd08::/64"), nil},
		"networks somewhere else": {"10.8.0.2/32", "192.168.7.0/24", nil, prefixesOf("192.168.7.0/24")},
	} {
		t.Run(name, func(t *testing.T) {
			d := wgDraft(t, "laptop.conf", "[Interface]\nAddress = "+test.address+"\nPrivateKey = "+keyA+
				"\n[Peer] # office\nPublicKey = "+publicB+"\nAllowedIPs = "+test.allowed+"\n")
			if !slices.Equal(d.CIDR, test.cidr) {
				t.Errorf("network %v, want %v", d.CIDR, test.cidr)
			}
			for _, n := range d.Nodes {
				switch n.Name {
				case "laptop":
					if len(n.Subnets) == 0 || n.Subnets[0] != netip.MustParsePrefix("10.8.0.2/32") || len(n.Routes) > 0 {
						t.Errorf("%+v", n)
					}
				case "office":
					if len(n.Subnets) > 0 || !slices.Equal(n.Routes, test.routes) {
						t.Errorf("%+v", n)
					}
				default:
					t.Errorf("a node %q", n.Name)
				}
			}
		})
	}
}
