package user

import (
	"context"
	"encoding/hex"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	wireguardgo "golang.zx2c4.com/wireguard/device"
)

// Bounds of what packets take that wait for a session.
const (
	roomy    = 96 << 20 // bytes of Go's heap: with fewer, nothing is dropped
	readings = 1 << 10  // packets read from the TUN, 64 KiB each, between two looks
)

// relieve drops, each time that it is woken, packets that wait for peers without a session, if the heap has
// become large. wireguard-go would keep 128 reads of the TUN for each such peer and for 90 seconds
// (QueueStagedSize, MaxTimerHandshakes), each of them up to 128 packets: a pod that sends to some silent
// peers could fill the memory of this process, and so could probes of a thousand of them. Peers with sessions
// lose nothing, since none of their packets wait.
func relieve(ctx context.Context, device *atomic.Pointer[wireguardgo.Device], counted <-chan struct{}) {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	var silent []*wireguardgo.Peer
	var of *wireguardgo.Device
	var at time.Time // when peers were asked for
	for {
		select {
		case <-ctx.Done():
			return
		case <-counted:
		}
		metrics.Read(heap)
		d := device.Load()
		if d == nil || heap[0].Value.Uint64() < roomy {
			silent = nil
			continue
		}
		if now := time.Now(); d != of || now.Sub(at) > time.Second {
			silent, of, at = withoutSession(d, now), d, now
		}
		for _, p := range silent {
			p.FlushStagedPackets()
		}
	}
}

// withoutSession returns the peers of a device whose last handshake is too long ago for a session, if there
// was one.
func withoutSession(d *wireguardgo.Device, now time.Time) (silent []*wireguardgo.Peer) {
	text, err := d.IpcGet()
	if err != nil {
		return nil
	}
	oldest := now.Add(-wireguardgo.RejectAfterTime).Unix()
	var peer *wireguardgo.Peer
	for line := range strings.SplitSeq(text, "\n") {
		field, value, _ := strings.Cut(line, "=")
		switch field {
		case "public_key":
			var key wireguardgo.NoisePublicKey
			_, _ = hex.Decode(key[:], []byte(value)) // the library has written it
			peer = d.LookupPeer(key)
		case "last_handshake_time_sec":
			if sec, _ := strconv.ParseInt(value, 10, 64); peer != nil && sec < oldest {
				silent = append(silent, peer)
			}
		}
	}
	return silent
}
