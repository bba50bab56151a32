package config

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
)

// added adds a node to a document and returns the lines that are new.
func added(t *testing.T, doc string, n NewNode) (whole, fresh string) {
	t.Helper()
	e, err := NewEdit("x", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	out, c, err := e.Add(n)
	if err != nil {
		t.Fatal(err)
	}
	if last := c.Nodes[len(c.Nodes)-1]; last.Name != n.Name {
		t.Errorf("the last node is %q", last.Name)
	}
	whole = string(out)
	head := sharedPrefix(doc, whole)
	tail := sharedSuffix(doc[head:], whole[head:])
	if len(doc) != head+tail {
		t.Errorf("more than an insertion:\n%s", whole)
	}
	return whole, whole[head : len(whole)-tail]
}

// A node stands behind the last one, in its style, and everything else stays.
func TestAddNode(t *testing.T) {
	n := NewNode{Name: "c", Address: "172.18.0.9", Subnets: []string{"10.9.0.0/24"}}
	const node = someNetwork + "[[node]]\nname = \"a\"\naddress = \"172.18.0.2\"\nsubnets = [\"10.0.0.0/24\"]"
	const plain = "[[node]]\nname = \"c\"\naddress = \"172.18.0.9\"\nsubnets = [\"10.9.0.0/24\"]\n"
	const wide = "[[node]]\nname    = \"c\"\naddress = \"172.18.0.9\"\nsubnets = [\"10.9.0.0/24\"]\n"
	windows := strings.NewReplacer("\n", "\r\n")
	aligned := strings.NewReplacer("name =", "name    =")
	for name, test := range map[string]struct{ doc, want string }{
		"at the end":               {node + "\n", node + "\n\n" + plain},
		"without a line end":       {node, node + "\n\n" + plain},
		"behind a comment":         {node + " # last\n", node + " # last\n\n" + plain},
		"behind a key off":         {node + "\n# routes = []\n", node + "\n# routes = []\n\n" + plain},
		"before a table":           {node + "\n[probe]\n", node + "\n\n" + plain + "\n[probe]\n"},
		"before its comment":       {node + "\n# p\n[probe]\n", node + "\n\n" + plain + "\n# p\n[probe]\n"},
		"between empty lines":      {node + "\n\n[probe]\n", node + "\n\n" + plain + "\n[probe]\n"},
		"as the first":             {someNetwork, someNetwork + "\n" + wide},
		"with the ends of Windows": {windows.Replace(node + "\n"), windows.Replace(node + "\n\n" + plain)},
		"with a byte order mark":   {"\ufeff" + node + "\n", "\ufeff" + node + "\n\n" + plain},
		"aligned":                  {aligned.Replace(node) + "\n", aligned.Replace(node) + "\n\n" + wide},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := added(t, test.doc, n); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// A node that cannot be added has faults of its own; the file's own faults come first.
func TestAddNodeRefuses(t *testing.T) {
	doc := someNetwork + someNode
	for name, n := range map[string]NewNode{
		"name":       {Name: "a", Address: "172.18.0.9"},
		"address":    {Name: "b", Address: "172.18.0.2"},
		"subnets":    {Name: "b", Address: "172.18.0.9", Subnets: []string{"10.0.0.128/25"}},
		"public_key": {Name: "b", Address: "172.18.0.9", PublicKey: someKeys[0][1:]},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := NewEdit("x", []byte(doc))
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = e.Add(n)
			faults, _ := errors.AsType[Faults](err)
			if len(faults) != 1 || faults[0].Key != "node."+name {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := NewEdit("x", []byte("[network]\ncidr = 1\n")); err == nil {
		t.Error("a faulty file is edited")
	}
	inline := "node = [{name = \"a\", address = \"172.18.0.2\", subnets = [\"10.0.0.0/24\"]}]\n"
	e, err := NewEdit("x", []byte(inline+someNetwork))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Add(NewNode{Name: "b", Address: "172.18.0.3"}); !errors.Is(err, ErrOneLine) {
		t.Errorf("nodes on one line: %v", err)
	}
	e, err = NewEdit("x", []byte(strings.Replace(doc, "10.0.0.0/8", "10.0.0.0/24", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Add(NewNode{Name: "b", Address: "172.18.0.3"}); !errors.Is(err, ErrNoRoom) {
		t.Errorf("no room: %v", err)
	}
	for _, word := range []string{"a\"", "a\nb", `a\`} {
		n := NewNode{Name: word, Address: "172.18.0.3", Subnets: []string{"10.0.0.0/25"}}
		if _, _, err := e.Add(n); err == nil {
			t.Errorf("%q was added", word)
		}
	}
}

// With encryption a node has a key, and needs no address.
func TestAddNodeWithAKey(t *testing.T) {
	whole, fresh := added(t, sealed, NewNode{Name: "d", PublicKey: someKeys[3]})
	want := "\n[[node]]\nname = \"d\"\nsubnets = [\"10.3.1.0/24\"]\npublic_key = \"" + someKeys[3] + "\"\n"
	if fresh != want {
		t.Errorf("got\n%s\nwant\n%s\nin\n%s", fresh, want, whole)
	}
	e, err := NewEdit("x", []byte(sealed))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = e.Add(NewNode{Name: "d", Address: "172.18.0.9"})
	if faults, _ := errors.AsType[Faults](err); len(faults) != 1 || faults[0].Key != "node.public_key" {
		t.Errorf("without a key: %v", err)
	}
}

// Without a subnet the node gets the next free one of each family.
func TestFreeSubnets(t *testing.T) {
	for name, test := range map[string]struct{ cidr, subnets, want string }{
		"behind the last":     {`"10.244.0.0/16"`, `"10.244.1.0/24", "10.244.7.0/24"`, "[10.244.8.0/24]"},
		"as long as the last": {`"10.244.0.0/16"`, `"10.244.1.0/24", "10.244.2.0/26"`, "[10.244.2.64/26]"},
		"in a gap at the end": {`"10.244.0.0/22"`, `"10.244.0.0/24", "10.244.3.0/24"`, "[10.244.1.0/24]"},
		"at the beginning":    {`"10.244.0.0/23"`, `"10.244.1.0/24"`, "[10.244.0.0/24]"},
		"of both families": {`["10.0.0.0/8", "fd00::/48"]`, `"10.0.0.0/24", "fd00::/64"`,
			"[10.0.1.0/24 fd00:0:0:1::/64]"},
		"of one with room":     {`["10.0.0.0/24", "fd00::/48"]`, `"10.0.0.0/24"`, "[fd00::/64]"},
		"none":                 {`"10.0.0.0/24"`, `"10.0.0.0/24"`, "[]"},
		"none at the very end": {`"fdff::/16"`, `"fdff::/16"`, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse("x", []byte(fmt.Sprintf("[network]\ncidr = %s\n[[node]]\nname = \"a\"\n"+
				"address = \"172.18.0.2\"\nsubnets = [%s]\n", test.cidr, test.subnets)))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(c.FreeSubnets()); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// A gap is free, inside the network, and found whenever there is one.
func TestGap(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	cidr := netip.MustParsePrefix("10.0.0.0/24")
	for range 3000 {
		bits := 25 + random.IntN(4)
		var used []netip.Prefix
		for range random.IntN(12) {
			ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(256))})
			used = append(used, netip.PrefixFrom(ip, 24+random.IntN(7)).Masked())
		}
		free := func(p netip.Prefix) bool {
			for _, u := range used {
				if u.Overlaps(p) {
					return false
				}
			}
			return cidr.Contains(p.Addr())
		}
		any, last := false, netip.Prefix{} // the oracle: every candidate
		for n := 0; n < 256; n += 1 << (32 - bits) {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), bits)
			any = any || free(p)
			last = p
		}
		p, ok := gap(cidr, used, bits)
		if ok != any || ok && (!free(p) || p.Bits() != bits || free(last) && last.Addr().Less(p.Addr())) {
			t.Fatalf("%s, %v (%v) beside %v", p, ok, any, used)
		}
	}
}

// Whatever is added to whatever file, the result is a valid file with one node more, or nothing.
func FuzzAddNode(f *testing.F) {
	f.Add(someNetwork+someNode, "b", "172.18.0.3", "10.1.0.0/24")
	f.Add(someNetwork, "b", "172.18.0.3:1", "")
	f.Add("\ufeff"+strings.ReplaceAll(sound, "\n", "\r\n"), "edge-3", "2001:db8::1", "")
	f.Add(someNetwork+someNode+"# routes\n\n# x\n[probe]", "b", "\"", "]")
	f.Fuzz(func(t *testing.T, doc, name, address, subnet string) {
		defer budget.Of(t)()
		e, err := NewEdit("x", []byte(doc))
		if err != nil {
			return
		}
		n := NewNode{Name: name, Address: address}
		if subnet != "" {
			n.Subnets = []string{subnet}
		}
		before := len(e.config.Nodes)
		out, c, err := e.Add(n)
		if err != nil {
			return
		}
		if len(c.Nodes) != before+1 || c.Nodes[before].Name != name || len(c.Nodes[before].Subnets) == 0 {
			t.Errorf("%d nodes, were %d: %q", len(c.Nodes), before, out)
		}
		head := sharedPrefix(doc, string(out))
		if tail := sharedSuffix(doc[head:], string(out[head:])); head+tail != len(doc) {
			t.Errorf("more than an insertion: %q became %q", doc, out)
		}
	})
}
