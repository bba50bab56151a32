package udp

import (
	"testing"

	"example.org/meshd/internal/budget"
)

// What there was no room for is found by its name, wherever it stands.
func TestNoRoomOf(t *testing.T) {
	for _, test := range []struct {
		name, four, six string
		want            uint64
	}{
		{"nothing", "", "", 0},
		{"both families",
			"Tcp: A RcvbufErrors\nTcp: 1 2\nUdp: InDatagrams RcvbufErrors SndbufErrors MemErrors\nUdp: 9 3 8 4\n" +
				"UdpLite: RcvbufErrors\nUdpLite: 5\n",
			"Ip6InReceives 7\nUdp6RcvbufErrors \t10\nUdp6MemErrors 20\nUdpLite6RcvbufErrors 5\n", 37},
		{"an older kernel", "Udp: RcvbufErrors\nUdp: 3\n", "Udp6RcvbufErrors 1\n", 4},
		{"damaged", "Udp: RcvbufErrors MemErrors\nUdp: x\n", "Udp6RcvbufErrors\nUdp6MemErrors -1\n", 0},
		{"names alone", "Udp: RcvbufErrors\n", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := noRoom4([]byte(test.four)) + noRoom6([]byte(test.six)); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

func FuzzNoRoom(f *testing.F) {
	f.Add([]byte("Udp: RcvbufErrors\nUdp: 3\nUdp6MemErrors 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		noRoom4(b)
		noRoom6(b)
	})
}
