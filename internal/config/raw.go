package config

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// known lists the keys that exist, table by table; "" is the top level of the file.
// TestStarterExplainsEveryKey holds configs/mesh.toml to it.
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

// nodeKey is the one key of the top level that is a list of tables.
const nodeKey = "node"

// rawTable is one table as the library's untyped values. Decoding into structs would end
// at the first value of a wrong type; so that value is one fault among others.
type rawTable = map[string]any

// rawFile is the content of a file before its values are checked.
type rawFile struct {
	sections map[string]rawTable // by name; nil if the file has no table of that name
	nodes    []rawTable          // [[node]]
}

// decode reads doc. A syntax error ends the reading and hides all other faults, since the
// library returns no values then. Everything else is noted in r and reading goes on. decode
// stops when ctx ends, but not while the library works.
func decode(ctx context.Context, doc string, r *report) rawFile {
	admitted, stuck, ok := admit(ctx, doc, r)
	if !ok {
		return rawFile{}
	}
	mark := byteOrderMark(doc) // the library's offsets begin behind it
	var tree rawTable
	if _, err := toml.Decode(admitted[mark:], &tree); err != nil {
		at, message := syntaxFault(err)
		r.syntax(mark+at, message)
		return rawFile{}
	}
	if stuck >= 0 { // the library accepts this line, but the gate cannot vouch for the rest
		r.syntax(stuck, "this is not valid TOML: check the quotes and brackets before it")
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
			r.add(name, "must be a table, [%s], not %s", name, describe(value))
			continue
		}
		r.foldCase(name, section)
		file.sections[name] = section
	}
	nodes, ok := tables(tree[nodeKey])
	if !ok {
		r.add(nodeKey, "must be a list of tables, [[node]], not %s", describe(tree[nodeKey]))
	}
	for _, node := range nodes {
		r.foldCase(nodeKey, node)
	}
	file.nodes = nodes
	return file
}

// foldCase treats a key whose lower-case form is known as that key. The gate has already
// reported the key as unknown; without folding, `Name = "a"` would get a second fault,
// "name is missing".
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

// tables returns a list of tables, for which the library has two types: one for [[node]]
// and one for node = [{...}]. ok is false if value is anything else but nil.
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

// syntaxFault returns the byte offset and the message of a decoding error. The library's
// own prefix goes, since the fault carries the place; nothing depends on the rest.
func syntaxFault(err error) (at int, message string) {
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		return pe.Position.Start, pe.Message
	}
	return 0, strings.TrimPrefix(err.Error(), "toml: ")
}

// describe names the type of one of the library's values, for messages.
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
