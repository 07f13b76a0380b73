// Package chart draws a report as an SVG picture: how many messages a second each system delivers, and how much CPU it
// takes for one.
package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/posthaste/posthaste/bench/internal/driver"
)

// The layout, in pixels.
const (
	width     = 860
	margin    = 16
	nameWidth = 130
	barHeight = 18
	barGap    = 8
	textSize  = 12
	valueRoom = 190 // right of the longest bar
	headRoom  = 44  // above the bars of a panel
)

// The colors, which are readable on a light and on a dark page.
const (
	colorText  = "#7a8288"
	colorOurs  = "#2f7ed8"
	colorOther = "#9aa5ad"
	colorStore = "#d8a02f"
)

// bar is one system in a panel.
type bar struct {
	name        string
	ours        bool
	value, more float64 // more is drawn on top of value, in another color
	least, most float64 // of the rounds; 0 if there was one
	text        string
}

// panel is bars of one figure.
type panel struct {
	title string
	bars  []bar
}

// closed is the mode of the groups that are drawn.
const closed = "closed"

// Write draws the closed loops of a report.
func Write(w io.Writer, r *driver.Report) error {
	var panels []panel
	for _, g := range r.Groups {
		if g.Mode == closed {
			panels = append(panels, rate(r, g))
		}
	}
	if len(panels) == 0 {
		return errors.New("the report has no closed loop to draw")
	}
	for _, g := range r.Groups {
		if g.Mode == closed {
			panels = append(panels, cpu(r, g))
		}
	}
	var b bytes.Buffer
	y := margin
	for _, p := range panels {
		y = p.draw(&b, y)
	}
	m := r.Machine
	for _, line := range []string{
		fmt.Sprintf("%s, %d processors (%s), %s %s, %s; load generator and sink on the same machine", r.Started.UTC().Format("2006-01-02"), m.Cores,
			m.CPU, m.OS, m.Kernel, m.Go),
		fmt.Sprintf("medians of %d rounds, whiskers: least and greatest; bodies of %d bytes; a synced write takes %.2f ms", r.Rounds, r.BodyBytes, r.Disk.P50),
	} {
		y += textSize + 4
		text(&b, margin, y, "start", line)
	}
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" `+
		`font-family="system-ui, sans-serif" font-size="%d" fill="%s" role="img">`+"\n%s</svg>\n",
		width, y+margin, width, y+margin, textSize, colorText, &b)
	return err
}

// rate is the panel of the rates of a group.
func rate(r *driver.Report, g *driver.Group) panel {
	p := panel{title: fmt.Sprintf("Messages accepted, stored and delivered a second, %d connections", g.Connections)}
	for _, s := range r.Systems {
		v, ok := g.Summary[s.Name]["rate"]
		if !ok {
			continue
		}
		label := fmt.Sprintf("%.0f", v.Median)
		if ratio, ok := g.Summary[s.Name]["relay_ratio"]; ok {
			label += fmt.Sprintf(" (%.2f of the relay)", ratio.Median)
		}
		p.bars = append(p.bars, bar{name: s.Name, ours: ours(s.Name), value: v.Median, least: v.Min, most: v.Max, text: label})
	}
	return p
}

// cpu is the panel of the CPU time of a group.
func cpu(r *driver.Report, g *driver.Group) panel {
	p := panel{title: fmt.Sprintf("CPU for one message in µs, server and (yellow) store, %d connections", g.Connections)}
	for _, s := range r.Systems {
		v, ok := g.Summary[s.Name]["server_cpu_us"]
		if !ok {
			continue
		}
		store := g.Summary[s.Name]["store_cpu_us"].Median
		label := fmt.Sprintf("%.0f", v.Median)
		if store > 0 {
			label += fmt.Sprintf(" + %.0f", store)
		}
		if ratio, ok := g.Summary[s.Name]["cpu_ratio"]; ok {
			label += fmt.Sprintf(" (%.1f × the relay)", ratio.Median)
		}
		p.bars = append(p.bars, bar{name: s.Name, ours: ours(s.Name), value: v.Median, more: store, text: label})
	}
	return p
}

func ours(name string) bool { return strings.HasPrefix(name, "posthaste") }

// draw draws a panel below y and returns where it ends.
func (p panel) draw(b *bytes.Buffer, y int) int {
	longest := 0.0
	for _, x := range p.bars {
		longest = max(longest, x.value+x.more, x.most)
	}
	scale := func(v float64) float64 {
		if longest == 0 {
			return 0
		}
		return v / longest * (width - 2*margin - nameWidth - valueRoom)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", margin, y+textSize, escape(p.title))
	y += headRoom - barHeight
	const left = margin + nameWidth
	for _, x := range p.bars {
		color := colorOther
		if x.ours {
			color = colorOurs
		}
		text(b, left-8, y+barHeight-5, "end", x.name)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y, scale(x.value), barHeight, color)
		if x.more > 0 {
			fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left+scale(x.value), y, scale(x.more), barHeight, colorStore)
		}
		if x.most > x.least {
			fmt.Fprintf(b, `<path d="M%.1f %dH%.1f" stroke="%s" stroke-width="1.5"/>`+"\n", left+scale(x.least), y+barHeight/2, left+scale(x.most), colorText)
		}
		text(b, left+int(scale(max(x.value+x.more, x.most)))+8, y+barHeight-5, "start", x.text)
		y += barHeight + barGap
	}
	return y + margin
}

func text(b *bytes.Buffer, x, y int, anchor, s string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", x, y, anchor, escape(s))
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}
