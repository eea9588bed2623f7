package main

import (
	"crypto/md5"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/servertest"
)

// perFile is how many files Rucio's own client registers one by one: it takes a second for some twenty.
const perFile = 200

// benchScope is where the files are.
const benchScope = "bench"

// onRucio is the real server that both sides use, and tarn's lake on it.
type onRucio struct {
	b     *bench
	srv   *servertest.RucioServer
	cat   *rucio.Catalogue
	calls *rest.Client
	lake  *lake
	rses  []string
	files int
	made  int      // datasets so far
	big   []string // those of them that have as many files as was asked for
	text  strings.Builder
}

// rucio measures tarn on a real Rucio server beside Rucio's own client, in the same run.
func (b *bench) rucio() (p page, err error) {
	b.o.rounds = min(b.o.rounds, 3)
	t := &stage{dir: b.dir}
	defer t.end()
	o := &onRucio{b: b, files: b.o.rucioFiles}
	if err := t.play(func() {
		o.srv = servertest.Rucio(t, servertest.RucioOptions{Own: true})
		o.srv.AddScope("root", benchScope)
		for range 2 {
			dir := filepath.Join(b.dir, "rucio-"+o.srv.Unique("rse")) + "/"
			o.rses = append(o.rses, o.srv.AddRSE(servertest.RucioRSE{Protocols: []servertest.RucioProtocol{{Scheme: "file", Host: "localhost", Prefix: dir}}}))
		}
	}); err != nil {
		return p, err
	}
	if err := o.open(); err != nil {
		return p, err
	}
	defer func() {
		if cerr := o.close(); err == nil {
			err = cerr
		}
	}()
	p = page{mark: "bench-rucio", head: fmt.Sprintf("A real Rucio server %s with PostgreSQL on this machine, with %s files; medians of %d interleaved rounds. The client is Rucio's own of that version.\n", o.version(), group(int64(o.files)), b.o.rounds)}
	var rows []*row
	for _, x := range []struct {
		job  func() *job // which may count on what those before it have made
		peer string
	}{
		{o.register, "a file at a time"},
		{func() *job {
			return o.list("a dataset of %s files: ls -l, nothing known, against rucio list-files", true, "list-files")
		}, "rucio list-files"},
		{func() *job {
			return o.list("a dataset of %s files: ls -l again, against rucio list-content", false, "list-content")
		}, "rucio list-content"},
		{func() *job { return o.tree("nothing known", true) }, "rucio list-files"},
		{func() *job { return o.tree("again", false) }, "rucio list-files"},
	} {
		r := b.measureJob(x.job(), []place{{name: x.peer, bare: true}, {name: "tarn"}})
		if err := b.ctx.Err(); err != nil {
			return p, err
		}
		step("%s", r.line())
		rows = append(rows, r)
	}
	p.body = strings.Replace(table(rows), "| bare folder | mount |", "| Rucio's client | tarn |", 1) + "\n" + o.text.String()
	return p, nil
}

// open begins to use the server, and mounts a lake on it.
func (o *onRucio) open() (err error) {
	cfg := filepath.Join(o.srv.Dir, "etc/rucio.cfg")
	os.Setenv("RUCIO_CONFIG", cfg) // for the daemon and the client, too
	conf, err := rest.Load(cfg, func(string) string { return "" })
	if err != nil {
		return err
	}
	if o.calls, err = rest.New(rest.Options{Config: conf}); err != nil {
		return err
	}
	if o.cat, err = rucio.Open(rucio.Options{Client: o.calls, Layout: backends.LayoutContents, Lifetime: time.Hour}); err != nil {
		return err
	}
	o.lake = &lake{b: o.b, dir: filepath.Join(o.b.dir, "rucio-lake"), mnt: filepath.Join(o.b.dir, "rucio-mnt")}
	if err := os.Mkdir(o.lake.mnt, 0o755); err != nil {
		return err
	}
	if _, err := o.lake.tarn("init", "--rucio", o.srv.URL, o.lake.dir); err != nil {
		return err
	}
	return o.lake.mount()
}

