package config

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/BurntSushi/toml"

	"example.org/meshd/configs"
)

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
	f.Add("a.'b.c'.\"d\\te\" = [[1, 2], {x = 'y'}, \"\"\"q\"\"\"\"\"] # c\n[[a.f]]\n[[a.f]]\nz=1\n[a.f.g]\nh={}\n")
}

// Whatever the bytes, Parse answers with a usable Config or with placed faults.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, doc string) {
		c, err := Parse("x", []byte(doc))
		if err != nil {
			for _, fault := range err.(Faults) {
				if fault.Line < 1 || fault.Col < 1 || fault.Message == "" {
					t.Errorf("fault without a place or words: %+v", fault)
				}
			}
			return
		}
		if len(c.Nodes) == 0 || len(c.Network.CIDR) == 0 || c.Network.Port == 0 {
			t.Errorf("accepted an empty mesh: %+v", c)
		}
		for _, n := range c.Nodes {
			if !n.Address.IsValid() || n.Name == "" || len(n.Subnets) == 0 {
				t.Errorf("accepted a node without name, address or subnets: %+v", n)
			}
		}
	})
}

// Whatever the library accepts, locate finds every key and value of it.
func FuzzLocate(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, doc string) {
		if _, deep := tooDeep(doc); deep {
			return
		}
		var tree map[string]any
		_, err := toml.Decode(doc, &tree)
		where := locate(doc) // must end, also on what is not TOML
		if err != nil {
			return
		}
		checkPlaced(t, where, "", tree)
	})
}

func checkPlaced(t *testing.T, where *places, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, child := range v {
			checkPlaced(t, where, join(path, key), child)
		}
	case []map[string]any:
		for i, child := range v {
			checkPlaced(t, where, path+"["+strconv.Itoa(i)+"]", child)
		}
	case []any:
		for i, child := range v {
			checkPlaced(t, where, path+"["+strconv.Itoa(i)+"]", child)
		}
		placed(t, where, path)
	default:
		placed(t, where, path)
	}
}

func placed(t *testing.T, where *places, path string) {
	t.Helper()
	if _, ok := where.values[path]; !ok {
		t.Errorf("no place for %q", path)
	}
}
