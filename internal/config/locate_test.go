package config

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// lineAndColumn is what a cursor and lines have to say, slowly.
func lineAndColumn(doc string, at int) (line, col int) {
	head := doc[:min(at, len(doc))]
	return 1 + strings.Count(head, "\n"), 1 + utf8.RuneCountInString(head[strings.LastIndexByte(head, '\n')+1:])
}

func TestCursor(t *testing.T) {
	doc := "a = 1\n\nö = \"äöü\" # x\r\n[t]\n\n"
	for stride := range 7 {
		c, starts := cursor{doc: doc}, linesOf(doc)
		for at := 0; at < len(doc)+3; at += 1 + stride {
			if at < len(doc) && !utf8.RuneStart(doc[at]) {
				continue
			}
			wantLine, wantCol := lineAndColumn(doc, at)
			if line, col := c.move(at); line != wantLine || col != wantCol {
				t.Errorf("offset %d: %d:%d, want %d:%d", at, line, col, wantLine, wantCol)
			}
			if line := starts.line(at); line != wantLine {
				t.Errorf("offset %d: line %d, want %d", at, line, wantLine)
			}
		}
	}
}

// The places of what is written in several ways, and of what is not written.
func TestPlaces(t *testing.T) {
	doc := "network.cidr = 'x'\n[[node]]\nname = 1\nsubnets = [ 'a', ['b', 'c'] ]\n" +
		"[[node]]\n[node.deep]\nx = {y = [{z = 3}]}\n"
	where := locate(doc)
	for path, text := range map[string]string{
		"": "network", "network": "network", "network.cidr": "'x'", "network.mtu": "network",
		"probe.interval": "network",
		"node[0]":        "[[node]]\nname", "node[0].name": "1\n", "node[0].address": "[[node]]\nname",
		"node[0].subnets[0]": "'a'", "node[0].subnets[1][1]": "'c'", "node[0].subnets[7]": "[ 'a'",
		"node[1]": "[[node]]\n[node.deep]", "node[1].deep": "[node.deep]", "node[1].deep.x.y[0].z": "3}",
		"node[9].name": "[[node]]\nname",
	} {
		t.Run(path, func(t *testing.T) {
			if at := where.at(path); !strings.HasPrefix(doc[at:], text) {
				t.Errorf("it is at %.12q, want %q", doc[at:], text)
			}
		})
	}
}

// The sorted claims give the answers that a look at all pairs gives.
func TestOwners(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var o owners
		var all []claim
		for i := range 1 + random.IntN(30) {
			ip := netip.AddrFrom4([4]byte{10, byte(random.IntN(3)), byte(random.IntN(3) << 6), 0})
			if random.IntN(4) == 0 {
				ip = netip.AddrFrom16([16]byte{0xfd, byte(random.IntN(2)), 0, byte(random.IntN(3))})
			}
			p := netip.PrefixFrom(ip, 8+random.IntN(20)).Masked()
			o.add(p, strconv.Itoa(i), 0)
			all = append(all, claim{p, strconv.Itoa(i), 0, i})
		}
		o.index()
		for i, c := range o.claims {
			got, ok := o.covering(i)
			check(t, "covering "+c.prefix.String(), got, ok, slowCovering(all, c))
		}
		for _, text := range []string{"10.0.0.1", "10.1.64.9", "10.2.128.0", "fd00::1", "fd01:2::", "9.9.9.9"} {
			ip := netip.MustParseAddr(text)
			got, ok := o.holding(ip)
			host := claim{prefix: netip.PrefixFrom(ip, ip.BitLen()), order: len(all)}
			check(t, "holding "+text, got, ok, slowCovering(all, host))
		}
	}
}

// slowCovering looks at every claim; nil: none covers c.
func slowCovering(all []claim, c claim) (best *claim) {
	for i, other := range all {
		contains := other.prefix.Bits() < c.prefix.Bits() && other.prefix.Contains(c.prefix.Addr())
		same := other.prefix == c.prefix && other.order < c.order
		if (contains || same) && (best == nil || other.prefix.Bits() > best.prefix.Bits()) {
			best = &all[i]
		}
	}
	return best
}

func check(t *testing.T, what string, got claim, ok bool, want *claim) {
	t.Helper()
	if ok != (want != nil) || ok && got != *want {
		t.Errorf("%s: %v %v, want %v", what, got, ok, want)
	}
}
