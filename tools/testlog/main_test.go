package main

import (
	"fmt"
	"strings"
	"testing"
)

// What fails is shown with all that it said, what passes only in the timings, and a test's own
// figure counts more than that of go test.
func TestLog(t *testing.T) {
	const in = `{"Action":"run","Package":"example.org/meshd/p","Test":"TestGood"}
{"Action":"output","Package":"example.org/meshd/p","Test":"TestGood","Output":"chatter\n"}
{"Action":"attr","Package":"example.org/meshd/p","Test":"TestGood","Key":"turn","Value":"2.50"}
{"Action":"pass","Package":"example.org/meshd/p","Test":"TestGood","Elapsed":99}
{"Action":"output","Package":"example.org/meshd/p","Test":"TestBad","Output":"it is wrong\n"}
{"Action":"fail","Package":"example.org/meshd/p","Test":"TestBad","Elapsed":1}
{"Action":"skip","Package":"example.org/meshd/p","Test":"TestLater","Elapsed":0}
go: downloading something
{"Action":"output","Package":"example.org/meshd/p","Output":"FAIL\n"}
{"Action":"fail","Package":"example.org/meshd/p","Elapsed":100}
`
	var out strings.Builder
	l := newLog(&out)
	if err := l.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	l.finish(1)
	for _, want := range []string{"it is wrong\n", "go: downloading", "FAIL\n", "    2.50  p TestGood\n",
		"SKIPPED p TestLater\n", "FAILED p TestBad\n", "FAILED p \n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	for _, not := range []string{"chatter", "99.00", "1.00  p TestBad"} {
		if strings.Contains(out.String(), not) {
			t.Errorf("%q in\n%s", not, &out)
		}
	}
}

// A test that hangs until the package's time is over is named, with what it said.
func TestLogOfWhatNeverEnds(t *testing.T) {
	const in = `{"Action":"output","Package":"example.org/meshd/p","Test":"TestHangs","Output":"still here\n"}
{"Action":"fail","Package":"example.org/meshd/p","Elapsed":100}
`
	var out strings.Builder
	l := newLog(&out)
	if err := l.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	l.finish(25)
	if want := "p TestHangs has not ended:\nstill here\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in\n%s", want, &out)
	}
}

// Why a test failed is said again at the end: what is behind it may be the only part that somebody sees.
func TestLogEndsWithWhy(t *testing.T) {
	in := ""
	for _, said := range []string{"    a_test.go:7: lost 3\n", "    a_test.go:8: daemon:\n        a log\n"} {
		in += fmt.Sprintf("{\"Action\":\"output\",\"Package\":\"p\",\"Test\":\"TestBad\",\"Output\":%q}\n", said)
	}
	in += `{"Action":"fail","Package":"p","Test":"TestBad","Elapsed":1}
`
	var out strings.Builder
	l := newLog(&out)
	if err := l.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	l.finish(0)
	want := "FAILED p TestBad\n    a_test.go:7: lost 3\n    a_test.go:8: daemon:\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("no %q at the end of\n%s", want, &out)
	}
	long := "    a_test.go:7: " + strings.Repeat("x", 1000) + "\n"
	if got := findings(strings.Repeat(long, 100)); len(got) > 13*310 {
		t.Errorf("%d bytes of findings", len(got))
	}
}
