package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// flipOneBit changes the bit in the middle of a file.
func flipOneBit(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], st.Size()/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 8
	if _, err := f.WriteAt(b[:], st.Size()/2); err != nil {
		t.Fatal(err)
	}
}

// One bit that is wrong in any file of the hot cache is found by a scrub, with a daemon and
// without, and no reader ever gets it.
func TestScrubFindsOneBitAnywhere(t *testing.T) {
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	want := map[string]string{}
	for _, n := range []string{"a", "b", "c"} {
		want[n] = strings.Repeat("line of "+n+"\n", 5000)
		if err := os.WriteFile(s.path("ctao", n), []byte(want[n]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.drain()
	fetch := func() {
		t.Helper()
		for n, w := range want {
			if got := s.ok("cat", "/ctao/"+n); got != w {
				t.Errorf("%s has %d bytes that are not its %d", n, len(got), len(w))
			}
			s.ok("stage", "--wait", "/ctao/"+n)
		}
	}
	scrub := func() (code int, damaged, index []string) {
		t.Helper()
		r := s.try("cache", "scrub", "--json")
		var got struct{ Damaged, Index []string }
		if err := json.Unmarshal([]byte(r.out), &got); err != nil {
			t.Fatalf("%v\n%s%s", err, r.out, r.err)
		}
		return r.code, got.Damaged, got.Index
	}
	for _, up := range []bool{true, false} {
		if !up {
			s.umount()
		}
		fetch()
		files, err := filepath.Glob(filepath.Join(s.cache, "?/?/*"))
		if err != nil || len(files) < 6 {
			t.Fatalf("the cache has the files %v, %v", files, err)
		}
		for _, f := range files {
			flipOneBit(t, f)
			code, damaged, index := scrub()
			isData := strings.HasSuffix(f, ".dat")
			if code != 13 || isData && (len(damaged) != 1 || len(index) != 0) || !isData && (len(damaged) != 0 || len(index) != 1 || index[0] != f) {
				t.Errorf("daemon %v, %s: exit %d, damaged %v, index %v", up, filepath.Base(f), code, damaged, index)
			}
			if code, damaged, index := scrub(); code != 0 {
				t.Errorf("daemon %v, %s, once more: exit %d, %v, %v", up, filepath.Base(f), code, damaged, index)
			}
			fetch()
		}
	}
}
