package control

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// endless is a line without an end, and counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	e.read += len(b)
	return len(b), nil
}

func TestReadLines(t *testing.T) {
	var all []int
	each := func(n int) error { all = append(all, n); return nil }
	if err := ReadLines(strings.NewReader("1\n\n 2\n3"), each); err != nil || fmt.Sprint(all) != "[1 2 3]" {
		t.Errorf("%v, %v", err, all)
	}
	if err := ReadLines(strings.NewReader("1\nx\n3\n"), each); err == nil || len(all) != 4 {
		t.Errorf("%v, %v", err, all)
	}
	broken := errors.New("broken")
	cutOff := io.MultiReader(strings.NewReader("[1,"), failingReader{broken})
	if err := ReadLines(cutOff, each); !errors.Is(err, broken) {
		t.Errorf("a line that is cut off: %v", err)
	}
	refuse := func(int) error { return broken }
	if err := ReadLines(strings.NewReader("1\n2\n"), refuse); !errors.Is(err, broken) {
		t.Errorf("each: %v", err)
	}
	source := &endless{}
	if err := ReadLines(source, each); !errors.Is(err, ErrTooLong) || source.read > MaxAnswer+1<<20 {
		t.Errorf("%v after %d bytes", err, source.read)
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// What answers at the socket may never end; a client does.
func TestEndlessAnswers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, &endless{})
	})}
	go server.Serve(l)
	defer server.Close()
	c := NewClient(socket)
	defer c.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrTooLong) {
		t.Errorf("status: %v", err)
	}
	if err := c.Events(t.Context(), 0, false, func(Event) error { return nil }); !errors.Is(err, ErrTooLong) {
		t.Errorf("events: %v", err)
	}
}
