package main

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// What a terminal is and can do, as far as it can be known before it shows something.

// The size of a terminal that tells none, which is that of the first ones.
const (
	usualWidth  = 80
	usualHeight = 24
)

// fallbackSize is what the size of a terminal is taken for that the kernel does not know: one at a serial
// line says 0x0, and so does a pseudo-terminal whose owner has set none. The user's environment knows, or the
// terminal itself. A terminal that has a size is not asked: it has its usual one, should it lose it.
func fallbackSize(stdin, stdout *os.File, getenv func(string) string) (width, height int) {
	size, err := unix.IoctlGetWinsize(int(stdout.Fd()), unix.TIOCGWINSZ)
	if err == nil && size.Col > 0 && size.Row > 0 {
		return usualWidth, usualHeight
	}
	width, _ = strconv.Atoi(getenv("COLUMNS"))
	height, _ = strconv.Atoi(getenv("LINES"))
	if sensible(width) && sensible(height) {
		return width, height
	}
	if width, height, ok := askSize(stdin, stdout); ok {
		return width, height
	}
	return usualWidth, usualHeight
}

// sensible tells whether a terminal may have so many lines or columns.
func sensible(n int) bool { return n > 0 && n <= 1000 }

// answerWithin is how long a terminal may take to say where its cursor is. At 9600 bit/s question and answer
// take 40 ms.
const answerWithin = 200 * time.Millisecond

// askSize moves the cursor as far down and right as it goes and asks where it is (CPR of ECMA-48), as
// resize(1) of xterm does. The terminal's settings are as before when it returns.
func askSize(stdin, stdout *os.File) (width, height int, ok bool) {
	in := int(stdin.Fd())
	before, err := unix.IoctlGetTermios(in, unix.TCGETS)
	if err != nil {
		return 0, 0, false
	}
	raw := *before // without echo, and the answer does not wait for a line's end
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 0, 0
	if err := unix.IoctlSetTermios(in, unix.TCSETS, &raw); err != nil {
		return 0, 0, false
	}
	defer func() { _ = unix.IoctlSetTermios(in, unix.TCSETS, before) }()
	if _, err := stdout.WriteString("\x1b7\x1b[999;999H\x1b[6n\x1b8"); err != nil {
		return 0, 0, false
	}
	var said []byte
	for deadline := time.Now().Add(answerWithin); len(said) < 256; { // what was typed meanwhile is lost
		left := time.Until(deadline)
		poll := []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, int(max(0, left.Milliseconds()))); err != nil && err != unix.EINTR || n == 0 {
			break
		}
		buffer := make([]byte, 64)
		n, err := unix.Read(in, buffer)
		if err != nil || n <= 0 {
			break
		}
		said = append(said, buffer[:n]...)
		if width, height, ok = cursorAt(said); ok {
			return width, height, true
		}
	}
	return 0, 0, false
}

// report is where a terminal says that its cursor is: line, column.
var report = regexp.MustCompile(`\x1b\[(\d{1,4});(\d{1,4})R`)

// cursorAt finds the report of a cursor in what a terminal says.
func cursorAt(said []byte) (column, line int, ok bool) {
	found := report.FindSubmatch(bytes.TrimSpace(said))
	if found == nil {
		return 0, 0, false
	}
	line, _ = strconv.Atoi(string(found[1]))
	column, _ = strconv.Atoi(string(found[2]))
	return column, line, sensible(line) && sensible(column)
}
