package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCrab is a user's first day with real data: import to tape, read all through the
// mount, read again, give the copies back, and look around without a recall (R1, R7).
func TestCrab(t *testing.T) {
	t.Parallel()
	dayOnTape(t, crab(t))
}

// TestGeneratedFITS is the same with what tarn demo-data makes.
func TestGeneratedFITS(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	needTools(t, "rsync", "file")
	s := &site{t: t}
	s.ok("demo-data", dir)
	dayOnTape(t, dir)
}

func dayOnTape(t *testing.T, src string) {
	needTools(t, "rsync", "file")
	want := tree(t, src)
	if len(want) == 0 {
		t.Fatalf("no files in %s", src)
	}
	s := newSite(t, keepEnds)
	s.mount()
	s.onTape(src, "/ctao/dl3/crab")
	at := s.path("ctao/dl3/crab")
	check := func(pass string) {
		t.Helper()
		got := tree(t, at)
		if len(got) != len(want) {
			t.Fatalf("%s: %d files, the source has %d", pass, len(got), len(want))
		}
		for name, sum := range want {
			if got[name] != sum {
				t.Errorf("%s: %s differs from the source", pass, name)
			}
		}
	}
	check("first pass")
	first := s.recalled()
	t.Logf("first pass: %d files have the checksum of the source, %d recalled, %d bulk requests, %v", len(want), first, s.lakeStat("bulk_requests"), s.tape())
	if first == 0 || first > len(want) {
		t.Errorf("%d files recalled by the first pass over %d", first, len(want))
	}
	check("second pass")
	if n := s.recalled() - first; n != 0 {
		t.Errorf("the second pass recalled %d files", n)
	}
	t.Logf("second pass: %d recalled", s.recalled()-first)

	s.ok("evict", "/ctao/dl3/crab")
	near := 0
	for _, e := range s.rows("ls", "-lR", "/ctao/dl3/crab") {
		if e["locality"] == "NEARLINE" {
			near++
		}
	}
	if near < first*9/10 {
		t.Fatalf("%d of %d recalled files are NEARLINE after evict", near, first)
	}
	before := s.recalled()
	empty := t.TempDir()
	for _, script := range []string{
		`ls -lR ctao/dl3/crab >/dev/null`,
		`find ctao/dl3/crab -type f -size +0 >/dev/null`,
		`du -s ctao/dl3/crab; du -sb ctao/dl3/crab`,
		`find ctao/dl3/crab -type f -print0 | xargs -0 wc -c | tail -1`,
		`rsync -n -a ctao/dl3/crab/ ` + empty + `/`,
		`rsync -n -ai ctao/dl3/crab/ ` + src + `/`,
		`find ctao/dl3/crab -type f -print0 | xargs -0 file | grep -c FITS`,
		`find ctao/dl3/crab -name '*.fits*' -print0 | xargs -0 -n1 head -c 2880 | wc -c`,
		`find ctao/dl3/crab -type f -print0 | xargs -0 -n1 tail -c 100 >/dev/null`,
		`find ctao/dl3/crab -type f -print0 | xargs -0 touch -d 2020-01-01`,
		`find ctao/dl3/crab -type f -print0 | xargs -0 getfattr -d >/dev/null`,
		`tar -C ctao/dl3/crab -cf /dev/null .`,
	} {
		was := s.recalled()
		out := s.sh(script)
		n := s.recalled() - was
		t.Logf("%d recalled by: %s  # %s", n, strings.ReplaceAll(script, src, "SOURCE"), lastLines(strings.TrimSpace(out), 1))
		if n != 0 {
			t.Errorf("%d recalled by: %s", n, script)
		}
	}
	for name := range want {
		headOf(t, filepath.Join(at, name))
	}
	if n := s.recalled() - before; n != 0 {
		t.Errorf("%d recalled by all of these over %d nearline files", n, near)
	}
	t.Logf("recalled by all of these and by reading every header, over %d nearline files: %d", near, s.recalled()-before)
	check("third pass")
	if n := s.recalled() - before; n != near {
		t.Errorf("the third pass recalled %d of %d nearline files", n, near)
	}
}

// headOf reads one FITS block from the start, as header readers do.
func headOf(t *testing.T, p string) {
	t.Helper()
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 2880)
	n, err := f.Read(b)
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	if strings.HasSuffix(p, ".fits") && !bytes.HasPrefix(b[:n], []byte("SIMPLE  =")) {
		t.Errorf("%s begins with %q", p, b[:20])
	}
}

// TestHeaders reads the ends of larger nearline files with the default sizes, in the ways
// that readers of headers have: one block, a buffer of the libraries, the last block.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newSite(t, "cache: {block: 1M, head: 1M, tail: 1M}\n")
	s.mount()
	files := map[string]int{}
	for i := range 6 {
		files[fmt.Sprintf("run%d.fits", i)] = 4<<20 + i*2880
	}
	files["aligned.fits"] = 4 << 20
	src := folder(t, files)
	s.onTape(src, "/ctao/dl3/big")
	for name, size := range files {
		p := s.path("ctao/dl3/big", name)
		headOf(t, p)
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []struct {
			off int64
			n   int
		}{{0, 64 << 10}, {0, 512 << 10}, {int64(size) - 2880, 2880}, {int64(size) - 4096, 4096}} {
			if _, err := f.ReadAt(make([]byte, at.n), at.off); err != nil {
				t.Errorf("%s: %d bytes at %d: %v", name, at.n, at.off, err)
			}
		}
		f.Close()
	}
	s.sh("wc -c ctao/dl3/big/*; file ctao/dl3/big/*; python3 -c 'import glob; [open(f, \"rb\").read(2880) for f in glob.glob(\"ctao/dl3/big/*\")]'")
	if n := s.recalled(); n != 0 {
		t.Errorf("%d recalled by readers of headers", n)
	}
}
