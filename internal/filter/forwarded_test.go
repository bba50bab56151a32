package filter

import (
	"net/netip"
	"os"
	"testing"

	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/nstest"
)

// What `nft list` says of the rules for forwarded probes, and that damage to them is mended.
func TestForwardedAsNftShowsIt(t *testing.T) {
	for name, trace := range map[string]uint16{"probe": 0, "probe-traced": 0x1234} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				l, err := nft.OpenLog(28500, 128) // without a reader the kernel has no such group
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				f := NewForwarded()
				s := ProbeSettings{Payload: []byte("meshd\x00\x01\n"), Group: l.Group(), Trace: trace,
					To: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("fd00:2::/64")}}
				if err := f.Set(s); err != nil {
					t.Fatal(err)
				}
				got, file := ruleset(t, n), "testdata/"+name+".nft"
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want, err := os.ReadFile(file); err != nil || got != string(want) {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
				for _, damage := range []string{"flush ruleset", "flush chain inet meshd-probe take"} {
					if _, err := n.Run("nft", damage); err != nil {
						t.Fatal(err)
					}
					if err := f.Set(s); err != nil || ruleset(t, n) != got {
						t.Errorf("after %q: %v\n%s", damage, err, ruleset(t, n))
					}
				}
				if changed, err := f.rules.Set([]nft.Table{s.table()}); err != nil || changed {
					t.Errorf("the kernel has the rules, yet they are written again: %v", err)
				}
				if removed, err := CleanUp(); err != nil || !removed || ruleset(t, n) != "" {
					t.Errorf("%v, %v\n%s", removed, err, ruleset(t, n))
				}
			})
		})
	}
}
