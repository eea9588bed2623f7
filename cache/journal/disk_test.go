package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tarn/integration/needed"
)

// mountExt4 gives a small ext4 of its own on a loop device, and what mounts it again.
func mountExt4(t *testing.T, megabytes int64) (dir string, again func()) {
	t.Helper()
	needed.Root(t)
	top := t.TempDir()
	image, dir := filepath.Join(top, "image"), filepath.Join(top, "mnt")
	run := func(name string, arg ...string) error {
		out, err := exec.Command(name, arg...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	}
	err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, megabytes<<20), os.Mkdir(dir, 0o700))
	if err == nil {
		err = run("mkfs.ext4", "-q", image)
	}
	if err == nil {
		err = run("mount", "-o", "loop", image, dir)
	}
	if err != nil {
		needed.Missing(t, "no loop mount: %v", err)
	}
	t.Cleanup(func() { run("umount", dir) })
	return dir, func() {
		t.Helper()
		if err := run("umount", dir); err != nil {
			t.Fatal(err)
		}
		if err := run("mount", "-o", "loop", image, dir); err != nil {
			t.Fatal(err)
		}
	}
}

func mountTmpfs(t *testing.T, megabytes int64) string {
	t.Helper()
	needed.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		needed.Missing(t, "no tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// On a full disk what was written can still be sealed and brought further; what is new is
// refused with ENOSPC and leaves nothing; all is well once there is space again.
func TestFullDisk(t *testing.T) {
	for name, mount := range map[string]func(*testing.T) string{
		"ext4":  func(t *testing.T) string { dir, _ := mountExt4(t, 32); return dir },
		"tmpfs": func(t *testing.T) string { return mountTmpfs(t, 16) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := mount(t)
			j := open(t, testOptions(filepath.Join(dir, "j")))
			var list []*Entry
			for i := range 20 {
				e := create(t, j, fmt.Sprint("content ", i))
				if i%2 == 0 {
					seal(t, e)
				}
				list = append(list, e)
			}
			fill := filepath.Join(dir, "fill")
			f, err := os.Create(fill)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for size := 1 << 20; size > 0; {
				if _, err := f.Write(make([]byte, size)); err != nil {
					if !errors.Is(err, unix.ENOSPC) {
						t.Fatal(err)
					}
					size /= 2
				}
				f.Sync()
			}
			before := names(t, j.dir)

			if e, err := j.Create(Record{}); err == nil {
				// A record needs blocks, so this cannot be.
				t.Error("created on a full disk:", e.ID())
			} else if !errors.Is(err, unix.ENOSPC) {
				t.Error(err)
			}
			for _, e := range list {
				if _, err := e.WriteAt(make([]byte, 8<<20), 1<<20); !errors.Is(err, unix.ENOSPC) {
					t.Errorf("write: %v", err)
				}
			}
			if err := j.PutIntent("note", make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("intent: %v", err)
			}
			for i, e := range list {
				r := seal(t, e)
				for n := range 6 {
					if err := e.Update(func(r *Record) { r.Attempts = n; r.Error = "no route to host" }); err != nil {
						t.Fatal(err)
					}
				}
				if got := make([]byte, len(fmt.Sprint("content ", i))); r.Size < int64(len(got)) {
					t.Fatalf("%+v", r)
				} else if e.ReadAt(got, 0); string(got) != fmt.Sprint("content ", i) {
					t.Fatalf("%q", got)
				}
			}
			if after := names(t, j.dir); !slices.Equal(before, after) {
				t.Errorf("left behind: %q, was %q", after, before)
			}
			j = open(t, crash(t, j)) // also a restart works on a full disk
			if n, _ := j.Usage(); n != len(list) {
				t.Fatal(n)
			}
			for _, e := range j.Entries() {
				if err := e.Verify(); err != nil {
					t.Fatal(err)
				}
			}
			if err := j.Entries()[0].Remove(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(fill); err != nil {
				t.Fatal(err)
			}
			f.Close()
			seal(t, create(t, j, "works again"))
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Join(dir, "intents"), filepath.Join(dir, "orphans")} {
		list, err := os.ReadDir(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			out = append(out, e.Name())
		}
	}
	return out
}

// A real file system that goes down without writing its log: what was acknowledged is
// there when it is mounted again.
func TestExt4Shutdown(t *testing.T) {
	dir, again := mountExt4(t, 64)
	o := testOptions(filepath.Join(dir, "j"))
	type kept struct {
		sealed bool
		bytes  []byte
	}
	acked := map[string]kept{}
	intents := map[string]string{}
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 1))
	for round := range 3 {
		j := open(t, o)
		for range 40 {
			e := create(t, j, "")
			p := bytes.Repeat([]byte(e.ID()), 1+rnd.IntN(2000))
			write(t, e, string(p), 0)
			switch rnd.IntN(4) {
			case 0:
				if err := e.Sync(); err != nil {
					t.Fatal(err)
				}
				acked[e.ID()] = kept{false, p}
			case 1:
				seal(t, e)
				acked[e.ID()] = kept{true, p}
			case 2:
				seal(t, e)
				acked[e.ID()] = kept{true, p}
				write(t, e, "appended and never synced", int64(len(p)))
			}
			name := fmt.Sprint(rnd.IntN(5))
			if err := j.PutIntent(name, []byte(e.ID())); err != nil {
				t.Fatal(err)
			}
			intents[name] = e.ID()
		}
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		const ext4Shutdown, noLogFlush = 0x8004587d, 2
		if err := unix.IoctlSetPointerInt(int(d.Fd()), ext4Shutdown, noLogFlush); err != nil {
			needed.Missing(t, "shut an ext4 down: %v", err)
		}
		d.Close()
		if _, err := j.Create(Record{}); err == nil {
			t.Fatal("the file system is still up")
		}
		crash(t, j)
		again()

		j = open(t, o)
		for id, want := range acked {
			e, ok := j.Entry(id)
			if !ok {
				t.Fatalf("round %d: %s is lost", round, id)
			}
			if got := content(t, e); got != string(want.bytes) {
				t.Fatalf("round %d: %s has %d bytes, acknowledged were %d (sealed: %v)", round, id, len(got), len(want.bytes), want.sealed)
			}
			if r := e.Record(); want.sealed && (r.State != Sealed || r.Recovered) {
				t.Fatalf("round %d: %+v", round, r)
			}
			if err := e.Verify(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := j.Intents()
		if err != nil {
			t.Fatal(err)
		}
		for n, v := range intents {
			if string(got[n]) != v {
				t.Fatalf("round %d: intent %s is %q, not %q", round, n, got[n], v)
			}
		}
		t.Logf("round %d: %d files of %d entries were acknowledged", round, len(acked), len(j.Entries()))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
