package netns

import (
	"runtime"
	"testing"

	"example.org/meshd/internal/nstest"
)

// A namespace stays itself, and another one is another, whatever number it has.
func TestCurrent(t *testing.T) {
	seen := map[Identity]bool{}
	for range 3 {
		nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			first, err := Current()
			again, errAgain := Current()
			if err != nil || errAgain != nil || first != again || first.Inode == 0 {
				t.Errorf("%+v, %v, then %+v, %v", first, err, again, errAgain)
			}
			if seen[first] {
				t.Errorf("%+v was another namespace before", first)
			}
			seen[first] = true
		})
	}
}
