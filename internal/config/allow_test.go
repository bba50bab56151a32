package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
)

// allowed is a file with rules.
const allowed = `[network]
cidr = "10.0.0.0/8"

[[node]]
name = "a"
address = "172.18.0.1"
subnets = ["10.1.0.0/24"]

[[node]]
name = "c"
address = "172.18.0.3"
subnets = ["10.3.0.0/24"]
[[node]]
name = "b"
address = "172.18.0.2"
subnets = ["10.2.0.0/24"]
routes = ["192.168.1.0/24"]

[[allow]]
name = "web"
from = ["a", "10.3.0.0/25", "outside"]
to = ["b"]
proto = ["tcp/443", "udp/8000-8100", "icmp"]
[[allow]]
to = ["mesh"]
`

func TestAllowIsRead(t *testing.T) {
	c, err := Parse("x", []byte(allowed))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Allow); got != "[{web [a 10.3.0.0/25 outside] [b] [tcp/443 udp/8000-8100 icmp]} "+
		"{#2 [mesh] [mesh] []}]" {
		t.Error(got)
	}
}

// An edit of nodes beside rules leads to what parsing the whole file leads to.
func TestParseAfterBesideRules(t *testing.T) {
	for _, test := range []struct {
		name, old, new string
		fast           bool
	}{
		{"address", "172.18.0.3", "172.18.0.4", true}, {"name of no rule", `"c"`, `"d"`, true},
		{"the last node", "172.18.0.2", "172.18.0.4", false},
		{"name of a rule", `name = "b"`, `name = "d"`, false}, {"name mesh", `name = "c"`, `name = "mesh"`, false},
		{"name outside", `name = "c"`, `name = "outside"`, false}, {"a rule", "tcp/443", "tcp/444", false},
		{"a rule goes", "[[allow]]\nto", "# [[allow]]\n# to", false},
		{"a rule between nodes", "\n\n[[node]]", "\n[[allow]]\nto = ['a']\n[[node]]", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			old, err := Parse("x", []byte(allowed))
			if err != nil {
				t.Fatal(err)
			}
			doc := strings.Replace(allowed, test.old, test.new, 1)
			next := sameParse(t, old, doc)
			if fast := old.edited("x", doc) != nil; fast != test.fast {
				t.Errorf("fast: %t", fast)
			}
			if next != nil {
				sameParse(t, next, allowed)
			}
		})
	}
}

// Rules mean something; a name of a rule does as well, since counters have it.
func TestMeaningOfRules(t *testing.T) {
	all := map[Meaning]string{}
	for _, test := range [][2]string{{"", ""}, {"web", "www"}, {"tcp/443", "tcp/444"}, {`"icmp"`, `"tcp"`},
		{`"a", `, ""}, {`to = ["b"]`, `to = ["b", "c"]`}, {"[[allow]]\nto = [\"mesh\"]\n", ""}} {
		c, err := Parse("x", []byte(strings.Replace(allowed, test[0], test[1], 1)))
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := all[c.Meaning]; taken {
			t.Errorf("%q means the same as %q", test[1], other)
		}
		all[c.Meaning] = test[1]
	}
}

// As many rules and pairs as the limits say are read, and one more is a fault.
func TestAllowLimits(t *testing.T) {
	head := allowed[:strings.Index(allowed, "[[allow]]")]
	rules := func(n int) string { return head + strings.Repeat("[[allow]]\nto = ['a']\n", n) }
	pairs := func(from, to int) string {
		list := func(net, n int) string {
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, "'10.%d.%d.%d/32',", net, i/250, i%250)
			}
			return "[" + b.String() + "]"
		}
		return head + "[[allow]]\nfrom = " + list(1, from) + "\nto = " + list(2, to) + "\n"
	}
	for _, test := range []struct {
		name, doc string
		ok        bool
	}{{"rules", rules(MaxAllows), true}, {"too many rules", rules(MaxAllows + 1), false},
		{"pairs", pairs(1000, 1000), true}, {"too many pairs", pairs(1001, 1000), false}} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("x", []byte(test.doc))
			if faults, _ := err.(Faults); (err == nil) != test.ok || err != nil && len(faults) != 1 {
				t.Error(err)
			}
		})
	}
}

// What ParseService accepts has the ports that it says, and is written as it is read.
func FuzzParseService(f *testing.F) {
	for _, s := range []string{"tcp", "icmp", "tcp/443", "udp/8000-8100", "sctp/1-65535", "tcp/0", "tcp/9-1",
		"tcp/+1",
		"icmp/8", "TCP", "443", "", "/", "tcp/1-2-3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		defer budget.Of(t)()
		s, err := ParseService(text)
		if err != nil {
			if err.Error() == "" {
				t.Error("no words")
			}
			return
		}
		again, err := ParseService(s.String())
		if err != nil || !reflect.DeepEqual(again, s) || s.First > s.Last {
			t.Errorf("%q is %+v, and %q is %+v, %v", text, s, s, again, err)
		}
	})
}
