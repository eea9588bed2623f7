// Command soak works a demo lake for hours as its users and its accidents would, and
// compares it with a model: several processes create, overwrite, append, map, rename,
// remove and read files, while others stage, evict and verify them and the daemon is
// killed, ended and stopped. After each round everything is read through an empty cache,
// and the daemon must hold no more descriptors, goroutines and memory than before.
//
//	go run ./integration/soak -tarn bin/tarn -hours 2
//
// The exit code is 0 when all was right, 1 at the first thing that was not; the folder
// with the logs then stays.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type options struct {
	tarn, dir string
	length    time.Duration
	round     time.Duration
	workers   int
	seed      uint64
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		if err := work(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var o options
	var hours, minutes float64
	flag.StringVar(&o.tarn, "tarn", "bin/tarn", "the program")
	flag.StringVar(&o.dir, "dir", "", "where to work; default the temporary folder")
	flag.Float64Var(&hours, "hours", 0, "how long")
	flag.Float64Var(&minutes, "minutes", 0, "how long, more")
	flag.DurationVar(&o.round, "round", 30*time.Second, "work between two full comparisons")
	flag.IntVar(&o.workers, "workers", 5, "processes that change files")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the random choices")
	flag.Parse()
	o.length = time.Duration(hours*float64(time.Hour) + minutes*float64(time.Minute))
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "soak: FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("soak: all was right")
}

func run(o options) (err error) {
	if o.tarn, err = filepath.Abs(o.tarn); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "tarn-soak-")
	if err != nil {
		return err
	}
	l := &lake{o: o, work: dir, dir: filepath.Join(dir, "lake"), mnt: filepath.Join(dir, "mnt")}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		fmt.Fprintln(os.Stderr, "soak: interrupted; nothing is said of the rest; log and lake are in", dir)
		l.killAll()
		os.Exit(1)
	}()
	defer func() {
		l.kill()
		l.detach()
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w (seed %d; log, lake and models are in %s)", err, o.seed, dir)
		}
	}()
	if err := l.init(); err != nil {
		return err
	}
	fmt.Printf("soak: %v in rounds of %v, %d workers, seed %d, in %s\n", o.length, o.round, o.workers, o.seed, dir)
	fmt.Println("round  operations   files  kills  terms  stops   settled  compared     fds  goroutines  RSS MiB")
	rnd := rand.New(rand.NewPCG(o.seed, 0))
	end := time.Now().Add(o.length)
	models := make([]*model, o.workers)
	for i := range models {
		models[i] = &model{Dir: l.path("ctao", fmt.Sprintf("soak%d", i)), Epoch: l.epoch(), Files: map[string][]byte{}}
		if err := os.MkdirAll(models[i].Dir, 0o755); err != nil {
			return err
		}
	}
	total := 0
	for round := 1; round == 1 || time.Now().Before(end); round++ {
		length := o.round
		if left := time.Until(end); left < length {
			length = max(left, time.Second)
		}
		ops, err := l.round(rnd, models, length)
		total += ops
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		fmt.Printf("%5d  %10d  %6d  %5d  %5d  %5d  %8v  %8v  %6d  %10d  %7d\n", round, ops, l.files, l.kills, l.terms, l.stops,
			l.settled.Round(time.Millisecond), l.compared.Round(time.Millisecond), l.now.fds, l.now.goroutines, l.now.rss>>20)
	}
	fmt.Printf("soak: %d operations, slowest restart %v\n", total, l.slowest.Round(time.Millisecond))
	return nil
}

// round lets the workers work while the daemon suffers, and compares.
func (l *lake) round(rnd *rand.Rand, models []*model, length time.Duration) (ops int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	type ended struct {
		i   int
		m   *model
		err error
	}
	results := make(chan ended, len(models))
	for i, m := range models {
		m.Seed, m.Length = rnd.Uint64(), length
		in, err := json.Marshal(m)
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(l.work, fmt.Sprintf("model%d.json", i)), in, 0o600); err != nil {
			return 0, err
		}
		cmd := exec.Command(self, "worker")
		cmd.Stdin = strings.NewReader(string(in))
		var errs strings.Builder
		cmd.Stderr = &errs
		go func() {
			out, err := cmd.Output()
			e := ended{i: i, m: &model{}}
			if err != nil {
				e.err = fmt.Errorf("worker %d: %w: %s", i, err, strings.TrimSpace(errs.String()))
			} else {
				e.err = json.Unmarshal(out, e.m)
			}
			results <- e
		}()
	}
	err = l.suffer(rnd, time.Now().Add(length))
	for range models { // all of them, so that none is left behind
		e := <-results
		if e.err != nil && err == nil {
			err = e.err
		}
		models[e.i] = e.m
		ops += e.m.Ops
	}
	if err != nil {
		return ops, err
	}
	return ops, l.compare(models)
}

// suffer does to the lake what happens to lakes.
func (l *lake) suffer(rnd *rand.Rand, end time.Time) error {
	for time.Now().Before(end) {
		time.Sleep(time.Duration(100+rnd.IntN(900)) * time.Millisecond)
		var err error
		at := fmt.Sprintf("/ctao/soak%d", rnd.IntN(l.o.workers))
		switch rnd.IntN(12) {
		case 0, 1:
			err = l.again(true)
		case 2:
			err = l.again(false)
		case 3:
			err = l.pause(time.Duration(rnd.IntN(1000)) * time.Millisecond)
		case 4, 5, 6, 7:
			l.try("evict", at)
		case 8, 9:
			l.try("stage", at)
		case 10:
			l.try("verify", at)
		default:
			l.try("replicas", at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
