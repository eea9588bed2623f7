package lake_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

func TestNewPFN(t *testing.T) {
	r := newRig(t)
	d := did("ctao", "/ctao/dl3/run 1.fits")
	if got, want := r.NewPFN(d, "0123456789ab"), "ctao/0f/f9/run%201.fits.0123456789ab"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if a, b := r.NewPFN(d, ""), r.NewPFN(d, ""); a == b || len(path.Ext(a)) != 13 {
		t.Errorf("%s and %s", a, b)
	}
	for _, name := range []string{"", "..", ".", "/", "a/..", "\x00", strings.Repeat("ü", 200), "-x", strings.Repeat("a/", 300), ".tarn-upload"} {
		p := r.NewPFN(did("s", name), "0123456789ab")
		base := path.Base(p)
		if path.Clean(p) != p || strings.HasPrefix(base, ".") || len(base) > 113 || strings.Count(p, "/") != 3 || strings.ContainsAny(p, "\x00 ") {
			t.Errorf("%.20q gives %q", name, p)
		}
	}
}

func TestStore(t *testing.T) {
	data := content("a")
	want := sums(data)
	for _, algs := range [][]string{nil, {"adler32"}, {"sha256", "md5"}, {"md5"}} {
		r := newRig(t)
		r.near.Checksums = algs
		var seen []int64
		rep, err := r.Store(ctx, r.dNear, "p", bytes.NewReader(data), int64(len(data)), want, func(n int64) { seen = append(seen, n) })
		if err != nil || rep.RSE != "NEAR" || rep.PFN != "p" || rep.State != backends.Available || rep.Verified.IsZero() {
			t.Fatalf("%v: %+v, %v", algs, rep, err)
		}
		if !slices.IsSorted(seen) || seen[len(seen)-1] != int64(len(data)) || !bytes.Equal(r.near.Get("p"), data) {
			t.Errorf("%v: progress %v", algs, seen)
		}
		// A checksum that the storage can compare spares reading back.
		if readBack := r.near.Calls("read") > 0; readBack != (algs == nil || algs[0] == "md5") {
			t.Errorf("%v: read back %v", algs, readBack)
		}
		// Again: no byte moves.
		if _, err := r.Store(ctx, r.dNear, "p", nil, int64(len(data)), want, nil); err != nil || r.near.Calls("create") != 1 {
			t.Errorf("%v: again: %v", algs, err)
		}
		// What is there and differs is replaced.
		r.near.Put("p", bytes.Repeat([]byte("x"), len(data)))
		if _, err := r.Store(ctx, r.dNear, "p", bytes.NewReader(data), int64(len(data)), want, nil); err != nil || !bytes.Equal(r.near.Get("p"), data) {
			t.Errorf("%v: over a wrong one: %v", algs, err)
		}
	}
}

