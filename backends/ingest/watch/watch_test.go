package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tarn/backends"
)

// rig is a folder that is watched, and what was told of it.
type rig struct {
	t   *testing.T
	dir string
	w   *Watcher

	mu   sync.Mutex
	told []File
	stop func() error
}

func newRig(t *testing.T, change func(o *Options)) *rig {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	o := Options{Root: root, Dir: dir, Rescan: time.Hour}
	if change != nil {
		change(&o)
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.settle = 50 * time.Millisecond // many tests wait for it
	return &rig{t: t, dir: dir, w: w}
}

func (r *rig) found(_ context.Context, f File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, f)
	return nil
}

// run starts a Run, which ends with the test.
func (r *rig) run() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.w.Run(ctx, r.found) }()
	var once sync.Once
	var err error
	r.stop = func() error {
		once.Do(func() { cancel(); err = <-ended })
		return err
	}
	r.t.Cleanup(func() {
		if err := r.stop(); !errors.Is(err, context.Canceled) {
			r.t.Errorf("Run ended with %v", err)
		}
	})
}

func (r *rig) scan() int {
	r.t.Helper()
	n, err := r.w.Scan(context.Background(), r.found)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) write(name, content string) {
	r.t.Helper()
	p := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// paths are those that were told, in their order.
func (r *rig) paths() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, f := range r.told {
		out = append(out, f.Path)
	}
	return out
}

func (r *rig) count() int { return len(r.paths()) }

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func equal(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("told %q, not %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("told %q, not %q", got, want)
		}
	}
}

func TestScanTellsEachVersionOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, n := range []string{"b", "a", "sub/c", "sub/deep/d", "z"} {
		r.write(n, n)
	}
	if n := r.scan(); n != 0 {
		t.Errorf("%d incomplete", n)
	}
	equal(t, r.paths(), "a", "b", "z", "sub/c", "sub/deep/d")
	r.scan()
	if r.count() != 5 {
		t.Errorf("told again: %q", r.paths())
	}
	r.write("a", "another")
	r.scan()
	if p := r.paths(); len(p) != 6 || p[5] != "a" {
		t.Errorf("a new version was not told: %q", p)
	}
	if f := r.told[5]; f.Size != 7 || f.Ino == 0 || f.Mode != 0o644 || f.MTime.IsZero() || f.CTime.IsZero() {
		t.Errorf("%+v", f)
	}
}

func TestFolderThatIsGoneIsNoEmptyFolder(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.write("a", "a")
	if err := os.Rename(r.dir, r.dir+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.dir + ".away") })
	if _, err := r.w.Scan(context.Background(), r.found); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("moved away: %v", err)
	}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := r.w.Scan(context.Background(), r.found); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("another one: %v", err)
	}
	if r.count() != 0 {
		t.Errorf("told %q", r.paths())
	}
}

func TestRunTellsWhatAppears(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.write("before", "1")
	r.run()
	until(t, "what was there is told", func() bool { return r.count() == 1 })
	r.write("after", "22")
	until(t, "a new file is told", func() bool { return r.count() == 2 })
	r.write("new/folder/file", "333")
	until(t, "a file in new folders is told", func() bool { return r.count() == 3 })
	r.write("new/folder/second", "4444")
	until(t, "and one that follows it", func() bool { return r.count() == 4 })
	equal(t, r.paths(), "before", "after", "new/folder/file", "new/folder/second")
}

func TestFileThatIsOpenIsIncomplete(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.run()
	f, err := os.Create(filepath.Join(r.dir, "open"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	until(t, "it is counted", func() bool { n, b := r.w.Incomplete(); return n == 1 && b == 4 })
	time.Sleep(3 * r.w.settle) // nothing to wait for: it must not be told
	if r.count() != 0 {
		t.Fatalf("told while it is open")
	}
	f.Close()
	until(t, "it is told once it is closed", func() bool { return r.count() == 1 })
	until(t, "nothing is incomplete", func() bool { n, _ := r.w.Incomplete(); return n == 0 })
}
