package lake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

func TestOpenTakesTheBestReplica(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "FAR", "TAPE", "NEAR")
	o, err := r.Open(ctx, in)
	if err != nil || o.RSE() != "NEAR" {
		t.Fatalf("%v, %v", o, err)
	}
	o.Close()
	if n := r.tape.Calls("locality"); n > 0 {
		t.Errorf("tape was asked %d times", n)
	}
	// The near one is gone: it is declared BAD, and the far disk is next, since the tape is not staged.
	r.near.Remove(ctx, "NEAR/a")
	o, err = r.Open(ctx, in)
	if err != nil || o.RSE() != "FAR" {
		t.Fatalf("%v, %v", o, err)
	}
	o.Close()
	if x := r.replica(in, "NEAR"); x.State != backends.Bad || x.Error == "" {
		t.Errorf("replica is %+v", x)
	}
	// Staged, the tape is nearer than the far disk.
	r.tape.Set("TAPE/a", backends.OnlineAndNearline)
	o, err = r.Open(ctx, in)
	if err != nil || o.RSE() != "TAPE" {
		t.Fatalf("%v, %v", o, err)
	}
	o.Close()
	if r.near.Calls("close")+r.far.Calls("close")+r.tape.Storage.Calls("close") != 3 {
		t.Error("not all objects were closed")
	}
}

func TestOpenErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(r *rig) backends.Info
		want error
		says string
	}{
		{"on tape", func(r *rig) backends.Info { return r.file("a", "TAPE") }, backends.ErrOffline, "TAPE"},
		{"disk down, on tape", func(r *rig) backends.Info { r.near.Fail(down); return r.file("a", "NEAR", "TAPE") }, backends.ErrOffline, "NEAR"},
		{"disk down", func(r *rig) backends.Info { r.near.Fail(down); return r.file("a", "NEAR") }, backends.ErrUnavailable, "NEAR"},
		{"disk not mounted", func(r *rig) backends.Info {
			in := r.file("a", "NEAR")
			r.near.Fail(func(op, _ string) error {
				if op == "space" {
					return laketest.ErrDown
				}
				return backends.ErrNotExist
			})
			return in
		}, backends.ErrUnavailable, "NEAR"},
		{"tape down", func(r *rig) backends.Info {
			r.tape.Fail(func(string) error { return laketest.ErrDown })
			return r.file("a", "TAPE")
		}, backends.ErrUnavailable, "TAPE"},
		{"tape says unavailable", func(r *rig) backends.Info {
			in := r.file("a", "TAPE")
			r.tape.Set("TAPE/a", backends.Unavailable)
			return in
		}, backends.ErrUnavailable, "UNAVAILABLE"},
		{"tape lost", func(r *rig) backends.Info {
			in := r.file("a", "TAPE")
			r.tape.Set("TAPE/a", backends.Lost)
			return in
		}, backends.ErrLost, "LOST"},
		{"unknown RSE", func(r *rig) backends.Info { return r.file("a", "ELSEWHERE") }, backends.ErrUnavailable, "lake.yaml"},
		{"no replica", func(r *rig) backends.Info { return r.file("a") }, backends.ErrLost, "no replica"},
		{"missing", func(r *rig) backends.Info { in := r.file("a", "NEAR"); r.near.Remove(ctx, "NEAR/a"); return in }, backends.ErrLost, "BAD"},
		{"wrong size", func(r *rig) backends.Info { in := r.file("a", "NEAR"); r.near.Put("NEAR/a", []byte("x")); return in }, backends.ErrLost, "size is 1"},
		{"only being copied", func(r *rig) backends.Info {
			in := r.file("a")
			r.cat.PutReplica(ctx, in.DID, "", backends.Replica{RSE: "NEAR", PFN: "x", State: backends.Copying})
			return in
		}, backends.ErrUnavailable, "being copied"},
		{"gone", func(r *rig) backends.Info { in := r.file("a"); r.cat.Remove(ctx, in.DID); return in }, backends.ErrNotExist, ""},
		{"collection", func(r *rig) backends.Info { return r.dir("ctao", "/ctao/d") }, backends.ErrIsDir, ""},
		{"catalogue down", func(r *rig) backends.Info {
			in := r.file("a", "NEAR")
			r.cat.Fail(func(string, backends.DID) error { return laketest.ErrDown })
			return in
		}, backends.ErrUnavailable, ""},
	} {
		r := newRig(t)
		in := c.make(r)
		o, err := r.Open(ctx, in)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v; want %v with %q", c.name, o, err, c.want, c.says)
		}
		if c.want == backends.ErrUnavailable && !backends.IsTemporary(err) {
			t.Errorf("%s: %v is not temporary", c.name, err)
		}
		if c.want != backends.ErrNotExist && errors.Is(err, backends.ErrNotExist) && c.want != backends.ErrLost {
			t.Errorf("%s: %v looks like absence", c.name, err)
		}
		if c.name == "disk not mounted" && r.replica(in, "NEAR").State != backends.Available {
			t.Errorf("%s: replica is %+v", c.name, r.replica(in, "NEAR"))
		}
	}
}

