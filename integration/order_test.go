package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/backends/tape/library"
)

// TestTapeOrder reads a dataset whose files lie on four cartridges, in turn, so that name
// order is the worst order: by a plain loop, by a stage before it, and with one request
// a file, as a client that knows no better makes them. It prints what each costs the
// library.
func TestTapeOrder(t *testing.T) {
	t.Parallel()
	files := 500
	if testing.Short() {
		files = 120
	}
	s := newSite(t, keepEnds+tapeWith("drives: 2, cartridges: 4, cartridge_size: 64M, buffer: 256M, speed: 100000x, spread: true"))
	s.mount()
	all := map[string]int{}
	for i := range files {
		all[fmt.Sprintf("run%04d.fits", i)] = 30000 + i
	}
	src := folder(t, all)
	s.ok("import", src, "/ctao/dl3/set", "--rse", "PIC-TAPE")
	s.taped("/ctao/dl3/set")
	loop := "cd ctao/dl3/set; for f in *; do md5sum $f; done >" + filepath.Join(t.TempDir(), "sums")
	measure := func(what string, f func()) tapeWork {
		t.Helper()
		s.ok("evict", "/ctao/dl3/set")
		before, began := s.tape(), time.Now()
		f()
		w := s.tape().minus(before)
		t.Logf("%-28s %v (%v here)", what+":", w, time.Since(began).Round(10*time.Millisecond))
		if int(w.Staged) != files {
			t.Errorf("%s: %d files read from tape, want %d", what, w.Staged, files)
		}
		return w
	}
	plain := measure("plain loop", func() { s.sh(loop) })
	staged := measure("tarn stage --wait, then loop", func() {
		s.ok("stage", "--wait", "/ctao/dl3/set")
		s.sh(loop)
	})
	crowd := measure("20 processes, random order", func() {
		s.sh("cd ctao/dl3/set; ls | shuf --random-source=<(yes) | xargs -P 20 -n 1 md5sum >/dev/null")
	})
	s.ok("evict", "/ctao/dl3/set")
	var pfns []string
	for _, r := range s.rows("replicas", "/ctao/dl3/set") {
		pfns = append(pfns, fmt.Sprint(r["path"], "\n", r["pfn"]))
	}
	slices.Sort(pfns)
	s.umount()
	single := oneByOne(t, filepath.Join(s.dir, "rse/PIC-TAPE"), pfns)
	t.Logf("%-28s %v", "one request per file:", single)
	if int(single.Staged) != files {
		t.Errorf("one request per file: %d files read from tape, want %d", single.Staged, files)
	}
	for what, w := range map[string]tapeWork{"plain loop": plain, "stage": staged} {
		if w.Mounts*5 > single.Mounts || w.TapeTime*5 > single.TapeTime {
			t.Errorf("%s: %v; one request per file: %v; want a fifth at most", what, w, single)
		}
	}
	// How soon a crowd is one depends on how fast processes start, in a tape time that runs
	// 100,000 times as fast.
	if crowd.Mounts*2 > single.Mounts || crowd.TapeTime*2 > single.TapeTime || crowd.Requests > int64(files)/4 {
		t.Errorf("crowd: %v; one request per file: %v; want half at most", crowd, single)
	}
	if staged.Mounts > 4 || staged.Requests != 1 {
		t.Errorf("stage: %v; want one request, and one mount for each of 4 cartridges", staged)
	}
}

// oneByOne recalls each file by a request of its own, in the order of the names.
func oneByOne(t *testing.T, dir string, pfns []string) tapeWork {
	t.Helper()
	lib, err := library.Open(library.Options{Dir: dir, Drives: 2, Cartridges: 4, CartridgeSize: 64 << 20, BufferSize: 256 << 20, Speed: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, p := range pfns {
		_, pfn, _ := strings.Cut(p, "\n")
		id, err := lib.Stage(ctx, pfn)
		if err != nil {
			t.Fatal(err)
		}
		for {
			st, err := lib.Poll(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			if st[0].Phase.Ended() {
				if st[0].Error != "" {
					t.Fatal(st[0].Error)
				}
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		if err := lib.Release(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	st := lib.Stats()
	return tapeWork{Mounts: st.Mounts, Requests: st.Requests, Staged: st.Staged, TapeTime: st.TapeTime}
}