func TestStoreErrors(t *testing.T) {
	data := content("a")
	size := int64(len(data))
	flip := func(b []byte) []byte { b[7] ^= 1; return b }
	for _, c := range []struct {
		name string
		make func(r *rig) (src io.ReaderAt, want backends.Checksums)
		err  error
	}{
		{"read-only", func(r *rig) (io.ReaderAt, backends.Checksums) {
			r.dNear.ReadOnly = true
			return bytes.NewReader(data), sums(data)
		}, backends.ErrReadOnly},
		{"source rotted", func(r *rig) (io.ReaderAt, backends.Checksums) {
			return bytes.NewReader(flip(bytes.Clone(data))), sums(data)
		}, backends.ErrCorrupt},
		{"source short", func(r *rig) (io.ReaderAt, backends.Checksums) { return bytes.NewReader(data[1:]), sums(data) }, io.ErrUnexpectedEOF},
		{"storage lies", func(r *rig) (io.ReaderAt, backends.Checksums) {
			r.near.Lie = flip
			return bytes.NewReader(data), sums(data)
		}, backends.ErrCorrupt},
		{"storage lies and sums", func(r *rig) (io.ReaderAt, backends.Checksums) {
			r.near.Lie, r.near.Checksums = flip, []string{"adler32"}
			return bytes.NewReader(data), sums(data)
		}, backends.ErrCorrupt},
		{"storage lies, no checksum given", func(r *rig) (io.ReaderAt, backends.Checksums) {
			r.near.Lie = flip
			return bytes.NewReader(data), backends.Checksums{}
		}, backends.ErrCorrupt},
		{"down", func(r *rig) (io.ReaderAt, backends.Checksums) {
			r.near.Fail(down)
			return bytes.NewReader(data), sums(data)
		}, backends.ErrUnavailable},
		{"commit fails", func(r *rig) (io.ReaderAt, backends.Checksums) {
			r.near.Fail(func(op, _ string) error {
				if op == "commit" {
					return backends.ErrNoSpace
				}
				return nil
			})
			return bytes.NewReader(data), sums(data)
		}, backends.ErrNoSpace},
	} {
		r := newRig(t)
		src, want := c.make(r)
		if _, err := r.Store(ctx, r.dNear, "p", src, size, want, nil); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if got := r.near.Paths(); len(got) > 0 {
			t.Errorf("%s: left %v", c.name, got)
		}
	}
	r := newRig(t)
	dead, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := r.Store(dead, r.dNear, "p", bytes.NewReader(data), size, sums(data), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := r.Store(ctx, r.dNear, "empty", bytes.NewReader(nil), 0, sums(nil), nil); err != nil || r.near.Get("empty") == nil && len(r.near.Paths()) != 1 {
		t.Error(err)
	}
}

// TestStoreAndTheProof: what the storage has proved by its Commit it is not asked again, and what it has proved to
// be wrong does not stay. A proof by a digest that is not known of the file is none.
func TestStoreAndTheProof(t *testing.T) {
	data := content("a")
	size := int64(len(data))
	for _, c := range []struct {
		name   string
		proves bool
		want   backends.Checksums
		asked  int
		read   bool
	}{
		{"proved", true, sums(data), 0, false},
		{"not proved", false, sums(data), 1, false},
		{"no digest given", true, backends.Checksums{}, 0, false},
		{"proved by another digest", true, backends.Checksums{SHA256: sums(data).SHA256}, 1, true},
	} {
		r := newRig(t)
		r.near.Checksums, r.near.Proves = []string{"adler32"}, c.proves
		if _, err := r.StoreNew(ctx, r.dNear, "p", bytes.NewReader(data), size, c.want, nil); err != nil || !bytes.Equal(r.near.Get("p"), data) {
			t.Fatalf("%s: %v", c.name, err)
		}
		if n := r.near.Calls("checksum"); n != c.asked {
			t.Errorf("%s: asked %d times", c.name, n)
		}
		if read := r.near.Calls("read") > 0; read != c.read {
			t.Errorf("%s: read back %v", c.name, read)
		}
		if r.near.Calls("stat") > 0 {
			t.Errorf("%s: a new path was looked at", c.name)
		}
	}
	r := newRig(t)
	r.near.Checksums, r.near.Proves = []string{"adler32"}, true
	r.near.Lie = func(b []byte) []byte { b[7] ^= 1; return b }
	if _, err := r.StoreNew(ctx, r.dNear, "p", bytes.NewReader(data), size, sums(data), nil); !errors.Is(err, backends.ErrCorrupt) || len(r.near.Paths()) > 0 {
		t.Errorf("proved to be wrong: %v, left %v", err, r.near.Paths())
	}
}

// TestStoreOfSeveralBlocks: the bytes go in order, whatever the reads give, and what fails in the midst of them leaves
// nothing, and nobody who reads on.
func TestStoreOfSeveralBlocks(t *testing.T) {
	data := bytes.Repeat(content("a"), 1+(5<<20)/len(content("a")))
	size := int64(len(data))
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		src  func(p []byte, off int64) (int, error)
		err  error
	}{
		{"all", func(p []byte, off int64) (int, error) { return copy(p, data[off:]), nil }, nil},
		{"short reads", func(p []byte, off int64) (int, error) { return copy(p[:min(len(p), 70_001)], data[off:]), nil }, nil},
		{"with EOF", bytes.NewReader(data).ReadAt, nil},
		{"nothing comes", func(p []byte, off int64) (int, error) { return 0, nil }, io.ErrUnexpectedEOF},
		{"too short", bytes.NewReader(data[:3<<20]).ReadAt, io.ErrUnexpectedEOF},
		{"broken", func(p []byte, off int64) (int, error) {
			if off >= 2<<20 {
				return 0, broken
			}
			return copy(p, data[off:]), nil
		}, broken},
		{"other bytes", func(p []byte, off int64) (int, error) {
			n := copy(p, data[off:])
			p[n-1] ^= 1
			return n, nil
		}, backends.ErrCorrupt},
	} {
		r := newRig(t)
		var reading atomic.Int32
		src := readFunc(func(p []byte, off int64) (int, error) {
			reading.Add(1)
			defer reading.Add(-1)
			return c.src(p, off)
		})
		_, err := r.Store(ctx, r.dNear, "p", src, size, sums(data), nil)
		if !errors.Is(err, c.err) || reading.Load() != 0 {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.err == nil && !bytes.Equal(r.near.Get("p"), data) || c.err != nil && len(r.near.Paths()) > 0 {
			t.Errorf("%s: wrong bytes, or some are left", c.name)
		}
	}
	// A storage that takes no more ends the reading.
	r := newRig(t)
	r.near.Fail(func(op, _ string) error {
		if op == "write" {
			return backends.ErrNoSpace
		}
		return nil
	})
	var reads atomic.Int32
	src := readFunc(func(p []byte, off int64) (int, error) { reads.Add(1); return copy(p, data[off:]), nil })
	if _, err := r.Store(ctx, r.dNear, "p", src, size, sums(data), nil); !errors.Is(err, backends.ErrNoSpace) || reads.Load() == int32(size>>20)+1 {
		t.Errorf("%v after %d reads", err, reads.Load())
	}
}

type readFunc func(p []byte, off int64) (int, error)

func (f readFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// late is a source that knows a digest at its end only.
type late struct {
	*bytes.Reader
	sums backends.Checksums
}

func (l late) Sums() backends.Checksums {
	if l.Len() == 0 {
		return l.sums
	}
	return backends.Checksums{}
}

// TestStoreWithLateSums: a digest that the source knows at its end is compared as those that are given before.
func TestStoreWithLateSums(t *testing.T) {
	data := content("a")
	for _, good := range []bool{true, false} {
		r := newRig(t)
		src := late{bytes.NewReader(data), sums(data)}
		if src.Seek(0, io.SeekEnd); !good {
			src.sums.SHA256 = sums([]byte("x")).SHA256
		}
		_, err := r.Store(ctx, r.dNear, "p", src, int64(len(data)), backends.Checksums{Adler32: sums(data).Adler32}, nil)
		if good != (err == nil) || !good && !errors.Is(err, backends.ErrCorrupt) || good == (len(r.near.Paths()) == 0) {
			t.Errorf("good %v: %v", good, err)
		}
	}
}

func TestStoredOnTape(t *testing.T) {
	r := newRig(t)
	data := content("a")
	if _, err := r.Store(ctx, r.tTape, "p", bytes.NewReader(data), int64(len(data)), sums(data), nil); err != nil {
		t.Fatal(err)
	}
	for l, want := range map[backends.Locality]struct {
		ok  bool
		err error
	}{
		backends.Online: {false, nil}, backends.OnlineAndNearline: {true, nil}, backends.Nearline: {true, nil},
		backends.Lost: {false, backends.ErrLost}, backends.Unavailable: {false, backends.ErrUnavailable}, "": {false, backends.ErrNotExist},
	} {
		if l != backends.Online {
			r.tape.Set("p", l)
		}
		if ok, err := r.StoredOnTape(ctx, r.tTape, "p"); ok != want.ok || !errors.Is(err, want.err) {
			t.Errorf("%s: %v, %v", l, ok, err)
		}
		r.tape.Set("p", backends.Online)
	}
	if ok, err := r.StoredOnTape(ctx, r.dNear, "anything"); !ok || err != nil {
		t.Error(ok, err)
	}
}

func TestTargets(t *testing.T) {
	at := func(states ...any) (out []backends.Replica) {
		for i := 0; i < len(states); i += 2 {
			out = append(out, backends.Replica{RSE: states[i].(string), State: states[i+1].(backends.ReplicaState)})
		}
		return out
	}
	for _, c := range []struct {
		name string
		rule backends.Rule
		have []backends.Replica
		make func(r *rig)
		want []string
		err  error
		says string
	}{
		{"nearest of equals", backends.Rule{Copies: 1, Expression: "*"}, nil, nil, []string{"NEAR"}, nil, ""},
		{"all, in order", backends.Rule{Copies: 4, Expression: "*"}, nil, nil, []string{"NEAR", "TAPE", "FAR", "VAULT"}, nil, ""},
		{"fulfilled", backends.Rule{Copies: 1, Expression: "country=CH"}, at("FAR", backends.Available), nil, nil, nil, ""},
		{"counts distinct good ones that match", backends.Rule{Copies: 2, Expression: "rse_type=DISK"},
			at("NEAR", backends.Bad, "TAPE", backends.Available, "FAR", backends.Available, "ELSEWHERE", backends.Available), nil, []string{"NEAR"}, nil, ""},
		{"repairs before it makes new ones", backends.Rule{Copies: 1, Expression: "rse_type=DISK"}, at("FAR", backends.Bad), nil, []string{"FAR"}, nil, ""},
		{"goes on with what was begun", backends.Rule{Copies: 1, Expression: "*"}, at("VAULT", backends.Copying), nil, []string{"VAULT"}, nil, ""},
		{"free space", backends.Rule{Copies: 1, Expression: "rse_type=DISK"}, nil, func(r *rig) { r.near.Put("x", make([]byte, 9<<20)); r.near.Total = 10 << 20 }, []string{"FAR"}, nil, ""},
		{"too full", backends.Rule{Copies: 1, Expression: "NEAR"}, nil, func(r *rig) { r.near.Total = 50 }, nil, backends.ErrNoSpace, "NEAR has 50 bytes free of the 100 needed"},
		{"read-only", backends.Rule{Copies: 1, Expression: "NEAR"}, nil, func(r *rig) { r.dNear.ReadOnly = true }, nil, lake.ErrNoTarget, "NEAR is read-only"},
		{"down", backends.Rule{Copies: 2, Expression: "rse_type=DISK"}, nil, func(r *rig) { r.near.Fail(down) }, []string{"FAR"}, backends.ErrTemporary, "NEAR is down"},
		{"no match", backends.Rule{Copies: 1, Expression: "country=DE"}, nil, nil, nil, lake.ErrNoTarget, "no RSE matches"},
		{"too few", backends.Rule{Copies: 3, Expression: "rse_type=DISK"}, nil, nil, []string{"NEAR", "FAR"}, lake.ErrNoTarget, "3 on \"rse_type=DISK\" wanted, 0 there, 2 more possible: no other RSE matches"},
		{"nonsense", backends.Rule{Copies: 1, Expression: "A|"}, nil, nil, nil, nil, "position 3"},
		{"no copies", backends.Rule{Expression: "*"}, nil, nil, nil, nil, "at least one"},
	} {
		r := newRig(t)
		if c.make != nil {
			c.make(r)
		}
		got, err := r.Targets(ctx, c.rule, c.have, 100)
		var names []string
		for _, x := range got {
			names = append(names, x.Name)
		}
		if !slices.Equal(names, c.want) || (err == nil) != (c.says == "") || c.err != nil && !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v; want %v, %v with %q", c.name, names, err, c.want, c.err, c.says)
		}
	}
}

func TestCopy(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for _, from := range []string{"NEAR", "TAPE", "VAULT"} {
			in := r.file("from"+from, from)
			rep, err := r.Copy(ctx, in, r.dFar, nil)
			if err != nil || rep != r.replica(in, "FAR") || rep.State != backends.Available || rep.Verified.IsZero() {
				t.Fatalf("%s: %+v, %v", from, rep, err)
			}
			if !bytes.Equal(r.far.Get(rep.PFN), content("from"+from)) {
				t.Errorf("%s: wrong bytes", from)
			}
			again, err := r.Copy(ctx, in, r.dFar, nil)
			if err != nil || again != rep {
				t.Errorf("%s: again: %+v, %v", from, again, err)
			}
		}
		pass(time.Second)
		if r.tape.Pins("TAPE/fromTAPE") != 0 {
			t.Error("still kept in the buffer")
		}
		if in := r.empty("ctao", "/ctao/empty"); true {
			if _, err := r.Copy(ctx, in, r.dFar, nil); err != nil {
				t.Errorf("empty file: %v", err)
			}
		}
	})
}

