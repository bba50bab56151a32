package nstest

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
)

// What slog writes is what ParseRecord reads, also with quotes, spaces and lines in it.
func TestParseRecord(t *testing.T) {
	for name, values := range map[string][2]string{
		"plain":       {"forwarding", "worker2"},
		"spaces":      {"taking over", "wire to tun"},
		"quotes":      {`the loop "a" hangs`, `say "no"`},
		"equal signs": {"a=b", "level=ERROR event=lie"},
		"two lines":   {"one\ntwo", "three\nfour"},
		"empty":       {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var text bytes.Buffer
			log := slog.New(slog.NewTextHandler(&text, nil))
			log.Warn(values[0], "reason", errors.New(values[1]), "event", "kind", "n", 7)
			r, ok := ParseRecord(text.String())
			if !ok || r.Level != "WARN" || r.Message != values[0] || r.Event != "kind" ||
				r.Fields["reason"] != values[1] || r.Fields["n"] != "7" {
				t.Errorf("%q is read as %v, %v", text.String(), r, ok)
			}
		})
	}
}

func TestParseRecordRejects(t *testing.T) {
	for _, line := range []string{"", "goroutine 1 [running]:", "/etc/mesh.toml:4:8: error: network.cidr: bad",
		"x=1", `level="INFO`, "a b=1 level=INFO"} {
		t.Run(line, func(t *testing.T) {
			if r, ok := ParseRecord(line); ok {
				t.Errorf("taken for a record: %v", r)
			}
		})
	}
}

func TestPatienceFactor(t *testing.T) {
	for text, want := range map[string]int{"": 1, "4": 4, "0": 1, "-3": 1, "long": 1} {
		if got := patienceFactor(text); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
}
