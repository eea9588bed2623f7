package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
)

// flatWithin is by how much the largest catalogue may be slower than the smallest.
const flatWithin = 1.5

// scaleWork is what is counted at each size, per second.
var scaleWork = []string{"import, files", "look-ups of random names", "inserts (Add)", "listing, entries"}

// scale measures the embedded catalogue at growing sizes.
func (b *bench) scale() (p page, err error) {
	p = page{mark: "bench-scale", head: "Each catalogue is imported, closed and opened again; look-ups and listings are of folders of a thousand files anywhere in it.\n"}
	var sizes []int
	for n := 1e5; n <= b.o.scale*1.001; n *= 10 {
		sizes = append(sizes, int(n))
	}
	if len(sizes) == 0 {
		sizes = []int{int(b.o.scale / 10), int(b.o.scale)}
	}
	all := make([]series, len(scaleWork))
	table := "\n| entries | " + strings.Join(scaleWork, " /s | ") + " /s |\n|---|" + strings.Repeat("---|", len(scaleWork)) + "\n"
	for _, n := range sizes {
		v, err := b.catalogue(n)
		if err != nil {
			return p, err
		}
		table += "| " + group(int64(n))
		for i, x := range v {
			all[i].name = scaleWork[i]
			all[i].x, all[i].y = append(all[i].x, float64(n)), append(all[i].y, x)
			table += " | " + number(x)
		}
		table += " |\n"
		step("%d entries: %s", n, fmt.Sprint(v))
	}
	table += "| slower by"
	for _, s := range all {
		q := s.y[0] / s.y[len(s.y)-1]
		table += fmt.Sprintf(" | %.2f× %s", q, map[bool]string{true: "(met)", false: "**(not met)**"}[q <= flatWithin])
	}
	p.body = table + fmt.Sprintf(" |\n\nAim: from the smallest to the largest slower by at most %.1f×.\n", flatWithin)
	p.chart("scale.svg", "The catalogue as it grows", lines("The catalogue as it grows", "entries", "per second", all))
	return p, nil
}

// catalogue gives the rates of scaleWork at n entries.
func (b *bench) catalogue(n int) (rates []float64, err error) {
	dir := filepath.Join(b.dir, fmt.Sprint("catalogue-", n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, err := embedded.Open(embedded.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	rate := func(units int, f func() error) error {
		v, err := seconds(f)
		rates = append(rates, float64(units)/v)
		return err
	}
	if err = c.AddScope(b.ctx, backends.Info{DID: backends.DID{Scope: "ctao"}, Mode: 0o755}); err == nil {
		err = rate(n, func() error {
			added, err := c.Import(b.ctx, entries("tree", n, 1000, inTree))
			if err == nil && added < int64(n) {
				err = fmt.Errorf("%d of %d added", added, n)
			}
			return err
		})
	}
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	if c, err = embedded.Open(embedded.Options{Dir: dir}); err != nil {
		return nil, err
	}
	defer func() {
		if cerr := c.Close(); err == nil {
			err = cerr
		}
	}()
	r := rand.New(rand.NewPCG(1, 2))
	name := func(i int) backends.DID {
		d, f := inTree(i)
		return backends.DID{Scope: "ctao", Name: "/ctao/tree/" + d + "/" + f}
	}
	lookups := func(count int) error {
		for range count {
			if _, err := c.Stat(b.ctx, name(r.IntN(n))); err != nil {
				return err
			}
		}
		return nil
	}
	// What was just opened is verified in the background; a first round lets that go by.
	if err := lookups(20000); err != nil {
		return nil, err
	}
	const count = 100000
	if err := rate(count, func() error { return lookups(count) }); err != nil {
		return nil, err
	}
	const adds = 3000
	if err := rate(adds, func() error {
		for i := range adds {
			d := name(r.IntN(n))
			d.Name += fmt.Sprintf(".new%d", i)
			now := time.Now()
			if err := c.Add(b.ctx, backends.Info{DID: d, Type: backends.File, Size: 1, Mode: 0o644, MTime: now, CTime: now}, nil); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	const lists = 200
	listed := 0
	v, err := seconds(func() error {
		for range lists {
			d := name(r.IntN(n))
			d.Name = filepath.Dir(d.Name)
			for _, err := range c.Contents(b.ctx, d, "") {
				if err != nil {
					return err
				}
				listed++
			}
		}
		return nil
	})
	if listed == 0 && err == nil {
		err = fmt.Errorf("nothing listed")
	}
	return append(rates, math.Round(float64(listed)/v)), err
}
