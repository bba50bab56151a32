package config

import (
	"fmt"
	"math"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The functions here find words for values of the wrong type or form: what a value is, and what
// may have been meant.

// show describes a leaf of the wrong type in a message.
func show(leaf any) string {
	switch v := leaf.(type) {
	case string:
		return fmt.Sprintf("%q", v)
	case bool, int64:
		return fmt.Sprint(v)
	case float64:
		if v == math.Trunc(v) { // %v would show 8285.0 as 8285, which is what was asked for
			return fmt.Sprintf("%.1f", v)
		}
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "a list of tables"
	default:
		return fmt.Sprintf("%v", v)
	}
}

// unquoted proposes the number that a text or a float stands for; empty if it stands for none.
func unquoted(leaf any) string {
	switch v := leaf.(type) {
	case string:
		if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
			return fmt.Sprintf(": write %d, without quotes", n)
		}
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<31 {
			return fmt.Sprintf(": write %d", int(v))
		}
	}
	return ""
}

// alternatives lists words in quotes, with "or" before the last one.
func alternatives(words []string) string {
	var quotes []string
	for _, word := range words {
		quotes = append(quotes, strconv.Quote(word))
	}
	last := len(quotes) - 1
	return strings.Join(quotes[:last], ", ") + " or " + quotes[last]
}

// numberAndUnit matches a duration as people write it.
var numberAndUnit = regexp.MustCompile(`^([0-9]+(?:[.,][0-9]+)?)\s*(\pL*)\.?$`)

// units are those of time.ParseDuration for the first letters of what people write.
var units = []struct{ begin, unit string }{
	{"ms", "ms"}, {"mil", "ms"}, {"us", "us"}, {"mic", "us"}, {"s", "s"}, {"m", "m"}, {"h", "h"}, {"", "s"},
}

// meantDuration proposes the duration that a text stands for, such as "1s" for "1 sec".
func meantDuration(s string) string {
	m := numberAndUnit.FindStringSubmatch(strings.ToLower(strings.TrimSpace(s)))
	if m == nil {
		return ""
	}
	for _, u := range units {
		meant := strings.ReplaceAll(m[1], ",", ".") + u.unit
		if _, err := time.ParseDuration(meant); err == nil && strings.HasPrefix(m[2], u.begin) &&
			(u.begin != "" || m[2] == "") {
			return fmt.Sprintf(": did you mean %q?", meant)
		}
	}
	return ""
}

// meantListener proposes host:port for a port or for a host alone.
func meantListener(s string) string {
	switch host, port, err := net.SplitHostPort(s); {
	case err != nil && validPort(s):
		return fmt.Sprintf(": write \"127.0.0.1:%s\" for this host alone, or \":%s\" for all", s, s)
	case err != nil && (validIP(s) || hostName.MatchString(s)):
		return ": the port is missing"
	case err == nil && !validPort(port) && host != "":
		return fmt.Sprintf(": %q is not a port from 1 to 65535", port)
	}
	return ""
}
