package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// This file finds chains that drop the rest: their policy is accept, and their last rule drops or
// rejects all packets that get there. firewalld's filter_FORWARD is one, and the FORWARD chain that
// Red Hat's iptables service loads.

// maxJumps bounds how many chains are followed from the last rule of one to the next. The kernel
// allows 16 (NFT_JUMP_STACK_SIZE).
const maxJumps = 16

// endsInDrop reports whether the last of a chain's rules drops all packets, itself or by a jump to a
// chain that does.
func endsInDrop(conn *nftables.Conn, c *nftables.Chain, rules []*nftables.Rule, jumps int) (bool, error) {
	if len(rules) == 0 || jumps == 0 {
		return false, nil
	}
	drops, to := unconditional(rules[len(rules)-1])
	if to == "" {
		return drops, nil
	}
	next := &nftables.Chain{Table: c.Table, Name: to}
	rules, err := listRules(conn, next)
	if err != nil {
		return false, err
	}
	return endsInDrop(conn, next, rules, jumps-1)
}

// unconditional reports whether a rule drops each packet, or to which chain it sends each one. A rule
// with a match does neither.
func unconditional(r *nftables.Rule) (drops bool, to string) {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Match:
			if e.Name != "comment" {
				return false, ""
			}
		case *expr.Reject:
			return true, ""
		case *expr.Target:
			return e.Name == "REJECT" || e.Name == "DROP", ""
		case *expr.Verdict:
			switch e.Kind {
			case expr.VerdictJump, expr.VerdictGoto:
				return false, e.Chain
			}
			return e.Kind == expr.VerdictDrop, ""
		default:
			return false, ""
		}
	}
	return false, ""
}
