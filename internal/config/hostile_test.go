package config

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A hostile file is one that cost a parser far more than its size, or that hides from a
// guard what the library sees. make returns one of about size bytes.
type hostile struct {
	name string
	make func(size int) string
	want string // in a fault, for sizes from 200,000 bytes on; empty: the file is good
}

// fill repeats a text between a head and a tail.
func fill(head, text, tail string) func(size int) string {
	return func(size int) string { return head + strings.Repeat(text, size/len(text)) + tail }
}

// count is fill with a number in the text.
func count(head, format, tail string) func(size int) string {
	return func(size int) string {
		var b strings.Builder
		b.WriteString(head)
		for i := 0; b.Len() < size; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String() + tail
	}
}

const (
	someNetwork = "[network]\ncidr = \"10.0.0.0/8\"\n"
	someNode    = "[[node]]\nname = \"a\"\naddress = \"172.18.0.2\"\nsubnets = [\"10.0.0.0/24\"]\n"
)

var hostiles = []hostile{
	{"brackets", fill("a = ", "[", ""), "more than 100 brackets are open"},
	{"brackets closed in comments", fill("a = ", "[ #]\n", ""), "more than 100 brackets are open"},
	{"the same with CR LF", fill("\ufeffa = ", "[ #]\r\n", ""), "more than 100 brackets are open"},
	{"brackets closed in strings", fill("a = ", "[ ']', \"]\", '''\n]''', \"\"\"\n\\\"]\"\"\",", ""),
		"more than 100 brackets are open"},
	{"brackets behind a string that the library ends late", fill("a = \"\"\"\\\\\"\"\"\"\"\"\nb = ", "[", ""),
		"text behind the value"},
	{"brackets that are text", fill("a = [\n", "'[[[[[[[[[[', # [[[\n", "]\n"), `unknown key "a"`},
	{"inline tables", fill("a = ", "{a = ", "1"), "a key of more than 10 parts"},
	{"lists and tables by turns", fill("a = ", "[{a = ", "1"), "a key of more than 10 parts"},
	{"a dotted key", fill("a", ".a", " = 1"), "a key of more than 10 parts"},
	{"a dotted key of quoted parts", fill("'a'", ". \"a\"", " = 1"), "a key of more than 10 parts"},
	{"a dotted header", fill("[a", ".a", "]"), "a key of more than 10 parts"},
	{"a dotted header of a list", fill("[[a", ".a", "]]"), "a key of more than 10 parts"},
	{"a long key", fill("", "k", " = 1"), "the name of a key has"},
	{"a long key of escapes", fill("\"", `\u0041`, "\" = 1"), "the name of a key has"},
	{"a long name of a table", count("["+strings.Repeat("t", 100_000)+"]\n", "k%d = 1\n", ""),
		"the name of a key has"},
	{"unknown keys", count("", "k%d = 1\n", ""), moreFaults},
	{"unknown keys of a node", count(someNode, "k%d = 1\n", ""), moreFaults},
	{"unknown keys of many nodes", fill("", "[[node]]\nx = 1\n", ""), moreFaults},
	{"unknown keys below a known one", count("[network]\nname = {", "k%d = 1, ", "}"),
		"keys that meshd does not know"},
	{"unknown tables", count("", "[t%d]\n", ""), moreFaults},
	{"unknown lists of tables", count("", "[[t.u%d]]\n", ""), "unknown table"},
	{"one list of tables", fill("", "[[t]]\n", ""), "unknown table"},
	{"the same node", fill(someNetwork, someNode, ""), moreFaults},
	{"nodes without anything", fill(someNetwork, "[[node]]\n", ""), moreFaults},
	{"nodes on one line",
		fill("network.cidr = \"10.0.0.0/8\"\nnode = [", "{name = \"ÄÖÜ\", address = 1, subnets = [1]}, ", "]"),
		moreFaults},
	{"empty lists", fill("[network]\ncidr = [", "[],", "]"), moreFaults},
	{"empty inline tables", fill("node = [", "{},", "]"), moreFaults},
	{"a huge number", fill("[network]\nmtu = ", "1", ""), "a value of"},
	{"a long word", fill("[network]\nmtu = ", "x", ""), "a value of"},
	{"a long string of escapes", fill("[network]\nname = \"", `\n`, "\""), "a value of"},
	{"a long string of lines", fill("[network]\nname = '''", "x\n", "'''"), "a value of"},
	{"a string without an end", fill("[network]\nname = '''", "[[\n", ""), "the closing ''' is missing"},
	{"a fault behind many lines", fill("", "\n", "a ="), "there is no value"},
	{"prefixes of many lengths", func(size int) string {
		var b strings.Builder
		b.WriteString("[network]\ncidr = \"fd00::/8\"\n[[node]]\n")
		b.WriteString("name = \"a\"\naddress = \"172.18.0.2\"\nsubnets = [")
		for i := 0; b.Len() < size; i++ {
			fmt.Fprintf(&b, "\"fd00:%x:%x::/%d\",", i>>16, i&0xffff, 48+i%80)
		}
		return b.String() + "]\n"
	}, ""},
}

