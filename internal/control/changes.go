package control

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"example.org/meshd/internal/text"
)

// A snapshot of 10,000 peers has 5 MB, and hardly anything of it changes in a second. So a reader
// of GET /v1/watch?changes=1 gets one snapshot, and then what has changed since the line before.
//
//	server   differences(last, now) -> Changes    per reader, who may have missed a snapshot
//	client   Follower: snapshot, Changes, ... -> Status
//
// Both go through the fields of Status and Peer by reflection, so a new field needs no code here.

// Changes is what changed in a Status since an earlier line of the same answer. Values are whole:
// of a list or an object in a field, nothing is left out.
type Changes struct {
	Since  uint64                     `json:"since"`  // seq of the line with the Status before
	Status map[string]json.RawMessage `json:"status"` // fields that changed, by name; never "peers"
	// Peers are the fields that changed of each peer, by the peer's name. Of a new peer, fields
	// that are missing are zero.
	Peers map[string]map[string]json.RawMessage `json:"peers,omitempty"`
	Gone  []string                              `json:"gone,omitempty"` // peers that are no more
	// Figures are added to those of peers, in the order of their names, for a reader that asked for them
	// by their names. Peers then lacks them.
	Figures map[string]Growth `json:"figures,omitempty"`
}

// ErrPlace says that changes do not follow the line that was read last. Connect again.
var ErrPlace = errors.New("changes do not follow the line before")

// mostFollowed bounds the peers that a Follower remembers: whatever answers could name ever new ones.
const mostFollowed = 100_000

// peersField is the field of Status that has entries by name.
const peersField = "peers"

