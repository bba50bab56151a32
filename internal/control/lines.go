package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// MaxAnswer bounds what is read of another program at once, in bytes: an answer, or a
// line of a stream. A snapshot of 10,000 peers has about 5 MB.
const MaxAnswer = 32 << 20

// ErrTooLong is what ReadLines returns for a line of more than MaxAnswer.
var ErrTooLong = fmt.Errorf("more than %d MiB in one answer", MaxAnswer>>20)

// ReadLines decodes lines of JSON and calls each with them, until in ends, which is no
// error, or each returns an error, which it returns.
func ReadLines[T any](in io.Reader, each func(T) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, MaxAnswer)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var line T
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			if !lines.Scan() && lines.Err() != nil { // it was cut off
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

// readAnswer reads all that comes, up to MaxAnswer.
func readAnswer(in io.Reader) ([]byte, error) {
	answer, err := io.ReadAll(io.LimitReader(in, MaxAnswer+1))
	if err == nil && len(answer) > MaxAnswer {
		err = ErrTooLong
	}
	return answer, err
}
