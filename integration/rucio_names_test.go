package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tarn/backends/servertest"
)

// TestRucioListingCalls counts the calls of programs that list a large dataset: who reads names costs one stream, and who wants the times of the
// files one call more for each thousand, and not one a file.
func TestRucioListingCalls(t *testing.T) {
	const n = 3000
	g := newRucio(t, servertest.RucioOptions{})
	one, _ := g.folderDisk()
	g.many(one, "set", n)
	c := countCalls(t, g.r.URL)
	g.lake(one, "  url: "+c.url+"\n", "")
	t.Setenv("TARN_CATALOGUE_TTL", "10m")
	g.mount()
	g.sh("ls " + g.path(g.scope)) // what is asked for once
	dir := g.path(g.scope, "set")
	costs := func(what string, rows int, f func()) {
		t.Helper()
		c.taken()
		f()
		_, by := c.taken()
		t.Logf("%s: %v", what, by)
		if got := by["POST /dids bulkmeta"]; got > rows {
			t.Errorf("%s asked for rows %d times, want %d at most: %v", what, got, rows, by)
		}
		if got := by["GET /dids dids"]; got > 2 {
			t.Errorf("%s asked for the content %d times: %v", what, got, by)
		}
	}
	costs("find", 1, func() {
		if got := strings.Count(g.sh("find "+dir+" -type f"), "\n"); got != n {
			t.Errorf("find tells %d files", got)
		}
	})
	costs("the names again", 0, func() {
		if got := strings.Count(g.sh("ls -U "+dir), "\n"); got != n {
			t.Errorf("ls -U tells %d files", got)
		}
	})
	today := time.Now().UTC().Year()
	costs("ls -l", n/1000+3, func() {
		lines := strings.Split(strings.TrimSpace(g.sh("TZ=UTC ls -l --time-style=+%Y "+dir)), "\n")[1:]
		if len(lines) != n {
			t.Fatalf("ls -l tells %d files", len(lines))
		}
		for i, line := range lines {
			f := strings.Fields(line)
			if f[4] != fmt.Sprint(i+1) || f[5] != fmt.Sprint(today) || f[6] != fmt.Sprintf("f%05d", i) {
				t.Fatalf("line %d of ls -l is %q", i, line)
			}
		}
	})
	costs("ls -l again", 0, func() { g.sh("ls -l " + dir) })
	g.umount()
}

// many makes a dataset of n files of 1, 2 and so on bytes, which are registered and not there.
func (g *rucioRig) many(rse, dataset string, n int) {
	g.t.Helper()
	g.rucio("did", "add", "--type", "dataset", g.scope+":"+dataset)
	for from := 0; from < n; from += 1000 {
		var files, dids []map[string]any
		for i := from; i < min(n, from+1000); i++ {
			name := fmt.Sprintf("f%05d", i)
			files = append(files, map[string]any{"scope": g.scope, "name": name, "bytes": i + 1, "adler32": fmt.Sprintf("%08x", i+1)})
			dids = append(dids, map[string]any{"scope": g.scope, "name": name})
		}
		g.r.Do("POST", "/replicas", map[string]any{"rse": rse, "files": files, "ignore_availability": true})
		g.r.Do("POST", "/dids/attachments", []map[string]any{{"scope": g.scope, "name": dataset, "dids": dids}})
	}
}
