package kernel

import "testing"

// A capture on the TUN, or on all interfaces, is seen; other packet sockets are not.
func TestCaptured(t *testing.T) {
	const header = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"
	for name, c := range map[string]struct {
		line string
		want bool
	}{
		"no socket":            {"", false},
		"on the TUN":           {"ffff8881 3      3    0003   7     1 0      0      41", true},
		"on all interfaces":    {"ffff8881 3      3    0003   0     1 0      0      41", true},
		"on another interface": {"ffff8881 3      3    0003   77    1 0      0      41", false},
		"for one protocol":     {"ffff8881 3      3    88cc   7     1 0      0      41", false},
		"cut short":            {"ffff8881 3      3    0003", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := captured(header+c.line+"\n", 7); got != c.want {
				t.Errorf("captured is %v", got)
			}
		})
	}
}
