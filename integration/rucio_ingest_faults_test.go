package integration

import (
	"bytes"
	"fmt"
	"hash/adler32"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends/ingest"
	"tarn/backends/servertest"
)

// fileBelow is the file of that name below a folder.
func (g *rucioRig) fileBelow(dir, name string) (found string) {
	g.t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == name {
			found = p
		}
		return err
	})
	if err != nil || found == "" {
		g.t.Fatalf("%s is not below %s: %v", name, dir, err)
	}
	return found
}

// TestRucioIngestBadCopy: what Rucio says is AVAILABLE and its storage has with another checksum lets no source be deleted.
func TestRucioIngestBadCopy(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	one, _ := g.folderDisk()
	two, dir := g.folderDisk()
	g.lake("", "", "")
	g.mount()
	f := g.newNight(3, "n")
	f.watch("dl0", "/"+g.scope+"/dl0", "copies=1 rse="+one, "copies=1 rse="+two)
	g.intakes("dl0", "all are registered", time.Minute, func(st ingest.Status) bool { return st.Registered.Files == 3 })
	g.ok("ingest", "pause", "dl0")
	g.settled("n")
	bad := g.fileBelow(dir, "n-001.dat")
	b := slices.Clone(f.data["n/n-001.dat"])
	b[7] ^= 1
	if err := os.WriteFile(bad, b, 0o644); err != nil {
		t.Fatal(err)
	}
	g.expect("replica declared BAD")
	g.ok("ingest", "resume", "dl0")
	st := g.intakes("dl0", "the good ones are deleted, and of the bad one the reason is told", time.Minute, func(st ingest.Status) bool {
		return st.Deleted.Files == 2 && st.Oldest != nil && strings.Contains(st.Oldest.Reason, two)
	})
	time.Sleep(5 * time.Second)
	if left := f.left(); !slices.Equal(left, []string{"n/n-001.dat"}) {
		t.Errorf("left are %v; %+v", left, st.Oldest)
	}
	if got := g.ok("ingest", "show", "dl0"); !strings.Contains(got, two) {
		t.Errorf("show says\n%s", got)
	}
	g.umount()
}

// TestRucioIngestStuck: a rule that Rucio cannot fulfil keeps the sources, and its reason is shown; when Rucio gets on, so does the ingest.
func TestRucioIngestStuck(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	one, _ := g.folderDisk()
	two, dir := g.folderDisk()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, filepath.Dir(dir), map[string]string{filepath.Base(dir): "in the way"})
	g.lake("", "", "")
	g.mount()
	f := g.newNight(2, "n")
	f.watch("dl0", "/"+g.scope+"/dl0", "copies=1 rse="+one, "copies=1 rse="+two+" comment='second'")
	st := g.moves("dl0", "Rucio's rule is STUCK", func(st ingest.Status) bool { return st.StuckAll == 2 })
	if len(st.Stuck) != 2 || !strings.Contains(st.Stuck[0].Reason, "stuck") || !strings.Contains(st.Stuck[0].Reason, two) {
		t.Errorf("stuck: %+v", st.Stuck)
	}
	if got := g.ok("ingest", "show", "dl0"); !strings.Contains(got, "Not a directory") {
		t.Errorf("Rucio's reason is not shown:\n%s", got)
	}
	if got := g.ok("rule", "explain", "/"+g.scope+"/dl0/n"); strings.Count(got, " to "+two) != 2 || !strings.Contains(got, "Not a directory") || !strings.Contains(got, "attempt") {
		t.Errorf("the rule is explained as\n%s", got)
	}
	if left := f.left(); len(left) != 2 {
		t.Errorf("left are %v", left)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, r := range g.rules("n") {
		if r.State == "STUCK" { // else the repairer leaves its locks alone for a while
			g.r.Do("PUT", "/rules/"+r.ID, map[string]any{"options": map[string]any{"boost_rule": true}})
		}
	}
	g.r.Daemons("repairer")
	g.moves("dl0", "all are deleted", func(st ingest.Status) bool { return st.Deleted.Files == 2 && st.StuckAll == 0 })
	g.umount()
}