func TestCopyFromABadSource(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "NEAR", "FAR")
	rot := content("a")
	rot[3] ^= 1
	r.near.Put("NEAR/a", rot)
	r.tape.Set("x", backends.Nearline)
	rep, err := r.Copy(ctx, in, r.tTape, nil)
	if err != nil || !bytes.Equal(r.tape.Storage.Get(rep.PFN), content("a")) {
		t.Fatal(rep, err)
	}
	if x := r.replica(in, "NEAR"); x.State != backends.Bad || !strings.Contains(x.Error, "checksum mismatch") {
		t.Errorf("%+v", x)
	}
	// The bad one is replaced, and its file goes.
	rep, err = r.Copy(ctx, in, r.dNear, nil)
	if err != nil || rep.PFN == "NEAR/a" || !slices.Equal(r.near.Paths(), []string{rep.PFN}) || r.replica(in, "NEAR") != rep {
		t.Errorf("%+v, %v, files %v", rep, err, r.near.Paths())
	}
	// All bad: nothing is stored, nothing stays on record.
	b := r.file("b", "NEAR")
	r.near.Put("NEAR/b", rot)
	if _, err := r.Copy(ctx, b, r.dFar, nil); !errors.Is(err, backends.ErrLost) {
		t.Error(err)
	}
	if x := r.replica(b, "FAR"); x.RSE != "" || r.replica(b, "NEAR").State != backends.Bad {
		t.Errorf("left on record: %+v", x)
	}
}

