package link

import (
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// Echo requests with the ID come in by the other interface, those with another one and all else do not.
func TestRedirect(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link add in0 type veth peer name out0", "link add to0 type veth peer name to1",
			"link set in0 up", "link set to0 up"); err != nil {
			t.Error(err)
			return
		}
		filters := func() string {
			out, err := n.Run("tc", "filter", "show", "dev", "in0", "ingress")
			if err != nil {
				t.Error(err)
			}
			return out
		}
		for range 2 { // a second time it only looks
			if err := Redirect("in0", "to0", 0x1234); err != nil {
				t.Errorf("redirect: %v", err)
			}
		}
		for _, want := range []string{"12340000/ffff0000 at 24", "08000000/ffff0000 at 20",
			"12340000/ffff0000 at 44", "80000000/ffff0000 at 40", "(Ingress Redirect to device to0) stolen"} {
			if out := filters(); !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		if before := filters(); Redirect("in0", "to0", 0x1234) != nil || filters() != before {
			t.Errorf("%s\nwas\n%s", filters(), before)
		}
		if err := Redirect("in0", "to0", 0x4321); err != nil || strings.Contains(filters(), "12340000") ||
			strings.Count(filters(), "Redirect to device") != 2 {
			t.Errorf("another ID: %v\n%s", err, filters())
		}
		if err := Redirect("in0", "gone", 1); err == nil {
			t.Error("to an interface that does not exist")
		}
		for range 2 {
			if err := EndRedirect("in0"); err != nil || filters() != "" {
				t.Errorf("ended: %v\n%s", err, filters())
			}
		}
		if err := EndRedirect("gone"); err != nil {
			t.Error(err)
		}
	})
}
