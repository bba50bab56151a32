package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/state"
)

// Earlier is how many files are kept besides the one in force.
const Earlier = 20

// FilesName is the folder of texts in the state folder. Each is named after its SHA-256, so two times in
// force cost one file, and a text that is not what its name says is none.
const FilesName = "files"

const (
	indexName = "index"
	maxIndex  = 64 << 10
	suffix    = ".toml"
)

// An entry is one file that was in force.
type entry struct {
	Number  int          `json:"number"` // from 1, and never used again
	Sum     string       `json:"sha256"`
	Bytes   int          `json:"bytes"`
	At      time.Time    `json:"at"` // when it came into force
	Cause   string       `json:"cause"`
	By      string       `json:"by"`
	Told    control.Told `json:"told"`
	Outcome string       `json:"outcome,omitempty"` // of a change with a deadline
}

// A store keeps the record, and the texts that were in force. Calls may wait as long as the disk does, one
// after the other, so that none of them overtakes another; list never waits.
type store struct {
	folder  string
	disk    sync.Mutex              // held while the disk works: whoever waits for it waits for the disk
	entries atomic.Pointer[[]entry] // oldest first; never changed, but replaced
}

// sumOf returns the SHA-256 of a text, in lower-case hex.
func sumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// list returns the files that were in force, oldest first. The caller must not change it.
func (s *store) list() []entry {
	if all := s.entries.Load(); all != nil {
		return *all
	}
	return nil
}

// read reads the index.
func (s *store) read() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	doc, err := state.Read(filepath.Join(s.folder, FilesName), indexName, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := parseIndex(doc)
	if err == nil {
		s.entries.Store(&all)
	}
	return err
}

// parseIndex takes what is written as the index, and nothing that could do harm.
func parseIndex(doc []byte) (all []entry, err error) {
	if err := json.Unmarshal(doc, &all); err != nil {
		return nil, err
	}
	if len(all) > Earlier+1 {
		return nil, fmt.Errorf("%w: it lists %d files", errNonsense, len(all))
	}
	last := 0
	for _, e := range all {
		if e.Number <= last || !isSum(e.Sum) || e.Bytes < 0 || e.Bytes > MaxFile || !isName(e.By) ||
			!isName(e.Cause) || !isName(e.Outcome) || !isName(e.Told.User) || !isName(e.Told.From) {
			return nil, fmt.Errorf("%w: file %d", errNonsense, e.Number)
		}
		last = e.Number
	}
	return all, nil
}

// find returns the entry with a number.
func (s *store) find(number int) (entry, bool) {
	for _, e := range s.list() {
		if e.Number == number {
			return e, true
		}
	}
	return entry{}, false
}

// before returns the newest file that has another text than the one in force, and was not taken back.
func (s *store) before(sum string) (entry, bool) {
	for _, e := range slices.Backward(s.list()) {
		if e.Sum != sum && e.Outcome != takenBack {
			return e, true
		}
	}
	return entry{}, false
}

// keep has texts survive a power cut, and then a record, which may need them.
func (s *store) keep(r *record, texts ...[]byte) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	for _, text := range texts {
		if err := s.write(text); err != nil {
			return err
		}
	}
	return s.note(r)
}

// note has a record survive a power cut; nil removes it. The caller holds disk.
func (s *store) note(r *record) error {
	if r == nil {
		_, err := state.Remove(s.folder, RecordName)
		return err
	}
	doc, err := r.encode()
	if err == nil {
		err = state.Write(s.folder, RecordName, doc)
	}
	return err
}

// write keeps a text under its SHA-256, unless it is there. The caller holds disk.
func (s *store) write(text []byte) error {
	sum := sumOf(text)
	if _, err := s.load(sum); err == nil {
		return nil
	}
	return state.Write(filepath.Join(s.folder, FilesName), sum+suffix, text)
}

// text returns the text with a SHA-256.
func (s *store) text(sum string) ([]byte, error) {
	s.disk.Lock()
	defer s.disk.Unlock()
	return s.load(sum)
}

// load is text for whoever holds disk.
func (s *store) load(sum string) ([]byte, error) {
	if !isSum(sum) {
		return nil, fmt.Errorf("%w: %q", ErrNoFile, sum)
	}
	doc, err := state.Read(filepath.Join(s.folder, FilesName), sum+suffix, MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoFile, sum)
	}
	if err == nil && sumOf(doc) != sum {
		return nil, fmt.Errorf("%w: %s is damaged", ErrNoFile, sum)
	}
	return doc, err
}

// add notes that a file came into force, and lets go of the oldest. What a record needs is spared.
func (s *store) add(a arrival, r *record) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	all, grown := grow(s.list(), a.entry)
	if !grown {
		return nil
	}
	if err := errors.Join(s.write([]byte(a.text)), s.index(all)); err != nil {
		return err
	}
	s.tidy(r)
	return nil
}

// grow returns a list with one more file. A file that is the newest one already stays as it is: the daemon
// was restarted. A change that waits is over when another file comes.
func grow(old []entry, e entry) (all []entry, grown bool) {
	all = slices.Clone(old)
	number := 0
	if len(all) > 0 {
		last := all[len(all)-1]
		if last.Sum == e.Sum && last.Outcome != takenBack {
			return old, false
		}
		number = last.Number
	} else if e.Cause == CauseEdit {
		e.Cause = CauseStart
	}
	for i := range all {
		if all[i].Outcome != pending {
			continue
		}
		if all[i].Outcome = "superseded"; e.Cause == CauseBack {
			all[i].Outcome = takenBack
		}
	}
	e.Number = number + 1
	all = append(all, e)
	return all[max(0, len(all)-Earlier-1):], true
}

// confirmed notes that a change is there to stay.
func (s *store) confirmed(sum string) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	all := slices.Clone(s.list())
	for i := range all {
		all[i].confirm(sum)
	}
	return s.index(all)
}

// confirm notes that a change is there to stay, if it is this one.
func (e *entry) confirm(sum string) {
	if e.Sum == sum && e.Outcome == pending {
		e.Outcome = "confirmed"
	}
}

// index writes the index. The caller holds disk.
func (s *store) index(all []entry) error {
	doc, err := json.Marshal(all)
	if err == nil {
		err = state.Write(filepath.Join(s.folder, FilesName), indexName, doc)
	}
	if err == nil {
		s.entries.Store(&all)
	}
	return err
}

// tidy removes texts that neither the index nor a record names. The caller holds disk.
func (s *store) tidy(r *record) {
	wanted := map[string]bool{}
	for _, sum := range r.sums() {
		wanted[sum] = true
	}
	for _, e := range s.list() {
		wanted[e.Sum] = true
	}
	folder := filepath.Join(s.folder, FilesName)
	all, err := os.ReadDir(folder)
	if err != nil {
		return // the next file that comes tries again
	}
	for _, one := range all {
		if sum, is := strings.CutSuffix(one.Name(), suffix); is && isSum(sum) && !wanted[sum] {
			_, _ = state.Remove(folder, one.Name()) // as above
		}
	}
}

// sums returns the texts that a record needs; none of nil.
func (r *record) sums() (all []string) {
	if r == nil {
		return nil
	}
	if all = []string{r.Sum, r.Refused}; r.Before != nil {
		all = append(all, r.Before.Sum)
	}
	return all
}
