package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"tarn/cmd/tarn/control"
)

// terminal is where a command writes: results to out, all else to err.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	json     bool
	quiet    bool
	verbose  int
	now      func() time.Time
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// width of the terminal at w.
func width(w any) int {
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 20 {
			return n
		}
	}
	return 80
}

// say writes a line for people, unless -q or --json was given.
func (t *terminal) say(format string, args ...any) {
	if !t.quiet && !t.json {
		fmt.Fprintf(t.out, format+"\n", args...)
	}
}

// note writes a line beside the results, unless -q was given.
func (t *terminal) note(format string, args ...any) {
	if !t.quiet {
		fmt.Fprintf(t.err, format+"\n", args...)
	}
}

// size is for people on a terminal and exact elsewhere.
func (t *terminal) size(n int64) string {
	if isTerminal(t.out) {
		return human(n)
	}
	return fmt.Sprint(n)
}

// human gives a size in three or four digits: 512 B, 4.2 MiB.
func human(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		v /= 1024
		if v < 9.995 {
			return fmt.Sprintf("%.1f %s", v, u)
		}
		if v < 1023.5 || u == "EiB" {
			return fmt.Sprintf("%.0f %s", v, u)
		}
	}
	return ""
}

// span gives a duration for people: 230 ms, 4.2 s, 3 min 20 s, 5 h 12 min, 3 d 4 h.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return pair(int64(d/time.Minute), "min", int64(d%time.Minute/time.Second), "s")
	case d < 48*time.Hour:
		return pair(int64(d/time.Hour), "h", int64(d%time.Hour/time.Minute), "min")
	}
	return pair(int64(d/(24*time.Hour)), "d", int64(d%(24*time.Hour)/time.Hour), "h")
}

func pair(a int64, ua string, b int64, ub string) string {
	if b == 0 {
		return fmt.Sprintf("%d %s", a, ua)
	}
	return fmt.Sprintf("%d %s %d %s", a, ua, b, ub)
}

// when gives a time as ls -l has it; "-" for none.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

// count gives "1 file", "2 files", "3 directories".
func count(n int64, what string) string {
	if n != 1 {
		if rest, ok := strings.CutSuffix(what, "y"); ok {
			what = rest + "ie"
		}
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// listing writes results one by one: lines of JSON, or a table for people.
type listing struct {
	t     *terminal
	w     *bufio.Writer
	enc   *json.Encoder
	right []bool
	rows  [][]string
	width []int
	head  []string
	seen  int64
}

// tableRows is how many rows are held to find the widths of columns; later ones are
// written as they fit, so that a listing of 10^6 lines needs no memory.
const tableRows = 200

// list begins a listing; a column whose heading begins with > is aligned to the right.
func (t *terminal) list(columns ...string) *listing {
	l := &listing{t: t, w: bufio.NewWriterSize(t.out, 64<<10)}
	l.enc = json.NewEncoder(l.w)
	l.enc.SetEscapeHTML(false)
	for _, c := range columns {
		name, right := strings.CutPrefix(c, ">")
		l.head = append(l.head, name)
		l.right = append(l.right, right)
		l.width = append(l.width, 0)
	}
	return l
}

// add writes v with --json, and else the row. Without a column of the row's index the
// text follows the last one as it is.
func (l *listing) add(v any, row ...string) error {
	l.seen++
	if l.t.json {
		return l.enc.Encode(v)
	}
	if l.seen == 1 && strings.Join(l.head, "") != "" {
		l.rows = append(l.rows, l.head)
	}
	l.rows = append(l.rows, row)
	if len(l.rows) >= tableRows {
		return l.flush()
	}
	return nil
}

func (l *listing) flush() error {
	for _, r := range l.rows {
		for i, c := range r {
			if i < len(l.width) {
				l.width[i] = max(l.width[i], utf8.RuneCountInString(c))
			}
		}
	}
	for _, r := range l.rows {
		var b strings.Builder
		for i, c := range r {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := 0
			if i < len(l.width) {
				pad = l.width[i] - utf8.RuneCountInString(c)
			}
			switch {
			case i < len(l.right) && l.right[i]:
				b.WriteString(strings.Repeat(" ", pad) + c)
			case i == len(r)-1:
				b.WriteString(c)
			default:
				b.WriteString(c + strings.Repeat(" ", pad))
			}
		}
		if _, err := l.w.WriteString(strings.TrimRight(b.String(), " ") + "\n"); err != nil {
			return err
		}
	}
	l.rows = l.rows[:0]
	return l.w.Flush()
}

// end writes what is held back.
func (l *listing) end() error {
	if err := l.flush(); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// object writes one result: as JSON, or with print.
func (t *terminal) object(v any, print func()) error {
	if !t.json {
		print()
		return nil
	}
	enc := json.NewEncoder(t.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// report writes an error the way the user sees it and gives the exit code. With asJSON
// it is one line of JSON.
func report(w io.Writer, err error, asJSON bool) int {
	if err == nil {
		return control.CodeOK
	}
	if told := (errTold{}); errors.As(err, &told) {
		return told.code
	}
	e := control.Describe(err)
	if err == error(accepted{}) {
		return e.Code
	}
	if asJSON {
		b, jerr := json.Marshal(map[string]any{"error": e})
		if jerr == nil {
			fmt.Fprintln(w, string(b))
			return e.Code
		}
	}
	fmt.Fprintf(w, "tarn: %s\n", e.Message)
	if e.Hint != "" {
		fmt.Fprintf(w, "      %s\n", e.Hint)
	}
	return e.Code
}
