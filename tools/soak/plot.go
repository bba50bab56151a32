package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A series is a line of a plot: values at the times of samples. One that is not a number is left out.
type series struct {
	name   string
	colour int // of colours: the same name has the same one in all panels
	values []float64
}

// A panel is one plot.
type panel struct {
	title string
	lines []series
}

// Sizes of a panel, in pixels, and the colours of its lines.
const (
	panelWidth, panelHeight = 460, 230
	plotLeft, plotTop       = 56, 30
	plotWidth, plotHeight   = 380, 140
)

var colours = []string{"#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#57606a"}

// svg draws panels in two columns. minutes are the times of the samples.
func svg(minutes []float64, panels []panel) string {
	var b strings.Builder
	rows := (len(panels) + 1) / 2
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" `+
		`font-size="11">`+"\n"+`<rect width="100%%" height="100%%" fill="white"/>`+"\n",
		2*panelWidth, rows*panelHeight)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d,%d)">`+"\n", i%2*panelWidth, i/2*panelHeight)
		p.draw(&b, minutes)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw draws one panel at the origin, from 0 up.
func (p panel) draw(b *strings.Builder, minutes []float64) {
	most, end := 0.0, 0.0
	for _, l := range p.lines {
		for _, v := range l.values {
			if !math.IsNaN(v) {
				most = max(most, v)
			}
		}
	}
	for _, m := range minutes {
		end = max(end, m)
	}
	most, end = roundUp(most), max(end, 0.01)
	fmt.Fprintf(b, `<text x="%d" y="18" font-weight="bold">%s</text>`+"\n", plotLeft, html.EscapeString(p.title))
	for i := range 5 {
		y := float64(plotTop) + float64(plotHeight)*(1-float64(i)/4)
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#d0d7de"/>`+
			`<text x="%d" y="%.1f" text-anchor="end">%.4g</text>`+"\n",
			plotLeft, plotLeft+plotWidth, y, y, plotLeft-6, y+4, most*float64(i)/4)
		x := float64(plotLeft) + float64(plotWidth)*float64(i)/4
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%.3g</text>`+"\n", x, plotTop+plotHeight+15,
			end*float64(i)/4)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">minutes</text>`+"\n", plotLeft+plotWidth,
		plotTop+plotHeight+34)
	x := plotLeft
	for _, l := range p.lines {
		colour := colours[l.colour%len(colours)]
		var points []string
		for j, v := range l.values {
			if !math.IsNaN(v) {
				points = append(points, fmt.Sprintf("%.1f,%.1f", plotLeft+plotWidth*minutes[j]/end,
					plotTop+plotHeight*(1-v/most)))
			}
		}
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.4" points="%s"/>`+"\n", colour,
			strings.Join(points, " "))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="10" height="3" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
			x, plotTop+plotHeight+29, colour, x+14, plotTop+plotHeight+34, html.EscapeString(l.name))
		x += 24 + 7*len(l.name)
	}
}

// roundUp returns a number with one or two digits that is no less, for the end of an axis.
func roundUp(v float64) float64 {
	if v <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8, 10} {
		if step*unit >= v {
			return step * unit
		}
	}
	return 10 * unit
}
