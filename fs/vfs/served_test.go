package vfs_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/lake"
	"tarn/backends/naming"
	"tarn/fs/vfs"
)

// served is a catalogue as a server of its own keeps it: nothing is renamed, no name gets another content, and no attributes are kept.
type served struct {
	*embedded.Catalogue
	away   atomic.Bool
	asOf   atomic.Int64
	forgot atomic.Pointer[backends.DID]
}

func (s *served) Traits() backends.CatalogueTraits { return backends.CatalogueTraits{AnyName: true} }

func (s *served) Add(ctx context.Context, in backends.Info, m backends.Meta, at ...backends.Replica) error {
	if s.away.Load() {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrTemporary)
	}
	if has, err := s.Catalogue.Stat(ctx, in.DID); err == nil && in.Type == backends.File && has.Generation != in.Generation {
		return fmt.Errorf("another content: %w", backends.ErrExist)
	}
	return s.Catalogue.Add(ctx, in, m, at...)
}

func (s *served) Refresh(d backends.DID) { s.forgot.Store(&d) }

// Member is for layout contents, which this one has not: what is in a directory is there by its name.
func (s *served) Member(ctx context.Context, _, child backends.DID) (backends.Info, error) {
	return s.Catalogue.Stat(ctx, child)
}

func (s *served) Names(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return s.Catalogue.Contents(ctx, d, after)
}

func (s *served) AsOf(backends.DID) time.Time {
	if t := s.asOf.Load(); t != 0 {
		return time.Unix(t, 0)
	}
	return time.Time{}
}

func newServed(t *testing.T, o vfs.Options) (*world, *served, *naming.Algorithm) {
	hash, _ := naming.ByName("hash")
	s := &served{}
	w := &world{t: t, dir: t.TempDir(), opt: o}
	w.tune = func(co *embedded.Options, lo *lake.Options) {
		co.Places = []string{"DISK"}
		if lo.Catalogue == nil {
			return
		}
		s.Catalogue = w.cat
		lo.Catalogue, lo.Namespace, lo.Versions, lo.Places, lo.Cached, lo.Served = s, s, nil, s, s, true
		lo.RSEs[0].Naming, lo.RSEs[0].Bound = hash, true
	}
	return w.start(), s, hash
}

// why is user.tarn.error of a path.
func (w *world) why(p string) string {
	w.t.Helper()
	return w.attr(p, "user.tarn.error")
}

func (w *world) attr(p, name string) string {
	w.t.Helper()
	n, err := w.v.Resolve(ctx, p)
	must(w.t, err)
	defer n.Forget(1)
	b, err := w.v.GetXattr(ctx, n, name)
	if errors.Is(err, vfs.ErrNoAttr) {
		return ""
	}
	must(w.t, err)
	return string(b)
}

func TestServedNamesStay(t *testing.T) {
	w, _, hash := newServed(t, vfs.Options{})
	w.write("/ctao/d/f", random(5000))
	w.write("/ctao/d/g", random(6000))
	w.drain()
	reps, err := w.cat.Replicas(ctx, backends.DID{Scope: "ctao", Name: "/ctao/d/f"})
	must(t, err)
	want, _ := hash.Path(backends.DID{Scope: "ctao", Name: "/ctao/d/f"})
	if len(reps) != 1 || reps[0].RSE != "DISK" || reps[0].PFN != want {
		t.Errorf("replicas %v, want one at %s: the others are the server's to make", reps, want)
	}
	held, err := w.v.Resolve(ctx, "/ctao/d/f") // as the kernel does with what it looked up
	must(t, err)
	defer held.Forget(1)
	if err := w.rename("/ctao/d/f", "/ctao/d/new"); !errors.Is(err, backends.ErrCrossDevice) {
		t.Errorf("rename of a file: %v", err)
	}
	if why := w.why("/ctao/d/f"); !strings.Contains(why, "never changes a published name") {
		t.Errorf("why: %q", why)
	}
	if err := w.rename("/ctao/d", "/ctao/e"); !errors.Is(err, backends.ErrCrossDevice) {
		t.Errorf("rename of a directory: %v", err)
	}
	if err := w.rename("/ctao/d/f", "/ctao/d/g"); !errors.Is(err, backends.ErrImmutable) || errors.Is(err, backends.ErrCrossDevice) {
		t.Errorf("rename over a file: %v", err)
	}
	n, err := w.v.Resolve(ctx, "/ctao/d/g")
	must(t, err)
	defer n.Forget(1)
	for _, flags := range []int{os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND} {
		if _, err := w.v.Open(ctx, n, flags, vfs.Caller{}); !errors.Is(err, backends.ErrImmutable) {
			t.Errorf("open with %#x: %v", flags, err)
		}
	}
	if why := w.why("/ctao/d/g"); !strings.Contains(why, "under another name") {
		t.Errorf("why: %q", why)
	}
	size, mode, same, now := int64(3), uint32(0o600), n.Info().Mode, time.Now()
	if err := w.v.SetAttr(ctx, n, vfs.SetAttr{Size: &size}); !errors.Is(err, backends.ErrImmutable) {
		t.Errorf("truncate: %v", err)
	}
	if err := w.v.SetAttr(ctx, n, vfs.SetAttr{Change: backends.Change{Mode: &mode}}); !errors.Is(err, backends.ErrImmutable) || !strings.Contains(w.why("/ctao/d/g"), "no modes") {
		t.Errorf("chmod: %v", err)
	}
	must(t, w.v.SetAttr(ctx, n, vfs.SetAttr{Change: backends.Change{Mode: &same, MTime: &now}}))
	if err := w.v.Undelete(ctx, "/ctao/d/g", "x"); !errors.Is(err, backends.ErrNotSupported) {
		t.Errorf("undelete: %v", err)
	}
	// What is not published yet moves, and comes over nothing that is.
	w.write("/ctao/d/tmp", random(100))
	must(t, w.rename("/ctao/d/tmp", "/ctao/d/final"))
	w.write("/ctao/d/tmp2", random(100))
	if err := w.rename("/ctao/d/tmp2", "/ctao/d/g"); !errors.Is(err, backends.ErrImmutable) {
		t.Errorf("rename of an unsent file over a published one: %v", err)
	}
	w.drain()
	w.reopen()
	w.drain()
	if got := w.names("/ctao/d"); len(got) != 4 {
		t.Errorf("the directory has %v", got)
	}
}