// fieldsOf lists the JSON names of a struct's fields, by index.
func fieldsOf[T any]() (names []string) {
	t := reflect.TypeFor[T]()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

var statusFields, peerFields = fieldsOf[Status](), fieldsOf[Peer]()

// differences returns what changed from one status to another, some figures in lists. Neither status is
// changed.
func differences(old, now *Status, since uint64, figured []figure) (*Changes, error) {
	c := &Changes{Since: since, Peers: map[string]map[string]json.RawMessage{}}
	var err error
	if c.Status, err = changed(old, now, statusFields); err != nil {
		return nil, err
	}
	before := make(map[string]*Peer, len(old.Peers))
	for i := range old.Peers {
		before[old.Peers[i].Name] = &old.Peers[i]
	}
	was := make([]*Peer, len(now.Peers))
	for i := range now.Peers {
		was[i] = before[now.Peers[i].Name]
		delete(before, now.Peers[i].Name)
	}
	c.Gone = slices.Sorted(maps.Keys(before))
	// The order of names must be beyond doubt, since figures have no names with them.
	if slices.IsSortedFunc(now.Peers, func(a, b Peer) int { return cmp.Or(cmp.Compare(a.Name, b.Name), -1) }) {
		c.Figures = growths(was, now.Peers, figured)
	}
	memory := &slabs{}
	for i := range now.Peers {
		p := now.Peers[i]
		if was[i] == nil {
			was[i] = &Peer{}
		} else if p = setBack(was[i], p, i, c.Figures, memory); reflect.DeepEqual(was[i], &p) {
			continue
		}
		if c.Peers[p.Name], err = changed(was[i], &p, peerFields); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// changed returns the fields of a struct that differ, by name.
func changed[T any](old, now *T, names []string) (map[string]json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	a, b := reflect.ValueOf(old).Elem(), reflect.ValueOf(now).Elem()
	for i, name := range names {
		if name == peersField || reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			continue
		}
		value, err := marshal(b.Field(i).Interface())
		if err != nil {
			return nil, err
		}
		all[name] = bytes.TrimSpace(value)
	}
	return all, nil
}

// apply sets fields of a struct to new values, which tidy may change before. They share no memory with the
// values before, since whoever has the old status keeps it. Names that this program does not know are a
// newer daemon's.
func apply[T any](to *T, names []string, values map[string]json.RawMessage, tidy func(any)) error {
	fresh := new(T)
	from, v := reflect.ValueOf(fresh).Elem(), reflect.ValueOf(to).Elem()
	known := func(name string) bool { return name != peersField && values[name] != nil }
	for i, name := range names {
		if !known(name) {
			continue
		}
		if err := json.Unmarshal(values[name], from.Field(i).Addr().Interface()); err != nil {
			return fmt.Errorf("read changes of %q: %w", name, err)
		}
	}
	tidy(fresh)
	for i, name := range names {
		if known(name) {
			v.Field(i).Set(from.Field(i))
		}
	}
	return nil
}

// A Follower makes a whole Status of each line of GET /v1/watch?changes=1. Its zero value is ready. One
// goroutine at a time may use it.
type Follower struct {
	// Tidy makes text harmless for a terminal, as that of Client does.
	Tidy bool

	seq    uint64   // of the last line with a status; 0: none was read
	status Status   // without its peers
	names  []string // of peers, in order, as the daemon calls them, which may be untidy
	peers  []Peer   // in the same order; those that read them may keep the slice
}

// Follow returns a line as it would be without changes=1: one with Changes becomes a snapshot. Other lines
// stay as they are. The caller owns the status and may keep it, but must not change what it points to. The
// error has ErrPlace in it if the changes do not belong to the line before.
func (f *Follower) Follow(w Watched) (Watched, error) {
	switch {
	case w.Status != nil:
		names := make([]string, len(w.Status.Peers))
		for i, p := range w.Status.Peers {
			names[i] = p.Name
		}
		f.tidy(w.Status)
		f.seq, f.status = w.Seq, *w.Status
		f.status.Peers = nil
		known := make(map[string]Peer, len(names))
		for i, p := range w.Status.Peers {
			known[names[i]] = p
		}
		f.list(known)
		return w, nil
	case w.Changes == nil:
		f.tidy(&w)
		return w, nil
	case f.seq == 0 || w.Changes.Since != f.seq:
		return w, fmt.Errorf("%w: they follow line %d instead of %d", ErrPlace, w.Changes.Since, f.seq)
	}
	if err := f.take(w.Changes); err != nil {
		return w, err
	}
	f.seq = w.Seq
	s := f.status
	s.Peers = f.peers
	return Watched{Type: "snapshot", Seq: w.Seq, Status: &s}, nil
}

// list puts peers into order.
func (f *Follower) list(known map[string]Peer) {
	f.names = slices.Sorted(maps.Keys(known))
	f.peers = make([]Peer, 0, len(known))
	for _, name := range f.names {
		f.peers = append(f.peers, known[name])
	}
}

// find returns where a peer is.
func (f *Follower) find(name string) (at int, known bool) { return slices.BinarySearch(f.names, name) }

// take applies changes to copies: whoever has the old status keeps it.
func (f *Follower) take(c *Changes) error {
	if err := apply(&f.status, statusFields, c.Status, f.tidy); err != nil {
		return err
	}
	if f.others(c) {
		known := make(map[string]Peer, len(f.names)+len(c.Peers))
		for i, name := range f.names {
			known[name] = f.peers[i]
		}
		for _, name := range c.Gone {
			delete(known, name)
		}
		for name := range c.Peers {
			if _, there := known[name]; !there {
				known[name] = Peer{}
			}
		}
		f.list(known)
	} else {
		f.peers = slices.Clone(f.peers)
	}
	if len(f.names) > mostFollowed {
		return fmt.Errorf("%w: more than %d peers", ErrTooLong, mostFollowed)
	}
	for name, values := range c.Peers {
		at, _ := f.find(name)
		if err := apply(&f.peers[at], peerFields, values, f.tidy); err != nil {
			return err
		}
	}
	return grow(f.peers, c.Figures)
}

// others tells whether peers come or go with changes.
func (f *Follower) others(c *Changes) bool {
	for name := range c.Peers {
		if _, known := f.find(name); !known {
			return true
		}
	}
	return len(c.Gone) > 0
}

// tidy makes the text that a pointer leads to harmless, if the Follower is to.
func (f *Follower) tidy(value any) {
	if f.Tidy {
		text.Fields(value)
	}
}
