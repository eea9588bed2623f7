package ingest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/fault"
	"tarn/backends/ingest/metadata"
	"tarn/backends/lake"
	"tarn/backends/replication"
	"tarn/backends/storage/posix"
	"tarn/backends/tape/library"
)

// rig is a lake of two disks and a tape library, a folder to be watched, and a set of ingests.
type rig struct {
	t     testing.TB
	base  string
	dir   string // the folder
	cat   *embedded.Catalogue
	lake  *lake.Lake
	disks map[string]*fault.Storage
	index *fault.Catalogue // the catalogue as the lake sees it
	lib   *library.Library
	set   *Set
}

func newRig(t testing.TB) *rig {
	t.Helper()
	base := t.TempDir()
	r := &rig{t: t, base: base, dir: filepath.Join(base, "dl0"), disks: map[string]*fault.Storage{}}
	r.must(os.Mkdir(r.dir, 0o755))
	var err error
	r.cat, err = embedded.Open(embedded.Options{InMemory: true})
	r.must(err)
	var rses []*lake.RSE
	var closers []func() error
	for i, name := range []string{"A", "B"} {
		dir := filepath.Join(base, name)
		r.must(os.Mkdir(dir, 0o755))
		st, err := posix.Open(posix.Options{Dir: dir})
		r.must(err)
		closers = append(closers, st.Close)
		r.disks[name] = fault.NewStorage(st)
		rses = append(rses, &lake.RSE{RSE: backends.RSE{Name: name, Kind: backends.DiskKind}, Storage: r.disks[name], Distance: i})
	}
	r.lib, err = library.Open(library.Options{Dir: filepath.Join(base, "tape"), Speed: 1e6, CartridgeSize: 1 << 30, BufferSize: 64 << 20})
	r.must(err)
	rses = append(rses, &lake.RSE{RSE: backends.RSE{Name: "T", Kind: backends.TapeKind}, Storage: r.lib, Tape: r.lib, Distance: 2})
	r.index = fault.NewCatalogue(r.cat)
	r.lake, err = lake.New(lake.Options{Catalogue: r.index, Namespace: r.cat, Versions: r.cat, Rules: r.cat, Places: r.cat, RSEs: rses})
	r.must(err)
	r.must(r.cat.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: "ctao", Name: "/ctao"}, Type: backends.Container, Mode: 0o755, Layout: backends.LayoutLFN}))
	t.Cleanup(func() {
		r.lake.Close()
		for _, c := range append(closers, r.lib.Close, r.cat.Close) {
			if err := c(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// open opens the set, and closes it at the end.
func (r *rig) open(kick func(...backends.DID)) *Set {
	r.t.Helper()
	x, err := metadata.Default().Compile()
	r.must(err)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(r.t.Output(), nil))
	}
	r.set, err = Open(Options{Dir: filepath.Join(r.base, "ingests"), Lake: r.lake, Kick: kick, Log: log, Metadata: map[string]*metadata.Extractor{"": x},
		Avoid: func() []string { return []string{filepath.Join(r.base, "A"), filepath.Join(r.base, "B")} }})
	r.must(err)
	set := r.set
	r.t.Cleanup(func() { set.Close() })
	return set
}

// replicate runs the replication; what it gives is Options.Kick.
func (r *rig) replicate() func(...backends.DID) {
	e := replication.New(r.lake, replication.Options{Pending: 100 * time.Millisecond, RetryMin: 10 * time.Millisecond, RetryMax: 100 * time.Millisecond, StuckRetry: 100 * time.Millisecond})
	r.background(e.Run)
	return e.Kick
}

// background runs until the test ends; what it gives ends it before.
func (r *rig) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	ended := false
	stop = func() {
		if cancel(); !ended {
			ended = true
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		}
	}
	r.t.Cleanup(stop)
	return stop
}

// write makes a file as it is when its writer is done.
func (r *rig) write(name, text string) {
	r.t.Helper()
	p := filepath.Join(r.dir, name)
	r.must(os.MkdirAll(filepath.Dir(p), 0o755))
	r.must(os.WriteFile(p, []byte(text), 0o644))
}

// definition is of an ingest that wants a copy at each of the expressions.
func (r *rig) definition(expressions ...string) Definition {
	d := Definition{Name: "dl0", Dir: r.dir, Target: "/ctao/dl0", Delete: DeleteAfterRules, Rescan: 200 * time.Millisecond}
	for _, e := range expressions {
		d.Rules = append(d.Rules, backends.Rule{Copies: 1, Expression: e})
	}
	return d
}

// until waits for a condition.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			if r.set != nil {
				for _, st := range r.set.List() {
					st.Definition = Definition{}
					r.t.Logf("%+v; oldest %+v", st, st.Oldest)
				}
			}
			r.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// sources lists what is in the folder.
func (r *rig) sources() (out []string) {
	r.must(filepath.WalkDir(r.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(r.dir, p)
			out = append(out, rel)
		}
		return err
	}))
	return out
}

// read gives the content of a lake file.
func (r *rig) read(p string) string {
	r.t.Helper()
	in, err := r.lake.Resolve(r.t.Context(), p)
	r.must(err)
	o, err := r.lake.Open(r.t.Context(), in)
	r.must(err)
	defer o.Close()
	b := make([]byte, in.Size)
	_, err = o.ReadAt(r.t.Context(), b, 0)
	if err != nil && in.Size > 0 && !isEOF(err) {
		r.t.Fatal(err)
	}
	return string(b)
}

func isEOF(err error) bool { return err.Error() == "EOF" }

func (r *rig) replicas(name string) map[string]backends.Replica {
	out := map[string]backends.Replica{}
	rs, err := r.cat.Replicas(r.t.Context(), backends.DID{Scope: "ctao", Name: name})
	if err != nil && !errors.Is(err, backends.ErrNotExist) {
		r.t.Fatal(err)
	}
	for _, x := range rs {
		out[x.RSE] = x
	}
	return out
}
