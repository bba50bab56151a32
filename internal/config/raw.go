package config

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/BurntSushi/toml"
)

// known lists the keys that exist, table by table; "" is the top level of the file.
// TestStarterExplainsEveryKey holds configs/mesh.toml to it.
var known = map[string][]string{
	"": {"network", "wireguard", "dataplane", "masquerade", "probe", "metrics", "container", nodeKey,
		allowKey},
	"network":    {"name", "cidr", "port", "interface", "mtu", "transport"},
	"wireguard":  {"port", "private_key"},
	"dataplane":  {"engine", "receive", "offload", "queues", "spread"},
	"masquerade": {"enabled", "fully_random", "exclude", "forward"},
	"probe":      {"interval", "speed"},
	"metrics":    {"listen"},
	"container":  {"subnet_env", "cni_conf"},
	nodeKey: {"name", "address", "subnets", "routes", "public_key", "next_public_key", "endpoint",
		"via"},
	routeKey: {"prefix", "metric"},
	allowKey: {"name", "from", "to", "proto"},
}

// nodeKey is a list of tables, as allowKey is.
const nodeKey = "node"

// isList tells which keys of the top level are lists of tables; all others are tables.
func isList(key string) bool { return key == nodeKey || key == allowKey }

// routeKey is the table of one route in the list of a node.
const routeKey = nodeKey + ".routes"

// rawTable is one table as the library's untyped values. Decoding into structs would end
// at the first value of a wrong type; so that value is one fault among others.
type rawTable = map[string]any

// rawFile is the content of a file before its values are checked.
type rawFile struct {
	sections map[string]rawTable // by name; nil if the file has no table of that name
	nodes    []rawTable          // [[node]]
	allows   []rawTable          // [[allow]]
}

// decode reads doc. A syntax error ends the reading and hides all other faults, since the
// library returns no values then; explain says what it is. Everything else is noted in r and
// reading goes on. decode stops when ctx ends, but not while the library works.
func decode(ctx context.Context, doc string, r *report) rawFile {
	admitted, stuck, ok := admit(ctx, doc, r)
	if !ok {
		return rawFile{}
	}
	var tree rawTable
	at := stuck
	if stuck < 0 {
		mark := byteOrderMark(doc) // the library's offsets begin behind it
		at = syntaxError(toml.Decode(admitted[mark:], &tree))
		if at >= 0 {
			at += mark
		}
	}
	if at >= 0 {
		t, ok := formOf(doc)
		if !ok && !r.headers {
			t, ok = explain(doc, at), true
		}
		if ok {
			r.syntax(t.at, t.key, t.message)
		}
		return rawFile{}
	}
	if len(tree) == 0 {
		r.syntax(0, "", "the file is empty, or has comments only: `meshd init` prints one to start with")
		return rawFile{}
	}
	file := rawFile{sections: map[string]rawTable{}}
	for name, value := range tree {
		if isList(name) || !slices.Contains(known[""], name) {
			continue
		}
		section, ok := value.(rawTable)
		if !ok {
			r.missing(name, "must be a table, [%s], not %s", name, describe(value))
			continue
		}
		file.sections[name] = section
	}
	nodes, ok := tables(tree[nodeKey])
	if !ok {
		r.missing(nodeKey, "must be a list of tables, [[node]], not %s", describe(tree[nodeKey]))
	}
	file.nodes = nodes
	if file.allows, ok = tables(tree[allowKey]); !ok {
		r.missing(allowKey, "must be a list of tables, [[allow]], not %s", describe(tree[allowKey]))
	}
	return file
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

// syntaxError returns the byte offset of a decoding error, -1 for none. The library's words are not
// for people who do not know TOML: explain finds better ones.
func syntaxError(_ toml.MetaData, err error) int {
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		return pe.Position.Start
	}
	if err != nil {
		return 0
	}
	return -1
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
