package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// tree is find, ls -lR and stat over a tree, with the extended attributes of files or without.
func (b *bench) tree(xattr bool) section {
	n := b.o.files
	find := func(at place) (float64, error) { return 1, command(at.dir, "find", "tree/", "-type", "f") }
	ls := func(at place) (float64, error) { return 1, command(at.dir, "ls", "-lR", "tree/") }
	first := func(run func(place) (float64, error)) func(place) error {
		return func(at place) error { _, err := run(at); return err }
	}
	const procs = 4
	stats := max(1000, n/2)
	stat := func(at place) (float64, error) {
		return float64(procs * stats), selves(procs, nil, func(i int) []string {
			return []string{"stat", at.dir + "/tree", strconv.Itoa(n), strconv.Itoa(stats), strconv.Itoa(i)}
		})
	}
	var jobs []*job
	if xattr {
		jobs = []*job{
			{name: fmt.Sprintf("find -type f, %d files, kernel cold", n), root: true, before: cold, run: find, target: 1.5},
			{name: fmt.Sprintf("find -type f, %d files, warm", n), before: first(find), run: find, target: 1.1},
			{name: fmt.Sprintf("ls -lR, %d files, kernel cold, attributes on", n), root: true, before: cold, run: ls, note: "as near as possible"},
			{name: fmt.Sprintf("ls -lR, %d files, warm, attributes on", n), before: first(ls), run: ls, note: "as near as possible"},
		}
	} else {
		jobs = []*job{
			{name: fmt.Sprintf("ls -lR, %d files, kernel cold, attributes off", n), root: true, before: cold, run: ls, target: 0.9},
			{name: fmt.Sprintf("ls -lR, %d files, warm, attributes off", n), before: first(ls), run: ls, target: 1.1},
		}
	}
	for _, j := range jobs {
		j.unit, j.lower = "s", true
	}
	name, mount, title := "tree", "", "names: find, ls, stat"
	if xattr {
		jobs = append(jobs, &job{name: "stat of random known paths, 4 processes, warm", unit: "1/s", target: 0.9, before: first(stat), run: stat})
	} else {
		name, mount, title = "tree-off", "mount: {xattr: false}", "names, with mount.xattr: false"
	}
	return section{title: title, jobs: jobs, setUp: func() ([]place, func() error, error) {
		bare := filepath.Join(b.bare, "tree")
		if _, err := os.Stat(bare); err != nil {
			if err := makeTree(bare, n); err != nil {
				return nil, nil, err
			}
		}
		l, err := b.newLake(name, b.conf(mount, "local", ""))
		if err != nil {
			return nil, nil, err
		}
		if err := l.fill(entries("tree", 0, n, 1000, inTree)); err != nil {
			return nil, nil, err
		}
		return b.pair(b.bare, l.ctao()), l.umount, l.mount()
	}}
}

// memoryAim is what the daemon may take with the default of the option memory, in MiB: the
// rest is for the tables of the catalogue, which it maps, and for what is open.
const (
	memoryAim  = 1023
	memoryNote = "memory is 768 MiB; the rest is mapped tables and open files"
)

