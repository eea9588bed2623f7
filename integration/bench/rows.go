package main

import (
	"fmt"
	"strings"
)

// rows measures everything against the bare folder, section by section.
func (b *bench) rows() (p page, err error) {
	p = page{mark: "bench", head: fmt.Sprintf("Big file %d MiB, tree %d files, %d small files, huge folder %d entries; medians of %d interleaved rounds (fewer where a row is slow), [min..max]; the ratio is the median of the rounds' ratios, mount to bare folder.\n",
		b.o.size>>20, b.o.files, b.o.small, b.o.huge, b.o.rounds)}
	var all []*row
	sections := []section{b.data(), b.creates("local"), b.creates("fast"), b.tree(true), b.tree(false), b.huge(), b.remote(), b.tape()}
	for _, q := range protocols {
		sections = append(sections, b.server(q))
	}
	for _, s := range sections {
		rows, err := b.measure(s)
		if err != nil {
			return p, err
		}
		if len(rows) > 0 {
			p.body += "\n### " + strings.ToUpper(s.title[:1]) + s.title[1:] + "\n\n" + table(rows)
		}
		all = append(all, rows...)
	}
	p.chart("ratio.svg", "Mount against the bare folder, as speed: 1 is equal, the tick is what is aimed at", ratioChart(all))
	return p, nil
}

// pair is the two sides of a section.
func (b *bench) pair(bare string, mount string) []place {
	return []place{{name: "bare folder", dir: bare, bare: true}, {name: "mount", dir: mount}}
}
