package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
)

// RecordName is the name of the record in the state folder. A unit of the package watches it.
const RecordName = "change"

// Bounds of a record: its bytes, the contents that it stands in the place of, and the bytes of a name in it.
const (
	maxRecord  = 64 << 10
	maxShadows = 16
	maxName    = 128
)

// States of a record.
const (
	settled   = "settled"
	pending   = "pending"
	takenBack = "taken_back"
)

// A stand is a text, and in the place of which contents of the file it stands.
type stand struct {
	Sum string `json:"sha256"`
	// Shadows are the SHA-256 of these contents; unreadable for a file that cannot be read.
	Shadows []string `json:"in_place_of"`
}

// unreadable stands for the SHA-256 of a file that cannot be read.
const unreadable = "unreadable"

// A record says which text is in force in the place of what the file has.
type record struct {
	Path  string `json:"path"` // of the file
	State string `json:"state"`
	Cause string `json:"cause"` // of the text that is in force: CauseApply and so on
	stand
	// Follow tells that root wants the file to have the text, too.
	Follow  bool         `json:"follow"`
	By      string       `json:"by"`
	Told    control.Told `json:"told"`
	At      time.Time    `json:"at"`                   // of the change
	Before  *stand       `json:"before,omitempty"`     // of a pending change: what comes back
	Line    *line        `json:"line,omitempty"`       // of a pending change
	Refused string       `json:"taken_back,omitempty"` // SHA-256 of the text that was taken back
}

// A line is the time by which a change must be confirmed. Within one boot CLOCK_BOOTTIME decides, which
// nobody can set and which counts a suspended host's time. Over a reboot the wall clock decides, as far as it
// makes sense, and the time for which the host is up again in any case.
type line struct {
	Boot  string        `json:"boot_id"`
	Until time.Duration `json:"until_ns"` // by CLOCK_BOOTTIME of that boot
	Saved time.Time     `json:"saved"`    // wall clock when this was written
	Left  time.Duration `json:"left_ns"`  // until the deadline, then
}

// A Clock tells the time in the three ways that a deadline needs.
type Clock struct {
	Wall func() time.Time
	Up   func() time.Duration // CLOCK_BOOTTIME
	Boot func() string        // identity of this boot; empty: not known, which is no boot's identity
}

// Host is the clock of this host.
func Host() Clock {
	return Clock{Wall: time.Now, Up: uptime, Boot: func() string {
		doc, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(doc))
	}}
}

// uptime reads CLOCK_BOOTTIME (clock_gettime(2)).
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // there is no Linux of today without it
	}
	return time.Duration(ts.Nano())
}

// draw returns the line of a deadline after some time from now.
func (c Clock) draw(left time.Duration) *line {
	return &line{Boot: c.Boot(), Until: c.Up() + left, Saved: c.Wall().Round(0), Left: left}
}

// left returns how long a change may still wait; 0: its time is over. A wall clock that was set back over a
// reboot says nothing about how much time has passed, so the time is over then: going back does no harm.
func (l *line) left(c Clock) time.Duration {
	up, wall := c.Up(), c.Wall()
	left := min(l.Until-up, l.Left)
	if boot := c.Boot(); boot == "" || boot != l.Boot {
		if wall.Before(l.Saved) {
			return 0
		}
		left = min(l.Left-wall.Sub(l.Saved), l.Left-up)
	}
	return max(left, 0)
}

// covers tells whether a text stands in the place of a content of the file.
func (s stand) covers(sum string) bool { return slices.Contains(s.Shadows, sum) }

// with returns the contents that a text stands in the place of, and one more. The newest stay.
func (s stand) with(sums ...string) (all []string) {
	all = slices.Clone(s.Shadows)
	for _, sum := range sums {
		if sum != "" && !slices.Contains(all, sum) {
			all = append(all, sum)
		}
	}
	return all[max(0, len(all)-maxShadows):]
}

// encode returns the content of the record's file.
func (r record) encode() ([]byte, error) { return json.Marshal(r) }

// errNonsense is why a record is not believed.
var errNonsense = errors.New("it makes no sense")

// parseRecord takes what encode writes, and nothing that could do harm.
func parseRecord(doc []byte) (r record, err error) {
	if err := json.Unmarshal(doc, &r); err != nil {
		return record{}, err
	}
	if err := r.check(); err != nil {
		return record{}, fmt.Errorf("%w: %w", errNonsense, err)
	}
	return r, nil
}

// check returns what is wrong with a record.
func (r record) check() error {
	isPending := r.State == pending
	switch {
	case r.Path == "" || len(r.Path) > unix.PathMax:
		return errors.New("it names no file")
	case r.State != settled && !isPending && r.State != takenBack:
		return fmt.Errorf("state %q is not known", r.State)
	case isPending != (r.Line != nil) || isPending != (r.Before != nil):
		return errors.New("a change that waits has a deadline and a text before, and no other has")
	case r.Refused != "" && !isSum(r.Refused):
		return errors.New("what was taken back has no SHA-256")
	case !isName(r.By) || !isName(r.Cause) || !isName(r.Told.User) || !isName(r.Told.From):
		return errors.New("a name is too long, or no text")
	}
	if err := r.stand.check(); err != nil {
		return err
	}
	if !isPending {
		return nil
	}
	if r.Line.Left < 0 || r.Line.Left > Longest || r.Line.Until < 0 || len(r.Line.Boot) > maxName {
		return errors.New("its deadline is out of range")
	}
	return r.Before.check()
}

// check returns what is wrong with a stand.
func (s stand) check() error {
	if !isSum(s.Sum) || len(s.Shadows) > maxShadows {
		return errors.New("it names no text")
	}
	for _, one := range s.Shadows {
		if one != unreadable && !isSum(one) {
			return errors.New("it names no content of the file")
		}
	}
	return nil
}

// isSum tells whether a text is a SHA-256 in lower-case hex. It becomes part of a path.
func isSum(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// isName tells whether a text may be the name of somebody.
func isName(s string) bool { return len(s) <= maxName && utf8.ValidString(s) }
