package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"tarn/cmd/tarn/control"
)

// meter shows how far a long operation is: one line that is written over on a
// terminal, a plain line every 2 s elsewhere, nothing with -q.
type meter struct {
	w     io.Writer
	bar   bool
	off   bool
	width int
	now   func() time.Time

	mu      sync.Mutex // guards the rest
	started time.Time
	shown   time.Time
	last    control.Progress
	drawn   bool
}

func (t *terminal) meter() *meter {
	return &meter{w: t.err, bar: isTerminal(t.err), off: t.quiet, width: width(t.err), now: t.now, started: t.now(), shown: t.now()}
}

// The least time between two lines.
const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 2 * time.Second
)

// show takes what is known now; it may write nothing.
func (m *meter) show(p control.Progress) {
	if m.off {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = p
	now := m.now()
	every := lineEvery
	if m.bar {
		every = barEvery
	}
	if now.Sub(m.shown) < every {
		return
	}
	m.shown = now
	m.write(now)
}

func (m *meter) write(now time.Time) {
	s := m.line(m.last, now.Sub(m.started))
	m.drawn = true
	if !m.bar {
		fmt.Fprintln(m.w, s)
		return
	}
	if r := []rune(s); len(r) > m.width-1 {
		s = string(r[:m.width-1])
	}
	fmt.Fprintf(m.w, "\r\x1b[K%s", s)
}

// line is the text of one state.
func (m *meter) line(p control.Progress, took time.Duration) string {
	var parts []string
	part, known := 0.0, false
	switch {
	case p.TotalBytes > 0:
		part, known = float64(p.Bytes)/float64(p.TotalBytes), true
	case p.TotalFiles > 0:
		part, known = float64(p.Files)/float64(p.TotalFiles), true
	}
	part = min(max(part, 0), 1)
	if known {
		if m.bar {
			const cells = 24
			full := int(part * cells)
			parts = append(parts, "["+strings.Repeat("#", full)+strings.Repeat("-", cells-full)+"]")
		}
		parts = append(parts, fmt.Sprintf("%3.0f %%", 100*part))
	}
	if p.TotalFiles > 1 {
		parts = append(parts, fmt.Sprintf("%d of %d files", p.Files, p.TotalFiles))
	} else if p.TotalFiles == 0 && p.Files > 0 {
		parts = append(parts, count(p.Files, "file"))
	}
	if p.TotalBytes > 0 {
		parts = append(parts, human(p.Bytes)+" of "+human(p.TotalBytes))
	} else if p.Bytes > 0 {
		parts = append(parts, human(p.Bytes))
	}
	if s := took.Seconds(); s >= 0.5 && p.Bytes > 0 {
		parts = append(parts, human(int64(float64(p.Bytes)/s))+"/s")
	}
	if known && part > 0 && part < 1 && took >= time.Second {
		parts = append(parts, "about "+span(time.Duration(float64(took)*(1-part)/part))+" left")
	}
	if p.Note != "" {
		parts = append(parts, p.Note)
	}
	return strings.TrimSpace(p.What + " " + strings.Join(parts, ", "))
}

// end takes the bar away, so that the next line stands in its place.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar && m.drawn {
		fmt.Fprint(m.w, "\r\x1b[K")
		m.drawn = false
	}
}
