package rules

import (
	"net/netip"
	"strings"
	"testing"

	"example.org/meshd/internal/filter"
)

// with returns the rules of a mesh that has one more node.
func with(node string) Wanted {
	w := wanted("10.244.0.0/16")
	w.Guard.Nodes = append(w.Guard.Nodes, netip.MustParseAddrPort(node))
	return w
}

// A changed node is in force when Set returns, though the rules that stay are looked at only afterwards.
// Damage to them is repaired then, whether anybody tells of it or not: here no Watch runs.
func TestEditIsLookedAtAfterwards(t *testing.T) {
	keep(t, func(k *keeping) {
		k.want(with("192.0.2.2:8285"), true)
		whole := k.list()
		for _, damage := range []string{
			"flush chain inet " + filter.TableName + " output",                       // rules
			"delete element inet " + filter.TableName + " hosts4 { 127.0.0.2 }",      // another node
			"delete element inet " + filter.TableName + " inside { \"mesh0\" }",      // in another set
			"add element inet " + filter.TableName + " nodes4 { 192.0.2.77 . 8285 }", // a node too many
		} {
			k.nft(damage)
		}
		undo := k.want(with("192.0.2.9:8285"), true)
		if got := k.list(); !strings.Contains(got, "192.0.2.9 . 8285") || strings.Contains(got, "192.0.2.2") {
			k.Errorf("the change is not in force:\n%s", got)
		}
		k.hears("rules_restored")
		k.is("all is repaired", 1)
		if err := undo(); err != nil {
			k.Error(err)
		}
		if got := k.list(); got != whole {
			k.Errorf("%s\nwant\n%s", got, whole)
		}
	})
}

// Where the difference cannot be written, since the node that goes is gone already, all is compared at once.
func TestEditThatIsRefused(t *testing.T) {
	keep(t, func(k *keeping) {
		k.want(with("192.0.2.9:8285"), true)
		whole := k.list()
		k.want(with("192.0.2.2:8285"), true)
		k.nft("flush set inet " + filter.TableName + " hosts4")
		k.want(with("192.0.2.9:8285"), true)
		if got := k.list(); got != whole {
			k.Errorf("%s\nwant\n%s", got, whole)
		}
	})
}
