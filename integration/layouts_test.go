package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
)

// TestContentsLayout mounts a scope whose DIDs have no paths: a container shows its
// datasets, a dataset its files (N1, N2).
func TestContentsLayout(t *testing.T) {
	t.Parallel()
	s := newSite(t, "scopes:\n  - {name: ctao}\n  - {name: old, layout: contents}\n")
	s.mount()
	body := "the bytes of a file of two datasets\n"
	if err := os.WriteFile(s.path("ctao/source"), []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	s.drain()
	s.umount()

	ctx := context.Background()
	cat, err := embedded.Open(embedded.Options{Dir: filepath.Join(s.dir, "catalogue"), MustExist: true, FreeFloor: 1})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	src := backends.DID{Scope: "ctao", Name: "/ctao/source"}
	in, err := cat.Stat(ctx, src)
	must(err)
	reps, err := cat.Replicas(ctx, src)
	must(err)
	old := func(name string) backends.DID { return backends.DID{Scope: "old", Name: name} }
	now := time.Now()
	collection := func(name string, typ backends.Type) {
		t.Helper()
		must(cat.Add(ctx, backends.Info{DID: old(name), Type: typ, Mode: 0o755, MTime: now, CTime: now}, nil))
	}
	collection("runs", backends.Container)
	collection("a/b%c", backends.Dataset)
	collection("other", backends.Dataset)
	collection("a%2Fb%c", backends.Dataset)
	file := backends.Info{DID: old("run/1.fits"), Type: backends.File, Size: in.Size, Checksums: in.Checksums, Generation: in.Generation, Mode: 0o644, MTime: now, CTime: now}
	must(cat.Add(ctx, file, nil, reps...))
	must(cat.Attach(ctx, old("runs"), old("a/b%c"), old("other"), old("a%2Fb%c")))
	must(cat.Attach(ctx, old("a/b%c"), old("run/1.fits")))
	must(cat.Attach(ctx, old("other"), old("run/1.fits")))
	if err := cat.Attach(ctx, old("other"), old("runs")); !errors.Is(err, backends.ErrLoop) {
		t.Errorf("attach a collection below itself: %v, want ErrLoop", err)
	}
	must(cat.Close())

	s.mount()
	names := func(dir string) (out []string) {
		t.Helper()
		es, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			out = append(out, e.Name())
		}
		return out
	}
	top := names("old")
	if !slices.ContainsFunc(top, func(n string) bool { return strings.HasSuffix(n, "runs") }) {
		t.Fatalf("ls old: %q", top)
	}
	runs := "old/" + top[slices.IndexFunc(top, func(n string) bool { return strings.HasSuffix(n, "runs") })]
	below := names(runs)
	slices.Sort(below)
	if !slices.Equal(below, []string{"a%252Fb%c", "a%2Fb%c", "other"}) {
		t.Fatalf("ls %s: %q, want the slash encoded, and told from what looks like it", runs, below)
	}
	var inodes []uint64
	for _, ds := range []string{"a%2Fb%c", "other"} {
		fs := names(runs + "/" + ds)
		if len(fs) != 1 || !strings.Contains(fs[0], "run%2F1.fits") {
			t.Fatalf("ls %s/%s: %q", runs, ds, fs)
		}
		p := s.path(runs, ds, fs[0])
		b, err := os.ReadFile(p)
		if err != nil || string(b) != body {
			t.Errorf("%s: %q, %v", p, b, err)
		}
		var st syscall.Stat_t
		must(syscall.Stat(p, &st))
		inodes = append(inodes, st.Ino)
	}
	if inodes[0] != inodes[1] {
		t.Errorf("one DID in two datasets is inodes %v", inodes)
	}
	if got := strings.TrimSpace(s.sh("find ctao old -type f | wc -l")); got != "3" {
		t.Errorf("find sees %s files, want the source and two names", got)
	}
	if did := s.sh("getfattr --only-values -n user.tarn.did " + runs + "/other/*"); did != "old:run/1.fits" {
		t.Errorf("user.tarn.did is %q", did)
	}
	paths := s.rows("ls", "-R", "/old")
	if len(paths) == 0 {
		t.Error("tarn ls -R /old lists nothing")
	}
}
