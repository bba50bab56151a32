package text_test

import (
	"os"
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
