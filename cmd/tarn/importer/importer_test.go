package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/lake"
	"tarn/backends/naming"
	"tarn/backends/storage/posix"
	"tarn/backends/tape/library"
)

// site is a lake of a disk and a tape library below one folder.
type site struct {
	lake *lake.Lake
	cat  *embedded.Catalogue
	disk string // the disk's folder
	lib  *library.Library
}

func newSite(t *testing.T) *site { return newNamedSite(t, "") }

// newNamedSite is newSite with a naming of the disks.
func newNamedSite(t *testing.T, word string) *site {
	t.Helper()
	named, ok := naming.ByName(word)
	if !ok {
		t.Fatal(word)
	}
	base := t.TempDir()
	s := &site{disk: filepath.Join(base, "disk")}
	if err := os.Mkdir(s.disk, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	s.cat, err = embedded.Open(embedded.Options{InMemory: true, Places: []string{"DISK", "OLD"}})
	if err != nil {
		t.Fatal(err)
	}
	st, err := posix.Open(posix.Options{Dir: s.disk})
	if err != nil {
		t.Fatal(err)
	}
	s.lib, err = library.Open(library.Options{Dir: filepath.Join(base, "tape"), Speed: 1e6, CartridgeSize: 1 << 30, BufferSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s.lake, err = lake.New(lake.Options{
		Catalogue: s.cat, Namespace: s.cat, Versions: s.cat, Rules: s.cat, Places: s.cat,
		RSEs: []*lake.RSE{
			{RSE: backends.RSE{Name: "DISK", Kind: backends.DiskKind}, Storage: st, Naming: named},
			{RSE: backends.RSE{Name: "TAPE", Kind: backends.TapeKind}, Storage: s.lib, Tape: s.lib},
			{RSE: backends.RSE{Name: "OLD", Kind: backends.DiskKind, ReadOnly: true}, Storage: st, Naming: named},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.lake.Close()
		if err := errors.Join(s.lib.Close(), st.Close(), s.cat.Close()); err != nil {
			t.Error(err)
		}
	})
	for scope, layout := range map[string]backends.Layout{"ctao": backends.LayoutLFN, "flat": backends.LayoutContents} {
		in := backends.Info{DID: backends.DID{Scope: scope, Name: "/" + scope}, Type: backends.Container, Mode: 0o755, Layout: layout}
		if err := s.cat.AddScope(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *site) run(t *testing.T, o Options) Result {
	t.Helper()
	res, err := Run(t.Context(), s.lake, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// read gives the bytes of a lake file.
func (s *site) read(t *testing.T, p string) string {
	t.Helper()
	in, err := s.lake.Resolve(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.lake.Open(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b := make([]byte, in.Size)
	if _, err := o.ReadAt(t.Context(), b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return string(b)
}

// stored counts the files at the disk.
func (s *site) stored(t *testing.T) (n int) {
	t.Helper()
	err := filepath.WalkDir(s.disk, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var taken = time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)

// oddTree makes a tree of what real ones hold: odd names, links, empty folders, modes.
func oddTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	files := map[string]os.FileMode{
		"a": 0o644, "sub/new\nline": 0o600, "sub/\xff\xfe": 0o444, "sub/" + strings.Repeat("n", 255): 0o755, "sub/deep/er/f": 0o640, "empty file": 0o644,
	}
	for name, mode := range files {
		p := filepath.Join(dir, name)
		text := "content of " + name
		if name == "empty file" {
			text = ""
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o600), os.Chmod(p, mode), os.Chtimes(p, taken, taken)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.Symlink("sub/deep", filepath.Join(dir, "link")), os.Symlink("/no/where", filepath.Join(dir, "sub", "broken")),
		os.Mkdir(filepath.Join(dir, "nothing"), 0o700),
	)
	for _, d := range []string{"sub/deep/er", "sub/deep", "sub", "nothing", ""} {
		err = errors.Join(err, os.Chtimes(filepath.Join(dir, d), taken, taken))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// inLake describes what stands at and below a lake path.
func (s *site) inLake(t *testing.T, dir backends.Info, base string, out map[string]string) {
	t.Helper()
	for n, err := range s.lake.List(t.Context(), dir, "") {
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(base, n.Name)
		out[p] = fmt.Sprintf("%v %o %d %v %s", n.Info.IsDir(), n.Info.Mode, n.Info.Size, n.Info.MTime.UTC(), n.Info.Target)
		if n.Info.IsDir() {
			out[p] = fmt.Sprintf("dir %o %v", n.Info.Mode, n.Info.MTime.UTC())
			s.inLake(t, n.Info, p, out)
		}
	}
}

func onDisk(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		st, err := os.Lstat(p)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		target, _ := os.Readlink(p)
		out[rel] = fmt.Sprintf("%v %o %d %v %s", st.IsDir(), st.Mode().Perm(), st.Size(), st.ModTime().UTC(), target)
		if st.IsDir() {
			out[rel] = fmt.Sprintf("dir %o %v", st.Mode().Perm(), st.ModTime().UTC())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Names, links, empty folders, modes and times are kept; a second run moves nothing.
func TestTreeIsKept(t *testing.T) {
	s := newSite(t)
	src := oddTree(t)
	o := Options{Source: src, Target: "/ctao/x/tree", RSE: "DISK", Meta: backends.Meta{"level": "DL3"}}
	res := s.run(t, o)
	if res.Files != 6 || res.Failed != 0 || res.Skipped != 0 || res.Directories != 5 {
		t.Errorf("result is %+v", res)
	}
	root, err := s.lake.Resolve(t.Context(), "/ctao/x/tree")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	s.inLake(t, root, "", got)
	want := onDisk(t, src)
	for name, w := range want {
		if strings.HasPrefix(w, "dir") {
			if g := got[name]; g != w {
				t.Errorf("%q is %q in the lake, %q on disk", name, g, w)
			}
			continue
		}
		if st, _ := os.Lstat(filepath.Join(src, name)); st.Mode()&os.ModeSymlink != 0 {
			if g := got[name]; !strings.HasSuffix(g, strings.Fields(w)[len(strings.Fields(w))-1]) {
				t.Errorf("link %q is %q in the lake, %q on disk", name, g, w)
			}
			continue
		}
		if g := got[name]; g != w {
			t.Errorf("%q is %q in the lake, %q on disk", name, g, w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries in the lake, %d on disk", len(got), len(want))
	}
	for _, name := range []string{"sub/new\nline", "sub/\xff\xfe", "sub/deep/er/f"} {
		if b := s.read(t, "/ctao/x/tree/"+name); b != "content of "+name {
			t.Errorf("%q holds %q", name, b)
		}
	}
	if m, err := s.lake.Meta(t.Context(), backends.DID{Scope: "ctao", Name: "/ctao/x/tree/a"}); err != nil || m["level"] != "DL3" {
		t.Errorf("metadata %v, %v", m, err)
	}
	types := map[string]backends.Type{"/ctao/x/tree": backends.Container, "/ctao/x/tree/sub/deep/er": backends.Dataset, "/ctao/x/tree/nothing": backends.Container}
	for p, want := range types {
		if in, err := s.lake.Resolve(t.Context(), p); err != nil || in.Type != want {
			t.Errorf("%s is a %v, %v; want %v", p, in.Type, err, want)
		}
	}

	before := s.stored(t)
	if res := s.run(t, o); res.Skipped != 6 || res.Files != 0 || res.Failed != 0 || s.stored(t) != before {
		t.Errorf("a second run: %+v, %d files at the RSE, before %d", res, s.stored(t), before)
	}
}

func TestSingleFile(t *testing.T) {
	s := newSite(t)
	f := filepath.Join(t.TempDir(), "run.fits")
	if err := os.WriteFile(f, []byte("bytes"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.run(t, Options{Source: f, Target: "/ctao/new/name.fits", RSE: "DISK"})
	s.run(t, Options{Source: f, Target: "/ctao/new", RSE: "DISK"}) // a directory by now
	for _, p := range []string{"/ctao/new/name.fits", "/ctao/new/run.fits"} {
		if got := s.read(t, p); got != "bytes" {
			t.Errorf("%s holds %q", p, got)
		}
	}
	s.run(t, Options{Source: f, Target: "/ctao", RSE: "DISK"}) // into the scope
	if got := s.read(t, "/ctao/run.fits"); got != "bytes" {
		t.Errorf("in the scope it holds %q", got)
	}
}

// Files that go to tape are seeded, told to OnTape in order, and NEARLINE when it says so.
func TestToTape(t *testing.T) {
	s := newSite(t)
	src := t.TempDir()
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("f%03d", i)), []byte(fmt.Sprint(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var seeded atomic.Int64
	var pfns []string
	s.run(t, Options{
		Source: src, Target: "/ctao/t", RSE: "TAPE",
		Seed: func(in backends.Info, r io.ReaderAt) {
			b := make([]byte, in.Size)
			if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
				t.Error(err)
			}
			seeded.Add(1)
		},
		OnTape: func(ctx context.Context, p []string) error {
			pfns = append(pfns, p...)
			return s.lib.EvictBuffer(ctx, p...)
		},
	})
	if seeded.Load() != 300 || len(pfns) != 300 || !sort.SliceIsSorted(pfns, func(i, j int) bool { return filepath.Base(pfns[i]) < filepath.Base(pfns[j]) }) {
		t.Errorf("%d seeded, %d told to OnTape, in order: %v", seeded.Load(), len(pfns), pfns[:min(3, len(pfns))])
	}
	var infos []backends.Info
	root, err := s.lake.Resolve(t.Context(), "/ctao/t")
	if err != nil {
		t.Fatal(err)
	}
	for n, err := range s.lake.List(t.Context(), root, "") {
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, n.Info)
	}
	locs, err := s.lake.Localities(t.Context(), infos...)
	if err != nil || len(locs) != 300 {
		t.Fatal(len(locs), err)
	}
	for i, l := range locs {
		if l != backends.Nearline {
			t.Fatalf("%s is %s after the import", infos[i].DID, l)
		}
	}
}

func TestRegisterOnly(t *testing.T) {
	s := newSite(t)
	old := filepath.Join(s.disk, "old", "data")
	if err := errors.Join(os.MkdirAll(old, 0o755), os.WriteFile(filepath.Join(old, "f"), []byte("here already"), 0o644), os.WriteFile(filepath.Join(old, "g"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	o := Options{Source: filepath.Join(s.disk, "old"), Target: "/ctao/old", RSE: "OLD", RegisterOnly: true, Folder: s.disk}
	if res := s.run(t, o); res.Files != 2 {
		t.Errorf("result is %+v", res)
	}
	reps, err := s.cat.Replicas(t.Context(), backends.DID{Scope: "ctao", Name: "/ctao/old/data/f"})
	if err != nil || len(reps) != 1 || reps[0].PFN != "old/data/f" || s.stored(t) != 2 {
		t.Errorf("replicas %v, %v; %d files at the RSE", reps, err, s.stored(t))
	}
	if got := s.read(t, "/ctao/old/data/f"); got != "here already" {
		t.Errorf("it reads %q", got)
	}
	if res := s.run(t, o); res.Skipped != 2 {
		t.Errorf("a second run: %+v", res)
	}
	// All of the RSE: the storage's own folder is left out.
	o.Source, o.Target = s.disk, "/ctao/all"
	if err := os.MkdirAll(filepath.Join(s.disk, ".tarn-uploads", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.run(t, o)
	if _, err := s.lake.Resolve(t.Context(), "/ctao/all/.tarn-uploads"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("the storage's temporaries are in the lake: %v", err)
	}
}

// Another content under the same name is a failure, or with Replace a new generation.
func TestOtherContent(t *testing.T) {
	s := newSite(t)
	src := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(src, "f"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	var failed []string
	o := Options{Source: src, Target: "/ctao/d", RSE: "DISK", Failed: func(p string, err error) {
		failed = append(failed, filepath.Base(p))
		if !errors.Is(err, backends.ErrExist) {
			t.Errorf("%s: %v", p, err)
		}
	}}
	s.run(t, o)
	write("two!")
	if res := s.run(t, o); res.Failed != 1 || len(failed) != 1 || s.read(t, "/ctao/d/f") != "one" || s.stored(t) != 1 {
		t.Errorf("result %+v, failed %v, content %q, %d stored", res, failed, s.read(t, "/ctao/d/f"), s.stored(t))
	}
	o.Replace = true
	if res := s.run(t, o); res.Failed != 0 || s.read(t, "/ctao/d/f") != "two!" {
		t.Errorf("with Replace: %+v, content %q", res, s.read(t, "/ctao/d/f"))
	}
}

// What cannot be kept or read is told and counted, and the rest goes in.
func TestFailuresAreTold(t *testing.T) {
	s := newSite(t)
	src := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(src, "good"), []byte("x"), 0o644), syscall.Mkfifo(filepath.Join(src, "pipe"), 0o644), os.Mkdir(filepath.Join(src, "closed"), 0o755)); err != nil {
		t.Fatal(err)
	}
	want := map[string]error{"pipe": backends.ErrNotSupported}
	if os.Getuid() != 0 { // root reads all
		if err := os.Chmod(filepath.Join(src, "closed"), 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(filepath.Join(src, "closed"), 0o755) })
		want["closed"] = os.ErrPermission
	}
	failed := map[string]error{}
	res := s.run(t, Options{Source: src, Target: "/ctao/d", RSE: "DISK", Failed: func(p string, err error) { failed[filepath.Base(p)] = err }})
	for name, w := range want {
		if !errors.Is(failed[name], w) {
			t.Errorf("%s failed with %v, want %v", name, failed[name], w)
		}
	}
	if res.Files != 1 || int(res.Failed) != len(want) {
		t.Errorf("result is %+v", res)
	}
}

func TestRefused(t *testing.T) {
	s := newSite(t)
	src := t.TempDir()
	f := filepath.Join(src, "f")
	if err := os.WriteFile(f, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.run(t, Options{Source: f, Target: "/ctao/file", RSE: "DISK"})
	for name, p := range map[string]struct {
		o    Options
		want error
	}{
		"unknown RSE":       {Options{Source: src, Target: "/ctao/x", RSE: "NOPE"}, backends.ErrNotExist},
		"read-only RSE":     {Options{Source: src, Target: "/ctao/x", RSE: "OLD"}, backends.ErrReadOnly},
		"no source":         {Options{Source: src + "/no", Target: "/ctao/x", RSE: "DISK"}, backends.ErrNotExist},
		"no scope":          {Options{Source: src, Target: "/nope/x", RSE: "DISK"}, backends.ErrNotExist},
		"root":              {Options{Source: src, Target: "/", RSE: "DISK"}, backends.ErrName},
		"layout contents":   {Options{Source: src, Target: "/flat/x", RSE: "DISK"}, backends.ErrNotSupported},
		"below a file":      {Options{Source: src, Target: "/ctao/file/x", RSE: "DISK"}, backends.ErrNotDir},
		"not a file":        {Options{Source: "/dev/null", Target: "/ctao/x", RSE: "DISK"}, backends.ErrNotSupported},
		"outside the RSE":   {Options{Source: src, Target: "/ctao/x", RSE: "DISK", RegisterOnly: true, Folder: s.disk}, backends.ErrNotSupported},
		"no plain folder":   {Options{Source: src, Target: "/ctao/x", RSE: "TAPE", RegisterOnly: true}, backends.ErrNotSupported},
		"name is too long":  {Options{Source: src, Target: "/ctao/" + strings.Repeat("x", 256), RSE: "DISK"}, backends.ErrNameTooLong},
		"a NUL in the name": {Options{Source: src, Target: "/ctao/\x00", RSE: "DISK"}, backends.ErrName},
	} {
		if _, err := Run(t.Context(), s.lake, p.o); !errors.Is(err, p.want) {
			t.Errorf("%s: %v, want %v", name, err, p.want)
		}
	}
	if s.stored(t) != 1 {
		t.Errorf("%d files were stored by what was refused", s.stored(t)-1)
	}
}

// However often it is interrupted: what was stored is registered, nothing is left that
// nobody knows, and in the end all is there.
func TestInterruptedAgainAndAgain(t *testing.T) {
	s := newSite(t)
	src := t.TempDir()
	const n = 300
	for i := range n {
		d := filepath.Join(src, fmt.Sprintf("d%d", i%7))
		if err := errors.Join(os.MkdirAll(d, 0o755), os.WriteFile(filepath.Join(d, fmt.Sprint(i)), []byte(strings.Repeat("x", i*37)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Source: src, Target: "/ctao/i", RSE: "DISK", Every: time.Millisecond}
	registered := int64(0)
	for round := 0; ; round++ {
		ctx, cancel := context.WithCancel(t.Context())
		stopAt := registered + int64(20+round)
		o.Progress = func(p Progress) {
			if p.Files >= stopAt {
				cancel()
			}
		}
		res, err := Run(ctx, s.lake, o)
		cancel()
		registered += res.Files
		if got := s.stored(t); int64(got) != registered {
			t.Fatalf("round %d: %d files at the RSE, %d registered", round, got, registered)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if round > n {
			t.Fatal("it does not get on")
		}
	}
	if files, _ := s.cat.Usage(); registered != n || files != n {
		t.Errorf("%d registered, %d in the catalogue, want %d", registered, files, n)
	}
}

func TestProgressReachesTheTotals(t *testing.T) {
	s := newSite(t)
	var last Progress
	s.run(t, Options{Source: oddTree(t), Target: "/ctao/p", RSE: "DISK", Progress: func(p Progress) { last = p }})
	if last.Files != last.TotalFiles || last.Bytes != last.TotalBytes || last.Files != 8 {
		t.Errorf("the last progress is %+v", last)
	}
}
