// Command bench measures a mount against the bare folder on the same disk: all sides of
// a row run interleaved, round after round, and the row shows medians, spread and ratio,
// beside what is aimed at. It makes its lakes in a temporary folder, mounts them with the
// program given by -tarn, and cleans up.
//
//	go run ./integration/bench -tarn bin/tarn -o docs/performance.md
//	go run ./integration/bench -what scale -scale 1e7
//	go run ./integration/bench -what peers
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type options struct {
	tarn, dir, out, only, what string
	rounds                     int
	size                       int64 // of the big file, bytes
	files                      int   // of the tree
	small                      int   // files created, opened and held open
	huge                       int   // entries of the huge folder
	streams                    int
	recalls                    int     // files read from tape
	rucioFiles                 int     // files registered in a Rucio server
	scale                      float64 // entries of the largest catalogue
	haulSize                   int64   // of a large file that is ingested, bytes
	haulFiles, haulSmall       int     // large and small files that are ingested at once
	haulGrown                  int     // files that were ingested before, at most
}

// worker programs: this program runs itself where a row asks for processes.
var workers = map[string]func(args []string) error{"stat": statWorker, "read": readWorker}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "worker" {
		if err := workers[os.Args[2]](os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench worker:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	var mib, haulMiB int64
	flag.StringVar(&o.tarn, "tarn", "bin/tarn", "the program")
	flag.StringVar(&o.dir, "dir", "", "where to work (a disk, not tmpfs); default the temporary folder")
	flag.StringVar(&o.out, "o", "", "write tables and charts into this page, between its marks, and into charts/ beside it")
	flag.StringVar(&o.what, "what", "rows", "rows, scale, peers or rucio")
	flag.StringVar(&o.only, "only", "", "only rows whose name contains this; nothing is written then")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each row")
	flag.Int64Var(&mib, "mib", 1024, "size of the big file in MiB")
	flag.IntVar(&o.files, "files", 100000, "files of the tree for find and ls")
	flag.IntVar(&o.small, "small", 10000, "small files that are created, opened and held open")
	flag.IntVar(&o.huge, "huge", 1000000, "entries of the huge folder")
	flag.IntVar(&o.streams, "streams", 1000, "files read at the same time")
	flag.IntVar(&o.recalls, "recalls", 2000, "files read from tape")
	flag.IntVar(&o.rucioFiles, "rucio-files", 32000, "files that are registered in a Rucio server")
	flag.Float64Var(&o.scale, "scale", 1e6, "entries of the largest catalogue")
	flag.Int64Var(&haulMiB, "haul-mib", 256, "size of a large file that is ingested in MiB; 1431 is 1.5 GB")
	flag.IntVar(&o.haulFiles, "haul-files", 20, "large files that are ingested at once")
	flag.IntVar(&o.haulSmall, "haul-small", 4000, "small files that are ingested at once")
	flag.IntVar(&o.haulGrown, "haul-grown", 100000, "files that were ingested before, in the row that compares it with 1,000")
	flag.Parse()
	o.size, o.haulSize = mib<<20, haulMiB<<20
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	ctx  context.Context
	o    options
	dir  string // of all that it makes
	bare string // the bare folder

	limit time.Duration   // of a side in a row, all rounds together; 0: none
	gone  map[string]bool // sides that were over it
}

func run(ctx context.Context, o options) (err error) {
	if o.tarn, err = filepath.Abs(o.tarn); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "tarn-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{ctx: ctx, o: o, dir: dir, bare: filepath.Join(dir, "bare")}
	if err := os.Mkdir(b.bare, 0o755); err != nil {
		return err
	}
	began := time.Now()
	var p page
	switch o.what {
	case "rows":
		p, err = b.rows()
	case "scale":
		p, err = b.scale()
	case "peers":
		p, err = b.peers()
	case "rucio":
		p, err = b.rucio()
	default:
		return fmt.Errorf("-what %s: want rows, scale, peers or rucio", o.what)
	}
	if err != nil {
		return err
	}
	p.head = b.machine() + p.head
	fmt.Print(p.text())
	step("done in %v", time.Since(began).Round(time.Second))
	switch {
	case o.out == "":
	case o.only != "":
		step("nothing written: -only measures a part")
	default:
		return p.write(o.out)
	}
	return nil
}

func step(f string, a ...any) { fmt.Fprintf(os.Stderr, "bench: "+f+"\n", a...) }

// wanted tells whether -only lets a row of that name through.
func (b *bench) wanted(name string) bool { return strings.Contains(name, b.o.only) }