func TestCopyOfWhatIsReplacedMeanwhile(t *testing.T) {
	for _, how := range []string{"replaced", "removed"} {
		r := newRig(t)
		in := r.file("a", "NEAR")
		r.far.Fail(func(op, _ string) error {
			if op == "commit" {
				r.far.Fail(nil)
				if how == "removed" {
					return r.cat.Remove(ctx, in.DID)
				}
				return r.cat.Add(ctx, backends.Info{DID: in.DID, Type: backends.File, Size: 1, Checksums: sums([]byte("x"))}, nil)
			}
			return nil
		})
		if _, err := r.Copy(ctx, in, r.dFar, nil); !errors.Is(err, backends.ErrStale) {
			t.Errorf("%s: %v", how, err)
		}
		if got := r.far.Paths(); len(got) != 0 {
			t.Errorf("%s: left %v", how, got)
		}
	}
}

// After a crash between upload and registration, the same PFN is used again.
func TestCopyGoesOnAfterACrash(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "NEAR")
	puts := 0
	r.cat.Fail(func(op string, _ backends.DID) error {
		if op == "putreplica" {
			if puts++; puts > 1 {
				return laketest.ErrDown
			}
		}
		return nil
	})
	if _, err := r.Copy(ctx, in, r.dFar, nil); !errors.Is(err, backends.ErrUnavailable) {
		t.Fatal(err)
	}
	r.cat.Fail(nil)
	begun := r.replica(in, "FAR")
	if begun.State != backends.Copying || !slices.Equal(r.far.Paths(), []string{begun.PFN}) {
		t.Fatalf("%+v, files %v", begun, r.far.Paths())
	}
	rep, err := r.Copy(ctx, in, r.dFar, nil)
	if err != nil || rep.PFN != begun.PFN || r.far.Calls("create") != 1 {
		t.Errorf("%+v, %v, %d uploads", rep, err, r.far.Calls("create"))
	}
}

