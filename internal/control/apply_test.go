package control

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What is asked for arrives as it was asked, and each refusal is an error that says why.
func TestChangesOfTheFile(t *testing.T) {
	var got ApplyRequest
	refusal := &Refusal{Code: "pending", Message: "another one waits"}
	c := NewClient(serve(t, Source{Changer: Changer{
		Apply: func(_ context.Context, r ApplyRequest) (ApplyResult, error) {
			switch got = r; string(r.Doc) {
			case "waits":
				return ApplyResult{}, refusal
			case "faulty":
				return ApplyResult{Schema: Schema}, &Rejection{"it is faulty", []Error{{File: r.Path, Line: 3}}}
			case "refused":
				return ApplyResult{Schema: Schema, ReloadResult: ReloadResult{Reload: Reload{Error: "no room"}}}, nil
			}
			return ApplyResult{Schema: Schema, SHA256: "x", ReloadResult: ReloadResult{Reload: Reload{OK: true}}}, nil
		},
		Confirm: func(_ context.Context, _ Asker, sum string) error {
			if sum == "other" {
				return &Refusal{Code: "other_change", Message: "another one waits"}
			}
			return nil
		},
	}}))
	for _, test := range []struct {
		name, doc string
		seconds   float64
		told      Told
		want      string // of the error; empty: there is none
		faults    int
	}{
		{"good", "good", 60, Told{"ada", "10.0.0.5"}, "", 0},
		{"while another waits", "waits", 0, Told{}, "another one waits", 0},
		{"faulty", "faulty", 0, Told{}, "it is faulty", 1},
		{"refused by the host", "refused", 0, Told{}, "no room", 0},
		{"a time too short", "good", 0.5, Told{}, "confirm_seconds", 0},
		{"a time too long", "good", 86401, Told{}, "confirm_seconds", 0},
		{"a long name", "good", 0, Told{User: strings.Repeat("x", maxTold+1)}, "who asks", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			result, err := c.Apply(t.Context(), ApplyRequest{Path: "f", Doc: []byte(test.doc), Follow: true,
				ConfirmSeconds: test.seconds, Asker: Asker{Told: test.told}})
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, want %q", err, test.want)
			}
			if rejection, ok := errors.AsType[*Rejection](err); ok && len(rejection.Faults) != test.faults {
				t.Errorf("%+v", rejection)
			}
			if err == nil && (result.SHA256 != "x" || got.Told != test.told || got.ConfirmSeconds != test.seconds ||
				got.By == "" || got.Path != "f") {
				t.Errorf("%+v, asked %+v", result, got)
			}
		})
	}
	if err := c.Confirm(t.Context(), ConfirmRequest{}); err != nil {
		t.Error(err)
	}
	if err := c.Confirm(t.Context(), ConfirmRequest{SHA256: "other"}); err == nil || ExitCode(err) != 1 {
		t.Errorf("another change: %v", err)
	}
}

// Who may only read changes nothing.
func TestChangesAreForWriters(t *testing.T) {
	handler := routes(Source{})
	for _, path := range []string{"/v1/apply", "/v1/confirm", "/v1/rollback"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
