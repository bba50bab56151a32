package text

import (
	"os"

	"golang.org/x/sys/unix"
)

// IsTerminal tells whether f is a terminal: something that obeys what is written to it,
// and that a person looks at. A device such as /dev/null is none.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS) // ENOTTY for everything else
	return err == nil
}
