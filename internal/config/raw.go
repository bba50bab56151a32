package config

import (
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
// and reading goes on.
func decode(doc string, r *report) rawFile {
	var tree rawTable
	if _, err := toml.Decode(doc, &tree); err != nil {
		r.syntax(syntaxFault(err))
		return rawFile{}
	}
	r.unknown("", tree)
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
		r.unknown(name, section)
		file.sections[name] = section
	}
	nodes, ok := tables(tree[nodeKey])
	if !ok {
		r.add(nodeKey, "must be a list of tables: [[node]], not %s", describe(tree[nodeKey]))
	}
	for _, node := range nodes {
		r.unknown(nodeKey, node)
	}
	file.nodes = nodes
	return file
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
