package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// MaxAnswer bounds an answer, or a line of a stream, in bytes: whatever answers at the socket may
// never stop sending. A snapshot of 10,000 peers has about 5 MB.
const MaxAnswer = 32 << 20

// ErrTooLong tells that an answer or a line has more than MaxAnswer bytes.
var ErrTooLong = fmt.Errorf("more than %d MiB in one answer", MaxAnswer>>20)

// ReadLines decodes lines of JSON and calls each with them until in ends, which is no error. An
// error of each ends it and is returned. Empty lines are skipped; a longer line than MaxAnswer is
// ErrTooLong.
func ReadLines[T any](in io.Reader, each func(T) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, MaxAnswer)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var line T
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			// The daemon may have died in the middle of a line: then that is the error.
			if !lines.Scan() && lines.Err() != nil {
				return lines.Err()
			}
			return err
		}
		if err := each(line); err != nil {
			return err
		}
	}
	if lines.Err() == bufio.ErrTooLong {
		return ErrTooLong
	}
	return lines.Err()
}

// readAnswer reads a whole answer. More than MaxAnswer bytes are ErrTooLong.
func readAnswer(in io.Reader) ([]byte, error) {
	answer, err := io.ReadAll(io.LimitReader(in, MaxAnswer+1))
	if err == nil && len(answer) > MaxAnswer {
		err = ErrTooLong
	}
	return answer, err
}
