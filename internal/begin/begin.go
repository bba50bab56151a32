// Package begin finds out what a daemon begins with: its privileges, and the file on disk or, in the
// place of a bad one, the last good file. It is the one place that decides so, for the daemon and for
// its helpers.
package begin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/lastgood"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/passing"
	"example.org/meshd/internal/source"
	"example.org/meshd/internal/state"
)

// Where says where the file is, and what may take its place.
type Where struct {
	Path   string // of the file, as the caller named it
	State  string // the state folder
	Strict bool   // nothing may take its place
	// See returns what takes the place of what was read, since it was applied; nil: nothing does.
	See func(source.Reading) source.Reading
}

// A File is what a daemon begins with.
type File struct {
	Config  *config.Config
	Reading source.Reading // what was at the path
	Bad     error          // why Config is the last good file and not what was read; nil: it is what was read
	Since   time.Time      // when the last good file came into force; zero if Bad is nil
}

// patience is how long the file system of the state folder is waited for.
const patience = 5 * time.Second

// Load reads the file. In the place of a bad one it takes the last good one, if that may be and there is
// one. The error of a bad file is of type config.Faults; that of a file that cannot be read for a
// passing reason is not, since it is no fault of the file. It returns soon, whatever a file system does.
func (w Where) Load(ctx context.Context, reader *source.Reader) (first File, err error) {
	if first.Reading = reader.Read(ctx); w.See != nil {
		first.Reading = w.See(first.Reading)
	}
	bad := error(nil)
	if first.Config, bad = w.Parse(nil, first.Reading); bad == nil {
		return first, nil
	}
	first, err = w.Instead(ctx, first.Reading, bad)
	if err != nil && passing.Is(first.Reading.Err) {
		return first, first.Reading.Err
	}
	return first, err
}

// Parse returns what a reading of the file says. The error is of type config.Faults. old is the file
// before, or nil.
func (w Where) Parse(old *config.Config, one source.Reading) (*config.Config, error) {
	if one.Err != nil {
		return nil, config.Unreadable(w.Path, one.Err)
	}
	return config.ParseAfter(old, w.Path, one.Doc)
}

// Instead returns the last good file in the place of what was read, which is bad for a reason. The error
// has that reason in it and, if there is a last good file that cannot be used, why.
func (w Where) Instead(ctx context.Context, one source.Reading, bad error) (File, error) {
	none := File{Reading: one}
	if w.Strict {
		return none, bad
	}
	c, since, err := w.LastGood(ctx)
	if err == nil { // what it says is done with all rights of this process
		var author uint32
		if author, err = state.Author(w.State, lastgood.Name); err == nil && int(author) != os.Geteuid() {
			err = fmt.Errorf("%s may have been written by user %d: not running it", c.Path, author)
		}
	}
	switch {
	case errors.Is(err, lastgood.ErrNone), errors.Is(err, lastgood.ErrOther):
		return none, bad
	case err != nil:
		return none, fmt.Errorf("%w\nno last good file can be run instead: %w", bad, err)
	}
	if _, sealed := lastgood.Sealed(w.State, w.Full()); sealed && !c.Sealed() {
		c = c.Shut()
	}
	return File{Config: c, Reading: one, Bad: bad, Since: since}, nil
}

// Bar has the kernel refuse what must not leave this host bare, for a daemon that cannot run: its packets
// have travelled encrypted, or c, which may be nil, asks for that. Only a daemon that runs, or `meshd
// cleanup`, lets them pass again.
func (w Where) Bar(c *config.Config) error {
	prefixes, sealed := lastgood.Sealed(w.State, w.Full())
	if c != nil && c.Sealed() {
		sealed, prefixes = true, c.Prefixes()
	}
	if !sealed || len(prefixes) == 0 {
		return nil
	}
	_, _, err := link.SetBackstops(prefixes)
	return err
}

// LastGood returns the last good file and when it came into force, whoever may have written it.
func (w Where) LastGood(ctx context.Context) (*config.Config, time.Time, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, source.ErrNoAnswer)
	defer cancel()
	f, err := lastgood.Read(ctx, w.State, w.Full(), config.MaxSize)
	if err != nil {
		return nil, time.Time{}, err
	}
	// Its faults are those of a meshd with other rules, and have its own path.
	c, err := config.Parse(lastgood.Path(w.State), []byte(f.Text))
	return c, f.Since, err
}

// Chosen returns the file that a daemon begins with, for helpers of the service that root runs before and
// after its start. The last good file is the word of the service's user: whoever calls must not do more
// for it than that user may.
func (w Where) Chosen(ctx context.Context) (*config.Config, error) {
	c, err := config.Load(w.Path)
	if err != nil && !w.Strict {
		if good, _, none := w.LastGood(ctx); none == nil {
			return good, nil
		}
	}
	return c, err
}

// Full returns the path of the file from the root on; the path itself if the working directory is
// gone.
func (w Where) Full() string {
	if full, err := filepath.Abs(w.Path); err == nil {
		return full
	}
	return w.Path
}

// Keep returns a function that has files which came into force kept as the last good one.
func (w Where) Keep(keeper *lastgood.Keeper) func(*config.Config) {
	return func(c *config.Config) {
		if c.Path == w.Path { // not the last good file itself
			f := lastgood.File{Path: w.Full(), Text: c.Text(), Since: time.Now()}
			if c.Sealed() {
				f.Sealed = c.Prefixes()
			}
			keeper.Set(f)
		}
	}
}

// ErrPrivilege marks errors for want of a capability.
var ErrPrivilege = errors.New("privilege")

// CheckPrivileges returns an error with ErrPrivilege in it, one line that says what to do, if this
// process may not change the network.
func CheckPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return fmt.Errorf("%w: this needs the capability CAP_NET_ADMIN: run it as root "+
			"(`sudo meshd ...`), or the daemon as the service (`systemctl start meshd`)", ErrPrivilege)
	}
	return nil
}
