package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/text"
)

// toJournal tells whether a writer is a stream into systemd's journal, which the environment names
// as JOURNAL_STREAM=DEVICE:INODE (systemd.exec(5)). The variable alone proves nothing: a child that
// writes to a file inherits it.
func toJournal(w io.Writer) bool {
	// The descriptor is below the writer that makes text safe.
	if outer, ok := w.(*text.Writer); ok {
		w = outer.Unwrap()
	}
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// complaint returns text for standard error. The journal needs the priority of an error before each
// line, and would take a line without one for information.
func complaint(w io.Writer, text string) string {
	if !toJournal(w) {
		return text
	}
	const priority = "<3>"
	return priority + strings.ReplaceAll(text, "\n", "\n"+priority)
}

// journalHandler writes log lines for the journal. The journal has a time of its own and takes the
// priority from a prefix (sd-daemon(3)), so the line has neither.
type journalHandler struct {
	slog.Handler
	line *priorityWriter
}

// newJournalHandler returns a handler without attributes yet.
func newJournalHandler(w io.Writer, options slog.HandlerOptions) *journalHandler {
	line := &priorityWriter{to: w}
	options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		// Only those of the record itself: a field of a group may have the same name.
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	return &journalHandler{slog.NewTextHandler(line, &options), line}
}

// Handle implements slog.Handler.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	// Held until the line is written, so that no other record gets its priority before it.
	h.line.mu.Lock()
	defer h.line.mu.Unlock()
	h.line.priority = priorityOf(r.Level)
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.Handler.WithAttrs(attrs), h.line}
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.Handler.WithGroup(name), h.line}
}

// priorityOf returns the level of syslog(3).
func priorityOf(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "<3>"
	case level >= slog.LevelWarn:
		return "<4>"
	case level >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

// priorityWriter puts a priority before each line.
type priorityWriter struct {
	mu       sync.Mutex
	priority string // of the line that is written next; guarded by mu
	to       io.Writer
}

// Write implements io.Writer; the caller holds mu.
func (w *priorityWriter) Write(line []byte) (int, error) {
	// One write for both: the journal takes each line of a stream with the priority that begins it, and
	// another process may write to the same stream.
	if _, err := w.to.Write(append([]byte(w.priority), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}