// TestRucioIngestNames: a name that is taken by another content is stuck with words and nothing of Rucio's is touched; the same content is
// success; two directories of one name cannot be in a scope of layout contents.
func TestRucioIngestNames(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	one, dir := g.folderDisk()
	theirs := g.upload(one, "taken.dat", 1000)
	same := g.upload(one, "same.dat", 2000)
	g.lake("", "", "")
	g.mount()
	f := g.newNight(0)
	f.add("n/taken.dat", 1000)
	f.add("n/good.dat", 900)
	f.add("n/bad name.dat", 100)
	f.data["n/same.dat"] = same
	writeFiles(t, f.dir, map[string]string{"n/same.dat": string(same)})
	f.add("m/x/one.dat", 500)
	const weak, other = "value 202\n", "value 121\n" // of one adler32
	g.r.Do("POST", "/replicas", map[string]any{"rse": one, "files": []any{map[string]any{"scope": g.scope, "name": "weak.dat", "bytes": len(other), "adler32": fmt.Sprintf("%08x", adler32.Checksum([]byte(other)))}}})
	f.data["n/weak.dat"] = []byte(weak)
	writeFiles(t, f.dir, map[string]string{"n/weak.dat": weak})
	if adler32.Checksum([]byte(weak)) != adler32.Checksum([]byte(other)) {
		t.Fatal("they have not")
	}
	if bytes.Equal(theirs, f.data["n/taken.dat"]) {
		t.Fatal("the contents are meant to differ")
	}
	f.watch("dl0", "/"+g.scope+"/dl0", "copies=1 rse="+one)
	g.moves("dl0", "what can be is deleted", func(st ingest.Status) bool { return st.Deleted.Files == 3 && st.StuckAll == 3 })
	f.add("k/x/two.dat", 500) // x is a dataset of m
	st := g.moves("dl0", "the directory's name is taken", func(st ingest.Status) bool { return st.StuckAll == 4 })
	for p, words := range map[string]string{"n/taken.dat": "another content", "n/bad name.dat": "letters, digits", "n/weak.dat": "no md5", "k/x/two.dat": "use other names for directories"} {
		i := slices.IndexFunc(st.Stuck, func(l ingest.Lagging) bool { return l.Path == p })
		if i < 0 || !strings.Contains(st.Stuck[i].Reason, words) {
			t.Errorf("%s is not stuck with %q: %+v", p, words, st.Stuck)
		}
	}
	if left := f.left(); len(left) != 4 {
		t.Errorf("left are %v", left)
	}
	if err := g.sameBelow(dir, "taken.dat", theirs); err != nil {
		t.Error(err)
	}
	if got := g.children("n"); !slices.Contains(got, "same.dat") || slices.Contains(got, "taken.dat") {
		t.Errorf("n has %v", got)
	}
	g.umount()
	for _, bad := range [][]string{
		{"--to", "/" + g.scope, "--rule", "copies=1 rse=" + one},                                                     // a scope
		{"--to", "/" + g.scope + "/x2", "--rule", "copies=1 rse=NOWHERE"},                                            // no such RSE
		{"--to", "/" + g.scope + "/x2", "--rule", "copies=1 rse=" + one, "--rule", "copies=1 priority=2 rse=" + one}, // two of a kind
	} {
		if r := g.try(append([]string{"ingest", "add", "other", "--watch", g.work}, bad...)...); r.code != 2 {
			t.Errorf("ingest add %v: exit %d, want 2\n%s", bad, r.code, r.err)
		}
	}
}

// TestRucioIngestServerDown: while the server is away nothing is deleted and nothing lost, and all goes on by itself.
func TestRucioIngestServerDown(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	one, _ := g.folderDisk()
	two, _ := g.folderDisk()
	g.lake("", "", "")
	g.mount()
	f := g.newNight(5, "n")
	f.watch("dl0", "/"+g.scope+"/dl0", "copies=1 rse="+one, "copies=1 rse="+two)
	g.intakes("dl0", "all are registered", time.Minute, func(st ingest.Status) bool { return st.Registered.Files == 5 })
	g.settled("n") // some may be deleted by now, which is right
	g.r.Stop()
	for i := range 3 {
		f.add(fmt.Sprintf("n/late-%d.dat", i), 3000)
	}
	g.intakes("dl0", "it says that the server is away", time.Minute, func(st ingest.Status) bool { return st.Found.Files == 8 && told(st) })
	before := len(f.left())
	time.Sleep(6 * time.Second)
	if left := f.left(); len(left) != before || len(left) < 3 {
		t.Errorf("without the server %d of %d are left", len(left), before)
	}
	g.r.Start()
	g.moves("dl0", "all are deleted", func(st ingest.Status) bool { return st.Deleted.Files == 8 })
	g.ok("ingest", "audit", "dl0", "--deep")
	g.umount()
}

// counting is a door to the server that counts the calls by method and route.
type counting struct {
	url string
	mu  sync.Mutex
	n   map[string]int
}

