package config

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// known are the keys that exist, table by table; "" is the file itself.
var known = map[string][]string{
	"":           {"network", "dataplane", "masquerade", "probe", "metrics", "container", nodeKey},
	"network":    {"name", "cidr", "port", "interface", "mtu"},
	"dataplane":  {"engine", "receive", "offload", "queues", "spread"},
	"masquerade": {"enabled", "fully_random", "exclude", "forward"},
	"probe":      {"interval"},
	"metrics":    {"listen"},
	"container":  {"subnet_env", "cni_conf"},
	nodeKey:      {"name", "address", "subnets", "routes"},
}

const nodeKey = "node"

// rawTable is what stands in one table, as the library's values: a wrong type is
// one fault among the others and does not stop the reading.
type rawTable = map[string]any

// rawFile is the words of a file.
type rawFile struct {
	sections map[string]rawTable // [name]; a nil one is not in the file
	nodes    []rawTable          // [[node]]
}

// decode reads doc. Faults of syntax end the reading; everything else is noted in r
// and reading goes on. It stops when ctx ends, but not inside the library.
func decode(ctx context.Context, doc string, r *report) rawFile {
	admitted, stuck, ok := admit(ctx, doc, r)
	if !ok {
		return rawFile{}
	}
	mark := byteOrderMark(doc) // the library does not count it
	var tree rawTable
	if _, err := toml.Decode(admitted[mark:], &tree); err != nil {
		at, message := syntaxFault(err)
		r.syntax(mark+at, message)
		return rawFile{}
	}
	if stuck >= 0 { // the library is more lenient than TOML here
		r.syntax(stuck, "is not TOML from here on")
		return rawFile{}
	}
	r.foldCase("", tree)
	file := rawFile{sections: map[string]rawTable{}}
	for name, value := range tree {
		if name == nodeKey || !slices.Contains(known[""], name) {
			continue
		}
		section, ok := value.(rawTable)
		if !ok {
			r.add(name, "must be a table: [%s], not %s", name, describe(value))
			continue
		}
		r.foldCase(name, section)
		file.sections[name] = section
	}
	nodes, ok := tables(tree[nodeKey])
	if !ok {
		r.add(nodeKey, "must be a list of tables: [[node]], not %s", describe(tree[nodeKey]))
	}
	for _, node := range nodes {
		r.foldCase(nodeKey, node)
	}
	file.nodes = nodes
	return file
}

// foldCase takes a key that is known in lower case for that, so that it is not said to be
// missing, too: the gate has told that it is unknown as it stands.
func (r *report) foldCase(name string, table rawTable) {
	if r.count == 0 {
		return
	}
	for key, value := range table {
		lower := strings.ToLower(key)
		if lower != key && slices.Contains(known[name], lower) && table[lower] == nil {
			table[lower] = value
		}
	}
}

// tables returns a list of tables, which has two types in the library, or nothing
// at all.
func tables(value any) (all []rawTable, ok bool) {
	switch v := value.(type) {
	case nil:
		return nil, true
	case []rawTable:
		return v, true
	case []any: // [{name = "a"}, {name = "b"}]
		for _, element := range v {
			t, ok := element.(rawTable)
			if !ok {
				return nil, false
			}
			all = append(all, t)
		}
		return all, true
	}
	return nil, false
}

// syntaxFault returns the offset and the words of a decoding error.
func syntaxFault(err error) (at int, message string) {
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		return pe.Position.Start, pe.Message
	}
	return 0, strings.TrimPrefix(err.Error(), "toml: ")
}

// describe names the type of a value of the library.
func describe(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case time.Time:
		return "a date"
	case []any:
		return "a list"
	case []rawTable:
		return "a list of tables"
	default:
		return "a table"
	}
}
