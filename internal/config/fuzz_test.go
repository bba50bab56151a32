package config

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"example.org/meshd/configs"
	"example.org/meshd/internal/budget"
)

// fuzzTime is what a file of 64 kB may cost, of the processor; 30 ms is usual. Under the race
// detector, or on a slow machine, honest files cost more, too: then it is mostTimes of theirs.
const fuzzTime = 250 * time.Millisecond

func seeds(f *testing.F) {
	f.Add(string(configs.Starter))
	files, _ := filepath.Glob("testdata/bad/*.toml")
	for _, file := range files {
		doc, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(doc))
	}
	for _, s := range slips {
		f.Add(strings.Replace(sound, s.old, s.new, 1))
	}
	for _, w := range wholes {
		f.Add(w.doc)
	}
	for _, h := range hostiles {
		f.Add(h.make(60_000))
	}
	f.Add("[network]\ncidr='10.0.0.0/8'\n[[node]]\nname='a'\n" +
		"address=['172.18.0.2','a.lan:9','[2001:db8::1]:9']\nsubnets=['10.0.0.0/24']\n" +
		"routes=[{prefix='192.168.0.0/24',metric=7},'192.168.1.0/24']\n")
	f.Add(sealed)
	f.Add("a.'b.c'.\"d\\te\" = [[1, 2], {x = 'y'}, \"\"\"q\"\"\"\"\"] # c\n" +
		"[[a.f]]\n[[a.f]]\nz=1\n[a.f.g]\nh={}\n")
}

// Whatever the bytes, Parse answers with a usable Config or with placed faults, and the
// work is in proportion to the file.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, doc string) {
		defer budget.Of(t)()
		var c *Config
		var err error
		cpu, bytes := costs(func() { c, err = Parse("x", []byte(doc)) })
		limit := max(fuzzTime, mostTimes*honest(64<<10))
		if cpu > limit { // once more: the garbage of earlier inputs is collected, too
			again, _ := costs(func() { _, _ = Parse("x", []byte(doc)) })
			cpu = min(cpu, again)
		}
		if len(doc) <= 64<<10 && (cpu > limit || bytes > 64<<20) {
			t.Errorf("%d bytes cost %s and %d MB", len(doc), cpu, bytes>>20)
		}
		if err != nil {
			for _, fault := range err.(Faults) {
				if fault.Line == 0 && strings.HasSuffix(fault.Message, moreFaults) {
					continue
				}
				if fault.Message == "" || !inside(doc, fault) {
					t.Errorf("fault without a place or words: %+v", fault)
				}
			}
			return
		}
		if len(c.Nodes) == 0 || len(c.Network.CIDR) == 0 || c.Network.Port == 0 {
			t.Errorf("accepted an empty mesh: %+v", c)
		}
		for _, n := range c.Nodes {
			if len(n.Addresses) > MaxAddresses || n.Name == "" || len(n.Subnets) == 0 {
				t.Errorf("accepted a node without name or subnets: %+v", n)
			}
			if len(n.Addresses) == 0 && !c.Sealed() || c.Sealed() && !n.PublicKey.IsValid() {
				t.Errorf("accepted a node that cannot be reached, or has no key: %+v", n)
			}
			for _, a := range n.Addresses {
				if a.Port() == 0 || (a.Name == "") != a.Addr().IsValid() || strings.ToLower(a.Name) != a.Name {
					t.Errorf("accepted an address that is none: %+v", a)
				}
			}
		}
	})
}

// inside reports whether the place of a fault is a character of the document, or its end.
func inside(doc string, f Fault) bool {
	lines := strings.SplitAfter(doc[byteOrderMark(doc):], "\n")
	if f.Line < 1 || f.Line > len(lines) {
		return false
	}
	return f.Col >= 1 && f.Col <= 1+utf8.RuneCountInString(lines[f.Line-1])
}

// Whatever the library accepts, the scanner reads to its end, and every key and value of
// it has a place.
func FuzzScan(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, doc string) {
		defer budget.Of(t)()
		r := &report{path: "x", doc: doc}
		admitted, stuck, ok := admit(t.Context(), doc, r)
		if !ok {
			return
		}
		var tree map[string]any
		_, err := toml.Decode(admitted[byteOrderMark(doc):], &tree)
		where := locate(doc) // must end, also on what is not TOML
		switch {
		case err != nil:
		case stuck < 0:
			checkPlaced(t, where, 0, "", tree)
		case !strings.Contains(doc, `""""""`): // of which the library sometimes takes too many
			t.Errorf("the library accepts what stops the scanner at %d: %.50q", stuck, doc[stuck:])
		}
	})
}

func checkPlaced(t *testing.T, where *places, at int32, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, child := range v {
			checkPlaced(t, where, below(t, where, step{at, key, -1}, path), path+"."+key, child)
		}
		return
	case []map[string]any:
		for i, child := range v {
			checkPlaced(t, where, below(t, where, step{at, "", int32(i)}, path), path+"["+strconv.Itoa(i)+"]", child)
		}
		return
	case []any:
		for i, child := range v {
			checkPlaced(t, where, below(t, where, step{at, "", int32(i)}, path), path+"["+strconv.Itoa(i)+"]", child)
		}
	}
	if where.all[at].value < 0 {
		t.Errorf("no place for the value of %q", path)
	}
}

func below(t *testing.T, where *places, s step, path string) int32 {
	t.Helper()
	n, ok := where.children[s]
	if !ok {
		t.Fatalf("no place for %+v below %q", s, path)
	}
	return n
}