// TestOpenWithoutDescriptors: a disk that cannot be asked for want of descriptors is not down,
// and its copy is waited for rather than recalled.
func TestOpenWithoutDescriptors(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "NEAR", "TAPE")
	r.near.Fail(func(string, string) error {
		return fmt.Errorf("open: %w, %w, %w", backends.ErrTooManyFiles, backends.ErrUnavailable, backends.ErrTemporary)
	})
	_, err := r.Open(ctx, in)
	if !errors.Is(err, backends.ErrTooManyFiles) || !backends.IsTemporary(err) || errors.Is(err, backends.ErrOffline) {
		t.Errorf("%v", err)
	}
	r.near.Fail(nil)
	o, err := r.Open(ctx, in)
	if err != nil || o.RSE() != "NEAR" {
		t.Fatalf("%v, %v", o, err)
	}
	o.Close()
}

func TestEmptyFileNeedsNoReplica(t *testing.T) {
	r := newRig(t)
	in := r.empty("ctao", "/ctao/empty")
	r.wants(in, nil)
	if n, err := r.Localities(ctx, in); err != nil || n[0] != backends.Online {
		t.Errorf("%v, %v", n, err)
	}
}

func TestReadFailsOver(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(r *rig)
	}{
		{"error", func(r *rig) {
			r.near.Fail(func(op, _ string) error {
				if op == "read" {
					return laketest.ErrDown
				}
				return nil
			})
		}},
		{"short", func(r *rig) { r.near.Truncate("NEAR/a", 100) }},
	} {
		r := newRig(t)
		in := r.file("a", "NEAR", "FAR")
		o, err := r.Open(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := o.ReadAt(ctx, buf, 10); n != 100 || err != nil {
			t.Fatal(n, err)
		}
		c.fail(r)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				got, err := readAll(o)
				if err != nil || !bytes.Equal(got, content("a")) {
					t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
				}
			})
		}
		wg.Wait()
		if s := o.Served(); !slices.Equal(s, []string{"NEAR", "FAR"}) || o.RSE() != "FAR" {
			t.Errorf("%s: served by %v, at %s", c.name, s, o.RSE())
		}
		if n := r.far.Calls("open"); n != 1 {
			t.Errorf("%s: next replica opened %d times", c.name, n)
		}
		// A read error alone proves nothing, and the next Open begins with the other one.
		if x := r.replica(in, "NEAR"); x.State != backends.Available {
			t.Errorf("%s: %+v", c.name, x)
		}
		if o2, err := r.Open(ctx, in); err != nil || o2.RSE() != "FAR" {
			t.Errorf("%s: %v", c.name, err)
		}
		r.far.Fail(down)
		if _, err := readAll(o); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s: all failed: %v", c.name, err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		if _, err := readAll(o); !errors.Is(err, backends.ErrClosed) && !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s: after Close: %v", c.name, err)
		}
		if n := r.near.Calls("close"); n != 1 {
			t.Errorf("%s: closed %d times", c.name, n)
		}
	}
}