// costs runs a function and tells how much processor time of this thread it took and
// how many bytes it allocated. Neither depends on what else the machine does.
func costs(f func()) (cpu time.Duration, bytes uint64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after runtime.MemStats
	var began, ended syscall.Rusage
	runtime.ReadMemStats(&before)
	_ = syscall.Getrusage(syscall.RUSAGE_THREAD, &began) // cannot fail (getrusage(2))
	f()
	_ = syscall.Getrusage(syscall.RUSAGE_THREAD, &ended)
	runtime.ReadMemStats(&after)
	spent := ended.Utime.Nano() + ended.Stime.Nano() - began.Utime.Nano() - began.Stime.Nano()
	return time.Duration(spent), after.TotalAlloc - before.TotalAlloc
}

// mostTimes is how much more than an honest file of its size a hostile one may cost: 5 is what
// the worst does, and 100 what anything quadratic would.
const mostTimes = 25

var honestCosts sync.Map // by size

// honest returns what a good mesh of a size costs here and now, of the processor.
func honest(size int) time.Duration {
	if cost, known := honestCosts.Load(size); known {
		return cost.(time.Duration)
	}
	var b strings.Builder
	b.WriteString("[network]\ncidr = \"10.0.0.0/8\"\n")
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "[[node]]\nname = \"n%d\"\naddress = \"172.%d.%d.%d\"\nsubnets = [\"10.%d.%d.0/24\"]\n",
			i, 16+i/62500, i/250%250, i%250+1, i/256, i%256)
	}
	best := time.Duration(math.MaxInt64)
	for range 3 {
		cost, _ := costs(func() { _, _ = Parse("x", []byte(b.String())) })
		best = min(best, cost)
	}
	honestCosts.Store(size, best)
	return best
}

// Hostile files end with a few faults, each with what to do, and cost what honest files of
// their size cost.
func TestHostileFiles(t *testing.T) {
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			doc := []byte(h.make(600_000))
			var err error
			cpu, bytes := costs(func() { _, err = Parse("x", doc) })
			if cpu > mostTimes*honest(600_000) || bytes > 400<<20 {
				t.Errorf("%d bytes cost %s and %d MB", len(doc), cpu, bytes>>20)
			}
			faults, _ := errors.AsType[Faults](err)
			switch {
			case h.want == "" && err != nil:
				t.Errorf("got %.500s", err)
			case h.want != "" && !strings.Contains(faults.Error(), h.want):
				t.Errorf("got %.500s, want %q", err, h.want)
			case len(faults) > maxFaults+1:
				t.Errorf("%d faults", len(faults))
			}
			for _, f := range faults {
				if len(f.Message) > maxMessage+3 || len(f.Key) > maxMessage+3 {
					t.Errorf("a fault of %d and %d bytes", len(f.Key), len(f.Message))
				}
			}
		})
	}
}

// The largest mesh passes the gate with room: 10,000 nodes, six subnets and two routes
// each, one on each line.
func TestLargestMesh(t *testing.T) {
	doc := largestMesh()
	c, err := Parse("x", doc)
	if err != nil || len(c.Nodes) != 10_000 {
		t.Fatalf("%.500s", err)
	}
	g := &gate{ctx: t.Context(), doc: string(doc), report: &report{}, told: map[string]int{}}
	lines := strings.Count(g.doc, "\n")
	if _, ok := scan(g.doc, g); !ok || g.keys > maxKeys/2 || g.values > maxValues/2 || lines > maxLines/2 {
		t.Errorf("%d keys and %d elements take more than half of the room", g.keys, g.values)
	}
}

func largestMesh() []byte {
	var b strings.Builder
	b.WriteString("[network]\ncidr = [\"10.0.0.0/8\", \"fd00::/16\"]\n")
	for i := range 10_000 {
		fmt.Fprintf(&b, "\n[[node]]\nname = \"edge-%d\"\naddress = \"172.16.%d.%d\"\n", i, i/256, i%256)
		fmt.Fprintf(&b, "subnets = [\n  \"10.%d.%d.0/24\",\n", i/256, i%256)
		for j := range 5 {
			fmt.Fprintf(&b, "  \"fd00:%x:%x::/48\",\n", i, j)
		}
		fmt.Fprintf(&b, "]\nroutes = [\n  \"192.168.%d.%d/32\",\n  \"fc00:%x::/32\",\n]\n", i/256, i%256, i)
	}
	return []byte(b.String())
}

// leaver is a context that ends when it has been asked for a number of times.
type leaver struct {
	context.Context
	asked, patience int
}

func (l *leaver) Err() error {
	if l.asked++; l.asked > l.patience {
		return context.Canceled
	}
	return nil
}

// Parsing ends at whatever moment the asker leaves: in the gate, before the library and
// among the nodes.
func TestAskerLeaves(t *testing.T) {
	doc := manyNodes(2000)
	stays := &leaver{Context: t.Context(), patience: 1 << 30}
	if _, err := ParseContext(stays, "x", doc); err != nil {
		t.Fatal(err)
	}
	if stays.asked < 2000 {
		t.Errorf("the asker was looked for %d times", stays.asked)
	}
	for _, patience := range []int{0, 1, 5, 10, 20, stays.asked / 2, stays.asked - 1} {
		leaves := &leaver{Context: t.Context(), patience: patience}
		if c, err := ParseContext(leaves, "x", doc); !errors.Is(err, context.Canceled) || c != nil {
			t.Errorf("after %d looks: %v", patience, err)
		}
		if leaves.asked > patience+6 {
			t.Errorf("after %d looks, %d more", patience, leaves.asked-patience)
		}
	}
}
