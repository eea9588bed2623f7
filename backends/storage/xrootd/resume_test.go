//go:build xrdcl && cgo

package xrootd

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// goOn writes data from an offset on, until the server has it all or the connection breaks.
func goOn(t *testing.T, u backends.Upload, data []byte, off int64) error {
	t.Helper()
	for off < int64(len(data)) {
		n, err := u.Write(data[off:min(off+1<<20, int64(len(data)))])
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return backends.Flush(t.Context(), u)
}

// An upload whose server dies in the midst, and in the last writes, goes on from where the server has it. What became of the file meanwhile is seen:
// less of it goes once more, and a file with other bytes is none.
func TestUploadGoesOnAfterABreak(t *testing.T) {
	const size = 48 << 20
	data := backendstest.Bytes(12, size)
	for what, harm := range map[string]func(tmp string) error{
		"nothing":   func(string) error { return nil },
		"cut short": func(tmp string) error { return os.Truncate(tmp, 5<<20+1) },
		"removed":   os.Remove,
		"spoilt": func(tmp string) error {
			f, err := os.OpenFile(tmp, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("other"), 1000)
				err = errors.Join(err, f.Close())
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			srv := servertest.XRootD(t, servertest.XRootDOptions{})
			s := storage(t, Options{URL: folder(t, srv, srv.Root), Timeout: 5 * time.Second})
			u, err := s.Create(t.Context(), "f", size)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			if err := goOn(t, u, data[:size/2], 0); err != nil {
				t.Fatal(err)
			}
			found, _ := filepath.Glob(filepath.Join(srv.Path("data"), "rse*", uploads, "*"))
			if len(found) != 1 {
				t.Fatalf("unfinished: %q", found)
			}
			// All of the half is there. The writes of what follows fail, after more or fewer of them.
			srv.Kill()
			if err := goOn(t, u, data, size/2); !backends.IsTemporary(err) {
				t.Fatalf("to a dead server: %v", err)
			}
			if _, err := backends.Resume(t.Context(), u); !backends.IsTemporary(err) {
				t.Errorf("gone on with a dead server: %v", err)
			}
			if err := harm(found[0]); err != nil {
				t.Fatal(err)
			}
			srv.Start()
			var off int64
			eventually(t, "go on", func() bool {
				off, err = backends.Resume(t.Context(), u)
				return err == nil
			})
			if want := map[string]int64{"nothing": size / 2, "spoilt": size / 2, "cut short": 5<<20 + 1}[what]; off != want {
				t.Errorf("it goes on at %d, want %d", off, want)
			}
			if err := goOn(t, u, data, off); err != nil {
				t.Fatal(err)
			}
			_, err = u.Commit(t.Context(), backendstest.Sums(data))
			if what == "spoilt" {
				wantErr(t, "commit", err, backends.ErrCorrupt)
				if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrNotExist) {
					t.Errorf("it is visible: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			found, _ = filepath.Glob(filepath.Join(srv.Path("data"), "rse*", "f"))
			if len(found) != 1 {
				t.Fatalf("%q", found)
			}
			if b, err := os.ReadFile(found[0]); err != nil || !bytes.Equal(b, data) {
				t.Errorf("it is another file: %d bytes, %v", len(b), err)
			}
		})
	}
}
