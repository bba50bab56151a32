package typed

import (
	"testing"

	"example.org/meshd/internal/budget"
)

func TestBitRate(t *testing.T) {
	for text, want := range map[string]uint64{"500000": 500_000, "500k": 500_000, "100M": 100_000_000,
		"2.5G": 2_500_000_000, "1g": 1_000_000_000, "10 Mbit/s": 10_000_000, "3Mbps": 3_000_000, "8 kb/s": 8000,
		"1T": 1_000_000_000_000, "0": 0} {
		t.Run(text, func(t *testing.T) {
			if got, err := BitRate(text); err != nil || got != want {
				t.Errorf("%d, %v; want %d", got, err, want)
			}
		})
	}
	for _, text := range []string{"", "fast", "-1", "1kk", "1e300", "nan", "inf", "10MB/sec", "M"} {
		t.Run("not "+text, func(t *testing.T) {
			if got, err := BitRate(text); err == nil {
				t.Errorf("%d", got)
			}
		})
	}
}

func FuzzBitRate(f *testing.F) {
	f.Add("100M")
	f.Add("1e9 bit/s")
	f.Fuzz(func(t *testing.T, text string) {
		defer budget.Of(t)()
		if n, err := BitRate(text); err != nil && n != 0 {
			t.Errorf("%d beside %v", n, err)
		}
	})
}
