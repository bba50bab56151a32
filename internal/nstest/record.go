package nstest

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Record is one line of a daemon's log. Tests go by its fields: sentences may be
// bettered at any time.
type Record struct {
	Level   string // DEBUG, INFO, WARN or ERROR
	Message string
	Event   string            // what kind of event it is, as /v1/events has it; may be empty
	Fields  map[string]string // all other attributes
}

// has tells whether a record has attributes, given as keys and values in turn.
func (r Record) has(fields []string) bool {
	for pair := range slices.Chunk(fields, 2) {
		if r.Fields[pair[0]] != pair[1] {
			return false
		}
	}
	return true
}

// ParseRecord parses a line as slog.TextHandler writes it: key=value, with values quoted
// by strconv.Quote where they need it. It is false for every other line, such as those of
// Go's runtime.
func ParseRecord(line string) (r Record, ok bool) {
	r.Fields = map[string]string{}
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimLeft(rest, " ") {
		key, after, ok := strings.Cut(rest, "=")
		if !ok || strings.ContainsAny(key, " \"") {
			return r, false
		}
		var value string
		if strings.HasPrefix(after, `"`) {
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				return r, false
			}
			value, _ = strconv.Unquote(quoted) // a valid prefix has no error
			rest = after[len(quoted):]
		} else {
			value, rest, _ = strings.Cut(after, " ")
		}
		r.Fields[key] = value
	}
	for key, to := range map[string]*string{"level": &r.Level, "msg": &r.Message, "event": &r.Event} {
		*to = r.Fields[key]
		delete(r.Fields, key)
	}
	return r, r.Level != ""
}

// Records returns what the daemon has logged so far.
func (d *Daemon) Records() (all []Record) {
	text := d.Log()
	text = text[:strings.LastIndex(text, "\n")+1] // the last line may not be whole yet
	for line := range strings.Lines(text) {
		if r, ok := ParseRecord(line); ok {
			all = append(all, r)
		}
	}
	return all
}

// Events returns the records of one kind of event, with the given attributes if there are
// any: keys and values in turn.
func (d *Daemon) Events(kind string, fields ...string) []Record {
	return slices.DeleteFunc(d.Records(), func(r Record) bool { return r.Event != kind || !r.has(fields) })
}

// Patience is how long a test waits for one thing that takes milliseconds: longer than anything that
// a daemon does on a machine with other work. An emulated machine is some ten times slower than that;
// MESH_PATIENCE=N makes it N times as long there (tools/kernels).
var Patience = 30 * time.Second * time.Duration(patienceFactor(os.Getenv("MESH_PATIENCE")))

// patienceFactor reads MESH_PATIENCE, a whole number from 1; 1 if it is anything else.
func patienceFactor(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 1
	}
	return max(1, n)
}

// WaitRecord waits for a record that ok accepts, among those after the first skip, and
// returns how many there are up to it. It fails when the daemon ends first, or after Patience;
// what names the record in the error.
func (d *Daemon) WaitRecord(skip int, what string, ok func(Record) bool) (int, error) {
	timeout := time.After(Patience)
	for {
		d.mu.Lock()
		grew := d.grew
		d.mu.Unlock()
		ended := d.State() != "running" // asked before the records are: the last ones count, too
		records := d.Records()
		if i := slices.IndexFunc(records[min(skip, len(records)):], ok); i >= 0 {
			return skip + i + 1, nil
		}
		if ended {
			return 0, fmt.Errorf("meshd on %s ended (%v) without %s:\n%s", d.Host.name, d.err, what, d.Log())
		}
		select {
		case <-grew:
		case <-d.done:
		case <-timeout:
			return 0, fmt.Errorf("meshd on %s: no %s within %v:\n%s", d.Host.name, what, Patience, d.Log())
		}
	}
}

// WaitEvent waits until the daemon has logged an event of a kind, with the given
// attributes: keys and values in turn.
func (d *Daemon) WaitEvent(kind string, fields ...string) error {
	_, err := d.WaitNextEvent(0, kind, fields...)
	return err
}

// WaitNextEvent is WaitEvent for records after the first skip, and returns how many there
// are up to the one that was waited for.
func (d *Daemon) WaitNextEvent(skip int, kind string, fields ...string) (int, error) {
	what := fmt.Sprintf("event=%s %q", kind, fields)
	return d.WaitRecord(skip, what, func(r Record) bool { return r.Event == kind && r.has(fields) })
}

// WaitReady waits until the daemon forwards packets.
func (d *Daemon) WaitReady() error { return d.WaitEvent("forwarding") }

// String returns the record in an order that does not change.
func (r Record) String() string {
	text := fmt.Sprintf("%s event=%s %q", r.Level, r.Event, r.Message)
	for _, key := range slices.Sorted(maps.Keys(r.Fields)) {
		text += fmt.Sprintf(" %s=%q", key, r.Fields[key])
	}
	return text
}
