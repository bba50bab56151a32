package tui

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// inPrint are the names that the manual and the help have for keys, where they are others than Bubble Tea's.
var inPrint = map[string]string{" ": "space", "pgdown": "PgDn", "pgup": "PgUp", "shift+tab": "shift-tab",
	"up": "Up", "down": "Down", "left": "Left", "right": "Right", "home": "Home", "end": "End", "f1": "F1",
	"ctrl+c": "^C", "ctrl+z": "^Z"}

// keyName is the name of a key in the manual.
func keyName(key string) string {
	if name := inPrint[key]; name != "" {
		return name
	}
	if letter, ok := strings.CutPrefix(key, "ctrl+"); ok {
		return "^" + letter
	}
	return key
}

// manualWords are the words that meshtui(1) marks in a section with an mdoc macro: keys with Ic, columns
// with Sy.
func manualWords(t *testing.T, section, macro string) []string {
	t.Helper()
	page, err := os.ReadFile("../../packaging/man/meshtui.1")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n.Sh "+section+"\n")
	text, _, _ = strings.Cut(text, "\n.Sh ")
	var all []string
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), ".It ")
		if marked, ok := strings.CutPrefix(strings.TrimPrefix(line, "."), macro+" "); ok {
			all = append(all, strings.Fields(strings.NewReplacer(`\&`, "", `\-`, "-").Replace(marked))...)
		}
	}
	return all
}

// The manual has each key that does something on all screens or moves on some of them, and each that the
// help has.
func TestManualHasEachKey(t *testing.T) {
	named := append(manualWords(t, "KEYS", "Ic"), manualWords(t, "SCREENS", "Ic")...)
	keys := []string{"ctrl+c"}
	for key := range actions {
		keys = append(keys, key)
	}
	for key := range moves {
		keys = append(keys, key)
	}
	for _, c := range copies {
		keys = append(keys, c.key)
	}
	for _, key := range keys {
		if !slices.Contains(named, keyName(key)) {
			t.Errorf("no %q", keyName(key))
		}
	}
}

// The manual has each column of the table of peers.
func TestManualHasEachColumn(t *testing.T) {
	named := manualWords(t, "COLUMNS", "Sy")
	for _, c := range columns {
		for _, word := range strings.Fields(c.title) {
			if !slices.Contains(named, word) {
				t.Errorf("no %q of %q", word, c.title)
			}
		}
	}
}
