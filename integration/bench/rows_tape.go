package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tarn/backends/tape/library"
)

// The library of the tape rows. The files fill most of it, so that seeks count.
const (
	tapeDrives     = 2
	tapeCartridges = 20
	tapeFileSize   = 64 << 10
	tapeKept       = 4 // one file of so many is wanted
)

func (b *bench) tapeOptions(dir string, speed float64) library.Options {
	return library.Options{Dir: dir, Drives: tapeDrives, Cartridges: tapeCartridges, Speed: speed, Timing: timing, BufferSize: 4 << 30, CartridgeSize: b.cartridge()}
}

func (b *bench) cartridge() int64 {
	return max(1<<20, int64(b.o.recalls)*tapeKept*tapeFileSize/tapeCartridges*5/4)
}

// timing is the library's, as docs/tape-library.md has it and the lake file by default.
var timing = library.Timing{Robot: 10 * time.Second, Mount: 18 * time.Second, Unmount: 15 * time.Second,
	Seek: 100 * time.Second, Rewind: 80 * time.Second, Rate: 400e6}

// tape compares what opens in random order cost the library with the best order known.
func (b *bench) tape() section {
	const procs = 50
	var l *lake
	var best time.Duration
	n := b.o.recalls
	order := rand.New(rand.NewPCG(5, 5)).Perm(n)
	var naive time.Duration
	jobs := []*job{
		{name: fmt.Sprintf("%d files of %d cartridges, opened in random order by %d processes: tape time / best order", n, tapeCartridges, procs),
			unit: "x", lower: true, raw: true, alone: true, rounds: 1, limit: 1.15,
			run: func(at place) (float64, error) {
				before, err := l.tapeStats()
				if err != nil {
					return 0, err
				}
				err = selves(procs, func(i int) string {
					var s strings.Builder
					for k := i; k < n; k += procs {
						s.WriteString(smallName(at.dir, order[k]) + "\n")
					}
					return s.String()
				}, func(int) []string { return []string{"read"} })
				if err != nil {
					return 0, err
				}
				after, err := l.tapeStats()
				if err != nil {
					return 0, err
				}
				spent := after.TapeTime - before.TapeTime
				step("  %d recalls in %d requests, %d mounts, %v of tape time; best order %v", after.Staged-before.Staged, after.Requests-before.Requests,
					after.Mounts-before.Mounts, spent.Round(time.Second), best.Round(time.Second))
				if got := after.Staged - before.Staged; got < int64(n) {
					return 0, fmt.Errorf("%d files came from tape, want %d", got, n)
				}
				return float64(spent) / float64(best), nil
			}},
		{name: "the same, one request a file in the order asked: tape time / best order", unit: "x", lower: true, raw: true, alone: true, rounds: 1, note: "a program without the planner",
			run: func(place) (float64, error) { return float64(naive) / float64(best), nil }},
	}
	return section{title: "recalls from tape", jobs: jobs, setUp: func() (_ []place, _ func() error, err error) {
		conf := fmt.Sprintf("rses:\n  - name: PIC-TAPE\n    tape: {drives: %d, cartridges: %d, cartridge_size: %d, buffer: 4GiB, speed: 250x, spread: true}\n",
			tapeDrives, tapeCartridges, b.cartridge())
		if l, err = b.newLake("tape", b.conf(conf, "local", ", head: 0, tail: 0")); err != nil {
			return nil, nil, err
		}
		src := filepath.Join(b.dir, "to-tape")
		if err := os.Mkdir(src, 0o755); err != nil {
			return nil, nil, err
		}
		if err := l.toTape(src, n); err != nil {
			return nil, nil, err
		}
		lib := filepath.Join(l.dir, "rse/PIC-TAPE")
		asked := map[string]bool{}
		for _, k := range order {
			asked[filepath.Base(smallName("", k))] = true
		}
		files, err := readIndex(lib, asked)
		if err != nil {
			return nil, nil, err
		}
		if len(files) != n {
			return nil, nil, fmt.Errorf("%d of %d files are on tape", len(files), n)
		}
		o := b.tapeOptions(lib, 1e6)
		best = bestOrder(files, o, timing)
		if b.wanted(jobs[1].name) {
			var paths []string
			for _, k := range order {
				paths = append(paths, files[filepath.Base(smallName("", k))].path)
			}
			if naive, err = oneByOne(b.ctx, o, paths); err != nil {
				return nil, nil, err
			}
		}
		return b.pair("", l.ctao()+"/set"), l.umount, l.mount()
	}}
}

// toTape puts n files into /ctao/set, and others into /ctao/rest, piece by piece in turn, so that
// on every cartridge the wanted files lie between others.
func (l *lake) toTape(src string, n int) error {
	const pieces = 20
	for k := range pieces {
		from, to := k*n/pieces, (k+1)*n/pieces
		for _, d := range []struct {
			name     string
			from, to int
		}{{"set", from, to}, {"rest", from * (tapeKept - 1), to * (tapeKept - 1)}} {
			dir := filepath.Join(src, fmt.Sprint(d.name, k))
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			for i := d.from; i < d.to; i++ {
				// Their names are all that tells them apart in the library's index.
				if err := os.WriteFile(fmt.Sprintf("%s/%c%06d", dir, map[string]rune{"set": 'f', "rest": 'r'}[d.name], i), buf[i:i+tapeFileSize], 0o644); err != nil {
					return err
				}
			}
			if _, err := l.tarn("import", "-q", dir, "/ctao/"+d.name, "--rse", "PIC-TAPE"); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(src); err != nil {
		return err
	}
	_, err := l.tarn("evict", "-q", "/ctao/set", "/ctao/rest")
	return err
}

// tapeStats are the library's counters, as the mount shows them.
func (l *lake) tapeStats() (s library.Stats, err error) {
	var all struct {
		RSEs map[string]library.Stats `json:"rses"`
	}
	b, err := os.ReadFile(l.mnt + "/.tarn/stats")
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	return all.RSEs["PIC-TAPE"], err
}

// oneByOne recalls files in the order given, with a request for each, and gives the tape time.
func oneByOne(ctx context.Context, o library.Options, paths []string) (time.Duration, error) {
	lib, err := library.Open(o)
	if err != nil {
		return 0, err
	}
	defer lib.Close()
	for _, p := range paths {
		id, err := lib.Stage(ctx, p)
		if err != nil {
			return 0, err
		}
		for {
			st, err := lib.Poll(ctx, id)
			if err != nil {
				return 0, err
			}
			if st[0].Error != "" {
				return 0, fmt.Errorf("%s: %s", p, st[0].Error)
			}
			if st[0].Phase.Ended() {
				break
			}
			time.Sleep(50 * time.Microsecond)
		}
		if err := lib.Release(ctx, id); err != nil {
			return 0, err
		}
	}
	spent := lib.Stats().TapeTime
	for _, p := range paths {
		if err := lib.EvictBuffer(ctx, p); err != nil {
			return 0, err
		}
	}
	return spent, nil
}
