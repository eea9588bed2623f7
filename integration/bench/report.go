package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// page is what a run says: between its marks in docs/performance.md, and its charts.
type page struct {
	mark, head, body string
	charts           map[string]string // file name to SVG
}

// chart adds a chart above the tables.
func (p *page) chart(file, title, svg string) {
	if svg == "" {
		return
	}
	if p.charts == nil {
		p.charts = map[string]string{}
	}
	p.charts[file] = svg
	p.body = fmt.Sprintf("\n![%s](charts/%s)\n", title, file) + p.body
}

func (p *page) text() string { return p.head + p.body }

// write puts the text into the page and the charts into charts/ beside it.
func (p *page) write(path string) error {
	for file, svg := range p.charts {
		f := filepath.Join(filepath.Dir(path), "charts", file)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(f, []byte(svg), 0o644); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte("# Performance\n")
	} else if err != nil {
		return err
	}
	text, err := splice(string(b), p.mark, p.text())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// splice puts text between the marks of a page; a page without them gets them at its end.
func splice(page, mark, text string) (string, error) {
	begin, end := "<!-- "+mark+" begin -->\n", "<!-- "+mark+" end -->\n"
	head, rest, ok := strings.Cut(page, begin)
	if !ok {
		if strings.Contains(page, end) {
			return "", fmt.Errorf("no %q before %q", strings.TrimSpace(begin), strings.TrimSpace(end))
		}
		return strings.TrimRight(page, "\n") + "\n\n" + begin + text + end, nil
	}
	_, tail, ok := strings.Cut(rest, end)
	if !ok {
		return "", fmt.Errorf("no %q behind %q", strings.TrimSpace(end), strings.TrimSpace(begin))
	}
	return head + begin + text + end + tail, nil
}

// table is rows of a bare folder and a mount.
func table(rows []*row) string {
	var b strings.Builder
	b.WriteString("| work | unit | bare folder | mount | ratio | aim | |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		if r.why != "" {
			fmt.Fprintf(&b, "| %s | %s | | %s | | %s | |\n", r.name, r.unit, oneLine(r.why), r.aim())
			continue
		}
		ratio := ""
		if q := r.ratio(1); !math.IsNaN(q) {
			ratio = fmt.Sprintf("%.2f", q)
		}
		verdict := ""
		if met, ok := r.met(); ok {
			verdict = map[bool]string{true: "met", false: "**not met**"}[met]
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", r.name, r.unit, spread(r.values[0]), spread(r.values[1]), ratio, r.aim(), verdict)
	}
	return b.String()
}

// aim is what a row is measured against.
func (j *job) aim() string {
	sign := "≥"
	if j.lower {
		sign = "≤"
	}
	switch {
	case j.limit > 0:
		s := sign + " " + number(j.limit) + " " + j.unit
		if j.note != "" {
			s += " (" + j.note + ")"
		}
		return s
	case j.target > 0 && j.lower:
		return fmt.Sprintf("%s %.1f of its time", sign, j.target)
	case j.target > 0:
		return fmt.Sprintf("%s %.2f", sign, j.target)
	}
	return j.note
}

// spread is a median with what it lies between.
func spread(v []float64) string {
	switch len(v) {
	case 0:
		return ""
	case 1:
		return number(v[0])
	}
	return fmt.Sprintf("%s [%s..%s]", number(median(v)), number(slices.Min(v)), number(slices.Max(v)))
}

// number has three digits that count, and no exponent.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "?"
	case a == 0:
		return "0"
	case a >= 100:
		scale := math.Pow(10, math.Floor(math.Log10(a))-2)
		return group(int64(math.Round(v/scale) * scale))
	}
	digits := 2 - int(math.Floor(math.Log10(a)))
	s := fmt.Sprintf("%.*f", digits, v)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// group sets a comma between thousands.
func group(n int64) string {
	if n < 0 {
		return "-" + group(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", group(n/1000), n%1000)
}

// oneLine fits a reason into a cell.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.ReplaceAll(s[:min(len(s), 200)], "|", "\\|")
}

// machine tells where and when a run was made, of what, and how to make it again.
func (b *bench) machine() string {
	var u syscall.Utsname
	syscall.Uname(&u) // cannot fail with a valid pointer
	version, _ := exec.CommandContext(b.ctx, b.o.tarn, "version").Output()
	first, _, _ := strings.Cut(string(version), "\n")
	target := map[string]string{"rows": "make bench", "scale": "make bench-scale", "peers": "make bench-peers", "rucio": "make bench-rucio"}[b.o.what]
	if rev, err := exec.CommandContext(b.ctx, "git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		first += ", commit " + strings.TrimSpace(string(rev))
	}
	load := ""
	if l, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = ", load at the end " + strings.Fields(string(l))[0]
	}
	return fmt.Sprintf("`%s` (`bench %s`), %s: %s. Linux %s, %d × %s, %s, root: %v%s.\n",
		target, flags(os.Args[1:]), time.Now().UTC().Format("2006-01-02 15:04 MST"), first, utsname(u.Release[:]),
		runtime.NumCPU(), cpu(), fsType(b.bare), isRoot, load)
}

// flags are the arguments without those that name places on this machine.
func flags(args []string) string {
	var keep []string
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if name == "tarn" || name == "o" || name == "dir" {
			if !joined {
				i++
			}
			continue
		}
		keep = append(keep, args[i])
	}
	if len(keep) == 0 {
		return "with its defaults"
	}
	return strings.Join(keep, " ")
}

// cpu is the processor's name.
func cpu() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "CPU"
	}
	for line := range strings.Lines(string(b)) {
		if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

func utsname(c []int8) string {
	var b []byte
	for _, x := range c {
		if x == 0 {
			break
		}
		b = append(b, byte(x))
	}
	return string(b)
}

func fsType(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return err.Error()
	}
	switch s.Type {
	case 0xef53:
		return "ext4"
	case 0x01021994:
		return "tmpfs"
	case 0x58465342:
		return "xfs"
	case 0x9123683e:
		return "btrfs"
	}
	return fmt.Sprintf("file system type %#x", s.Type)
}
