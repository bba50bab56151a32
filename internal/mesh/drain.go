package mesh

import (
	"strings"
	"time"
)

// A Drain is a node's maintenance: it wants no new traffic, and its going down is no fault. The zero
// value of a field is unknown.
type Drain struct {
	Since  time.Time
	Until  time.Time // zero: until somebody ends it
	Reason string    // as somebody wrote it
	By     string    // who did
}

// Ended tells whether the time of the maintenance is over.
func (d Drain) Ended(now time.Time) bool { return !d.Until.IsZero() && !now.Before(d.Until) }

// Why says who has asked for the maintenance and why, as far as it is known.
func (d Drain) Why() string {
	var words []string
	if d.By != "" {
		words = append(words, "by "+d.By)
	}
	if d.Reason != "" {
		words = append(words, d.Reason)
	}
	return strings.Join(words, ": ")
}
