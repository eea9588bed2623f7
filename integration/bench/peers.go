package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// peerLimit ends a peer that does not come to an end; what is still running then is ended with its mount.
const peerLimit = 2 * time.Minute

// peer is a program that mounts remote storage, over a server on this machine that serves src.
type peer struct {
	name    string
	needs   []string // programs
	version string   // what prints its version
	missing string   // why it is not here when they are not, or how to get them
	// start gives the folder where the mount shows src/data.
	start func(b *bench, src string) (dir string, stop func() error, err error)
}

// peerSizes are how much work each gets: some of them are slow.
type peerSizes struct{ tree, many, created int }

// peers measures tarn beside other programs, as far as they are installed.
func (b *bench) peers() (p page, err error) {
	b.o.rounds = min(b.o.rounds, 3)
	b.limit = peerLimit
	b.o.size = min(b.o.size, 512<<20)
	n := peerSizes{tree: min(b.o.files, 10000), many: min(b.o.small, 1000), created: min(b.o.small, 300)}
	p = page{mark: "bench-peers", head: fmt.Sprintf("Every program mounts one folder of this machine's disk through a server on loopback; tarn has it as a disk storage. Files of %d MiB, %d small cached files, %d created, a tree of %d; medians of %d interleaved rounds.\n",
		b.o.size>>20, n.many, n.created, n.tree, b.o.rounds)}
	src := filepath.Join(b.dir, "src")
	if err := b.peerData(src+"/data", n); err != nil {
		return p, err
	}
	var versions, absent []string
	var stops []func() error
	s := section{title: "beside other programs", jobs: b.peerJobs(n)}
	s.setUp = func() ([]place, func() error, error) {
		tearDown := func() error {
			var first error
			for _, stop := range stops {
				if err := stop(); err != nil && first == nil {
					first = err
				}
			}
			return first
		}
		sides := []place{{name: "bare folder", dir: src + "/data", bare: true}}
		for _, q := range allPeers {
			if why := q.absent(); why != "" {
				absent = append(absent, q.name+": "+why)
				step("%s: %s", q.name, why)
				continue
			}
			dir, stop, err := q.start(b, src)
			if err != nil {
				absent = append(absent, q.name+": "+oneLine(b.plain(err)))
				step("%s: %v", q.name, err)
				if q.name == "tarn" {
					tearDown()
					return nil, nil, err
				}
				continue
			}
			stops = append(stops, stop)
			if q.name != "tarn" {
				versions = append(versions, q.name+" "+version(q.version))
			}
			sides = append(sides, place{name: q.name, dir: dir})
		}
		return sides, tearDown, nil
	}
	rows, err := b.measure(s)
	if err != nil {
		return p, err
	}
	p.body = "\n" + peerTable(rows) + "\nThe peers' closes promise less: what was written may be in their caches only. tarn's close returns when the file is safe on the local disk; the bare folder syncs before it closes.\n"
	more, left, err := b.measureAll(b.onOneServer(&versions, &absent), func(title string, rows []*row) {
		p.body += heading(title) + peerTable(rows)
	})
	if err != nil {
		return p, err
	}
	if len(versions) > 0 {
		slices.Sort(versions)
		p.head += "\nBeside it: " + strings.Join(slices.Compact(versions), "; ") + ".\n"
	}
	slices.Sort(absent)
	p.head += leftOut(append(slices.Compact(absent), left...))
	p.chart("peers.svg", "tarn against the best of the others in each row", peerChart(append(rows, more...)))
	return p, nil
}

func (q *peer) absent() string {
	for _, n := range q.needs {
		if _, err := lookPath(n); err != nil {
			return n + " is not installed: " + q.missing
		}
	}
	return ""
}

