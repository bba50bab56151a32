package migrate

import (
	"bytes"
	"fmt"
	"strings"
)

// The format of wg(8), CONFIGURATION FILE FORMAT, with what people and tools write into its comments.

// section is one [Interface] or [Peer] of a configuration.
type section struct {
	kind string // "interface", "peer", in lower case
	line int    // of its heading, from 1
	name string // of the host, from a comment; empty if none can be one
	keys []wgKey
}

// wgKey is one line, KEY = VALUE; the name is in lower case.
type wgKey struct {
	name, value string
	line        int // from 1
}

// get returns the first value of a key; empty if the section does not have it.
func (s section) get(name string) string {
	for _, k := range s.keys {
		if k.name == name {
			return k.value
		}
	}
	return ""
}

// remarked are the keys behind which people write the name of a peer.
var remarked = map[string]bool{"publickey": true, "endpoint": true, "allowedips": true}

// sections reads a configuration. Many people write the name of a host in a comment: behind the
// heading of its section, above or below it, or behind a key. The first of these that can be a name
// is the name.
func sections(content []byte) (all []section, err error) {
	above, number := "", 0
	for raw := range bytes.Lines(content) {
		number++
		text, remark, hasRemark := strings.Cut(string(raw), "#")
		text = strings.TrimSpace(text)
		var s *section
		if len(all) > 0 {
			s = &all[len(all)-1]
		}
		switch name, value, isKey := strings.Cut(text, "="); {
		case text == "" && hasRemark:
			above = nameIn(remark)
			if s != nil && len(s.keys) == 0 && s.name == "" { // right below a heading
				s.name = above
			}
		case text == "":
		// wg(8) takes headings and keys in any case.
		case strings.HasPrefix(text, "["):
			kind := strings.ToLower(strings.Trim(text, "[]"))
			own := nameIn(remark)
			if own == "" {
				own = above
			}
			all, above = append(all, section{kind: kind, line: number, name: own}), ""
		case !isKey || s == nil:
			return nil, fmt.Errorf("line %d: %w: %q is not KEY = VALUE in a section: "+
				"is this a file of wg-quick(8)?", number, ErrInvalid, clip(text))
		default:
			key := wgKey{strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value), number}
			if s.kind == "peer" && s.name == "" && remarked[key.name] {
				s.name = nameIn(remark)
			}
			s.keys = append(s.keys, key)
			above = ""
		}
	}
	return all, nil
}

// clip shortens text of the input for a message.
func clip(text string) string {
	const most = 60 // characters
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return text
}

// labelled matches a comment in which a person or a tool says that a name follows: "Name = office",
// "friendly_name = office", "### Client office", "# BEGIN_PEER office", "### begin office ###".
var labelled = pattern(
	`(?i)^(?:(?:friendly_)?name\s*[=:]|(?:client|peer|host|begin_peer|begin)\s*:?\s)\s*(.+)$`)

// named matches a comment that may be the name of a host: a few words without the "=" of a
// key or of a setting that was commented out, so that no secret becomes a name.
var named = pattern(`^[\pL\d][\pL\d ,._()-]{0,31}$`)

// nameIn returns the name of a host in a comment; empty if the comment is something else.
func nameIn(comment string) string {
	comment = strings.Trim(comment, "# \t\r\n")
	if m := labelled().FindStringSubmatch(comment); m != nil {
		comment = strings.TrimSpace(m[1])
	}
	if !named().MatchString(comment) {
		return ""
	}
	return comment
}
