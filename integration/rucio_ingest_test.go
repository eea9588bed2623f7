package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/backends/ingest"
	"tarn/backends/servertest"
)

// night is a folder of files that are taken in.
type night struct {
	g    *rucioRig
	dir  string
	data map[string][]byte // by path in it
}

// newNight makes n files in each of the subfolders.
func (g *rucioRig) newNight(n int, folders ...string) *night {
	g.t.Helper()
	f := &night{g: g, dir: g.t.TempDir(), data: map[string][]byte{}}
	for _, sub := range folders {
		for i := range n {
			f.add(fmt.Sprintf("%s/%s-%03d.dat", sub, strings.ReplaceAll(sub, "/", "-"), i), 1000+i)
		}
	}
	return f
}

// add writes a file.
func (f *night) add(p string, n int) {
	f.g.t.Helper()
	f.data[p] = content(uint64(len(p)*31+n), n)
	if err := os.MkdirAll(filepath.Dir(filepath.Join(f.dir, p)), 0o755); err != nil {
		f.g.t.Fatal(err)
	}
	writeFiles(f.g.t, f.dir, map[string]string{p: string(f.data[p])})
}

// left lists the files that are there.
func (f *night) left() (out []string) {
	f.g.t.Helper()
	err := filepath.WalkDir(f.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, p[len(f.dir)+1:])
		}
		return err
	})
	if err != nil {
		f.g.t.Fatal(err)
	}
	return out
}

// watch makes an ingest of it.
func (f *night) watch(name, to string, rules ...string) {
	f.g.t.Helper()
	args := []string{"ingest", "add", name, "--watch", f.dir, "--to", to, "--delete-source", "after-rules", "--rescan", "1s"}
	for _, r := range rules {
		args = append(args, "--rule", r)
	}
	f.g.ok(args...)
}

// intake is how an ingest is doing.
func (g *rucioRig) intake(name string) (st ingest.Status) {
	g.t.Helper()
	if err := json.Unmarshal([]byte(g.ok("ingest", "show", name, "--json")), &st); err != nil {
		g.t.Fatal(err)
	}
	return st
}

// intakes waits until ok holds of it.
func (g *rucioRig) intakes(name, what string, within time.Duration, ok func(ingest.Status) bool) (st ingest.Status) {
	g.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		if st = g.intake(name); ok(st) {
			return st
		}
		if time.Now().After(end) {
			b, _ := json.Marshal(st)
			g.t.Fatalf("not within %v: %s\n%s\n%s", within, what, b, g.ok("ingest", "show", name, "--files"))
		}
	}
}

// recordsOf are the records of an ingest by path.
func (g *rucioRig) recordsOf(name string) map[string]ingest.Record {
	g.t.Helper()
	out := map[string]ingest.Record{}
	for line := range strings.Lines(g.ok("ingest", "show", name, "--files", "--json")) {
		var r ingest.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			g.t.Fatalf("%v: %s", err, line)
		}
		out[r.Path] = r
	}
	return out
}

// moves runs Rucio's daemons until ok holds of an ingest.
func (g *rucioRig) moves(name, what string, ok func(ingest.Status) bool) (st ingest.Status) {
	g.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		g.r.Daemons("injector", "evaluator", "mover")
		if st = g.intake(name); ok(st) {
			return st
		}
		if time.Now().After(end) {
			b, _ := json.Marshal(st)
			g.t.Fatalf("Rucio's daemons run, and yet not: %s\n%s\n%s", what, b, g.ok("ingest", "show", name, "--files"))
		}
	}
}