// lookPath finds a program, also where Debian has those of root.
func lookPath(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9][0-9A-Za-z.+-]*`)

// version is the first number that a program says of itself.
func version(command string) string {
	argv := strings.Fields(command)
	p, err := lookPath(argv[0])
	if err != nil {
		return "?"
	}
	out, _ := exec.Command(p, argv[1:]...).CombinedOutput() // some fail after they said it
	return versionNumber.FindString(string(out))
}

// peerFile is a file that nobody has read yet.
func peerFile(what string, round int) string { return fmt.Sprintf("remote/%s%d", what, round) }

// peerData makes what is served: all large files are one, under many names.
func (b *bench) peerData(dir string, n peerSizes) error {
	if err := os.MkdirAll(dir+"/remote", 0o755); err != nil {
		return err
	}
	if err := writeFile(dir+"/big", b.o.size, true); err != nil {
		return err
	}
	for i := range b.o.rounds {
		for _, what := range []string{"first", "whole", "end"} {
			if err := os.Link(dir+"/big", filepath.Join(dir, peerFile(what, i))); err != nil {
				return err
			}
		}
	}
	if err := makeSmall(dir+"/many", n.many, 4096); err != nil {
		return err
	}
	if err := makeTree(dir+"/tree", n.tree); err != nil {
		return err
	}
	// A server that does not run as root writes here, too. Not every peer can make folders.
	open := []string{b.dir, filepath.Dir(dir), dir}
	for _, q := range allPeers {
		at := place{dir: dir, name: q.name}
		open = append(open, b.writable(at))
		at.dir = b.writable(at)
		for at.round = range b.o.rounds {
			w := newFolder(at, 1, 0)
			open = append(open, filepath.Dir(w), w)
		}
	}
	for i, d := range open {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
		if i > 2 { // nor show those without files
			if err := os.WriteFile(d+"/here", nil, 0o666); err != nil {
				return err
			}
		}
		if err := os.Chmod(d, 0o777); err != nil {
			return err
		}
	}
	return nil
}

// writable is where a side writes: all share what is served.
func (b *bench) writable(at place) string {
	if at.bare {
		return b.bare
	}
	return filepath.Join(at.dir, "w-"+strings.Fields(at.name)[0])
}

func (b *bench) peerJobs(n peerSizes) []*job {
	mb := float64(b.o.size) / 1e6
	blocks := min(b.randomReads(), 20000)
	read := func(count int, units float64, f func(*os.File, uint64) error) func(place) (float64, error) {
		return func(at place) (float64, error) {
			return units * float64(count), readers(at.dir+"/big", count, 0, f)
		}
	}
	warm := func(at place) error { return readers(at.dir+"/big", 1, 0, readAll) }
	tree := func(argv ...string) func(place) (float64, error) {
		return func(at place) (float64, error) { return 1, command(at.dir, argv...) }
	}
	find, ls := tree("find", "tree/", "-type", "f"), tree("ls", "-lR", "tree/")
	first := func(run func(place) (float64, error)) func(place) error {
		return func(at place) error { _, err := run(at); return err }
	}
	block := func(what string, off int64) func(place) (float64, error) {
		return func(at place) (float64, error) {
			return readAt(filepath.Join(at.dir, peerFile(what, at.round)), off)
		}
	}
	return []*job{
		{name: "warm sequential read, 1 reader", unit: "MB/s", before: warm, run: read(1, mb, readAll)},
		{name: "warm sequential read, 4 readers", unit: "MB/s", before: warm, run: read(4, mb, readAll)},
		{name: "warm random 4 KiB read", unit: "IOPS", before: warm, run: read(1, float64(blocks), readRandom(blocks))},
		{name: "warm mmap, sequential", unit: "MB/s", before: warm, run: read(1, mb, mapped(0, false))},
		{name: "page cache cold, sequential read", unit: "MB/s", root: true, before: cold, run: read(1, mb, readAll)},
		{name: "open, read 4 KiB, close of cached files", unit: "files/s",
			before: func(at place) error { return openMany(at.dir+"/many", n.many) },
			run:    func(at place) (float64, error) { return float64(n.many), openMany(at.dir+"/many", n.many) }},
		{name: "sequential write with fsync, new file", unit: "MB/s", before: flushed,
			run:   func(at place) (float64, error) { return mb, writeFile(b.writable(at)+"/new", b.o.size, true) },
			after: func(at place) error { return os.Remove(b.writable(at) + "/new") }},
		{name: "create, write 4 KiB, close", unit: "files/s",
			before: func(at place) error {
				at.dir = b.writable(at)
				return os.MkdirAll(newFolder(at, 1, 0), 0o777)
			},
			run: func(at place) (float64, error) {
				at.dir = b.writable(at)
				return float64(n.created), createMany(newFolder(at, 1, 0), n.created, at.bare)
			}},
		{name: fmt.Sprintf("find -type f, %d files, kernel cold", n.tree), unit: "s", lower: true, root: true, before: cold, run: find},
		{name: fmt.Sprintf("find -type f, %d files, warm", n.tree), unit: "s", lower: true, before: first(find), run: find},
		{name: fmt.Sprintf("ls -lR, %d files, kernel cold", n.tree), unit: "s", lower: true, root: true, before: cold, run: ls},
		{name: fmt.Sprintf("ls -lR, %d files, warm", n.tree), unit: "s", lower: true, before: first(ls), run: ls},
		{name: "nothing cached: first byte", unit: "ms", lower: true, raw: true, before: cold, run: block("first", 0)},
		{name: "nothing cached: whole file", unit: "MB/s", before: cold, run: func(at place) (float64, error) {
			return mb, readers(filepath.Join(at.dir, peerFile("whole", at.round)), 1, 0, readAll)
		}},
		{name: "nothing cached: 4 KiB at the end", unit: "ms", lower: true, raw: true, before: cold, run: block("end", -4096)},
	}
}

// versus compares tarn (side 1) with the best of the others: above 1 tarn is ahead.
func (r *row) versus() (ratio float64, best string) {
	ratio = math.NaN()
	if len(r.values) < 2 {
		return ratio, ""
	}
	own := median(r.values[1])
	for n := 2; n < len(r.values); n++ {
		q := own / median(r.values[n])
		if r.lower {
			q = 1 / q
		}
		if !math.IsNaN(q) && !(q >= ratio) {
			ratio, best = q, r.sides[n]
		}
	}
	return ratio, best
}

// verdict says who is ahead, and why it is not tarn.
func (r *row) verdict() string {
	q, best := r.versus()
	switch {
	case math.IsNaN(q):
		return ""
	case q >= 1.05:
		return fmt.Sprintf("tarn ahead, %.1f× %s", q, best)
	case q >= 0.95:
		return "level with " + best
	}
	return fmt.Sprintf("behind %s, %.2f×: %s", best, q, remark(r.name, best))
}

func peerTable(rows []*row) string {
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| work | unit | %s | remark |\n|---|---|%s---|\n", strings.Join(rows[0].sides, " | "), strings.Repeat("---|", len(rows[0].sides)))
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s |", r.name, r.unit)
		for n, v := range r.values {
			switch {
			case len(v) > 0:
				fmt.Fprintf(&b, " %s |", number(median(v)))
			case r.failures[n] != "":
				fmt.Fprintf(&b, " %s |", oneLine(r.failures[n]))
			default:
				b.WriteString(" |")
			}
		}
		if r.why != "" {
			fmt.Fprintf(&b, " %s |\n", oneLine(r.why))
			continue
		}
		fmt.Fprintf(&b, " %s |\n", r.verdict())
	}
	return b.String()
}

func peerChart(rows []*row) string {
	var all []bar
	for _, r := range rows {
		q, best := r.versus()
		if math.IsNaN(q) {
			continue
		}
		class := "c1"
		if q < 0.95 {
			class = "c2"
		}
		all = append(all, bar{label: r.name, value: q, tick: 1, class: class, text: fmt.Sprintf("%s× %s", number(q), best)})
	}
	if len(all) == 0 {
		return ""
	}
	return bars("tarn's speed, the best of the others being 1", 4, all)
}

// child is a program that runs beside the bench, ended by its process id.
type child struct {
	cmd  *exec.Cmd
	log  strings.Builder
	done chan struct{}
}

// spawn starts a program. extra files become its descriptors 3 and up.
func spawn(extra []*os.File, argv ...string) (*child, error) {
	p, err := lookPath(argv[0])
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(p, argv[1:]...), done: make(chan struct{})}
	c.cmd.ExtraFiles = extra
	c.cmd.Stdout = io.Discard
	c.cmd.Stderr = &c.log
	c.cmd.WaitDelay = time.Second
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.cmd.Wait(); close(c.done) }()
	return c, nil
}

// stop asks it to end, and ends it when it does not.
func (c *child) stop() error {
	c.cmd.Process.Signal(os.Interrupt)
	select {
	case <-c.done:
	case <-time.After(15 * time.Second):
		c.cmd.Process.Kill()
		<-c.done
	}
	return nil
}

// said is the last of what it wrote; it has ended.
func (c *child) said() string {
	s := strings.TrimSpace(c.log.String())
	return s[max(0, len(s)-300):]
}
