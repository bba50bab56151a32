package speed

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// This file has the wire format. A connection carries frames: one byte for the kind, three for the length in
// network order, then so many bytes. Messages are JSON objects, of which fields that are not known are
// ignored, so that later versions can add some.
const (
	kindData    = 'd' // the load; its bytes mean nothing
	kindMessage = 'm'

	frameHeader = 4
	maxData     = 1 << 18 // bytes of a frame of data
	maxMessage  = 1 << 10 // of a message
)

// errWire is that of all that no meshd sends.
var errWire = errors.New("the other side does not speak as meshd does")

// hello is the first message, of the node that answers.
type hello struct {
	Version int    `json:"version"`
	Busy    bool   `json:"busy,omitempty"` // with another measurement: the connection ends here
	Token   []byte `json:"token"`          // that each datagram of the measurement begins with
	Port    uint16 `json:"port"`           // UDP, where it takes datagrams
}

// version is that of the protocol.
const version = 1

// request is the second message, of the node that asks.
type request struct {
	LoadMS int64  `json:"load_ms"` // time of TCP in each direction
	LossMS int64  `json:"loss_ms"` // time of UDP in each direction
	Rate   uint64 `json:"rate"`    // most of both, bit/s
	Port   uint16 `json:"port"`    // UDP, where the node takes datagrams
}

// receipt is what came in: it answers the end of the load, and the end of the datagrams.
type receipt struct {
	Bytes     uint64 `json:"bytes,omitempty"`
	Micros    int64  `json:"micros,omitempty"` // from the first of them to the last
	Datagrams int    `json:"datagrams,omitempty"`
}

// train announces datagrams, and tells what the kernel of the sender knows of the load before.
type train struct {
	Datagrams     int    `json:"datagrams"`
	Segments      uint64 `json:"segments"`
	Retransmitted uint64 `json:"retransmitted"`
	RTTMicros     int64  `json:"rtt_micros"`
}

// check returns an error unless the other side speaks this protocol.
func (h hello) check() error {
	if h.Version != version || !h.Busy && (len(h.Token) != tokenSize || h.Port == 0) {
		return fmt.Errorf("%w: version %d", errWire, h.Version)
	}
	return nil
}

// check returns an error for a request beyond the bounds of this node.
func (r request) check() error {
	load, loss := r.load(), r.loss()
	most := MaxTime.Milliseconds() // each by itself, too: a sum of large numbers may be a small one
	if r.LoadMS <= 0 || r.LossMS <= 0 || r.LoadMS > most || r.LossMS > most || 2*(load+loss) > MaxTime ||
		r.Rate < MinRate || r.Rate > MaxRate || r.Port == 0 {
		return fmt.Errorf("%w: a request for %v and %v at %d bit/s", errWire, load, loss, r.Rate)
	}
	return nil
}

func (r request) load() time.Duration { return time.Duration(r.LoadMS) * time.Millisecond }
func (r request) loss() time.Duration { return time.Duration(r.LossMS) * time.Millisecond }

// check returns an error for figures that cannot be.
func (r receipt) check() error {
	if r.Micros < 0 || r.Datagrams < 0 || r.Datagrams > maxDatagrams {
		return fmt.Errorf("%w: %+v", errWire, r)
	}
	return nil
}

// check returns an error for figures that cannot be.
func (t train) check() error {
	if t.Datagrams < 0 || t.Datagrams > maxDatagrams || t.RTTMicros < 0 {
		return fmt.Errorf("%w: %+v", errWire, t)
	}
	return nil
}

// header returns the beginning of a frame.
func header(kind byte, length int) [frameHeader]byte {
	return [frameHeader]byte{kind, byte(length >> 16), byte(length >> 8), byte(length)}
}

// readHeader reads the beginning of a frame: its kind, and how many bytes follow.
func readHeader(r io.Reader) (kind byte, length int, err error) {
	var b [frameHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, 0, err
	}
	kind, length = b[0], int(binary.BigEndian.Uint32(b[:])&0xffffff)
	if kind == kindData && length > maxData || kind == kindMessage && length > maxMessage ||
		kind != kindData && kind != kindMessage {
		return 0, 0, fmt.Errorf("%w: a frame of kind %q with %d bytes", errWire, kind, length)
	}
	return kind, length, nil
}

// A message can tell whether it makes sense.
type message interface{ check() error }

// readMessage reads a message into m, which a pointer leads to.
func readMessage(r io.Reader, m message) error {
	kind, length, err := readHeader(r)
	if err == nil && kind != kindMessage {
		err = fmt.Errorf("%w: data in the place of a message", errWire)
	}
	if err != nil {
		return err
	}
	return decode(r, length, m)
}

// decode reads what follows the header of a message.
func decode(r io.Reader, length int, m message) error {
	b := make([]byte, length)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", errWire, err)
	}
	return m.check()
}

// writeMessage writes a message.
func writeMessage(w io.Writer, m message) error {
	doc, err := json.Marshal(m) // at most a few numbers, and a token
	if err != nil {
		return err
	}
	h := header(kindMessage, len(doc))
	_, err = w.Write(append(h[:], doc...))
	return err
}

// A datagram is a token, the number of the datagram from 0 in network order, and zeros.
const (
	tokenSize    = 16
	datagramHead = tokenSize + 4
	// datagramSize is the payload of a datagram of UDP: it fits what each path has to carry (RFC 8200,
	// section 5), less the headers of IPv6 and UDP.
	datagramSize = 1232
	// maxDatagrams bounds those of one direction: who receives them keeps a bit for each.
	maxDatagrams = 1 << 16
)

// numberOf returns the number of a datagram with a token; ok is false if it is another one's.
func numberOf(b, token []byte, of int) (number int, ok bool) {
	if len(b) < datagramHead || string(b[:tokenSize]) != string(token) {
		return 0, false
	}
	n := binary.BigEndian.Uint32(b[tokenSize:])
	return int(n), int64(n) < int64(of)
}