func (o *onRucio) close() error {
	err := o.lake.umount()
	if cerr := o.cat.Close(); err == nil {
		err = cerr
	}
	return err
}

func (o *onRucio) version() string {
	v, err := o.calls.Ping(o.b.ctx)
	if err != nil {
		return "?"
	}
	return v
}

// entry is the ith file of a dataset.
func (o *onRucio) entry(dataset string, i int) backends.Entry {
	d := backends.DID{Scope: benchScope, Name: fmt.Sprintf("%s-f%05d", dataset, i)}
	sums := backends.Checksums{Adler32: fmt.Sprintf("%08x", i), MD5: fmt.Sprintf("%x", md5.Sum([]byte(d.Name)))}
	e := backends.Entry{Info: backends.Info{DID: d, Type: backends.File, Size: int64(i), Checksums: sums, Generation: backends.GenerationOf(d, int64(i), sums)}}
	for _, r := range o.rses {
		e.Replicas = append(e.Replicas, backends.Replica{RSE: r, PFN: rucio.Place(d), State: backends.Available})
	}
	return e
}

func (o *onRucio) dataset() string {
	o.made++
	return fmt.Sprintf("ds%d", o.made)
}

// register is both sides' way to make files with two replicas known, in a dataset with a rule for both.
func (o *onRucio) register() *job {
	return &job{name: fmt.Sprintf("%s files with 2 replicas, attached to a dataset with a rule (the client: %d)", group(int64(o.files)), perFile), unit: "files/s", raw: true, target: 10,
		run: func(at place) (float64, error) {
			if at.bare {
				v, err := seconds(func() error { return o.oneByOne(o.dataset()) })
				return perFile / v, err
			}
			before := o.calls.Calls()
			v, err := seconds(func() error { return o.bulk(o.dataset(), o.files) })
			o.tell(fmt.Sprintf("Registering %s files", group(int64(o.files))), before)
			return float64(o.files) / v, err
		}}
}

// oneByOne does it as Rucio's client is used for one file after the other.
func (o *onRucio) oneByOne(dataset string) error {
	script := fmt.Sprintf(`
from rucio.client import Client
c = Client()
c.add_dataset(%[1]q, %[2]q)
for i in range(%[3]d):
    name = "%%s-f%%05d" %% (%[2]q, i)
    for rse in %[4]s:
        c.add_replica(rse, %[1]q, name, i, "%%08x" %% i)
    c.attach_dids(%[1]q, %[2]q, [{"scope": %[1]q, "name": name}])
c.add_replication_rule([{"scope": %[1]q, "name": %[2]q}], 2, %[5]q, lifetime=3600, asynchronous=True)
`, benchScope, dataset, perFile, `["`+strings.Join(o.rses, `", "`)+`"]`, strings.Join(o.rses, "|"))
	file := filepath.Join(o.b.dir, dataset+".py")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(o.b.ctx, filepath.Join(o.venv(), "bin/python"), "-W", "ignore", file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the client: %w\n%s", err, out)
	}
	return nil
}

// venv is the environment that the server runs in.
func (o *onRucio) venv() string {
	b, _ := os.ReadFile(filepath.Join(o.srv.Dir, "env"))
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), "export RUCIO_VENV='"); ok {
			return strings.TrimSuffix(v, "'")
		}
	}
	return ""
}

// bulk does it as tarn does for what an import brings.
func (o *onRucio) bulk(dataset string, n int) error {
	d := backends.DID{Scope: benchScope, Name: dataset}
	if err := o.cat.Add(o.b.ctx, backends.Info{DID: d, Type: backends.Dataset}, nil); err != nil {
		return err
	}
	var children []backends.DID
	var entries iter.Seq2[backends.Entry, error] = func(yield func(backends.Entry, error) bool) {
		for i := range n {
			e := o.entry(dataset, i)
			children = append(children, e.Info.DID)
			if !yield(e, nil) {
				return
			}
		}
	}
	added, err := o.cat.Import(o.b.ctx, entries)
	if err != nil {
		return err
	}
	if added != int64(n) {
		return fmt.Errorf("%d of %d files were registered", added, n)
	}
	if err := o.cat.Attach(o.b.ctx, d, children...); err != nil {
		return err
	}
	_, err = o.cat.AddRule(o.b.ctx, backends.Rule{DID: d, Copies: 2, Expression: strings.Join(o.rses, "|")})
	o.big = append(o.big, dataset)
	return err
}