// TestServedRenameAfterUpload: a file that gets another name after its bytes were stored is stored under that name, where the path
// follows from it, and nothing stays at the first one.
func TestServedRenameAfterUpload(t *testing.T) {
	w, s, hash := newServed(t, vfs.Options{})
	w.mkdir("/ctao/d")
	s.away.Store(true)
	b := random(50000)
	w.write("/ctao/d/a", b)
	path := func(p string) string {
		pfn, _ := hash.Path(backends.DID{Scope: "ctao", Name: p})
		return filepath.Join(w.dir, "disk", pfn)
	}
	until(t, "a is stored", func() bool { _, err := os.Stat(path("/ctao/d/a")); return err == nil })
	must(t, w.rename("/ctao/d/a", "/ctao/d/b"))
	s.away.Store(false)
	for _, u := range w.v.Uploads() {
		must(t, w.v.RetryUpload(ctx, u.ID))
	}
	w.drain()
	w.want("/ctao/d/b", b)
	if _, err := os.Stat(path("/ctao/d/b")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path("/ctao/d/a")); !os.IsNotExist(err) {
		t.Errorf("the copy under the first name: %v", err)
	}
	reps, err := w.cat.Replicas(ctx, backends.DID{Scope: "ctao", Name: "/ctao/d/b"})
	must(t, err)
	if len(reps) != 1 || path("/ctao/d/b") != filepath.Join(w.dir, "disk", reps[0].PFN) {
		t.Errorf("replicas %v", reps)
	}
}

func TestServedAsOfAndRefresh(t *testing.T) {
	w, s, _ := newServed(t, vfs.Options{})
	w.write("/ctao/d/f", random(10))
	w.drain()
	if got := w.attr("/ctao/d/f", "user.tarn.asof"); got != "" {
		t.Errorf("as of %q while the catalogue answers", got)
	}
	s.asOf.Store(1767323045)
	for _, p := range []string{"/ctao/d/f", "/ctao/d"} {
		if got := w.attr(p, "user.tarn.asof"); got != "2026-01-02T03:04:05Z" {
			t.Errorf("%s as of %q", p, got)
		}
		n, err := w.v.Resolve(ctx, p)
		must(t, err)
		names, err := w.v.ListXattr(ctx, n)
		must(t, err)
		if !strings.Contains(strings.Join(names, " "), "user.tarn.asof") {
			t.Errorf("%s has %v", p, names)
		}
		n.Forget(1)
	}
	for p, want := range map[string]string{"/ctao/d": "/ctao/d", "/ctao/d/nosuch": "/ctao/d/nosuch", "/": ""} {
		if ok, err := w.v.Refresh(ctx, p); err != nil || !ok || s.forgot.Load().Name != want {
			t.Errorf("refresh of %s: %v, %v, forgot %v", p, ok, err, s.forgot.Load())
		}
	}
	plain := newWorld(t, vfs.Options{})
	if ok, err := plain.v.Refresh(ctx, "/ctao"); ok || err != nil {
		t.Errorf("refresh of a catalogue that remembers nothing: %v, %v", ok, err)
	}
}
