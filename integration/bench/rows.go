package main

import (
	"fmt"
	"strings"
)

// rows measures everything against the bare folder, section by section.
func (b *bench) rows() (p page, err error) {
	p = page{mark: "bench", head: fmt.Sprintf("Big file %d MiB, tree %d files, %d small files, huge folder %d entries; medians of %d interleaved rounds (fewer where a row is slow), [min..max]; the ratio is the median of the rounds' ratios, mount to bare folder.\n",
		b.o.size>>20, b.o.files, b.o.small, b.o.huge, b.o.rounds)}
	sections := []section{b.data(), b.creates("local"), b.creates("fast"), b.tree(true), b.tree(false), b.huge(), b.remote(), b.tape()}
	for _, q := range protocols {
		sections = append(sections, b.server(q, false))
	}
	for _, q := range protocols {
		if q.name != "gsiftp" { // its data goes to other ports than the one that is led over the link
			sections = append(sections, b.server(q, true))
		}
	}
	for _, c := range carriers {
		sections = append(sections, b.ingests(c))
	}
	sections = append(sections, b.grown())
	all, absent, err := b.measureAll(sections, func(title string, rows []*row) { p.body += heading(title) + table(rows) })
	if err != nil {
		return p, err
	}
	p.head += leftOut(absent)
	p.chart("ratio.svg", "Mount against the bare folder, as speed: 1 is equal, the tick is what is aimed at", ratioChart(all))
	return p, nil
}

func heading(title string) string {
	return "\n### " + strings.ToUpper(title[:1]) + title[1:] + "\n\n"
}

// measureAll measures sections one after the other and shows the rows of each. absent says why those have none
// that the run goes on without.
func (b *bench) measureAll(sections []section, show func(title string, rows []*row)) (all []*row, absent []string, err error) {
	for _, s := range sections {
		rows, err := b.measure(s)
		if why := b.without(s, err); why != "" {
			absent = append(absent, why)
		} else if err != nil {
			return all, absent, err
		}
		if len(rows) > 0 {
			show(s.title, rows)
		}
		all = append(all, rows...)
	}
	return all, absent, nil
}

// without tells why a section that the run may do without has no rows; "" when it has them, or must have.
func (b *bench) without(s section, err error) string {
	if err == nil || !s.optional || b.ctx.Err() != nil {
		return ""
	}
	step("left out: %v", err)
	return oneLine(b.plain(err))
}

// leftOut is what the head of a page says of what is not in it.
func leftOut(absent []string) string {
	if len(absent) == 0 {
		return ""
	}
	return "\nNot measured: " + strings.Join(absent, "; ") + ".\n"
}

// plain is the text of an error without places on this machine.
func (b *bench) plain(err error) string { return strings.ReplaceAll(err.Error(), b.dir+"/", "") }

// pair is the two sides of a section.
func (b *bench) pair(bare string, mount string) []place {
	return []place{{name: "bare folder", dir: bare, bare: true}, {name: "mount", dir: mount}}
}
