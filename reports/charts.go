package reports

import (
	"fmt"
	"html"
	"html/template"
	"strings"
	"time"

	"keymill/pipeline"
)

// bar is one bar of a chart.
type bar struct {
	label string // below the bar; empty for none
	hint  string // shown when pointed at
	count int
}

// Colours of the reports, as SVG, CSS and PDF have them.
var stateColour = map[pipeline.State]string{
	pipeline.Released: "#2e7d5b", pipeline.Failed: "#b3392f", pipeline.Conflicted: "#c98a1b",
	pipeline.Preauthorized: "#4a7fa5", pipeline.Staged: "#7fa6bf", pipeline.Planned: "#b8c4cc", pipeline.Undone: "#6d6875",
}

// chartWidth and chartHeight are those of a chart in SVG units.
const (
	chartWidth  = 400
	chartHeight = 170
)

// barChart draws bars over a base line as inline SVG.
func barChart(title string, bars []bar) template.HTML {
	const left, top, bottom = 44.0, 12.0, 26.0
	most := 1
	for _, b := range bars {
		most = max(most, b.count)
	}
	var s strings.Builder
	fmt.Fprintf(&s, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, chartHeight, html.EscapeString(title))
	height := chartHeight - top - bottom
	for _, part := range []float64{0, 0.5, 1} {
		y := top + height*(1-part)
		fmt.Fprintf(&s, `<line class="grid" x1="%.0f" x2="%d" y1="%.1f" y2="%.1f"/>`, left, chartWidth, y, y)
		if part != 0.5 || most > 1 {
			fmt.Fprintf(&s, `<text class="axis" text-anchor="end" x="%.0f" y="%.1f">%s</text>`, left-6, y+4, thousands(int(part*float64(most)+0.5)))
		}
	}
	step := (chartWidth - left) / float64(max(len(bars), 1))
	width := min(max(step*0.82, 1), 60)
	for i, b := range bars {
		x := left + step*float64(i) + (step-width)/2
		h := height * float64(b.count) / float64(most)
		fmt.Fprintf(&s, `<rect class="bar" x="%.2f" y="%.2f" width="%.2f" height="%.2f"><title>%s: %s</title></rect>`,
			x, top+height-h, width, h, html.EscapeString(b.hint), thousands(b.count))
		if b.label != "" {
			fmt.Fprintf(&s, `<text class="axis" text-anchor="%s" x="%.2f" y="%d">%s</text>`,
				anchor(i, len(bars)), x+width/2, chartHeight-8, html.EscapeString(b.label))
		}
	}
	s.WriteString(`</svg>`)
	return template.HTML(s.String()) // every text in it is escaped
}

// anchor keeps the labels at both ends inside a dense chart.
func anchor(i, n int) string {
	switch {
	case n > 20 && i == 0:
		return "start"
	case n > 20 && i == n-1:
		return "end"
	}
	return "middle"
}

// share is one state's part of the devices.
type share struct {
	Title   string
	Colour  string
	Count   int
	Percent string
	X, W    float64 // of a bar of 1000
}

// shares returns the states that any device is in.
func (s *Summary) shares() []share {
	var out []share
	x, all := 0.0, float64(max(s.Totals.Devices, 1))
	for _, state := range []pipeline.State{pipeline.Released, pipeline.Failed, pipeline.Conflicted, pipeline.Undone,
		pipeline.Preauthorized, pipeline.Staged, pipeline.Planned} {
		n := s.Totals.Count(state)
		if n == nil || *n == 0 {
			continue
		}
		w := 1000 * float64(*n) / all
		out = append(out, share{stateTitle(state), stateColour[state], *n, percent(*n, s.Totals.Devices), x, w})
		x += w
	}
	return out
}

func percent(n, of int) string {
	if of == 0 {
		return "0 %"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(of))
}

// rateBars draws releases over time, with the first and the last time named.
func (s *Summary) rateBars() []bar {
	points := s.Stats.Rate()
	bars := make([]bar, len(points))
	form := "15:04:05"
	if len(points) > 1 && points[len(points)-1].Time.Sub(points[0].Time) > 24*time.Hour {
		form = "2006-01-02 15:04"
	}
	for i, p := range points {
		bars[i] = bar{hint: p.Time.Format("2006-01-02 15:04:05 UTC"), count: p.Count}
		if i == 0 || i == len(points)-1 {
			bars[i].label = p.Time.Format(form)
		}
	}
	return bars
}

// rateTitle says what one bar of the rate stands for.
func (s *Summary) rateTitle() string {
	width := time.Duration(max(s.Stats.rate.width, 1)) * time.Second
	if width == time.Second {
		return "Devices released, each second"
	}
	return "Devices released, every " + strings.TrimSuffix(strings.TrimSuffix(width.String(), "0s"), "0m")
}

// latencyBars draws how long devices took from their key to their release.
func (s *Summary) latencyBars() []bar {
	first, last := latencyBins, -1
	for i, n := range s.Stats.latency {
		if n > 0 {
			first, last = min(first, i), i
		}
	}
	var bars []bar
	for i := first; i <= last; i++ {
		label := "< " + latencyBound(i)
		if i == latencyBins-1 {
			label = "longer"
		}
		bars = append(bars, bar{label, label, s.Stats.latency[i]})
	}
	return bars
}

func latencyBound(bin int) string {
	if d := time.Duration(1<<bin) * time.Millisecond; d >= time.Second {
		return fmt.Sprintf("%.3gs", d.Seconds())
	}
	return fmt.Sprintf("%dms", 1<<bin)
}

func (s *Summary) retryBars() []bar {
	var bars []bar
	for i, n := range s.Stats.retries {
		label := fmt.Sprint(i)
		if i == retryBins-1 {
			label += "+"
		}
		bars = append(bars, bar{label, label + " retries", n})
	}
	return bars
}

// thousands writes a count with thin groups of three.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
