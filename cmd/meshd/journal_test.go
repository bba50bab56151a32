package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/text"
)

// What the journal gets: a priority before each line, and no clock of our own. Anywhere else
// lines are as ever.
func TestJournal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	stream := fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
	for _, test := range []struct{ env, want string }{
		{stream, "<7>msg=small\n<6>msg=\"two\\nlines\" peer=a g.level=inner\n<4>msg=odd\n<3>msg=wrong\n" +
			"<3>bad file\n<3>second fault\n"},
		{"1:2", "level=DEBUG msg=small"},
		{"", "bad file\nsecond fault\n"},
	} {
		t.Setenv("JOURNAL_STREAM", test.env)
		if err := file.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		stderr := text.NewWriter(file) // as run makes it
		log, err := newLogger(stderr, "debug", "text")
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("small")
		log.With("peer", "a").WithGroup("g").Info("two\nlines", slog.LevelKey, "inner")
		log.Warn("odd")
		log.Error("wrong")
		fmt.Fprintln(stderr, complaint(stderr, "bad file\nsecond fault"))
		got, err := os.ReadFile(file.Name())
		if err != nil || test.env == stream && string(got) != test.want ||
			!strings.Contains(string(got), test.want) {
			t.Errorf("JOURNAL_STREAM=%q: %v\n%s", test.env, err, got)
		}
	}
}