func countCalls(t *testing.T, to string) *counting {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	c := &counting{n: map[string]int{}}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elems := strings.Split(r.URL.EscapedPath(), "/")
		c.mu.Lock()
		c.n[r.Method+" /"+elems[1]+" "+elems[len(elems)-1]]++
		c.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

// taken gives the counts since the last time.
func (c *counting) taken() (all int, by map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	by = maps.Clone(c.n)
	clear(c.n)
	for _, n := range by {
		all += n
	}
	return all, by
}

// TestRucioIngestCalls counts the calls for many files: they are for a thousand at a time, and none is one a file.
func TestRucioIngestCalls(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	one, _ := g.folderDisk()
	c := countCalls(t, g.r.URL)
	g.lake("", "  url: "+c.url+"\n", "")
	g.mount()
	const n = 2100
	f := g.newNight(n, "n")
	c.taken()
	began := time.Now()
	f.watch("dl0", "/"+g.scope+"/dl0", "copies=1 rse="+one)
	g.intakes("dl0", "all are registered", 4*time.Minute, func(st ingest.Status) bool { return st.Registered.Files == n })
	took := time.Since(began)
	all, by := c.taken()
	t.Logf("%d calls for %d files in %v: %v", all, n, took, by)
	batches := (n+999)/1000 + int(took/(10*time.Second)) + 2 // of up to 1000, or 10 s
	if got := by["POST /replicas replicas"]; got > batches {
		t.Errorf("files were registered in %d calls, want %d at most", got, batches)
	}
	if got := by["POST /rules "]; got > 1 {
		t.Errorf("%d rules were asked for", got)
	}
	if all = ofFiles(by); all > 60+12*batches {
		t.Errorf("%d calls: %v", all, by)
	}
	began = time.Now()
	g.moves("dl0", "all are deleted", func(st ingest.Status) bool { return st.Deleted.Files == n })
	took = time.Since(began)
	all, by = c.taken()
	t.Logf("%d calls until %d sources were deleted in %v: %v", all, n, took, by)
	if all = ofFiles(by); all > 8*(n/200+1)+int(took/time.Second)*3 { // two looks for each 200 that are deleted, and the prover's at most every 2 s
		t.Errorf("%d calls: %v", all, by)
	}
	// Another run finds nothing to do.
	g.ok("ingest", "rm", "dl0")
	g.umount()
	c.taken()
	out := g.ok("ingest", "run", "--once", f.dir, "/"+g.scope+"/dl0", "--rule", "copies=1 rse="+one, "--json")
	_, by = c.taken()
	if all := ofFiles(by); all > 20 {
		t.Errorf("%d calls for nothing: %v\n%s", all, by, out)
	}
}

// ofFiles counts calls but for those about RSEs, which are as many as the tests before have made, and the account.
func ofFiles(by map[string]int) (n int) {
	for what, k := range by {
		if !strings.HasPrefix(what, "GET /rses ") && !strings.HasPrefix(what, "GET /accounts ") {
			n += k
		}
	}
	return n
}

// TestRucioIngestKills kills the daemon at random moments, with Rucio's daemons running beside it. After each kill every file that has gone from
// the source is at both RSEs; in the end all are, once, and nothing lies there that Rucio does not know.
func TestRucioIngestKills(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	g := newRucio(t, servertest.RucioOptions{})
	one, dirOne := g.folderDisk()
	two, dirTwo := g.folderDisk()
	g.lake("", "", "")
	g.mount()
	f := g.newNight(4, "n")
	f.watch("dl0", "/"+g.scope+"/dl0", "copies=1 rse="+one, "copies=1 rse="+two)
	at := func(dir string) map[string][]byte {
		out := map[string][]byte{}
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.Contains(p, "/.tarn-uploads/") {
				return nil
			}
			b, err := os.ReadFile(p)
			if err == nil {
				out[d.Name()] = b
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	safe := func(left map[string]bool) {
		t.Helper()
		for _, dir := range []string{dirOne, dirTwo} {
			has := at(dir)
			for p, want := range f.data {
				if !left[p] && !bytes.Equal(has[filepath.Base(p)], want) {
					t.Errorf("%s has gone from the source, and is not at %s", p, dir)
				}
			}
		}
	}
	n, midway := 4, 0
	for i := range rounds(12) {
		for range 1 + rnd.IntN(4) {
			f.add(fmt.Sprintf("n/k-%04d.dat", n), 1+rnd.IntN(300_000))
			n++
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(6 * time.Second))))
		if i%2 == 1 {
			g.r.Daemons("injector", "evaluator", "mover")
			time.Sleep(time.Duration(rnd.Int64N(int64(4 * time.Second))))
		}
		g.kill()
		left := map[string]bool{}
		hidden := map[string]bool{}
		for _, p := range f.left() {
			if strings.HasPrefix(filepath.Base(p), ".tarn-ingest-") { // it is being deleted
				b, err := os.ReadFile(filepath.Join(f.dir, p))
				if err != nil {
					t.Fatal(err)
				}
				hidden[string(b)] = true
				continue
			}
			left[p] = true
		}
		for p, b := range f.data {
			if hidden[string(b)] {
				left[p] = true
			}
		}
		if len(left) > 0 {
			midway++
		}
		safe(left)
		g.mount()
	}
	g.moves("dl0", "all are deleted", func(st ingest.Status) bool { return st.Deleted.Files == int64(n) })
	t.Logf("%d files; %d of the kills came while some were at the source", n, midway)
	safe(nil)
	for _, dir := range []string{dirOne, dirTwo} {
		if has := at(dir); len(has) != n {
			t.Errorf("%s has %d files, want %d", dir, len(has), n)
		}
	}
	for p := range f.data {
		if got := g.replicas(filepath.Base(p)); len(got) != 2 || got[one] != "AVAILABLE" || got[two] != "AVAILABLE" {
			t.Errorf("replicas of %s: %v", p, got)
		}
	}
	if rules := g.rules("n"); len(rules) != 2 {
		t.Errorf("rules: %+v", rules)
	}
	if got := g.children("n"); len(got) != n {
		t.Errorf("the dataset has %d files, want %d", len(got), n)
	}
	g.ok("ingest", "audit", "dl0", "--deep")
	g.umount()
}
