package config

import (
	"fmt"
	"strings"

	"example.org/meshd/internal/text"
)

// A Fault is one thing wrong with a configuration file, with the place to look.
type Fault struct {
	Path    string `json:"file"`    // file, as the caller named it
	Line    int    `json:"line"`    // from 1; 0 when the fault belongs to the whole file
	Col     int    `json:"col"`     // from 1, in characters, not bytes; 0 together with Line
	Key     string `json:"key"`     // dotted key without indexes ("node.subnets"); empty: no key is to blame
	Message string `json:"message"` // what is wrong and, where it helps, what to write instead
}

// String returns the one-line form PATH:LINE:COL: error: KEY: MESSAGE, which editors know
// from compilers and `meshd check` prints. Parts that are unknown are left out.
func (f Fault) String() string { return f.line("error") }

// line renders a fault or a warning: they differ in the level only.
func (f Fault) line(level string) string {
	var b strings.Builder
	b.WriteString(f.Path)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Col)
	}
	b.WriteString(": " + level + ": ")
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Message)
	// The message quotes keys and values: a file from another host must not send escape
	// sequences to the terminal of whoever checks it.
	return text.Clean(b.String())
}

// Faults is every fault of one file, in file order. After 1,000 faults a last one tells
// how many more there are. Load and Parse return it as their error; errors.As gets at the
// single faults.
type Faults []Fault

// Error returns one fault per line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}
