package text

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// IsTerminal tells whether f is a terminal: something that obeys what is written to it,
// and that a person looks at. A device such as /dev/null is none.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS) // ENOTTY for everything else
	return err == nil
}

// UTF8Locale tells whether the user's locale has the glyphs of charts and frames: by the first variable that
// is set, as in setlocale(3). Without any the locale is POSIX, whose characters are those of ASCII.
func UTF8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToUpper(getenv(name)); value != "" {
			return strings.Contains(value, "UTF-8") || strings.Contains(value, "UTF8")
		}
	}
	return false
}

// HasColours tells whether a terminal has colours and its user wants them (https://no-color.org). Those of
// the VT family have none, and some print the sequences; of a dumb one nothing is known.
func HasColours(getenv func(string) string) bool {
	term := getenv("TERM")
	return getenv("NO_COLOR") == "" && term != "" && term != "dumb" &&
		!strings.HasPrefix(term, "vt") && !strings.HasSuffix(term, "-mono") && !strings.HasSuffix(term, "-m")
}
