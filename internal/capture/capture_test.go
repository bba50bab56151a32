package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
)

// A fake tap has packets of one byte, then none.
type fake struct {
	options dataplane.TapOptions
	device  string
	packets int
	idle    func() // called when there is none
	lost    uint64
	closed  bool
}

func (f *fake) Next(time.Time) (dataplane.Copy, error) {
	if f.packets == 0 {
		if f.idle != nil {
			f.idle()
		}
		return dataplane.Copy{}, os.ErrDeadlineExceeded
	}
	f.packets--
	return dataplane.Copy{At: time.Unix(1e9, 5), Length: 100, Bytes: []byte{0x45},
		Incoming: f.packets%2 == 0}, nil
}
func (f *fake) Waiting() bool                   { return f.packets > 0 }
func (f *fake) Counts() (uint64, uint64, error) { return 0, f.lost, nil }
func (f *fake) Close() error                    { f.closed = true; return nil }

func keeper(f *fake) *Keeper {
	p := &plan.Plan{Config: &config.Config{}, Self: config.Node{Name: "a"},
		Link: link.Settings{Interface: "mesh0"}}
	p.Engine.Mesh = mesh.Mesh{Self: "a", Peers: []mesh.Peer{{Name: "a"},
		{Name: "b", Subnets: []mesh.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}}}
	return New(Options{Log: slog.New(slog.DiscardHandler), Plan: func() *plan.Plan { return p },
		Open: func(device string, o dataplane.TapOptions) (dataplane.Tap, error) {
			f.device, f.options = device, o
			return f, nil
		}})
}

// read returns how many packets a file has, those of them that came in, and how many were lost.
func read(t *testing.T, file []byte) (packets, incoming int, lost uint64) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		_, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || info.Length != 100 || info.CaptureLength != 1 || !info.Timestamp.Equal(time.Unix(1e9, 5)) {
			t.Fatalf("%+v, %v", info, err)
		}
		packets++
		for _, data := range info.AncillaryData {
			if o, ok := data.(pcapgo.NgPacketOptions); ok && o.Flags != nil &&
				o.Flags.Direction == pcapgo.NgEpbFlagDirectionInbound {
				incoming++
			}
		}
	}
	i, err := r.Interface(0)
	if err != nil || i.Name != "mesh0" {
		t.Fatalf("%+v, %v", i, err)
	}
	return packets, incoming, i.Statistics.PacketsDropped
}

func TestFile(t *testing.T) {
	f := &fake{packets: 9, lost: 7}
	var b bytes.Buffer
	ok, err := keeper(f).Capture(t.Context(), control.CaptureRequest{Peer: "b", Count: 4, Snap: 1, Port: 53}, &b)
	if !ok || err != nil || !f.closed || f.device != "mesh0" || f.options.Port != 53 || f.options.Snap != 1 ||
		fmt.Sprint(f.options.Peer) != "[10.244.1.0/24]" {
		t.Errorf("%v, %v, %+v", ok, err, f)
	}
	if packets, _, lost := read(t, b.Bytes()); packets != 4 || lost != 7 {
		t.Errorf("%d packets, %d lost", packets, lost)
	}
}

// A capture ends with its asker, and frees its place.
func TestEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{packets: 3, idle: cancel}
	k := keeper(f)
	for range 2 * dataplane.Taps {
		var b bytes.Buffer
		if ok, err := k.Capture(ctx, control.CaptureRequest{}, &b); !ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
		read(t, b.Bytes())
	}
	f.packets = 3
	if ok, err := k.Capture(t.Context(), control.CaptureRequest{}, failing{}); !ok || err == nil {
		t.Errorf("a writer that fails: %v, %v", ok, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestRefused(t *testing.T) {
	f := &fake{}
	k := keeper(f)
	for name, r := range map[string]control.CaptureRequest{"snap": {Snap: 70000}, "less": {Snap: -1},
		"host": {Host: "x"}, "zone": {Host: "fe80::1%eth0"}, "port": {Port: 70000}, "count": {Count: -1},
		"time": {Seconds: 4000}, "before": {Seconds: -1}} {
		t.Run(name, func(t *testing.T) {
			_, err := k.Capture(t.Context(), r, io.Discard)
			if _, is := errors.AsType[*control.Refusal](err); err == nil || is {
				t.Errorf("%v", err)
			}
		})
	}
	for _, name := range []string{"a", "c"} {
		if ok, err := k.Capture(t.Context(), control.CaptureRequest{Peer: name}, io.Discard); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	for range dataplane.Taps {
		k.take()
	}
	_, err := k.Capture(t.Context(), control.CaptureRequest{}, io.Discard)
	if r, ok := errors.AsType[*control.Refusal](err); !ok || r.Code != "busy" {
		t.Errorf("%v", err)
	}
}
