package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
)

// block returns one of pcapng.
func block(kind uint32, body string) string {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(12+len(body)))
	return string(binary.LittleEndian.AppendUint32(append(b, body...), uint32(12+len(body))))
}

// lostBlock is one of statistics with 7 lost packets.
var lostBlock = block(blockStatistics, strings.Repeat("\x00", 12)+"\x04\x00\x08\x0012345678"+
	"\x05\x00\x08\x00\x07\x00\x00\x00\x00\x00\x00\x00"+"\x00\x00\x00\x00")

func TestCapture(t *testing.T) {
	whole := block(0x0a0d0d0a, "head") + block(blockPacket, "one.") + lostBlock
	c := NewClient(serve(t, Source{
		Status: func() Status { return Status{Schema: Schema, Node: "a"} },
		Capture: func(ctx context.Context, r CaptureRequest, w io.Writer) (bool, error) {
			switch r.Peer {
			case "":
				_, err := io.WriteString(w, whole)
				return true, err
			case "goes on":
				_, _ = io.WriteString(w, whole+"\x06\x00\x00\x00")
				<-ctx.Done()
				return true, nil
			case "breaks":
				_, _ = io.WriteString(w, whole)
				return true, &Refusal{Code: "failed", Message: "no"}
			case "busy":
				return true, &Refusal{Code: "busy", Message: "later"}
			case "bad":
				return false, errors.New("snap")
			}
			return false, nil
		}}))
	var b bytes.Buffer
	got, err := c.Capture(t.Context(), CaptureRequest{}, &b)
	if err != nil || got != (Captured{Packets: 1, Lost: 7}) || b.String() != whole {
		t.Errorf("%+v, %v: %q", got, err, b.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.Reset()
	got, err = c.Capture(ctx, CaptureRequest{Peer: "goes on"}, ending{&b, cancel})
	if err != nil || got.Packets > 1 || !strings.HasPrefix(whole, b.String()) || b.Len() == 0 {
		t.Errorf("ended by its reader: %+v, %v: %q", got, err, b.String())
	}
	if _, err := c.Capture(t.Context(), CaptureRequest{Peer: "breaks"}, io.Discard); err == nil {
		t.Error("a capture that broke is whole")
	}
	if _, err := c.Capture(t.Context(), CaptureRequest{Peer: "nobody"}, io.Discard); !errors.Is(err, ErrNoPeer) {
		t.Errorf("%v", err)
	}
	for _, peer := range []string{"busy", "bad"} {
		_, err := c.Capture(t.Context(), CaptureRequest{Peer: peer}, io.Discard)
		if err == nil || ExitCode(err) != 1 {
			t.Errorf("%s: %v", peer, err)
		}
	}
	w := httptest.NewRecorder()
	routes(Source{}).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/capture", strings.NewReader("{}")))
	if w.Code != http.StatusForbidden {
		t.Errorf("without credentials: %d", w.Code)
	}
}

// ending is a reader that has had enough after the first block.
type ending struct {
	io.Writer
	end func()
}

func (e ending) Write(b []byte) (int, error) { defer e.end(); return e.Writer.Write(b) }

func FuzzBlocks(f *testing.F) {
	f.Add([]byte(lostBlock))
	f.Add([]byte(block(blockPacket, "one.") + lostBlock[:20]))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		var c Captured
		var out bytes.Buffer
		_ = c.copy(&out, bytes.NewReader(b))
		if !bytes.HasPrefix(b, out.Bytes()) || c.Packets > uint64(len(b)/12) {
			t.Errorf("%+v of %d bytes: %d", c, len(b), out.Len())
		}
	})
}
