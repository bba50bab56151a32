package control

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// CaptureRequest is the body of POST /v1/capture.
type CaptureRequest struct {
	Peer    string  `json:"peer"`    // empty: all of them
	Snap    int     `json:"snap"`    // bytes that are kept of a packet, 1 to 65535; 0: 65535
	Count   int     `json:"count"`   // packets after which it ends; 0: as many as come
	Seconds float64 `json:"seconds"` // after which it ends, up to 3600; 0: 3600
	Host    string  `json:"host"`    // only packets from or to this address; empty: all
	Port    int     `json:"port"`    // only TCP and UDP from or to this port; 0: all
}

// pcapng is the type of the answer.
const pcapng = "application/x-pcapng"

// A blockWriter writes the blocks of a capture as soon as they come.
type blockWriter struct {
	w     http.ResponseWriter
	begun bool
}

// Write implements io.Writer.
func (b *blockWriter) Write(p []byte) (int, error) {
	control := http.NewResponseController(b.w)
	if !b.begun {
		b.begun = true
		b.w.Header().Set("Content-Type", pcapng)
		// A reader may rest for as long as the capture: its packets are lost then, and nobody waits.
		if err := control.SetWriteDeadline(time.Now().Add(time.Hour + readerPatience)); err != nil {
			return 0, err
		}
	}
	n, err := b.w.Write(p)
	if err == nil {
		err = control.Flush()
	}
	return n, err
}

// capture serves POST /v1/capture. It ends when its asker hangs up.
func (a *api) capture(w http.ResponseWriter, r *http.Request) {
	if !mayWrite(r) {
		notPermitted(w)
		return
	}
	var request CaptureRequest
	if !aboutPeer(w, r, &request) {
		return
	}
	out := &blockWriter{w: w}
	ok, err := a.source.Capture(r.Context(), request, out)
	switch {
	case out.begun && err != nil:
		panic(http.ErrAbortHandler) // the reader has to see that the file is not whole
	case !out.begun && (err != nil || !ok):
		a.unanswered(w, r, request.Peer, err)
	}
}

// Captured is how much was captured.
type Captured struct {
	Packets uint64
	Lost    uint64 // since the reader was too slow
}

// Capture sends POST /v1/capture, and copies the answer to w, whole blocks alone: what w gets is a file of
// pcapng, also when ctx ends, which is no error. The error of w is returned as it is.
func (c *Client) Capture(ctx context.Context, r CaptureRequest, w io.Writer) (got Captured, err error) {
	doc, err := json.Marshal(r)
	if err != nil {
		return got, err
	}
	response, err := c.send(ctx, http.MethodPost, "/v1/capture", doc)
	if err != nil {
		return got, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		answer, _ := readAnswer(response.Body)
		return got, c.refusal(response, "/v1/capture", answer, nil)
	}
	err = got.copy(w, response.Body)
	if ctx.Err() != nil {
		return got, nil
	}
	return got, err
}

// Types of blocks, and of the option that tells what was lost (draft-ietf-opsawg-pcapng, sections 4.3, 4.6).
const (
	blockPacket     = 6
	blockStatistics = 5
	optionDropped   = 5
	maxBlock        = 1 << 18 // bytes; a packet has at most 65535
)

// copy copies blocks until r ends between two of them.
func (c *Captured) copy(w io.Writer, r io.Reader) error {
	b := make([]byte, maxBlock)
	for {
		const head, tail = 8, 4
		if _, err := io.ReadFull(r, b[:head]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the capture: %w", err)
		}
		length := binary.LittleEndian.Uint32(b[4:])
		if length < head+tail || length > maxBlock || length%4 != 0 {
			return fmt.Errorf("%w: a block of a capture has %d bytes", ErrMismatch, length)
		}
		if _, err := io.ReadFull(r, b[head:length]); err != nil {
			return fmt.Errorf("read the capture: %w", err)
		}
		switch binary.LittleEndian.Uint32(b) {
		case blockPacket:
			c.Packets++
		case blockStatistics:
			c.statistics(b[head : length-tail])
		}
		if _, err := w.Write(b[:length]); err != nil {
			return err
		}
	}
}

// statistics reads the body of a block of statistics.
func (c *Captured) statistics(b []byte) {
	for b = b[min(len(b), 12):]; len(b) >= 4; {
		code, length := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		padded := 4 + (length+3)/4*4
		if padded > len(b) {
			return
		}
		if code == optionDropped && length == 8 {
			c.Lost = binary.LittleEndian.Uint64(b[4:])
		}
		b = b[padded:]
	}
}