// tell writes down, once, which requests were made since then.
func (o *onRucio) tell(what string, before map[string]int64) {
	if strings.Contains(o.text.String(), what) {
		return
	}
	all := o.calls.Calls()
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if n := all[k] - before[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d × %s", n, k))
		}
	}
	fmt.Fprintf(&o.text, "%s takes these requests: %s.\n\n", what, strings.Join(parts, ", "))
}

// tree is a walk over a container of as many datasets of the rows above as have some 100,000 files, by find in the mount and by a
// command of the client.
func (o *onRucio) tree(what string, cold bool) *job {
	const container = "all"
	sets := min(max(1, 100_000/o.files), len(o.big))
	walk := func() error {
		out, err := exec.CommandContext(o.b.ctx, "find", filepath.Join(o.lake.mnt, benchScope, container), "-type", "f").Output()
		if n := strings.Count(string(out), "\n"); err == nil && n != sets*o.files {
			err = fmt.Errorf("%d files are found, of %d", n, sets*o.files)
		}
		return err
	}
	return &job{name: fmt.Sprintf("find -type f over %s files in %d datasets of a container, %s, against rucio list-files", group(int64(sets*o.files)), sets, what), unit: "s", lower: true, raw: true, target: 1,
		before: func(at place) error {
			d := backends.DID{Scope: benchScope, Name: container}
			if _, err := o.cat.Stat(o.b.ctx, d); errors.Is(err, backends.ErrNotExist) {
				var in []backends.DID
				for _, s := range o.big[:sets] {
					in = append(in, backends.DID{Scope: benchScope, Name: s})
				}
				if err := o.cat.Add(o.b.ctx, backends.Info{DID: d, Type: backends.Container}, nil); err != nil {
					return err
				}
				if err := o.cat.Attach(o.b.ctx, d, in...); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
			switch {
			case at.bare:
				return nil
			case !cold:
				return walk()
			}
			if err := o.lake.umount(); err != nil {
				return err
			}
			return o.lake.mount()
		},
		run: func(at place) (float64, error) {
			if at.bare {
				return seconds(func() error {
					_, err := o.srv.RunAs(filepath.Join(o.srv.Dir, "etc/rucio.cfg"), nil, "list-files", benchScope+":"+container)
					return err
				})
			}
			return seconds(walk)
		}}
}

// list is a listing of one dataset, by the mount and by a command of the client.
func (o *onRucio) list(name string, cold bool, command string) *job {
	var set string
	ls := func() ([]byte, error) {
		return exec.CommandContext(o.b.ctx, "ls", "-l", filepath.Join(o.lake.mnt, benchScope, set)).Output()
	}
	return &job{name: fmt.Sprintf(name, group(int64(o.files))), unit: "s", lower: true, raw: true, target: 1,
		before: func(at place) error {
			if set == "" {
				set = o.dataset()
				if err := o.bulk(set, o.files); err != nil {
					return err
				}
			}
			switch {
			case at.bare:
				return nil
			case !cold:
				_, err := ls()
				return err
			}
			if err := o.lake.umount(); err != nil { // the kernel knows nothing either
				return err
			}
			return o.lake.mount()
		},
		run: func(at place) (float64, error) {
			if at.bare {
				return seconds(func() error {
					_, err := o.srv.RunAs(filepath.Join(o.srv.Dir, "etc/rucio.cfg"), nil, command, benchScope+":"+set)
					return err
				})
			}
			return seconds(func() error {
				out, err := ls()
				if n := strings.Count(string(out), "\n") - 1; err == nil && n != o.files {
					err = fmt.Errorf("%d files are listed", n)
				}
				return err
			})
		}}
}
