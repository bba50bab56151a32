package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The gate meets every key of a file, so it is the gate that reports those that meshd does not
// know. Most of them are slips. One slip is one fault: it says what was meant, and excuses what is
// missing because of it.

// tableNames lists the tables of a file, for messages.
var tableNames = func() string {
	var names []string
	for _, table := range known[""] {
		names = append(names, header(table))
	}
	return strings.Join(names, ", ")
}()

// advice is for keys that belong into no table, but whose value belongs into another one, or nowhere. The
// names are folded as folded does it.
var advice = func() map[string]string {
	all := map[string]string{
		"node.port": "write the port behind the address: address = \"172.18.0.3:8285\"",
	}
	for _, secret := range []string{"privatekey", "privkey", "private", "secretkey", "secret", "seckey"} {
		all["node."+secret] = "a private key does not belong in this file, which all hosts have: write " +
			"public_key, as `meshd key` prints it; if this was the private key, make a new one on its host"
	}
	for _, table := range []string{nodeKey, "wireguard", "network"} {
		for _, shared := range []string{"presharedkey", "psk"} {
			all[table+"."+shared] = "meshd has no preshared keys: delete the line; public_key is enough"
		}
		for _, alive := range []string{"persistentkeepalive", "keepalive"} {
			all[table+"."+alive] = "meshd keeps the way through NAT open by itself: delete the line"
		}
	}
	return all
}()

// joins is what joins the words of a key.
var joins = strings.NewReplacer("-", "", "_", "")

// folded returns a key as advice has it: in small letters, without what joins words.
func folded(key string) string { return joins.Replace(strings.ToLower(key)) }

// judge reports a path that meshd does not know, once for each node: a key that is
// misspelt in one node is misspelt in its place, but twice in one node is one fault.
func (g *gate) judge(at int) {
	if g.path[0] != g.name || g.name == "" {
		g.name, g.allowed = g.path[0], known[g.path[0]]
	}
	depth := 0 // of the unknown part, from 1; 0: the path goes below a known value
	switch {
	case g.allowed == nil || g.name == "":
		depth = 1
	case len(g.path) > 1 && !slices.Contains(g.allowed, g.path[1]):
		depth = 2
	case len(g.path) == 2 || len(g.path) == 1:
		return
	case g.name == nodeKey && g.path[1] == "routes": // a table in a list, which has keys of its own
		if known := slices.Contains(known[routeKey], g.path[2]); !known {
			depth = 3
		} else if len(g.path) == 3 {
			return
		}
	}
	if g.strays++; depth == 0 { // validate will report that the value must not be a table
		return
	}
	p := problem{at: at, key: strings.Join(g.path[:depth], ".")}
	if !g.fresh(p.key) {
		return // a file may have a hundred thousand of one kind
	}
	table, word := strings.Join(g.path[:depth-1], "."), g.path[depth-1]
	meant := guessKey(table, word)
	if meant == "" && len(g.path) > depth {
		whole := strings.Join(g.path[depth-1:], "") // a dot inside of a key
		if meant = guessKey(table, whole); meant != "" {
			word = whole
		}
	}
	slip := p.key // what one fault is told for
	if says := g.advice(depth, p.key); says != "" {
		p.message = says
	} else if meant != "" {
		g.meant(&p, table, word, meant)
	} else if tables := homes(word); len(tables) > 0 && (depth == 2 || depth == 1 && !g.header) {
		slip = table + " " + tables[len(tables)-1]
		g.elsewhere(&p, word, tables)
	} else if g.header && depth == 1 {
		p.message = "unknown table; there are " + tableNames
	} else {
		p.message = fmt.Sprintf("unknown key %q; known here: %s", word, strings.Join(known[table], ", "))
	}
	if slip == p.key || g.fresh(slip) {
		g.told[p.key], g.told[slip] = g.node(), g.node()
		g.report.note(p)
	}
}

// advice returns what is said of a key of a table that needs words of its own; empty for all others.
func (g *gate) advice(depth int, key string) string {
	if depth != 2 || len(key) > 2*longestWord { // a file may have a hundred thousand of others
		return ""
	}
	return advice[folded(key)]
}

// fresh reports whether a slip was not told yet: it is told once in each node, and once outside of
// all.
func (g *gate) fresh(slip string) bool {
	last, told := g.told[slip]
	return !told || last != g.node()
}

// node returns a number of the node or the rule that the path is in; -1 outside of all.
func (g *gate) node() int {
	switch g.path[0] {
	case nodeKey:
		return g.nodes
	case allowKey:
		return -1 - g.allows
	}
	return -1
}

// meant words the problem of a word that looks like a known one, or is a synonym of it.
func (g *gate) meant(p *problem, table, word, meant string) {
	switch {
	case table != "":
		p.message = fmt.Sprintf("unknown key %q: did you mean %q?", word, meant)
		g.report.excuse(g.around(table) + "." + meant)
	case g.header:
		p.message = fmt.Sprintf("unknown table: did you mean %s?", header(meant))
		g.misnamed(meant)
	default:
		p.message = fmt.Sprintf("unknown key %q: did you mean the table %s?", word, header(meant))
		g.misnamed(meant)
	}
}

// elsewhere words the problem of a key that stands in the wrong table, or above all of them.
func (g *gate) elsewhere(p *problem, word string, tables []string) {
	if len(tables) == 1 {
		p.message, p.see = fmt.Sprintf("%q belongs below %s", word, header(tables[0])), tables[0]
	} else { // name
		p.message = fmt.Sprintf("%q belongs below %s or %s: is a header missing above this line?", word,
			header(tables[0]), header(tables[1]))
	}
	for _, table := range tables {
		if table == nodeKey { // the header is what is missing, and all keys of the node follow
			g.report.excuse(nodeKey)
		} else {
			g.report.excuse(table + "." + word)
		}
	}
}

// around returns the path of the table whose keys are being read.
func (g *gate) around(table string) string {
	if below, ok := strings.CutPrefix(table, nodeKey); ok {
		return nodeKey + "[" + strconv.Itoa(g.nodes-1) + "]" + below
	}
	if table == allowKey {
		return allowPath(g.allows - 1)
	}
	return table
}

// misnamed remembers which table stands in the file under another name. Its content is not checked.
func (g *gate) misnamed(table string) {
	g.report.headers = true
	g.report.excuse(table)
	if table == "network" {
		g.report.excuse("network.cidr")
	}
}

// brackets reports a header with the brackets of the other kind of table, once for each name.
func (g *gate) brackets(name string, array bool, at int) {
	if known[name] == nil || name == "" || array == isList(name) || g.shaped[name] {
		return
	}
	if g.shaped == nil {
		g.shaped = map[string]bool{}
	}
	g.shaped[name] = true
	p := problem{at: at, key: name}
	p.message = fmt.Sprintf("write %s, with one bracket on each side", header(name))
	switch name {
	case nodeKey:
		p.message = "write [[node]], with two brackets on each side: one table for each host"
	case allowKey:
		p.message = "write [[allow]], with two brackets on each side: one table for each rule"
	}
	g.report.note(p)
	g.misnamed(name)
}
