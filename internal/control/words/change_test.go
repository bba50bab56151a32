package words

import (
	"testing"

	"example.org/meshd/internal/control"
)

func peer(op, subject, field string) control.Change {
	return control.Change{Op: op, Kind: "peer", Subject: subject, Field: field}
}

func TestChanges(t *testing.T) {
	for name, test := range map[string]struct {
		details []control.Change
		more    int
		want    string
	}{
		"nothing": {nil, 0, "nothing changed"},
		"one":     {[]control.Change{peer("+", "a", "")}, 0, "+1 peer"},
		"several, in order": {[]control.Change{peer("-", "b", ""), peer("+", "a", ""), peer("+", "c", "")}, 0,
			"-1 peer, +2 peers"},
		"two fields of one": {[]control.Change{peer("~", "a", "address"), peer("~", "a", "routes")}, 0, "~1 peer"},
		"a field each":      {[]control.Change{peer("~", "a", "routes"), peer("~", "b", "routes")}, 0, "~2 peers"},
		"added and replaced": {[]control.Change{peer("+", "a", ""), peer("~", "a", "routes")}, 0,
			"+1 peer, ~1 peer"},
		"settings by key": {[]control.Change{
			{Op: "~", Kind: control.SettingChange, Subject: "probe.interval", Old: "1s", New: "2s"},
			{Op: "~", Kind: control.SettingChange, Subject: "network.name"},
		}, 0, "~1 probe.interval, ~1 network.name"},
		"words of several": {[]control.Change{
			{Op: "*", Kind: "address", Subject: "10.0.0.1/32"}, {Op: "*", Kind: "address", Subject: "fd00::1/128"},
			{Op: "+", Kind: "masquerade rule", Subject: "a"}, {Op: "+", Kind: "masquerade rule", Subject: "b"},
			{Op: "~", Kind: "identity"}, {Op: "~", Kind: "identity"},
		}, 0, "*2 addresses, +2 masquerade rules, ~2 identities"},
		"elements of a set": {[]control.Change{
			{Op: "+", Kind: "masquerade rule", Field: "mesh", New: "10.1.0.0/16"},
			{Op: "+", Kind: "masquerade rule", Field: "mesh", New: "10.2.0.0/16"},
		}, 0, "+2 masquerade rules"},
		"of a newer daemon": {[]control.Change{{Op: "^", Kind: "tunnel"}, {Op: "^", Kind: "tunnel"}}, 0,
			"^2 tunnels"},
		"more than listed":   {[]control.Change{peer("+", "a", ""), peer("+", "b", "")}, 998, "+2 peers, 998 more"},
		"none of them shown": {nil, 3, "3 more"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Changes(test.details, test.more); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// Kinds come from values. What a sentence says does not matter, even where there are only sentences.
func TestReloaded(t *testing.T) {
	for name, test := range map[string]struct {
		reload control.Reload
		want   string
	}{
		"values": {control.Reload{Changes: []string{"whatever it says"},
			Details: []control.Change{peer("+", "a", "")}}, "+1 peer"},
		"cut": {control.Reload{Changes: []string{"x", "and 4 more"},
			Details: []control.Change{peer("+", "a", "")}, More: 4}, "+1 peer, 4 more"},
		"nothing":         {control.Reload{Changes: []string{}, Details: []control.Change{}}, "nothing changed"},
		"an older daemon": {control.Reload{Changes: []string{"+ peer a", "~ peer b", "~ mtu"}}, "3 changes"},
		"one of its":      {control.Reload{Changes: []string{"+ peer a"}}, "1 change"},
		"none of its":     {control.Reload{}, "nothing changed"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Reloaded(test.reload); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
