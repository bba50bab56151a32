package tui

import (
	"fmt"
	"slices"

	tea "github.com/charmbracelet/bubbletea"
)

// What is on the screen, and how one gets from one screen to another. There are four tabs,
// each as it was left, and pages on top of the one that is shown. Nothing else in this
// program asks which screen there is.

// screen is what fills the terminal now. Some screens stand in for others: the dashboard
// for the overview on a large terminal, and the waiting screen for all but the help before
// there is data.
func (m *Model) screen() screen {
	if n := len(m.pages); n > 0 {
		if _, ok := m.pages[n-1].(help); ok || m.data.status != nil {
			return m.pages[n-1]
		}
	}
	switch {
	case m.data.status == nil:
		return waiting{}
	case m.tab == overviewTab && m.link.lost == nil && m.width >= dashWidth && m.height >= dashHeight:
		return dashboard{} // which has no room for what to do about a lost connection
	}
	return m.tabs[m.tab]
}

// become puts a screen that has changed in its place. Those that stand in for others hold
// nothing of their own.
func (m *Model) become(s screen) {
	if n := len(m.pages); n > 0 {
		m.pages[n-1] = s
		return
	}
	m.tabs[m.tab] = s
}

// show shows a tab, without pages on top of it.
func (m *Model) show(t tab) { m.tab, m.pages = t, nil }

// open shows a page in the place of all pages there are.
func (m *Model) open(s screen) { m.pages = []screen{s} }

// back leaves a page, or clears the filter. It never ends the program: Escape is pressed
// once more than needed by everybody.
func (m *Model) back() {
	switch n := len(m.pages); {
	case n > 0:
		m.pages = m.pages[:n-1]
	case m.choices.filter.text != "":
		m.setFilter("")
	}
}

// help shows the keys on top of whatever there is, so that leaving them goes back there.
func (m *Model) help() tea.Cmd {
	m.pages = append(m.pages, help{})
	return nil
}

// do does what a screen asks for, in the order of the request's fields: a screen that opens
// a page for a peer has moved the cursor there before.
func (m *Model) do(r request) tea.Cmd {
	if r.become != nil {
		m.become(r.become)
	}
	if r.cursor != "" {
		m.choices.cursor = r.cursor
	}
	if r.open != nil {
		m.open(r.open)
	}
	if r.peers {
		m.show(peersTab)
	}
	if r.back {
		m.back()
	}
	if r.filter {
		m.typeFilter()
	}
	if r.say != "" {
		m.say(false, r.say)
	}
	if r.copy.text != "" {
		return m.clipboard(r.copy)
	}
	return nil
}

// jump puts the cursor on a peer, and shows it: where a peer is shown already, the screen stays. A filter
// that hides the peer goes.
func (m *Model) jump(name string) {
	m.choices.cursor = name
	m.settle()
	if m.view().row() < 0 {
		m.setFilter("")
	}
	if !m.showsPeer() {
		m.show(peersTab)
	}
}

// showsPeer tells whether the screen is about the peer under the cursor.
func (m *Model) showsPeer() bool {
	s := m.screen()
	_, listing := s.(lister)
	_, one := s.(detail)
	return listing || one
}

// problem goes to the next peer that has a problem, or with -1 to the one before. They go round: who looks
// through them is done when the first one comes again.
func (m *Model) problem(by int) tea.Cmd {
	if m.data.status == nil {
		return nil
	}
	names := troubled(m.data.status)
	if len(names) == 0 {
		m.say(false, "no peer has a problem")
		return nil
	}
	at := slices.Index(names, m.choices.cursor)
	switch {
	case at >= 0 && m.showsPeer():
		at = (at + by + len(names)) % len(names)
	case by < 0:
		at = len(names) - 1
	default:
		at = 0
	}
	m.jump(names[at])
	m.say(false, fmt.Sprintf("problem %d of %d: %s", at+1, len(names), names[at]))
	return nil
}
