package control

import (
	"errors"
	"path/filepath"
	"testing"
)

// A client that finds nobody says what to do, apart from what went wrong.
func TestNobodyAnswersIsAdvised(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "none")).Status(t.Context())
	var advised *Advised
	if !errors.As(err, &advised) || advised.Remedy == "" {
		t.Fatalf("no advice in %v", err)
	}
	if !errors.Is(err, ErrNotRunning) || !errors.Is(advised.Err, ErrNotRunning) {
		t.Errorf("%v is not ErrNotRunning", err)
	}
	if want := advised.Err.Error() + ": " + advised.Remedy; advised.Error() != want {
		t.Errorf("%q, not %q", advised, want)
	}
}
