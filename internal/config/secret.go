package config

import (
	"regexp"
	"strings"
)

// A private key that somebody has pasted into the file must not reach a terminal, a log or a client of the
// control socket. Messages quote what is in the file, in many places and of broken files, too. So keys are
// taken out of all of them at the end.

// Patterns of keys: base64 of 32 bytes, with or without the "=" at its end or a character, and hexadecimal.
var (
	anyKey  = regexp.MustCompile(`[A-Za-z0-9+/]{40,}=*`)
	loneKey = regexp.MustCompile(`^[A-Za-z0-9+/]{40,46}=*$`)
	anyHex  = regexp.MustCompile(`[0-9a-fA-F]{64}`)
	hexKey  = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
)

// hidden stands for a key in a message.
const hidden = "(a key)"

// hideKeys returns a message without the keys that are in it, and without what they are part of.
func hideKeys(message string) string {
	return anyKey.ReplaceAllStringFunc(message, func(s string) string {
		if !likeBase64(s) && !anyHex.MatchString(s) {
			return s
		}
		return hidden
	})
}

// likeKey tells whether a text is a key, or one with a slip in it, and not a path or a word.
func likeKey(s string) bool {
	s = strings.TrimSpace(s)
	return hexKey.MatchString(s) || loneKey.MatchString(s) && likeBase64(s)
}

// likeBase64 tells whether a text of characters of base64 is one: it ends as one, or has capitals and small
// letters, which hardly any key lacks and long words hardly ever have.
func likeBase64(s string) bool {
	return strings.HasSuffix(s, "=") || strings.ToLower(s) != s && strings.ToUpper(s) != s
}