func TestCopiesAtOnceAreOne(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "NEAR")
	r.far.Fail(func(op, _ string) error {
		if op == "commit" {
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := r.Copy(ctx, in, r.dFar, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if rep := r.replica(in, "FAR"); !slices.Equal(r.far.Paths(), []string{rep.PFN}) || r.far.Calls("create") != 1 {
		t.Errorf("%+v, files %v, %d uploads", rep, r.far.Paths(), r.far.Calls("create"))
	}
}

// What is written here and not sent says nothing of the replicas, which are of the content before.
func TestVerifyUnsent(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "NEAR", "FAR")
		unsent := in
		unsent.Generation, unsent.Size, unsent.Checksums = "", in.Size+7, sums([]byte("other"))
		n := 0
		err := r.Verify(ctx, unsent, func(v lake.VerifyResult) {
			n++
			if !v.OK || v.Bad {
				t.Errorf("%+v", v)
			}
		})
		if err != nil || n != 2 {
			t.Fatal(n, err)
		}
		for _, rse := range []string{"NEAR", "FAR"} {
			if x := r.replica(in, rse); x.State != backends.Available {
				t.Errorf("%s: a good replica is %+v", rse, x)
			}
		}
	})
}

func TestVerify(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "NEAR", "FAR", "TAPE", "VAULT", "ELSEWHERE")
		rot := content("a")
		rot[3] ^= 1
		r.far.Put("FAR/a", rot)
		r.vault.Storage.Put("VAULT/a", rot)
		r.DeclareBad(ctx, in, "NEAR", errors.New("was not mounted"))
		got := map[string]lake.VerifyResult{}
		if err := r.Verify(ctx, in, func(v lake.VerifyResult) { got[v.RSE] = v }); err != nil {
			t.Fatal(err)
		}
		for rse, want := range map[string]struct{ ok, bad bool }{"NEAR": {true, false}, "FAR": {false, true}, "TAPE": {true, false}, "VAULT": {false, true}, "ELSEWHERE": {false, false}} {
			v := got[rse]
			if v.OK != want.ok || v.Bad != want.bad || (v.Err == nil) != want.ok || (v.Error == "") != want.ok || v.PFN == "" {
				t.Errorf("%s: %+v", rse, v)
			}
			state := backends.Available
			if want.bad {
				state = backends.Bad
			}
			if x := r.replica(in, rse); x.State != state || x.Verified.IsZero() == want.ok {
				t.Errorf("%s: replica is %+v", rse, x)
			}
		}
		if got["TAPE"].Bytes != in.Size || got["TAPE"].Duration < tapeDelay {
			t.Errorf("%+v", got["TAPE"])
		}
		pass(time.Second)
		if r.tape.Pins("TAPE/a")+r.vault.Pins("VAULT/a") != 0 {
			t.Error("still kept in the buffers")
		}
		// A missing file is bad, a storage that is down proves nothing.
		b := r.file("b", "NEAR", "FAR")
		r.near.Remove(ctx, "NEAR/b")
		r.far.Fail(down)
		if err := r.Verify(ctx, b, func(v lake.VerifyResult) { got[v.RSE] = v }); err != nil {
			t.Fatal(err)
		}
		if !got["NEAR"].Bad || got["FAR"].Bad || got["FAR"].OK || r.replica(b, "FAR").State != backends.Available {
			t.Errorf("%+v", got)
		}
	})
}

