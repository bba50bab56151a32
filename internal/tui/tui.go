// Package tui is the dashboard: what a running meshd tells, as screens for a
// terminal. It is a pure picture of the types of internal/control. Nothing is read or
// asked for but in the commands of source.go; screens are functions from what is known
// and a size to lines.
//
//	link     the connection to a meshd; snapshots and events come from it
//	data     what is known: the last snapshot, rates, charts, events
//	choices  what the user has chosen: cursor, order, filter, units
//	view     both at one moment, and the clock: all that a screen may look at
//	screen   a value that draws a view and says what keys mean on it
//	tab      one of the three screens that the second line names
//	page     a screen on top of a tab: one peer, the file, help
//	body     a screen less the lines above and below that all screens have
//
// Model alone changes. It takes messages (update.go), keys (keys.go) and what screens ask
// for (navigate.go), and draws the frame around the body of the current screen (frame.go).
// Each screen has a file of its own; it neither knows the model nor other screens but
// those that it opens.
package tui

import (
	"io"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// Options is what a dashboard needs to know. The model changes Interval and ASCII when
// the user does.
type Options struct {
	Watcher  Watcher       // what tells
	Tidy     bool          // the watcher's text is harmless for a terminal, as that of a control.Client may be
	Asker    Asker         // what answers; nil: there is only something to watch
	Where    string        // socket or host that the watcher reads, for people
	Interval time.Duration // from one snapshot to the next
	Colour   bool          // the 16 colours that every terminal has
	ASCII    bool          // no glyphs beyond ASCII
	Version  string        // of this program
	Terminal io.Writer     // for what is no picture: the clipboard; may be nil
	Width    int           // cells and lines of a terminal that says that it has none; 0: 80x24
	Height   int
	Clock    func() time.Time // nil: time.Now
}

// Model is the dashboard as Bubble Tea runs it. It belongs to the goroutine of the
// program; only Close may be called after that has ended.
type Model struct {
	options Options
	theme   cell.Theme
	now     time.Time // our own clock at the last message
	painted string    // the picture since then; empty if it is to be painted
	width   int       // cells
	height  int       // lines

	link    link // where data comes from
	after   func(time.Duration, tea.Msg) tea.Cmd
	data    data    // what is known
	choices choices // what the user chose
	table   table   // rows of peers, as both screens with a table show them

	tab    tab          // the one that is shown or below the pages
	tabs   [tabs]screen // as they were left
	pages  []screen     // on top of the tab; the last one is seen
	bottom bottom       // the last line, where it is not keys
	pinged pinged       // the series of pings that runs
	asked  askedFor     // when charts were asked for
	summed string       // what flows were asked for last
	mouse  bool         // whether the terminal sends clicks
}

// New returns a dashboard that is not connected yet.
func New(o Options) *Model {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Width <= 0 || o.Height <= 0 {
		o.Width, o.Height = 80, 24
	}
	o.Where = text.Clean(o.Where) // an argument of the command line may come from a script
	return &Model{
		options: o,
		theme:   cell.NewTheme(o.Colour, o.ASCII),
		now:     o.Clock(),
		after:   after,
		tabs:    [tabs]screen{overview{}, peers{}, events{}, node{}},
		asked:   askedFor{},
	}
}

// Init implements tea.Model: it opens the first connection and starts the clock.
func (m *Model) Init() tea.Cmd { return tea.Batch(m.connect(), tick()) }

// View implements tea.Model. The picture is painted once for each message, since Bubble
// Tea asks for it many times a second.
func (m *Model) View() string {
	if m.painted == "" {
		m.painted = m.theme.Paint(m.frame(m.width, m.height))
	}
	return m.painted
}

// Close ends the connection. It may be called more than once.
func (m *Model) Close() { m.link.close() }

// A view is what a screen draws and decides by: all that is known and chosen at one
// moment. Screens get it by value and change nothing that it leads to.
type view struct {
	*data
	choices
	table

	w, h     int       // cells and lines of the body
	now      time.Time // our own clock
	live     bool      // whether the snapshot is true now
	lost     *lost     // nil while connected
	attempts int       // to connect, in a row that failed
	where    string    // what the watcher reads
	version  string    // of this program
	canAsk   bool      // whether there is somebody to ask
}

// view is what screens may look at now.
func (m *Model) view() view {
	return view{
		data: &m.data, choices: m.choices, table: m.table,
		w: m.width, h: m.height - chrome(m.height),
		now: m.now, live: m.live(), lost: m.link.lost, attempts: m.link.attempts,
		where: m.options.Where, version: m.options.Version, canAsk: m.options.Asker != nil,
	}
}

// live tells whether what is shown is true now. A pause is asked for, so what it holds
// does not count as old.
func (m *Model) live() bool {
	silent := 3*time.Second + m.options.Interval // a loaded host may be late by some
	return m.link.lost == nil && m.data.status != nil &&
		(m.choices.paused || m.now.Sub(m.data.heard) < silent)
}

// choices are what the user has chosen. They outlive screens, connections and daemons.
type choices struct {
	cursor  string // name of a peer
	sort    sortKey
	reverse bool
	filter  filter
	units   units
	compact bool // fewer columns
	paused  bool
	span    int             // of charts: index of spans
	base    *control.Status // counters count from here; nil: from the daemon's start
}

// spans of history, as the API names them.
var spans = []string{"5m", "1h", "24h"}
