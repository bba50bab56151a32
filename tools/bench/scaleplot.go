package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Sizes of a panel of docs/scale.svg, in pixels.
const (
	scaleWidth, scaleHeight             = 330, 240
	scaleLeft, scaleTop, scaleX, scaleY = 52, 30, 250, 150
)

var scaleColours = map[string]string{"user": "#1f6feb", "kernel": "#1a7f37", sealed: "#d1242f"}

// scaleSVG plots each column over the number of nodes, both axes in decades: a cost in proportion to the
// nodes is a line with the slope of the grey one, and one that does not depend on them is level.
func scaleSVG(rows []scaleRow) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" `+
		`font-size="11">`+"\n"+`<rect width="100%%" height="100%%" fill="white"/>`+"\n", 3*scaleWidth,
		(len(scaleColumns)+2)/3*scaleHeight)
	for i, column := range scaleColumns {
		fmt.Fprintf(&b, `<g transform="translate(%d,%d)">`+"\n", i%3*scaleWidth, i/3*scaleHeight)
		scalePanel(&b, column, rows)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// scalePanel draws one column at the origin.
func scalePanel(b *strings.Builder, column string, rows []scaleRow) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, row := range rows {
		if v := row.costs[column]; v > 0 {
			low, high = min(low, math.Log10(v)), max(high, math.Log10(v))
		}
	}
	low, high = math.Floor(low), math.Max(math.Ceil(high), math.Floor(low)+1)
	first, last := math.Log10(float64(scaleSizes[0])), math.Log10(float64(scaleSizes[len(scaleSizes)-1]))
	x := func(nodes float64) float64 { return scaleLeft + scaleX*(math.Log10(nodes)-first)/(last-first) }
	y := func(v float64) float64 { return scaleTop + scaleY*(1-(math.Log10(v)-low)/(high-low)) }
	fmt.Fprintf(b, `<text x="%d" y="18" font-weight="bold">%s</text>`+"\n", scaleLeft, html.EscapeString(column))
	for d := low; d <= high; d++ {
		at := y(math.Pow(10, d))
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#d0d7de"/>`+
			`<text x="%d" y="%.1f" text-anchor="end">%.4g</text>`+"\n", scaleLeft, scaleLeft+scaleX, at, at,
			scaleLeft-6, at+4, math.Pow(10, d))
	}
	for _, nodes := range scaleSizes {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(float64(nodes)),
			scaleTop+scaleY+15, nodes)
	}
	// In proportion: as many decades up as to the right, from the lower right corner back.
	decades := min(last-first, high-low)
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#8c959f" stroke-dasharray="4"/>`+"\n",
		x(math.Pow(10, last-decades)), y(math.Pow(10, low)), x(math.Pow(10, last)), y(math.Pow(10, low+decades)))
	at := scaleLeft
	for _, engine := range scaleEngines {
		var points []string
		for _, row := range rows {
			if v := row.costs[column]; row.engine == engine && v > 0 {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(float64(row.nodes)), y(v)))
			}
		}
		if len(points) == 0 {
			continue
		}
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.6" points="%s"/>`+"\n",
			scaleColours[engine], strings.Join(points, " "))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="10" height="3" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
			at, scaleTop+scaleY+30, scaleColours[engine], at+14, scaleTop+scaleY+35, engine)
		at += 30 + 7*len(engine)
	}
}
