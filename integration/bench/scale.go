package main

import (
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
)

// flatWithin is by how much the largest catalogue may be slower than the smallest.
const flatWithin = 1.5

// importParts is how often the import of a large catalogue is interrupted for one of the
// smallest, which it is compared with.
const importParts = 5

// looked is how many names a round looks up.
const looked = 50000

// warmPart says that at least one in so many names is looked up before look-ups are measured: the
// kernel maps pages of tables when they are touched first, and a large catalogue would pay
// for that in its rounds.
const warmPart = 50

// catalogue is one of the catalogues that are compared: n files, a thousand a folder.
type catalogue struct {
	n   int
	dir string
	c   *embedded.Catalogue
	r   *rand.Rand
	new int // files added since the import

	warm bool // look-ups were made
}

// scale measures the embedded catalogue at growing sizes, all of them side by side.
func (b *bench) scale() (p page, err error) {
	p = page{mark: "bench-scale", head: fmt.Sprintf("All catalogues are imported, closed, opened and verified; then each is asked in turn, medians of %d rounds. Names and folders (of a thousand files) are random, anywhere in the catalogue; at least one in %d is looked up before the first round. An import is compared with imports of the smallest catalogue made during it.\n", b.o.rounds, warmPart)}
	var all []*catalogue
	defer func() {
		for _, c := range all {
			if cerr := c.close(); err == nil {
				err = cerr
			}
		}
	}()
	imports := &row{job: &job{name: "import", unit: "files/s"}}
	var sides []place
	sizes := scaleSizes(b.o.scale)
	for _, n := range sizes {
		c := &catalogue{n: n, dir: filepath.Join(b.dir, fmt.Sprint("catalogue-", n)), r: rand.New(rand.NewPCG(1, 2))}
		if err := b.imported(c, sizes[0], imports); err != nil {
			return p, err
		}
		all = append(all, c)
		sides = append(sides, place{name: group(int64(n)), dir: c.dir, bare: len(all) == 1})
		imports.sides = append(imports.sides, sides[len(sides)-1].name)
		step("%d entries: imported at %s/s", n, number(median(imports.values[len(all)-1])))
	}
	disk := &row{job: &job{name: "on disk", unit: "bytes a file"}, sides: imports.sides}
	opens := &row{job: &job{name: "open, all verified", unit: "files/s"}, sides: imports.sides}
	for _, c := range all {
		v, err := seconds(c.open)
		if err != nil {
			return p, err
		}
		opens.values = append(opens.values, []float64{float64(c.n) / v})
		size, err := diskUsed(c.dir)
		if err != nil {
			return p, err
		}
		disk.values = append(disk.values, []float64{float64(size) / float64(c.n)})
		step("%d entries: %d MiB on disk, opened in %.2f s", c.n, size>>20, v)
	}
	rows := []*row{imports}
	for _, j := range scaleJobs(b, all) {
		r := b.measureJob(j, sides)
		if err := b.ctx.Err(); err != nil {
			return p, err
		}
		step("%s", r.line())
		rows = append(rows, r)
	}
	p.body = scaleTable(rows, []*row{opens, disk})
	p.chart("scale.svg", "The catalogue as it grows", scaleChart(rows, all))
	return p, nil
}

// scaleSizes are the powers of ten from 10^5 to the largest.
func scaleSizes(largest float64) (sizes []int) {
	for n := 1e5; n <= largest*1.001; n *= 10 {
		sizes = append(sizes, int(n))
	}
	if len(sizes) == 0 {
		sizes = []int{int(largest / 10), int(largest)}
	}
	return sizes
}

// imported makes the catalogue c; the rates go into the row. All but the smallest are made
// in parts, each after one more of the smallest.
func (b *bench) imported(c *catalogue, smallest int, r *row) error {
	if err := c.create(b); err != nil {
		return err
	}
	r.values = append(r.values, nil)
	side := len(r.values) - 1
	if side == 0 {
		v, err := seconds(func() error { return c.fill(b, 0, c.n) })
		r.values[0] = append(r.values[0], float64(c.n)/v)
		if cerr := c.close(); err == nil {
			err = cerr
		}
		return err
	}
	var spent float64
	for part := range importParts {
		small := &catalogue{n: smallest, dir: filepath.Join(b.dir, "catalogue-small")}
		if err := b.throwAway(small, r); err != nil {
			return err
		}
		v, err := seconds(func() error { return c.fill(b, c.n*part/importParts, c.n*(part+1)/importParts) })
		if err != nil {
			return err
		}
		spent += v
	}
	r.values[side] = append(r.values[side], float64(c.n)/spent)
	return c.close()
}

// throwAway imports one of the smallest for the time that it takes.
func (b *bench) throwAway(c *catalogue, r *row) error {
	err := c.create(b)
	if err == nil {
		var v float64
		v, err = seconds(func() error { return c.fill(b, 0, c.n) })
		r.values[0] = append(r.values[0], float64(c.n)/v)
	}
	if cerr := c.close(); err == nil {
		err = cerr
	}
	if rerr := os.RemoveAll(c.dir); err == nil {
		err = rerr
	}
	return err
}