func TestReadAtTheEnd(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "NEAR")
	o, err := r.Open(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, c := range []struct {
		off  int64
		len  int
		n    int
		want error
	}{{0, 0, 0, nil}, {in.Size - 5, 5, 5, nil}, {in.Size - 5, 6, 5, io.EOF}, {in.Size, 1, 0, io.EOF}, {in.Size + 9, 1, 0, io.EOF}} {
		if n, err := o.ReadAt(ctx, make([]byte, c.len), c.off); n != c.n || err != c.want {
			t.Errorf("%d bytes at %d: %d, %v", c.len, c.off, n, err)
		}
	}
	if _, err := o.ReadAt(ctx, make([]byte, 1), -1); err == nil {
		t.Error("negative offset")
	}
}

// A storage that hangs costs ReadTimeout once, then others are tried before it.
func TestHangingStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		in := r.file("a", "NEAR", "FAR")
		hang := &hanging{Storage: r.near}
		r.dNear.Storage = hang
		begun := time.Now()
		r.wants(in, content("a"))
		if d := time.Since(begun); d != 15*time.Second {
			t.Errorf("first read took %s", d)
		}
		r.wants(in, content("a"))
		if d := time.Since(begun); d != 15*time.Second {
			t.Errorf("second read waited again: %s", d)
		}
		c, err := r.Explain(ctx, in)
		if err != nil || c[0].RSE != "FAR" || !strings.Contains(c[1].Reason, "no answer within 15s") {
			t.Errorf("%+v, %v", c, err)
		}
		time.Sleep(31 * time.Second)
		hang.ok = true
		if o, err := r.Open(ctx, in); err != nil || o.RSE() != "NEAR" {
			t.Errorf("when it is well again: %v", err)
		}
		// The caller's own end is not held against the storage.
		hang.ok = false
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := r.Open(short, in); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled open: %v", err)
		}
		hang.ok = true
		if o, err := r.Open(ctx, in); err != nil || o.RSE() != "NEAR" {
			t.Errorf("after a cancelled open: %v", err)
		}
		r.Close()
	})
}

type hanging struct {
	*laketest.Storage
	ok bool
}

