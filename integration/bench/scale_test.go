package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

func TestScaleSizes(t *testing.T) {
	for largest, want := range map[float64]string{1e6: "[100000 1000000]", 1e7: "[100000 1000000 10000000]", 1e4: "[1000 10000]"} {
		if got := fmt.Sprint(scaleSizes(largest)); got != want {
			t.Errorf("%g: %s, want %s", largest, got, want)
		}
	}
}

func TestScaleTable(t *testing.T) {
	sides := []string{"100,000", "1,000,000"}
	got := scaleTable([]*row{
		{job: &job{name: "import", unit: "files/s"}, sides: sides, values: [][]float64{{30, 10, 40}, {10}}},
		{job: &job{name: "look-ups", unit: "1/s"}, sides: sides, values: [][]float64{{100, 10, 100}, {90, 8, 95}}},
		{job: &job{name: "broken", unit: "1/s"}, sides: sides, values: [][]float64{nil, nil}, failures: map[int]string{1: "no luck"}},
	}, []*row{{job: &job{name: "on disk", unit: "bytes a file"}, sides: sides, values: [][]float64{{300}, {290}}}})
	for _, want := range []string{"100,000 files | 1,000,000 files | slower by", "| 3.00× | ≤ 1.5× | **not met** |", "| 1.11× | ≤ 1.5× | met |", "no luck", "| 300 | 290 | | | |"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestScaleImport: a large catalogue is imported in parts, each compared with one of the
// smallest, and has all its files then.
func TestScaleImport(t *testing.T) {
	dir := t.TempDir()
	b := &bench{ctx: t.Context(), dir: dir}
	r := &row{job: &job{name: "import"}}
	for _, n := range []int{20, 207} {
		c := &catalogue{n: n, dir: filepath.Join(dir, fmt.Sprint(n)), r: rand.New(rand.NewPCG(1, 2))}
		if err := b.imported(c, 20, r); err != nil {
			t.Fatal(err)
		}
		if err := c.open(); err != nil {
			t.Fatal(err)
		}
		if files, _ := c.c.Usage(); files != int64(n) {
			t.Errorf("%d files, want %d", files, n)
		}
		if _, err := c.c.Stat(b.ctx, c.any()); err != nil {
			t.Error(err)
		}
		if size, err := diskUsed(c.dir); size == 0 || err != nil {
			t.Errorf("%d bytes, %v", size, err)
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.values) != 2 || len(r.values[0]) != 1+importParts || len(r.values[1]) != 1 {
		t.Errorf("%v", r.values)
	}
}

// TestScaleWarmUp: the pages of a large catalogue are mapped before its first round, once.
func TestScaleWarmUp(t *testing.T) {
	for n, want := range map[int]string{1e5: "5000 5000", 1e6: "20000 5000", 1e7: "200000 5000"} {
		c := &catalogue{n: n}
		if got := fmt.Sprint(c.warmUp(), c.warmUp()); got != want {
			t.Errorf("%d files: %s, want %s", n, got, want)
		}
	}
}
