package main

import (
	_ "embed"
	"fmt"
	"os"
	"strings"
)

// A row of docs/packages.md.
type row struct {
	step
	seen string
}

// What the page says besides the table.
//
//go:embed page.md
var pageText string

// write writes the page: its text, with the table in the place of a line of dots.
func (t *trial) write(rows []row) error {
	var table strings.Builder
	fmt.Fprintln(&table, "| the packages promise | what was done | what was seen |\n|---|---|---|")
	for _, r := range rows {
		cells := []string{r.what, r.how, r.seen}
		for i := range cells {
			cells[i] = strings.ReplaceAll(strings.Join(strings.Fields(cells[i]), " "), "|", `\|`)
		}
		fmt.Fprintf(&table, "| %s |\n", strings.Join(cells, " | "))
	}
	page := strings.Replace(pageText, "...\n", table.String(), 1)
	return os.WriteFile(t.page, []byte(page), 0o644)
}