func (h *hanging) Open(ctx context.Context, p string) (backends.Object, error) {
	if h.ok {
		return h.Storage.Open(ctx, p)
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// A file that was replaced or removed while it was open stays readable until the grace period ends.
func TestOldGenerationsStayReadable(t *testing.T) {
	r := newRig(t)
	old := r.file("a", "NEAR")
	data := []byte("new content")
	r.far.Put("FAR/new", data)
	now := r.add(backends.Info{DID: old.DID, Type: backends.File, Size: int64(len(data)), Checksums: sums(data)},
		backends.Replica{RSE: "FAR", PFN: "FAR/new", State: backends.Available})
	r.wants(old, content("a"))
	r.wants(now, data)
	if err := r.DeclareBad(ctx, old, "FAR", errors.New("x")); err != nil {
		t.Error(err)
	}
	if err := r.DeclareBad(ctx, old, "NEAR", errors.New("x")); err != nil {
		t.Errorf("of the old one: %v", err)
	}
	if x := r.replica(now, "FAR"); x.State != backends.Available {
		t.Errorf("the new content's replica is %+v", x)
	}
	r.cat.Remove(ctx, now.DID)
	r.wants(old, content("a"))
	r.wants(now, data)
	for p := range r.cat.Pasts(ctx, backends.DID{}) {
		r.cat.Purge(ctx, p.Handle)
	}
	if _, err := r.Open(ctx, old); !errors.Is(err, backends.ErrNotExist) {
		t.Error(err)
	}
	r.file("a", "NEAR")
	if _, err := r.Open(ctx, now); !errors.Is(err, backends.ErrStale) {
		t.Error(err)
	}
}

// Who makes copies hears of each replica that is declared BAD, once.
func TestOnBad(t *testing.T) {
	r := newRig(t)
	var heard []backends.DID
	r.OnBad(func(d backends.DID) { heard = append(heard, d) })
	in := r.file("f", "NEAR", "FAR")
	for range 2 {
		if err := r.DeclareBad(ctx, in, "NEAR", errors.New("x")); err != nil {
			t.Fatal(err)
		}
	}
	if len(heard) != 1 || heard[0] != in.DID {
		t.Errorf("heard of %v", heard)
	}
}

func TestLocalities(t *testing.T) {
	r := newRig(t)
	staged := r.file("staged", "TAPE")
	r.tape.Set("TAPE/staged", backends.OnlineAndNearline)
	lost := r.file("lost", "TAPE")
	r.tape.Set("TAPE/lost", backends.Lost)
	bad := r.file("bad", "NEAR")
	r.DeclareBad(ctx, bad, "NEAR", errors.New("x"))
	gone := r.file("gone")
	r.cat.Remove(ctx, gone.DID)
	ins := []backends.Info{r.file("disk", "NEAR"), r.file("both", "FAR", "TAPE"), r.file("tape", "TAPE"), staged, lost, bad, gone,
		r.dir("ctao", "/ctao/d"), r.file("unknown", "ELSEWHERE"), r.file("none"), r.file("vault", "VAULT")}
	want := []backends.Locality{backends.Online, backends.OnlineAndNearline, backends.Nearline, backends.OnlineAndNearline, backends.Lost,
		backends.Lost, backends.NoLocality, backends.NoLocality, backends.Unavailable, backends.Lost, backends.Nearline}
	got, err := r.Localities(ctx, ins...)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if r.tape.Calls("locality") != 1 || r.vault.Calls("locality") != 1 {
		t.Errorf("tapes were asked %d and %d times", r.tape.Calls("locality"), r.vault.Calls("locality"))
	}
	r.tape.Fail(func(string) error { return laketest.ErrDown })
	got, err = r.Localities(ctx, ins[:4]...)
	want = []backends.Locality{backends.Online, backends.Online, backends.Unavailable, backends.Unavailable}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("tape down: %v, %v; want %v", got, err, want)
	}
	r.cat.Fail(func(string, backends.DID) error { return laketest.ErrDown })
	if _, err := r.Localities(ctx, ins...); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("catalogue down: %v", err)
	}
}

func TestExplain(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "VAULT", "ELSEWHERE", "FAR", "TAPE", "NEAR")
	r.DeclareBad(ctx, in, "FAR", errors.New("adler32 differs"))
	r.tape.Set("TAPE/a", backends.OnlineAndNearline)
	got, err := r.Explain(ctx, in)
	if err != nil || len(got) != 5 {
		t.Fatal(got, err)
	}
	for i, want := range []struct {
		rse, says string
		usable    bool
	}{
		{"NEAR", "first choice: disk at distance 0", true},
		{"TAPE", "choice 2: tape at distance 1, staged", true},
		{"VAULT", "on tape, not staged", false},
		{"ELSEWHERE", "RSE is not in lake.yaml", false},
		{"FAR", "declared BAD: adler32 differs", false},
	} {
		if c := got[i]; c.RSE != want.rse || !strings.HasPrefix(c.Reason, want.says) || c.Usable != want.usable {
			t.Errorf("%d is %+v, want %+v", i, c, want)
		}
	}
}