// TestRucioIngest takes a folder into a Rucio server's lake with two rules, over real storages: nothing is deleted before Rucio has made the
// second copy, all is deleted after, and the real client finds it all at both.
func TestRucioIngest(t *testing.T) {
	for _, kind := range []string{"webdav", "xrootd", "webdav on Rucio 41"} {
		t.Run(kind, func(t *testing.T) {
			kind, version, _ := strings.Cut(kind, " on Rucio ")
			if version != "" && os.Getenv("LONG") == "" {
				t.Skip("another version of Rucio is for make test-long")
			}
			g := newRucio(t, servertest.RucioOptions{Version: version})
			one := g.storage(kind)
			two, _ := g.folderDisk()
			g.lake("", "", "")
			g.mount()
			f := g.newNight(8, "a", "b/c")
			f.add("top.dat", 77)
			f.watch("dl0", "/"+g.scope+"/dl0", "copies=1 rse="+one, "copies=1 rse="+two+" from="+one)
			g.intakes("dl0", "all are registered", time.Minute, func(st ingest.Status) bool { return st.Registered.Files == 17 })
			time.Sleep(5 * time.Second) // the prover looks every two
			if left := f.left(); len(left) != 17 {
				t.Fatalf("with one copy each %d of 17 sources are left", len(left))
			}
			if got := g.replicas("a-000.dat"); len(got) != 1 || got[one] != "AVAILABLE" {
				t.Errorf("before Rucio moved anything there are replicas %v", got)
			}
			g.reads(g.scope+"/dl0/b/c/b-c-003.dat", f.data["b/c/b-c-003.dat"])
			st := g.moves("dl0", "all are deleted at the source", func(st ingest.Status) bool { return st.Deleted.Files == 17 })
			if left := f.left(); len(left) != 0 || st.StuckAll != 0 {
				t.Errorf("left at the source: %v; %d stuck", left, st.StuckAll)
			}
			for _, set := range []string{"a", "c", "dl0/__files__"} { // folders without others, and loose files
				rules := g.rules(set)
				if len(rules) != 2 {
					t.Errorf("rules on %s: %+v", set, rules)
				}
				if out := g.rucio("rule", "list", "--did", g.scope+":"+set); !strings.Contains(out, one) || !strings.Contains(out, two) {
					t.Errorf("rucio lists the rules of %s as\n%s", set, out)
				}
			}
			for p, want := range f.data {
				name := filepath.Base(p)
				if rules := g.rules(name); len(rules) != 0 {
					t.Errorf("rules on the file %s: %+v", name, rules)
				}
				if got := g.replicas(name); got[one] != "AVAILABLE" || got[two] != "AVAILABLE" {
					t.Errorf("replicas of %s: %v", name, got)
				}
				r := g.recordsOf("dl0")[p]
				var proofs []string
				for _, c := range r.Copies {
					proofs = append(proofs, c.RSE+" "+c.Proof)
				}
				slices.Sort(proofs)
				wanted := []string{one + " " + ingest.ProofSent, two + " " + ingest.ProofStorage}
				if slices.Sort(wanted); !slices.Equal(proofs, wanted) {
					t.Errorf("the tombstone of %s has %v, want %v", p, proofs, wanted)
				}
				if name == "a-000.dat" || name == "b-c-007.dat" {
					if got := g.download(two, name); string(got) != string(want) { // which Rucio made of the first
						t.Errorf("rucio download of %s: %d bytes that are not the %d written", name, len(got), len(want))
					}
				}
			}
			g.ok("ingest", "audit", "dl0", "--deep")
			// The same files again are there already: no byte is sent, and all are deleted.
			for p, b := range f.data {
				writeFiles(t, f.dir, map[string]string{p: string(b)})
			}
			g.intakes("dl0", "the same files are known", time.Minute, func(st ingest.Status) bool { return st.Deleted.Files == 34 })
			g.umount()
		})
	}
}

// TestRucioIngestOfCTAO has CTAO's conventions: names are paths, the day is a dataset and the directories above it are containers. A single pass
// without a mount waits for Rucio, and the next one finds nothing to do.
func TestRucioIngestOfCTAO(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("CTAO's policy package is for make test-long")
	}
	g := newRucio(t, servertest.RucioOptions{CTAO: true})
	one := g.storage("webdav")
	two, dir := g.folderDisk()
	for _, rse := range []string{one, two} {
		g.r.SetAttribute(rse, "lfn2pfn_algorithm", "ctao_bdms")
	}
	root := "/ctao/" + g.scope
	g.r.Call("POST", "/scopes/root/root", nil) // the scope of / and of /VO; another test may have made it
	g.r.Call("POST", "/dids/root/%2Fctao", map[string]string{"type": "CONTAINER"})
	g.r.Do("POST", "/dids/"+g.scope+"/"+strings.ReplaceAll(root, "/", "%2F"), map[string]string{"type": "CONTAINER"})
	g.r.Do("POST", "/dids/root/%2Fctao/dids", map[string]any{"dids": []any{map[string]string{"scope": g.scope, "name": root}}})
	g.lake("", "  layout: lfn\n  scope_algorithm: ctao_bdms\n  roots: [/ctao]\n", "")
	f := g.newNight(0)
	for i := range 4 {
		f.add(fmt.Sprintf("2025/02/%02d/TEL001_SDH0000_20250204T213354_SBID0000000002000000066_OBSID0000000002000000200_CHUNK%03d.fits.fz", 4+i%2, i), 2000+i)
	}
	to := root + "/DL0/LSTN-01"
	args := []string{"ingest", "run", "--once", f.dir, to, "--rule", "copies=1 rse=" + one, "--rule", "copies=1 rse=" + two, "--delete-source", "after-rules", "--json"}
	ended := make(chan result, 1)
	go func() { ended <- g.try(args...) }()
	var r result
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		g.r.Daemons("injector", "evaluator", "mover")
		select {
		case r = <-ended:
		default:
			if time.Now().Before(end) {
				continue
			}
			t.Fatalf("the pass does not end; left are %v", f.left())
		}
		break
	}
	if left := f.left(); r.code != 0 || len(left) != 0 {
		t.Fatalf("the pass: exit %d, left are %v\n%s%s", r.code, left, r.out, r.err)
	}
	for _, day := range []string{"/2025/02/04", "/2025/02/05"} {
		if out := g.rucio("did", "show", g.scope+":"+to+day); !strings.Contains(out, "DATASET") {
			t.Errorf("%s is\n%s", day, out)
		}
		if rules := g.rules(to + day); len(rules) != 2 {
			t.Errorf("rules on %s: %+v", day, rules)
		}
		if got := g.children(to + day); len(got) != 2 {
			t.Errorf("%s has %v", day, got)
		}
	}
	for p, want := range f.data {
		if got := g.replicas(to + "/" + p); got[one] != "AVAILABLE" || got[two] != "AVAILABLE" {
			t.Errorf("replicas of %s: %v", p, got)
		}
		if b, err := os.ReadFile(dir + to + "/" + p); err != nil || string(b) != string(want) {
			t.Errorf("%s at its place in the second storage: %d bytes, %v", p, len(b), err)
		}
	}
	if r := g.try(args...); r.code != 0 {
		t.Errorf("a pass over nothing: exit %d\n%s", r.code, r.err)
	}
}
