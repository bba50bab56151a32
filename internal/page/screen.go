package page

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/text"
)

// On returns where to write pages for w, and how they have to look there. A terminal behind a text.Writer
// gets them directly: that writer would show the escape codes of colours as text. Everything else is as a
// pipe: no colours, and nothing is cut.
func On(w io.Writer) (io.Writer, Options) {
	safe, ok := w.(*text.Writer)
	if !ok {
		return w, Options{}
	}
	file, ok := safe.Unwrap().(*os.File)
	if !ok || !text.IsTerminal(file) {
		return w, Options{}
	}
	width, height := size(file)
	return file, Options{Width: width, Height: height, Colour: text.HasColours(os.Getenv),
		ASCII: !text.UTF8Locale(os.Getenv)}
}

// size is that of a terminal. One that does not know its size, such as a serial line, has that of the
// environment, or else 80 columns and 24 lines, which is what those had.
func size(file *os.File) (width, height int) {
	if s, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err == nil {
		width, height = int(s.Col), int(s.Row)
	}
	if width <= 0 {
		width = number("COLUMNS", 80)
	}
	if height <= 0 {
		height = number("LINES", 24)
	}
	return width, height
}

// number is a number above 0 of the environment, or else what is given.
func number(name string, otherwise int) int {
	const most = 10000 // columns; a larger one is a mistake
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 && n <= most {
		return n
	}
	return otherwise
}

// Show writes a page that takes the place of the one before. On a terminal it begins at the top and has as
// many lines as there are; in a pipe an empty line follows it. make writes the page; what it writes is not
// longer than the screen if it obeys its options.
func Show(w io.Writer, o Options, make func(io.Writer, Options) error) error {
	if o.Height == 0 {
		if err := make(w, o); err != nil {
			return err
		}
		_, err := io.WriteString(w, "\n")
		return err
	}
	var b strings.Builder
	screen := o
	screen.Height = 0 // the verdict stays where the eye is
	if err := make(&b, screen); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if room := o.Height - 1; len(lines) > room {
		more := fmt.Sprintf("... %d more lines", len(lines)-room+1)
		lines = append(lines[:max(room-1, 0)], more)
	}
	const home, restOfLine, restOfScreen = "\x1b[H", "\x1b[K", "\x1b[J" // ECMA-48: CUP, EL, ED
	_, err := io.WriteString(w, home+strings.Join(lines, restOfLine+"\r\n")+restOfLine+"\r\n"+restOfScreen)
	return err
}
