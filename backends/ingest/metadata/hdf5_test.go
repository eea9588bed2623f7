package metadata

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"tarn/backends"
)

// debian is the Python for which setup installs h5py and PyTables.
const debian = "/usr/bin/python3"

// needH5Py skips a test where there is no h5py, which is a failure in CI.
func needH5Py(t *testing.T) {
	t.Helper()
	if out, err := exec.Command(debian, "-c", "import h5py, tables").CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("h5py and PyTables are missing (make setup): %v\n%s", err, out)
		}
		t.Skipf("h5py and PyTables are missing: %s", out)
	}
}

// python runs a program in a folder.
func python(t *testing.T, dir, program string) {
	t.Helper()
	cmd := exec.Command(debian, "-c", program)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func opened(t *testing.T, path string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, st.Size()
}

// Attributes are read of files as h5py and PyTables write them: in old and new formats, few and many, behind a block of the user's.
func TestHDF5Attributes(t *testing.T) {
	needH5Py(t)
	dir := t.TempDir()
	python(t, dir, `
import h5py, numpy as np, tables
for version in ('earliest', 'latest'):
    for n in (0, 50):
        with h5py.File(f'{version}-{n}.h5', 'w', libver=version, userblock_size=1024 if n else 0) as f:
            f.attrs['OBS_ID'] = 12345678901234567
            f.attrs['TELESCOP'] = 'LST-1'
            f.attrs['FIXED'] = np.bytes_('abc')
            f.attrs['TSTART'] = 1.5
            f.attrs['SINGLE'] = np.float32(2.5)
            f.attrs['BIG'] = np.array([7], dtype='>i8')
            f.attrs['NAME'] = 'Größe'
            f.attrs['OK'] = True
            f.attrs['other'] = 1
            for i in range(n):
                f.attrs[f'K{i}'] = i
            f.create_group('dl1/event').create_dataset('x', data=np.arange(1000))
with tables.open_file('tables.h5', 'w') as t:
    a = t.root._v_attrs
    a.OBS_ID, a.TELESCOP, a.FIXED, a.TSTART, a.SINGLE, a.BIG, a.NAME, a.OK = np.int64(12345678901234567), 'LST-1', 'abc', 1.5, np.float32(2.5), np.int64(7), 'Größe', np.bool_(True)
`)
	h := NewH5Py("/nowhere/python", debian)
	defer h.Close()
	rules := Default()
	rules.HDF5 = map[string]string{"MISSING": "missing"}
	want := backends.Meta{}
	for name, v := range map[string]any{"OBS_ID": num("12345678901234567"), "TELESCOP": "LST-1", "FIXED": "abc", "TSTART": num("1.5"), "SINGLE": num("2.5"), "BIG": num("7"), "NAME": "Größe", "OK": true} {
		rules.HDF5[name] = "h_" + strings.ToLower(name)
		want["h_"+strings.ToLower(name)] = v
	}
	x, err := rules.Compile()
	if err != nil {
		t.Fatal(err)
	}
	x = x.WithHDF5(h.Attributes)
	files, _ := filepath.Glob(dir + "/*.h5")
	if len(files) != 5 {
		t.Fatal(files)
	}
	for _, p := range files {
		f, size := opened(t, p)
		if want["h_ok"] = true; filepath.Base(p) == "tables.h5" {
			want["h_ok"] = num("1") // PyTables has no truths in attributes
		}
		if got, err := x.Extract("run.h5", f, size, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v, want %v", filepath.Base(p), got, err, want)
		}
	}
}

// What is no scalar is told of, and what is broken costs nothing but itself: the next file is read.
func TestHDF5Faults(t *testing.T) {
	needH5Py(t)
	dir := t.TempDir()
	python(t, dir, `
import h5py, numpy as np
with h5py.File('odd.h5', 'w') as f:
    f.attrs['OBS_ID'], f.attrs['LIST'], f.attrs['EMPTY'], f.attrs['NAN'], f.attrs['BYTES'] = 1, [1, 2], h5py.Empty('f'), float('nan'), np.bytes_(b'\xff\xfe')
with h5py.File('good.h5', 'w') as f:
    f.attrs['OBS_ID'] = 2
whole = open('good.h5', 'rb').read()
open('cut.h5', 'wb').write(whole[:600])
open('spoilt.h5', 'wb').write(whole[:96] + bytes(255 for _ in whole[96:]))
`)
	h := NewH5Py(debian)
	defer h.Close()
	names := []string{"BYTES", "EMPTY", "LIST", "NAN", "OBS_ID"}
	read := func(name string) (map[string]any, error) {
		f, size := opened(t, filepath.Join(dir, name))
		return h.Attributes(f, size, names)
	}
	got, err := read("odd.h5")
	if err == nil || len(got) != 1 || got["OBS_ID"] != num("1") {
		t.Errorf("%v, %v", got, err)
	}
	for _, name := range names[:4] {
		if err != nil && !strings.Contains(err.Error(), "attribute "+name+": ") {
			t.Errorf("nothing is said of %s: %v", name, err)
		}
	}
	for _, bad := range []string{"cut.h5", "spoilt.h5"} {
		if got, err := read(bad); err == nil || len(got) > 0 {
			t.Errorf("%s: %v, %v", bad, got, err)
		}
	}
	if got, err := read("good.h5"); err != nil || got["OBS_ID"] != num("2") {
		t.Errorf("after broken ones: %v, %v", got, err)
	}
	// One that dies, and one that says nothing, are another one the next time.
	h.proc.cmd.Process.Kill()
	if _, err := read("good.h5"); err == nil {
		t.Error("a dead process answered")
	}
	if got, err := read("good.h5"); err != nil || got["OBS_ID"] != num("2") {
		t.Errorf("after a death: %v, %v", got, err)
	}
	if _, err := h.Attributes(strings.NewReader(""), 0, names); !errors.Is(err, backends.ErrNotSupported) {
		t.Errorf("what is no file: %v", err)
	}
	pid := h.proc.cmd.Process
	h.Close()
	if err := pid.Signal(os.Interrupt); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the process is there after the end: %v", err)
	}
	if _, err := read("good.h5"); !errors.Is(err, backends.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A Python that is mute, that ends, that floods, or has no h5py costs a bounded time, and is told of.
func TestHDF5NoReader(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, size := opened(t, filepath.Join(dir, "f"))
	none := NewH5Py(filepath.Join(dir, "none"), script("mute", "exec sleep 1000"), script("ends", "exit 3"), script("other", `echo '{"ready": false}'`))
	none.within = 100 * time.Millisecond
	defer none.Close()
	for range 2 {
		if _, err := none.Attributes(f, size, []string{"A"}); !errors.Is(err, ErrNoReader) {
			t.Errorf("got %v", err)
		}
	}
	for name, text := range map[string]string{
		"is mute":   `echo '{"ready": true}'; exec sleep 1000`,
		"floods":    `echo '{"ready": true}'; exec cat /dev/zero`,
		"is no one": `echo '{"ready": true}'; read x; echo nonsense`,
	} {
		h := NewH5Py(script(strings.ReplaceAll(name, " ", "-"), text))
		h.within = 2 * time.Second
		if a, err := h.Attributes(f, size, []string{"A"}); err == nil || errors.Is(err, ErrNoReader) || len(a) > 0 {
			t.Errorf("one that %s: %v, %v", name, a, err)
		}
		h.Close()
	}
}