// huge is one folder of very many entries, and what the daemon needs of memory for
// it, for many open files and for many streams.
func (b *bench) huge() section {
	var l *lake
	small := b.o.huge / 10
	list := func(top string, argv ...string) func(place) (float64, error) {
		return func(at place) (float64, error) { return 1, command(at.dir+"/"+top, argv...) }
	}
	times := map[string][]float64{}
	// timed keeps the times, so that the growth can be told.
	timed := func(key, top string, argv ...string) *job {
		n := map[string]int{"tenth": small, "huge": b.o.huge}[top]
		return &job{name: fmt.Sprintf("%s of one folder of %d entries", key, n), unit: "s", lower: true, alone: true, raw: true, rounds: 3, before: cold,
			run: func(at place) (float64, error) {
				v, err := seconds(func() error { _, err := list(top, argv...)(at); return err })
				times[key+top] = append(times[key+top], v)
				return v, err
			}}
	}
	growth := func(key string) *job {
		return &job{name: key + ": time for ten times the entries", unit: "x", lower: true, alone: true, raw: true, rounds: 1, limit: 12, note: "linear is 10",
			run: func(place) (float64, error) { return median(times[key+"huge"]) / median(times[key+"tenth"]), nil }}
	}
	memory := func(name string, work func(at place) error) []*job {
		peak := 0.0
		return []*job{
			{name: "daemon memory after " + name, unit: "MiB", lower: true, alone: true, raw: true, rounds: 1, limit: memoryAim, note: memoryNote,
				before: func(at place) error {
					err := l.resetPeak()
					if err == nil && work != nil {
						err = work(at)
					}
					if err == nil {
						peak, err = l.memory("VmHWM")
					}
					return err
				},
				run: func(place) (float64, error) { return l.memory("VmRSS") }},
			{name: "its highest during " + name, unit: "MiB", lower: true, alone: true, raw: true, rounds: 1, limit: memoryAim, note: memoryNote,
				run: func(place) (float64, error) {
					if peak == 0 {
						return 0, fmt.Errorf("not measured")
					}
					return peak, nil
				}},
		}
	}
	jobs := memory("mount", nil)[:1]
	jobs = append(jobs,
		&job{name: "first entries of the huge folder (getdents)", unit: "ms", lower: true, alone: true, raw: true, limit: 50, before: cold,
			run: func(at place) (float64, error) {
				v, err := seconds(func() error {
					f, err := os.Open(at.dir + "/huge")
					if err != nil {
						return err
					}
					defer f.Close()
					_, err = f.ReadDir(1)
					return err
				})
				return 1000 * v, err
			}},
		timed("ls -U", "tenth", "ls", "-U"), timed("ls -U", "huge", "ls", "-U"), growth("ls -U"),
		timed("ls -l", "tenth", "ls", "-l"), timed("ls -l", "huge", "ls", "-l"), growth("ls -l"),
	)
	jobs = append(jobs, memory("listing the huge folder", func(at place) error { return command(at.dir, "ls", "-l", "huge") })...)
	jobs = append(jobs, memory(fmt.Sprintf("a walk over %d entries", b.o.huge), func(at place) error { return command(at.dir, "ls", "-lR", "walk") })...)
	jobs = append(jobs, memory(fmt.Sprintf("holding %d files open", b.o.small), func(at place) error { return holdOpen(at.dir+"/open", b.o.small) })...)
	jobs = append(jobs, memory(fmt.Sprintf("%d streams at once, nothing cached", b.o.streams), func(at place) error { return b.streamAll(at.dir + "/streams") })...)
	return section{title: "very many entries, and memory", jobs: jobs, setUp: func() ([]place, func() error, error) {
		var err error
		if l, err = b.newLake("huge", b.conf("", "local", "")); err != nil {
			return nil, nil, err
		}
		flat := func(i int) (string, string) { return "", fmt.Sprintf("run%08d.fits", i) }
		for top, n := range map[string]int{"huge": b.o.huge, "tenth": small} {
			if err := l.fill(entries(top, 0, n, n, flat)); err != nil {
				return nil, nil, err
			}
		}
		if err := l.fill(entries("walk", 0, b.o.huge, 1000, inTree)); err != nil {
			return nil, nil, err
		}
		if err := makeSmall(l.disk("open"), b.o.small, 4096); err != nil {
			return nil, nil, err
		}
		if err := os.Mkdir(l.disk("streams"), 0o755); err != nil {
			return nil, nil, err
		}
		for i := range b.o.streams {
			if err := writeFile(smallName(l.disk("streams"), i), 1<<20, false); err != nil {
				return nil, nil, err
			}
		}
		for _, d := range []string{"open", "streams"} {
			if err := l.register(d); err != nil {
				return nil, nil, err
			}
		}
		return b.pair(b.bare, l.ctao()), l.umount, l.mount()
	}}
}

// holdOpen opens all files, reads a block of each, and closes them when all are open.
func holdOpen(dir string, n int) error {
	b := make([]byte, 4096)
	for i := range n {
		f, err := os.Open(smallName(dir, i))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Read(b); err != nil {
			return err
		}
	}
	return nil
}

// streamAll opens all files first, and then reads all of them at once.
func (b *bench) streamAll(dir string) error {
	files := make([]*os.File, b.o.streams)
	for i := range files {
		f, err := os.Open(smallName(dir, i))
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	return each(len(files), func(i int) error { return readAll(files[i], 0) })
}
