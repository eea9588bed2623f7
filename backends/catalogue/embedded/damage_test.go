package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/query"
)

// damageFiles is how many files the lakes have that are damaged.
const damageFiles = 1000

// damageLake makes a lake; unclean leaves it as a killed process does, with logs that
// are not in tables yet.
func damageLake(t *testing.T, unclean bool) string {
	t.Helper()
	dir := t.TempDir()
	c, err := Open(small(Options{Dir: dir}))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := c.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "ctao"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Import(ctx, benchLake(damageFiles)); err != nil {
		t.Fatal(err)
	}
	if !unclean {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	defer c.Close()
	if err := c.durable.manifest(dir); err != nil {
		t.Fatal(err)
	}
	return copyLake(t, dir)
}

func copyLake(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestDamageIsRefusedOrHarmless(t *testing.T) {
	for _, unclean := range []bool{false, true} {
		whole := damageLake(t, unclean)
		if got := readAll(copyLake(t, whole)); got != fmt.Sprint("read ", damageFiles) {
			t.Fatalf("undamaged: %s", got)
		}
		files, err := filepath.Glob(filepath.Join(whole, "db", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(path)
			ext := strings.TrimLeft(filepath.Ext(name), ".")
			if ext != "sst" && ext != "mem" && ext != "vlog" && name != "MANIFEST" && name != "KEYREGISTRY" && name != "DISCARD" {
				continue
			}
			if unclean && ext != "mem" {
				continue // as in the other lake
			}
			used := usedLength(t, path)
			damages := map[string]func(f *os.File) error{
				"emptied":         func(f *os.File) error { return f.Truncate(0) },
				"cut to half":     func(f *os.File) error { return f.Truncate(used / 2) },
				"without its end": func(f *os.File) error { return f.Truncate(max(0, min(st.Size(), used)-3)) },
			}
			positions := []int64{0, 5, 9, 15, 21, used / 3, used / 2, used - 70, used - 20, used - 9, used - 5, used - 4, used - 1}
			if ext != "sst" && ext != "mem" {
				positions = []int64{0, 5, used / 2, used - 1}
			}
			for _, at := range positions {
				if at < 0 || at >= st.Size() {
					continue
				}
				damages[fmt.Sprintf("flipped at %d of %d", at, used)] = func(f *os.File) error {
					var b [1]byte
					if _, err := f.ReadAt(b[:], at); err != nil {
						return err
					}
					b[0] ^= 0x41
					_, err := f.WriteAt(b[:], at)
					return err
				}
			}
			for what, damage := range damages {
				t.Run(fmt.Sprintf("unclean=%v %s %s", unclean, name, what), func(t *testing.T) {
					t.Parallel()
					dir := copyLake(t, whole)
					f, err := os.OpenFile(filepath.Join(dir, "db", name), os.O_RDWR, 0)
					if err != nil {
						t.Fatal(err)
					}
					defer f.Close()
					if err := damage(f); err != nil {
						t.Fatal(err)
					}
					got := run(t, child(t, "read", dir))
					if !strings.HasPrefix(got, "refused: ") && got != fmt.Sprint("read ", damageFiles) {
						t.Errorf("a lake with %s %s: %.500s", name, what, got)
					}
					if (ext == "sst" || ext == "mem") && strings.HasPrefix(got, "read") {
						t.Logf("%s %s went unnoticed", name, what)
					}
				})
			}
		}
	}
}

// usedLength is the length of a file without the zeros it was made with.
func usedLength(t *testing.T, path string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(strings.TrimRight(string(b), "\x00")))
}

// The database itself would take these for the traces of a crash, and go on.
func TestShortenedFilesAreDamage(t *testing.T) {
	dir := damageLake(t, false)
	manifest := filepath.Join(dir, "db", "MANIFEST")
	st, err := os.Stat(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(manifest, st.Size()-1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(small(Options{Dir: dir})); !errors.Is(err, backends.ErrDamaged) || !strings.Contains(err.Error(), "MANIFEST") {
		t.Errorf("with a shorter MANIFEST: %v", err)
	}

	dir = damageLake(t, true)
	logs, err := filepath.Glob(filepath.Join(dir, "db", "*.mem"))
	if err != nil || len(logs) == 0 {
		t.Fatal(err, logs)
	}
	b, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	if !logIsWhole(b) {
		t.Fatal("a good log does not verify")
	}
	b[usedLength(t, logs[0])/2] ^= 1
	// A log before the last one loses its second half.
	if err := os.WriteFile(filepath.Join(dir, "db", "00000.mem"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(small(Options{Dir: dir})); !errors.Is(err, backends.ErrDamaged) || !strings.Contains(err.Error(), "00000.mem") {
		t.Errorf("with a damaged log before the last: %v", err)
	}
}

func TestLostFilesAreDamage(t *testing.T) {
	whole := damageLake(t, false)
	for _, pattern := range []string{"MANIFEST", "*.sst", "*"} {
		dir := copyLake(t, whole)
		lost, err := filepath.Glob(filepath.Join(dir, "db", pattern))
		if err != nil || len(lost) == 0 {
			t.Fatal(err, lost)
		}
		for _, f := range lost {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		_, err = Open(small(Options{Dir: dir}))
		if !errors.Is(err, backends.ErrDamaged) {
			t.Errorf("without %s: %v", pattern, err)
		}
		if pattern == "MANIFEST" {
			if left, _ := filepath.Glob(filepath.Join(dir, "db", "*.sst")); len(left) == 0 {
				t.Error("the tables were deleted")
			}
		}
	}
}

func TestAcknowledgedTransactionsThatAreMissingAreDamage(t *testing.T) {
	dir := damageLake(t, false)
	d, err := openDurable(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.note(d.sequence + 3)
	d.close()
	if _, err := Open(small(Options{Dir: dir})); !errors.Is(err, backends.ErrDamaged) || !strings.Contains(err.Error(), "3 of") {
		t.Errorf("open: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "durable")); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: dir})
}

func TestDamageFoundWhileOpenEndsService(t *testing.T) {
	dir := damageLake(t, false)
	c := open(t, Options{Dir: dir})
	if err := c.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(err)
	}
	f, err := os.OpenFile(tables[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("rotten"), 1000); err != nil {
		t.Fatal(err)
	}
	err = c.Verify(t.Context())
	if !errors.Is(err, backends.ErrDamaged) || !strings.Contains(err.Error(), filepath.Base(tables[0])) {
		t.Fatalf("verify: %v", err)
	}
	if c.Close() != nil {
		t.Fatal("close fails")
	}
	// In the background, when Open does not: nothing may be missing without an error.
	c, err = Open(small(Options{Dir: dir, VerifyBytes: -1}))
	if err != nil {
		if !errors.Is(err, backends.ErrDamaged) {
			t.Fatal(err)
		}
		return
	}
	defer c.Close()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := c.Stat(t.Context(), backends.DID{Scope: "ctao", Name: "/ctao"}); errors.Is(err, backends.ErrDamaged) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the damage was not found")
		}
	}
	if err := c.Add(t.Context(), benchFile(1), nil); !errors.Is(err, backends.ErrDamaged) {
		t.Errorf("add: %v", err)
	}
}

func TestFoldersThatAreNoLake(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign")
	if err := os.MkdirAll(filepath.Join(foreign, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "db", "MANIFEST"), []byte("Bdgr\x00\x09\x00\x08"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		want error
	}{
		{Options{Dir: filepath.Join(dir, "missing")}, backends.ErrUnavailable},
		{Options{Dir: file}, backends.ErrUnavailable},
		{Options{Dir: foreign}, backends.ErrVersion},
		{Options{Dir: empty, MustExist: true}, backends.ErrUnavailable},
	} {
		lake, err := Open(small(c.o))
		if err == nil {
			lake.Close()
		}
		if !errors.Is(err, c.want) || errors.Is(err, backends.ErrNotExist) {
			t.Errorf("open %+v: %v, want %v", c.o.Dir, err, c.want)
		}
	}
}

func TestVersionOfContentIsChecked(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	var v enc
	v.uint(99)
	if err := c.commitBadger(map[string][]byte{string(versionKey()): v}, c.count.encode()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(small(Options{Dir: dir})); !errors.Is(err, backends.ErrVersion) {
		t.Errorf("open: %v", err)
	}
}

// A record that does not parse is ErrDamaged wherever it is met, and no panic.
func TestRecordsThatDoNotParse(t *testing.T) {
	c := open(t, Options{InMemory: true})
	ctx := context.Background()
	scope := backends.DID{Scope: "s", Name: "/s"}
	if err := c.AddScope(ctx, backends.Info{DID: scope}); err != nil {
		t.Fatal(err)
	}
	d := backends.DID{Scope: "s", Name: "/s/f"}
	in := benchFile(1)
	in.DID = d
	if err := c.Add(ctx, in, backends.Meta{"a": "b"}, backends.Replica{RSE: "A", PFN: "x"}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Stat(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	root, err := c.Stat(ctx, scope)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range [][]byte{metaKey(got.Inode), replicasKey(got.Inode), entryKey(root.Inode, "f")} {
		if err := c.commitBadger(map[string][]byte{string(key): {0xff, 0xff, 0xff, 0xff, 0xff}}, c.count.encode()); err != nil {
			t.Fatal(err)
		}
	}
	q, err := query.Parse("a = b")
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := c.Stat(ctx, d)
	_, err2 := c.Meta(ctx, d)
	_, err3 := c.Replicas(ctx, d)
	var err4, err5 error
	for _, e := range c.Contents(ctx, scope, "") {
		err4 = e
	}
	for _, e := range c.Find(ctx, scope, q) {
		err5 = e
	}
	for i, e := range []error{err1, err2, err3, err4, err5, c.Add(ctx, in, nil), c.Remove(ctx, d)} {
		if !errors.Is(e, backends.ErrDamaged) {
			t.Errorf("call %d: %v", i, e)
		}
	}
}
