// Package tui is the dashboard: what a running meshd tells, as screens for a
// terminal. It is a pure picture of the types of internal/control. Nothing is read or
// asked for but in the commands of source.go; screens are functions from what is known
// and a size to lines.
//
//	feed     the connection to a meshd; snapshots and events come from it
//	data     what is known: the last snapshot, rates, charts, events
//	screen   one of the views that fill the terminal
//	body     a screen less the lines above and below that all screens have
package tui

import (
	"io"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// Options is what a dashboard needs to know.
type Options struct {
	Watcher  Watcher
	Asker    Asker  // nil: there is nobody to ask, only to watch
	Where    string // socket or host that the watcher reads, for people
	Interval time.Duration
	Colour   bool
	ASCII    bool
	Version  string
	Terminal io.Writer        // for what is no picture: the clipboard; may be nil
	Clock    func() time.Time // nil: time.Now
}

// A screen is one of the views.
type screen int

const (
	overviewScreen screen = iota
	peersScreen
	eventsScreen
	detailScreen // of the peer under the cursor
	configScreen
	helpScreen
)

// spans of history, as the API names them.
var spans = []string{"5m", "1h", "24h"}

// Model is the dashboard as Bubble Tea runs it.
type Model struct {
	options Options
	theme   cell.Theme
	data    data
	now     time.Time // our own clock at the last message
	painted string    // the picture since then; empty if it is to be painted
	width   int
	height  int

	connection int // number of the one in use
	heardFrom  int // the one that has said something
	feed       *feed
	lost       *lost // nil while connected
	attempts   int   // in a row that failed

	screen   screen
	before   screen         // the one that detail, config and help go back to
	cursor   string         // name of a peer
	shown    []control.Peer // rows as they were at the last message
	top      int            // first of them that is on the screen
	sort     sortKey
	reverse  bool
	filter   filter
	prompt   *prompt // nil unless somebody types
	units    units
	compact  bool
	paused   bool
	mouse    bool
	span     int             // index of spans
	base     *control.Status // counters count from here; nil: from the daemon's start
	event    int             // events between the cursor and the newest; 0: it follows
	unseen   uint64          // alarms that the events screen has shown
	helped   screen          // the one that help goes back to
	scrolled int             // lines of detail, config or help that are above the screen
	asking   bool            // "reload?" is on the screen
	file     fileOnDisk
	notice   notice
	pinged   pinged
	askedFor map[historyKey]time.Time
}

// lost is a connection that is no more.
type lost struct {
	err   error
	since time.Time
	retry time.Time // when it is tried again; zero: it is being tried
}

// notice is what stands in the last line for a while.
type notice struct {
	text  string
	bad   bool
	until time.Time
}

// New returns a dashboard that is not connected yet.
func New(o Options) *Model {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	o.Where = text.Clean(o.Where)
	return &Model{options: o, theme: cell.NewTheme(o.Colour, o.ASCII), now: o.Clock(), askedFor: map[historyKey]time.Time{}}
}

// Init implements tea.Model.
func (m *Model) Init() tea.Cmd { return tea.Batch(m.connect(), tick()) }

// View implements tea.Model. The picture is painted once for each message.
func (m *Model) View() string {
	if m.painted == "" {
		m.painted = m.theme.Paint(m.frame(m.width, m.height))
	}
	return m.painted
}

// silent is how long a connection may say nothing before that shows.
func (m *Model) silent() time.Duration { return 3*time.Second + m.options.Interval }

// live tells whether what is shown is true now.
func (m *Model) live() bool {
	return m.lost == nil && m.data.status != nil && (m.paused || m.now.Sub(m.data.heard) < m.silent())
}

// Close ends the connection.
func (m *Model) Close() {
	if m.feed != nil {
		m.feed.cancel()
	}
}

// Restyle says how to paint from now on.
func (m *Model) restyle() { m.theme = cell.NewTheme(m.options.Colour, m.options.ASCII) }
