package config

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"example.org/meshd/internal/source"
)

// An Edit is a file to which a node can be added. The rest of it stays byte for byte.
type Edit struct {
	path, doc string
	config    *Config // without nodes, it may be invalid for that
	starts    []int   // offsets of the headers [[node]]
}

// A NewNode is a node in the words of the file: they are judged when it is added.
type NewNode struct {
	Name      string
	Address   string   // empty: it calls the others, see Node.Addresses
	Subnets   []string // none: the next that are free
	PublicKey string   // empty: it has none
}

// Errors of adding a node; test with errors.Is.
var (
	// ErrOneLine says that the file lists its nodes as node = [...].
	ErrOneLine = errors.New("the file lists its nodes as node = [...]: add this one there by hand")
	// ErrNoRoom says that network.cidr has no free subnet of the usual length.
	ErrNoRoom = errors.New("network.cidr has no room for another subnet: give one")
)

// NewEdit reads doc, the content of the file at path, which may lack nodes and must be valid
// otherwise. The error is of type Faults.
func NewEdit(path string, doc []byte) (*Edit, error) {
	if len(doc) > MaxSize {
		return nil, Faults{{Path: path, Message: source.ErrTooLarge.Error()}}
	}
	r := &report{path: path, doc: string(doc)}
	c := validate(context.Background(), decode(context.Background(), r.doc, r), r)
	if faults := r.result(); len(faults) > 0 && !(len(faults) == 1 && r.noNodes) {
		return nil, faults
	}
	return &Edit{path: path, doc: r.doc, config: c, starts: r.starts}, nil
}

// Add returns the file with a further node behind the last one, and its values. The file that it
// returns is valid. An error of type Faults is about the new node: the places are those of the file
// that was not returned.
func (e *Edit) Add(n NewNode) (doc []byte, c *Config, err error) {
	if len(e.config.Nodes) > len(e.starts) {
		return nil, nil, ErrOneLine
	}
	if len(n.Subnets) == 0 {
		for _, p := range e.config.FreeSubnets() {
			n.Subnets = append(n.Subnets, p.String())
		}
		if len(n.Subnets) == 0 {
			return nil, nil, ErrNoRoom
		}
	}
	for _, word := range slices.Concat([]string{n.Name, n.Address, n.PublicKey}, n.Subnets) {
		// Everything else is judged with the file; this would not even be TOML.
		if strings.ContainsFunc(word, func(c rune) bool { return c < ' ' || c == '"' || c == '\\' || c == 0x7f }) {
			return nil, nil, fmt.Errorf("%q has a character that no node can have", hideKeys(word))
		}
	}
	at := e.behindNodes()
	doc = []byte(e.doc[:at] + e.table(n, at) + e.doc[at:])
	c, err = Parse(e.path, doc)
	return doc, c, err
}

// behindNodes returns the offset of the line behind the last node, or the end of a file without one.
func (e *Edit) behindNodes() int {
	if len(e.starts) == 0 {
		return len(e.doc)
	}
	node := tableEnd{begin: e.starts[len(e.starts)-1]}
	scan(e.doc, &node)
	lines := strings.SplitAfter(e.doc[node.last:], "\n")
	at := node.last + len(lines[0])
	// Comments right below are of this node, like a key that is turned off, unless a table follows.
	below := at
	for _, line := range lines[1:] {
		text := strings.TrimSpace(line)
		if !strings.HasPrefix(text, "#") {
			if !strings.HasPrefix(text, "[") {
				at = below
			}
			break
		}
		below += len(line)
	}
	return at
}

// A tableEnd is the visitor that finds where the last pair of a table ends.
type tableEnd struct {
	begin  int // offset of its header
	last   int // where its last pair ends
	inside bool
	open   int // pairs and elements that have not ended
}

func (v *tableEnd) table(_ []string, _ bool, at int) bool {
	v.inside = at == v.begin
	return at <= v.begin
}

func (v *tableEnd) pair([]string, int, int) bool { v.open++; return true }
func (v *tableEnd) element(int) bool             { v.open++; return true }

func (v *tableEnd) end(at int) bool {
	if v.open--; v.open == 0 && v.inside {
		v.last = at
	}
	return true
}

// keyName matches how a file writes the name of a node: its indent, and the blanks around "=".
var keyName = regexp.MustCompile(`(?m)^([ \t]*)name([ \t]*)=([ \t]*)`)

// table returns the text of a node to be inserted at an offset, in the style of the last node.
func (e *Edit) table(n NewNode, at int) string {
	indent, gap, behind := "", "    ", " "
	if len(e.starts) > 0 {
		if m := keyName.FindStringSubmatch(e.doc[e.starts[len(e.starts)-1]:]); m != nil {
			indent, gap, behind = m[1], m[2], m[3]
		}
	}
	pad := func(key string) string { // aligned with name, if that is aligned
		if len(gap) <= 1 {
			return indent + key + gap + "=" + behind
		}
		return indent + key + gap[:max(1, len("name")+len(gap)-len(key))] + "=" + behind
	}
	var quoted []string
	for _, s := range n.Subnets {
		quoted = append(quoted, strconv.Quote(s))
	}
	text := "\n[[node]]\n" + pad("name") + strconv.Quote(n.Name) + "\n"
	if n.Address != "" {
		text += pad("address") + strconv.Quote(n.Address) + "\n"
	}
	text += pad("subnets") + "[" + strings.Join(quoted, ", ") + "]\n"
	if n.PublicKey != "" {
		text += pad("public_key") + strconv.Quote(n.PublicKey) + "\n"
	}
	if at > 0 && e.doc[at-1] != '\n' {
		text = "\n" + text
	}
	if rest := strings.TrimLeft(e.doc[at:], " \t"); rest != "" && rest[0] != '\n' && rest[0] != '\r' {
		text += "\n"
	}
	if strings.Contains(e.doc, "\r\n") {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	return text
}
