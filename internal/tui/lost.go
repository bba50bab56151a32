package tui

import (
	"errors"
	"fmt"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// lostBox says that nothing answers, why, and what to do:
//
//	socket   /run/meshd/meshd.sock
//	error    meshd is not running: nobody answers at /run/meshd/meshd.sock
//	retry    attempt 3, next in 2 s   (r: now)
//
//	Look at:  systemctl status meshd    journalctl -u meshd -n 30
//
// It stands above the last data, if there is any, and in the place of all else if not.
func lostBox(v view) []cell.Line {
	title, advice := advise(v.lost.err)
	retry := "now"
	if !v.lost.retry.IsZero() {
		seconds := max(0, v.lost.retry.Sub(v.now).Seconds())
		retry = fmt.Sprintf("attempt %d, next in %.0f s", v.attempts, seconds)
	}
	fact := func(word, text string) cell.Line {
		return cell.Styled(cell.Dim, fmt.Sprintf("%-9s", word)).Add(cell.Plain, text)
	}
	what := v.lost.err
	if a, ok := errors.AsType[*control.Advised](what); ok { // its advice stands below
		what = a.Err
	}
	body := []cell.Line{fact("socket", v.where)}
	word := "error"
	for _, l := range cell.Wrap(text.Clean(what.Error()), v.w-15) {
		body = append(body, fact(word, l))
		word = ""
	}
	body = append(body, fact("retry", retry+"   (r: now)"), cell.Line{})
	for _, a := range advice {
		body = append(body, cell.Text(a))
	}
	if v.status != nil {
		body = append(body, cell.Styled(cell.Dim, "The last data stays; rates are blank, not zero."))
	}
	return cell.Box(cell.Styled(cell.Bad, title), "", body, v.w, len(body)+2)
}

// advise names what is wrong with a connection, and what to do about it, line by line. It
// decides by the kind of the error; an error without a kind has come from ssh or the network.
func advise(err error) (title string, advice []string) {
	const look = "Look at:  systemctl status meshd    journalctl -u meshd -n 30"
	switch {
	case errors.Is(err, control.ErrPermission):
		return "not permitted", []string{"The socket is for root and the group mesh:",
			"  sudo usermod -aG mesh $USER    and log in again"}
	case errors.Is(err, control.ErrMismatch):
		return "another version", []string{"meshtui and meshd are of different versions:",
			"  meshtui --version    meshd version"}
	case errors.Is(err, control.ErrNotRunning):
		return "meshd is not answering", []string{look, "Start:    sudo systemctl start meshd"}
	}
	return "no data from meshd", []string{look}
}