// A copy in place of a BAD one that was made, but is not on record yet, is found again, also by another name of the file, and
// goes with the BAD one at the latest.
func TestCopyInPlaceOfABadOneGoesOnAfterACrash(t *testing.T) {
	for _, pfn := range []string{"FAR/a", "ctao/0a/1b/a.fits.0123456789ab", "a"} {
		r := newRig(t)
		in := r.file("a", "NEAR")
		r.far.Put(pfn, []byte("rotten"))
		bad := backends.Replica{RSE: "FAR", PFN: pfn, State: backends.Bad, Error: "rotten"}
		crash := func() string {
			t.Helper()
			if err := r.cat.PutReplica(ctx, in.DID, "", bad); err != nil {
				t.Fatal(err)
			}
			r.cat.Fail(func(op string, _ backends.DID) error {
				if op == "putreplica" {
					return laketest.ErrDown
				}
				return nil
			})
			if _, err := r.Copy(ctx, in, r.dFar, nil); !errors.Is(err, backends.ErrUnavailable) {
				t.Fatal(err)
			}
			r.cat.Fail(nil)
			left := slices.DeleteFunc(r.far.Paths(), func(p string) bool { return p == pfn })
			other := in
			other.DID.Name = "/ctao/other"
			if len(left) != 1 || left[0] != lake.Replacements(in, pfn)[0] || left[0] != lake.Replacements(other, pfn)[0] {
				t.Fatalf("begun at %q, and known as %q", left, lake.Replacements(in, pfn))
			}
			other.Generation += "0"
			if left[0] == lake.Replacements(other, pfn)[0] {
				t.Errorf("another content would have %q, too", left[0])
			}
			return left[0]
		}
		begun := crash()
		if rep, err := r.Copy(ctx, in, r.dFar, nil); err != nil || rep.PFN != begun || r.far.Calls("create") != 1 || !slices.Equal(r.far.Paths(), []string{begun}) {
			t.Errorf("%+v, %v, %d uploads, %q", rep, err, r.far.Calls("create"), r.far.Paths())
		}
		if again := lake.Replacements(in, begun)[0]; again == begun || len(again) > len(begun)+1 && len(begun) > 20 {
			t.Errorf("after %q comes %q", begun, again)
		}
		r.far.Remove(ctx, begun)
		r.far.Put(pfn, []byte("rotten"))
		crash()
		if err := r.RemoveReplica(ctx, r.dFar, in, bad); err != nil || len(r.far.Paths()) > 0 {
			t.Errorf("left %q, %v", r.far.Paths(), err)
		}
	}
}
