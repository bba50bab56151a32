package text_test

import (
	"os"
	"strings"
	"testing"

	"example.org/meshd/internal/text"
)

func TestIsTerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	for name, test := range map[string]struct {
		file *os.File
		want bool
	}{"pipe": {w, false}, "null": {null, false}, "terminal": {master, true}} {
		t.Run(name, func(t *testing.T) {
			if got := text.IsTerminal(test.file); got != test.want {
				t.Errorf("%v", got)
			}
		})
	}
}

// environment is one for tests.
func environment(all ...string) func(string) string {
	return func(name string) string {
		for _, one := range all {
			if value, ok := strings.CutPrefix(one, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func TestUTF8Locale(t *testing.T) {
	for name, test := range map[string]struct {
		env  []string
		utf8 bool
	}{
		"none":                {nil, false},
		"UTF-8":               {[]string{"LANG=de_DE.UTF-8"}, true},
		"utf8":                {[]string{"LC_CTYPE=C.utf8"}, true},
		"latin1":              {[]string{"LANG=de_DE.ISO-8859-1"}, false},
		"LC_ALL is first":     {[]string{"LANG=de_DE.UTF-8", "LC_ALL=C"}, false},
		"an empty LC_ALL":     {[]string{"LANG=C.UTF-8", "LC_ALL="}, true},
		"LC_CTYPE is second":  {[]string{"LANG=C", "LC_CTYPE=C.UTF-8"}, true},
		"LC_MESSAGES is none": {[]string{"LC_MESSAGES=C.UTF-8"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text.UTF8Locale(environment(test.env...)); got != test.utf8 {
				t.Errorf("UTF-8: %v", got)
			}
		})
	}
}

func TestHasColours(t *testing.T) {
	for env, want := range map[string]bool{
		"TERM=xterm-256color": true, "TERM=linux": true, "TERM=screen": true, "TERM=vt100": false,
		"TERM=vt220": false, "TERM=xterm-mono": false, "TERM=ansi-m": false, "TERM=dumb": false,
		"TERM=": false,
	} {
		t.Run(env, func(t *testing.T) {
			if got := text.HasColours(environment(env)); got != want {
				t.Errorf("colours: %v", got)
			}
			if text.HasColours(environment(env, "NO_COLOR=1")) {
				t.Error("colours in spite of NO_COLOR")
			}
		})
	}
}
