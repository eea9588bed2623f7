package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarn/backends"
)

// backupOf gives a backup and the records in it.
func backupOf(t *testing.T, c *Catalogue) (file []byte, records map[string]string) {
	t.Helper()
	var b bytes.Buffer
	made, err := c.Backup(t.Context(), &b, "home")
	if err != nil {
		t.Fatal(err)
	}
	records = map[string]string{}
	read, err := ReadBackup(bytes.NewReader(b.Bytes()), func(k, v []byte) error { records[string(k)] = string(v); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if read != made || read.Lake != "home" || read.Records != int64(len(records)) {
		t.Errorf("made %+v, read %+v, %d records", made, read, len(records))
	}
	return b.Bytes(), records
}

// everything puts one record of most kinds into a lake.
func everything(t *testing.T, c *Catalogue) {
	t.Helper()
	ctx := t.Context()
	if err := c.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "ctao", Name: "/ctao"}, Type: backends.Container}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Import(ctx, benchLake(damageFiles)); err != nil {
		t.Fatal(err)
	}
}

func TestBackupAndRestore(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	everything(t, c)
	file, records := backupOf(t, c)
	files, size := c.Usage()
	if files == 0 {
		t.Fatal("the lake has no files")
	}

	dir := t.TempDir()
	o := small(Options{Dir: dir})
	done, err := Restore(t.Context(), o, bytes.NewReader(file), false)
	if err != nil || done.Aside != "" || done.Files != files {
		t.Fatalf("%+v, %v", done, err)
	}
	back, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if f, s := back.Usage(); f != files || s != size {
		t.Errorf("restored %d files, %d bytes; want %d, %d", f, s, files, size)
	}
	if err := back.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	checkRecords(t, back)
	_, again := backupOf(t, back)
	for k, v := range records {
		if k != string(countersKey()) && again[k] != v {
			t.Fatalf("record %x differs", k)
		}
	}
	if len(again) != len(records) {
		t.Errorf("%d records of %d", len(again), len(records))
	}
	was := back.count
	if err := back.Close(); err != nil {
		t.Fatal(err)
	}
	if was.nextInode < restoreGap || was.sequence < restoreGap {
		t.Errorf("numbers are given again: %+v", was)
	}

	// Over a catalogue that knows files.
	if _, err := Restore(t.Context(), o, bytes.NewReader(file), false); !errors.Is(err, backends.ErrExist) {
		t.Errorf("over %d files: %v", files, err)
	}
	done, err = Restore(t.Context(), o, bytes.NewReader(file), true)
	if err != nil || done.Aside == "" {
		t.Fatalf("with force: %+v, %v", done, err)
	}
	if old := open(t, Options{Dir: done.Aside, MustExist: true}); old.count != was {
		t.Errorf("aside lies %+v, and it was %+v", old.count, was)
	}
	if _, err := os.Stat(filepath.Join(dir, "restoring")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the restore is left: %v", err)
	}
	// While somebody has it.
	held := open(t, Options{Dir: dir, MustExist: true})
	if _, err := Restore(t.Context(), o, bytes.NewReader(file), true); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("an open catalogue: %v", err)
	}
	checkRecords(t, held)
}

// A catalogue that cannot be read is replaced with force, and kept.
func TestRestoreOverDamage(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	everything(t, c)
	file, _ := backupOf(t, c)
	dir := damageLake(t, false)
	if err := os.WriteFile(filepath.Join(dir, "db", "MANIFEST"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := small(Options{Dir: dir})
	if _, err := Restore(t.Context(), o, bytes.NewReader(file), false); !errors.Is(err, backends.ErrExist) {
		t.Errorf("without force: %v", err)
	}
	before, no := dirNames(t, dir), errors.New("no")
	o.Replacing = func() error { return no }
	if _, err := Restore(t.Context(), o, bytes.NewReader(file), true); !errors.Is(err, no) || !slices.Equal(dirNames(t, dir), before) {
		t.Errorf("what was to be done before failed: %v, %v was there, %v is", err, before, dirNames(t, dir))
	}
	o.Replacing = nil
	if _, err := Restore(t.Context(), o, bytes.NewReader(file), true); err != nil {
		t.Fatal(err)
	}
	checkRecords(t, open(t, Options{Dir: dir, MustExist: true}))
}

// No change of a backup goes unnoticed, and none touches what is there.
func TestDamagedBackups(t *testing.T) {
	c := open(t, Options{InMemory: true})
	everything(t, c)
	whole, _ := backupOf(t, c)
	dir := damageLake(t, false)
	before := dirNames(t, dir)
	change := func(at int, to byte) []byte {
		b := slices.Clone(whole)
		b[at] ^= to
		return b
	}
	bad := map[string][]byte{"empty": nil, "longer": append(slices.Clone(whole), 0), "other": []byte(strings.Repeat("x", 5000))}
	for i := 1; i <= 20; i++ {
		at := i * (len(whole) - 1) / 20
		bad[fmt.Sprintf("cut at %d", at)] = whole[:at]
		bad[fmt.Sprintf("flip at %d", at)] = change(at, 1<<(i%8))
	}
	for name, b := range bad {
		_, err := Restore(t.Context(), small(Options{Dir: dir}), bytes.NewReader(b), true)
		if !errors.Is(err, backends.ErrCorrupt) && !errors.Is(err, backends.ErrVersion) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := dirNames(t, dir); !slices.Equal(after, before) {
		t.Errorf("%v became %v", before, after)
	}
}

func dirNames(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// A backup is one moment, whatever is written meanwhile, and an error of where it goes
// to ends it.
func TestBackupWhileOthersWrite(t *testing.T) {
	c := open(t, Options{InMemory: true})
	everything(t, c)
	files, _ := c.Usage()
	r, w := io.Pipe()
	go func() {
		_, err := c.Backup(context.Background(), w, "home")
		w.CloseWithError(err)
	}()
	seen := 0
	info, err := ReadBackup(r, func(k, _ []byte) error {
		if seen++; seen == 10 { // the rest has not been read
			return c.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: "zz", Name: "/zz"}, Type: backends.Container})
		}
		if string(k) == string(entryKey(0, "zz")) {
			t.Error("a later record is in it")
		}
		return nil
	})
	if err != nil || info.Files != files {
		t.Errorf("%+v, %v", info, err)
	}
	r, w = io.Pipe()
	r.CloseWithError(io.ErrClosedPipe)
	if _, err := c.Backup(t.Context(), w, "home"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a reader that has gone: %v", err)
	}
}