func TestNewRefusesWhatDoesNotFit(t *testing.T) {
	cat, disk, tape := laketest.NewCatalogue(), laketest.NewStorage(), laketest.NewTape(0)
	rse := func(name string, kind backends.RSEKind, s backends.Storage, t backends.Tape) *lake.RSE {
		return &lake.RSE{RSE: backends.RSE{Name: name, Kind: kind}, Storage: s, Tape: t}
	}
	ok := rse("A", backends.DiskKind, disk, nil)
	for _, o := range []lake.Options{
		{},
		{Catalogue: cat},
		{Catalogue: cat, Namespace: cat, RSEs: []*lake.RSE{nil}},
		{Catalogue: cat, Namespace: cat, RSEs: []*lake.RSE{rse("", backends.DiskKind, disk, nil)}},
		{Catalogue: cat, Namespace: cat, RSEs: []*lake.RSE{ok, ok}},
		{Catalogue: cat, Namespace: cat, RSEs: []*lake.RSE{rse("A", backends.DiskKind, nil, nil)}},
		{Catalogue: cat, Namespace: cat, RSEs: []*lake.RSE{rse("A", backends.TapeKind, disk, nil)}},
		{Catalogue: cat, Namespace: cat, RSEs: []*lake.RSE{rse("A", backends.DiskKind, disk, tape)}},
		{Catalogue: cat, Namespace: cat, WriteRules: []backends.Rule{{Copies: 1, Expression: "A|"}}},
		{Catalogue: cat, Namespace: cat, WriteRules: []backends.Rule{{Expression: "A"}}},
	} {
		if l, err := lake.New(o); err == nil {
			l.Close()
			t.Errorf("%+v was taken", o)
		}
	}
}

// What kept a replica from being read is no reason any more once another one has given bytes.
func TestReasonsAreForgotten(t *testing.T) {
	r := newRig(t)
	reads := func(err error) func(string, string) error {
		return func(op, _ string) error {
			if op == "read" {
				return err
			}
			return nil
		}
	}
	in := r.file("a", "NEAR", "TAPE", "FAR")
	o, err := r.Open(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	r.near.Fail(reads(backends.ErrTooManyFiles))
	if got, err := readAll(o); err != nil || !bytes.Equal(got, content("a")) || o.RSE() != "FAR" {
		t.Fatalf("%d bytes from %s, %v", len(got), o.RSE(), err)
	}
	r.far.Fail(reads(laketest.ErrDown))
	_, err = readAll(o)
	if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrTooManyFiles) || errors.Is(err, backends.ErrOffline) || strings.Contains(err.Error(), "NEAR") {
		t.Errorf("%v", err)
	}
}

// Who opened a file long ago says nothing of a copy that was made meanwhile in place of the one that he knows.
func TestOldReadersDoNotBlameNewCopies(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "NEAR", "FAR")
	o, err := r.Open(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	r.far.Remove(ctx, "FAR/a")
	r.far.Put("FAR/new", content("a"))
	r.cat.PutReplica(ctx, in.DID, "", backends.Replica{RSE: "FAR", PFN: "FAR/new", State: backends.Available, Verified: time.Now()})
	r.near.Fail(func(string, string) error { return laketest.ErrDown })
	if _, err := o.ReadAt(ctx, make([]byte, 10), 0); err == nil {
		t.Fatal("read from nowhere")
	}
	if got := r.replica(in, "FAR"); got.State != backends.Available {
		t.Errorf("%+v", got)
	}
	again, err := r.Reopen(ctx, in, o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n, err := again.ReadAt(ctx, make([]byte, 10), 0); n != 10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// What is being deleted, or made, while it is verified does not become AVAILABLE by that.
func TestVerifyLeavesWhatSomebodyIsAt(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "NEAR")
	going := r.replica(in, "NEAR")
	going.State = backends.BeingDeleted
	r.near.Fail(func(op, _ string) error {
		if op == "open" {
			r.cat.PutReplica(ctx, in.DID, "", going)
		}
		return nil
	})
	if err := r.Verify(ctx, in, func(lake.VerifyResult) {}); err != nil {
		t.Fatal(err)
	}
	if got := r.replica(in, "NEAR"); got != going {
		t.Errorf("%+v", got)
	}
}