func (c *catalogue) create(b *bench) error {
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return err
	}
	if err := c.open(); err != nil {
		return err
	}
	return c.c.AddScope(b.ctx, backends.Info{DID: backends.DID{Scope: "ctao"}, Mode: 0o755})
}

// open verifies all that is stored at once, so that nothing does beside what is measured.
func (c *catalogue) open() (err error) {
	c.c, err = embedded.Open(embedded.Options{Dir: c.dir, VerifyBytes: math.MaxInt64})
	return err
}

func (c *catalogue) close() error {
	if c.c == nil {
		return nil
	}
	err := c.c.Close()
	c.c = nil
	return err
}

// fill imports files from..to-1.
func (c *catalogue) fill(b *bench, from, to int) error {
	added, err := c.c.Import(b.ctx, entries("tree", from, to, 1000, inTree))
	if err == nil && added < int64(to-from) {
		err = fmt.Errorf("%d of %d added", added, to-from)
	}
	return err
}

// any is the name of a file anywhere in the catalogue.
func (c *catalogue) any() backends.DID {
	d, f := inTree(c.r.IntN(c.n))
	return backends.DID{Scope: "ctao", Name: "/ctao/tree/" + d + "/" + f}
}

// warmUp is how many names are looked up before a round.
func (c *catalogue) warmUp() int {
	n := looked / 10
	if !c.warm {
		n = max(n, c.n/warmPart)
	}
	c.warm = true
	return n
}

func scaleJobs(b *bench, all []*catalogue) []*job {
	of := func(at place) *catalogue {
		for _, c := range all {
			if c.dir == at.dir {
				return c
			}
		}
		panic("no catalogue in " + at.dir)
	}
	lookUps := func(c *catalogue, count int) error {
		for range count {
			if _, err := c.c.Stat(b.ctx, c.any()); err != nil {
				return err
			}
		}
		return nil
	}
	const added, listed = 500, 200
	return []*job{
		{name: "look-ups of random names", unit: "1/s",
			before: func(at place) error { return lookUps(of(at), of(at).warmUp()) },
			run:    func(at place) (float64, error) { return looked, lookUps(of(at), looked) }},
		{name: "listing of random folders", unit: "entries/s",
			run: func(at place) (float64, error) {
				c, n := of(at), 0
				for range listed {
					d := c.any()
					d.Name = path.Dir(d.Name)
					for _, err := range c.c.Contents(b.ctx, d, "") {
						if err != nil {
							return 0, err
						}
						n++
					}
				}
				return float64(n), nil
			}},
		{name: "inserts (Add), each durable", unit: "1/s", before: flushed,
			run: func(at place) (float64, error) {
				c := of(at)
				for range added {
					d := c.any()
					c.new++
					d.Name += fmt.Sprintf(".new%d", c.new)
					now := time.Now()
					if err := c.c.Add(b.ctx, backends.Info{DID: d, Type: backends.File, Size: 1, Mode: 0o644, MTime: now, CTime: now}, nil); err != nil {
						return 0, err
					}
				}
				return added, nil
			}},
	}
}

// slower is by how much the last side is slower than the first.
func (r *row) slower() float64 {
	if r.name == "import" { // not in rounds
		return median(r.values[0]) / median(r.values[len(r.values)-1])
	}
	return 1 / r.ratio(len(r.values)-1)
}

// scaleTable has a row for each work, and those that are only told.
func scaleTable(rows, told []*row) string {
	var t strings.Builder
	fmt.Fprintf(&t, "\n| work | unit | %s files | slower by | aim | |\n|---|---|%s---|---|---|\n", strings.Join(rows[0].sides, " files | "), strings.Repeat("---|", len(rows[0].sides)))
	line := func(r *row) {
		fmt.Fprintf(&t, "| %s | %s |", r.name, r.unit)
		for _, v := range r.values {
			fmt.Fprintf(&t, " %s |", spread(v))
		}
	}
	for _, r := range rows {
		line(r)
		if len(r.failures) > 0 {
			for _, why := range r.failures {
				fmt.Fprintf(&t, " %s | |\n", oneLine(why))
				break
			}
			continue
		}
		q := r.slower()
		verdict := "**not met**"
		if q <= flatWithin {
			verdict = "met"
		}
		fmt.Fprintf(&t, " %.2f× | ≤ %.1f× | %s |\n", q, flatWithin, verdict)
	}
	for _, r := range told {
		line(r)
		t.WriteString(" | | |\n")
	}
	return t.String()
}

func scaleChart(rows []*row, all []*catalogue) string {
	var s []series
	for _, r := range rows {
		l := series{name: r.name}
		for i, v := range r.values {
			if len(v) > 0 {
				l.x, l.y = append(l.x, float64(all[i].n)), append(l.y, median(v))
			}
		}
		s = append(s, l)
	}
	return lines("The catalogue as it grows", "entries", "per second", s)
}

// diskUsed is what a folder takes: logs are files with holes.
func diskUsed(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := e.Info()
		if err != nil {
			return err
		}
		n += i.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	return n, err
}
