// Command bench measures a mount against the bare folder on the same disk: both sides
// of each row run interleaved, round after round, and the row shows medians and their
// ratio. It makes a demo lake in a temporary folder, mounts it with the program given
// by -tarn, and cleans up.
//
//	go run ./integration/bench -tarn bin/tarn -rounds 5 -o docs/performance.md
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	tarn, dir, out string
	rounds         int
	size           int64 // of the big file, bytes
	files          int   // of the tree
	small          int   // files created one by one
	only           string
}

func main() {
	var o options
	var mib int64
	flag.StringVar(&o.tarn, "tarn", "bin/tarn", "the program")
	flag.StringVar(&o.dir, "dir", "", "where to work (a disk, not tmpfs); default the temporary folder")
	flag.StringVar(&o.out, "o", "", "write the table into this file too, between its bench marks if it has them")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each row")
	flag.Int64Var(&mib, "mib", 1024, "size of the big file in MiB")
	flag.IntVar(&o.files, "files", 100000, "files of the tree for find and ls")
	flag.IntVar(&o.small, "small", 2000, "files created one by one")
	flag.StringVar(&o.only, "only", "", "only rows whose name contains this")
	flag.Parse()
	o.size = mib << 20
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// world is the demo lake, its mount, and the bare folder beside it.
type world struct {
	o              options
	dir, mnt, bare string
}

func run(o options) (err error) {
	if o.tarn, err = filepath.Abs(o.tarn); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "tarn-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := &world{o: o, dir: filepath.Join(dir, "lake"), mnt: filepath.Join(dir, "mnt"), bare: filepath.Join(dir, "bare")}
	for _, d := range []string{w.mnt, w.bare} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := w.setUp(); err != nil {
		return err
	}
	defer func() {
		if uerr := w.tarn("umount", "--now", w.mnt); uerr != nil && err == nil {
			err = uerr
		}
	}()
	rows, err := w.measure()
	if err != nil {
		return err
	}
	text := w.report(rows)
	fmt.Print(text)
	if o.out != "" {
		return splice(o.out, text)
	}
	return nil
}

func (w *world) tarn(args ...string) error {
	cmd := exec.Command(w.o.tarn, args...)
	cmd.Env = append(os.Environ(), "TARN_LAKE="+w.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("tarn %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (w *world) setUp() error {
	step := func(s string) { fmt.Fprintf(os.Stderr, "bench: %s\n", s) }
	step("make the lake")
	if err := w.tarn("init", "--demo", w.dir); err != nil {
		return err
	}
	// The uploads of a round wait until it is over; the next one waits for them.
	local := fmt.Sprintf("cache: {limit: %d, free_floor: 64MiB}\njournal: {delay: 30s}\n", 4*w.o.size+8<<30)
	if err := os.WriteFile(filepath.Join(w.dir, "lake.local.yaml"), []byte(local), 0o600); err != nil {
		return err
	}
	if w.o.files > 0 {
		step(fmt.Sprintf("a tree of %d files", w.o.files))
		tree := filepath.Join(w.dir, "rse/PIC-DISK/tree")
		if err := makeTree(tree, w.o.files); err != nil {
			return err
		}
		if err := os.Symlink(tree, filepath.Join(w.bare, "tree")); err != nil {
			return err
		}
		if err := w.tarn("import", "-q", tree, "/ctao/tree", "--rse", "PIC-DISK", "--register-only"); err != nil {
			return err
		}
	}
	step("mount")
	if err := w.tarn("mount", w.dir, w.mnt); err != nil {
		return err
	}
	step("a file in the hot cache")
	for _, p := range []string{w.bare + "/big", w.mnt + "/ctao/big"} {
		if err := writeFile(p, w.o.size, true); err != nil {
			return err
		}
	}
	step("small files in the hot cache")
	for _, d := range []string{w.bare + "/many", w.mnt + "/ctao/many"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
		for i := range manyFiles {
			if err := os.WriteFile(fmt.Sprintf("%s/f%05d", d, i), buf[i:i+4096], 0o644); err != nil {
				return err
			}
		}
	}
	step("wait until all of it is safe")
	return w.drain()
}

// drain waits until nothing is unsent, so that no upload disturbs a measurement.
func (w *world) drain() error {
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		cmd := exec.Command(w.o.tarn, "uploads", "ls", "--json")
		cmd.Env = append(os.Environ(), "TARN_LAKE="+w.dir)
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("tarn uploads ls: %w", err)
		}
		if len(strings.TrimSpace(string(out))) == 0 {
			return nil
		}
	}
	return fmt.Errorf("unsent files after 10 minutes")
}

// makeTree makes n small files, 1,000 a folder.
func makeTree(dir string, n int) error {
	for i := range n {
		d := fmt.Sprintf("%s/d%04d", dir, i/1000)
		if i%1000 == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(fmt.Sprintf("%s/run%06d.fits", d, i), buf[:16], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// row is one line of the table.
type row struct {
	name        string
	unit        string // per second, or s
	bare, mount []float64
	better      string // "higher" or "lower" is better
}

// measure runs every row, both sides interleaved.
func (w *world) measure() (rows []*row, err error) {
	for _, j := range w.jobs() {
		if !strings.Contains(j.name, w.o.only) {
			continue
		}
		r := &row{name: j.name, unit: j.unit, better: j.better}
		for i := range w.o.rounds {
			sides := []struct {
				dir string
				to  *[]float64
			}{{w.bare, &r.bare}, {filepath.Join(w.mnt, "ctao"), &r.mount}}
			if i%2 == 1 {
				slices.Reverse(sides)
			}
			for _, s := range sides {
				if j.before != nil {
					if err := j.before(s.dir); err != nil {
						return nil, fmt.Errorf("%s: %w", j.name, err)
					}
				}
				t := time.Now()
				n, err := j.run(s.dir)
				if err != nil {
					return nil, fmt.Errorf("%s in %s: %w", j.name, s.dir, err)
				}
				d := time.Since(t).Seconds()
				if j.better == "higher" {
					d = n / d
				}
				*s.to = append(*s.to, d)
				if j.after != nil {
					if err := j.after(s.dir); err != nil {
						return nil, fmt.Errorf("%s: %w", j.name, err)
					}
				}
			}
		}
		fmt.Fprintf(os.Stderr, "bench: %-45s bare %10.4g  mount %10.4g %-8s ratio %.2f\n", r.name, median(r.bare), median(r.mount), r.unit, r.ratio())
		rows = append(rows, r)
	}
	return rows, nil
}

// ratio is mount to bare; of rates above 1 is faster than the bare folder, of times below.
func (r *row) ratio() float64 { return median(r.mount) / median(r.bare) }

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[len(s)/2]
}

func (w *world) report(rows []*row) string {
	var b strings.Builder
	var u syscall.Utsname
	syscall.Uname(&u) // cannot fail with a valid pointer
	version, _ := exec.Command(w.o.tarn, "version").Output()
	first, _, _ := strings.Cut(string(version), "\n")
	fmt.Fprintf(&b, "%s, %s. Linux %s, %d cores, %s, root: %v. Big file %d MiB, tree %d files; medians of %d interleaved rounds, [min..max].\n\n",
		time.Now().UTC().Format("2006-01-02 15:04 MST"), first, utsname(u.Release[:]), runtime.NumCPU(), fsType(w.bare), os.Geteuid() == 0, w.o.size>>20, w.o.files, w.o.rounds)
	b.WriteString("| work | unit | bare folder | mount | ratio |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		sign := ""
		if r.better == "lower" {
			sign = " (below 1 is faster than the bare folder)"
		}
		fmt.Fprintf(&b, "| %s | %s | %.4g [%.4g..%.4g] | %.4g [%.4g..%.4g] | %.2f%s |\n", r.name, r.unit,
			median(r.bare), slices.Min(r.bare), slices.Max(r.bare), median(r.mount), slices.Min(r.mount), slices.Max(r.mount), r.ratio(), sign)
	}
	return b.String()
}

func utsname(c []int8) string {
	var b []byte
	for _, x := range c {
		if x == 0 {
			break
		}
		b = append(b, byte(x))
	}
	return string(b)
}

func fsType(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return err.Error()
	}
	switch s.Type {
	case 0xef53:
		return "ext4"
	case 0x01021994:
		return "tmpfs"
	case 0x58465342:
		return "xfs"
	case 0x9123683e:
		return "btrfs"
	}
	return fmt.Sprintf("file system type %#x", s.Type)
}

// splice puts text between the marks of a file, or writes a file with marks.
func splice(path, text string) error {
	const begin, end = "<!-- bench begin -->\n", "<!-- bench end -->\n"
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		b = []byte("# Performance\n\nWritten by `make bench`.\n\n" + begin + end)
	} else if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no marks %q and %q", path, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(path, []byte(head+begin+text+end+tail), 0o644)
}
