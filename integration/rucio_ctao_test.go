package integration

import (
	"os"
	"strings"
	"testing"

	"tarn/backends/servertest"
)

// TestRucioOfCTAO has the conventions of CTAO's data management: names are paths with a leading slash, the scope is the second element, every
// directory is a container and the last one, the day, a dataset; paths at the storage are the names.
func TestRucioOfCTAO(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("CTAO's policy package is for make test-long")
	}
	g := newRucio(t, servertest.RucioOptions{CTAO: true})
	one, dir := g.folderDisk()
	two, _ := g.folderDisk()
	for _, rse := range []string{one, two} {
		g.r.SetAttribute(rse, "lfn2pfn_algorithm", "ctao_bdms")
	}
	root := "/ctao/" + g.scope
	g.r.Call("POST", "/scopes/root/root", nil) // the scope of / and of /VO; another test may have made it
	g.r.Call("POST", "/dids/root/%2Fctao", map[string]string{"type": "CONTAINER"})
	g.r.Do("POST", "/dids/"+g.scope+"/"+strings.ReplaceAll(root, "/", "%2F"), map[string]string{"type": "CONTAINER"})
	g.r.Do("POST", "/dids/root/%2Fctao/dids", map[string]any{"dids": []any{map[string]string{"scope": g.scope, "name": root}}})
	g.lake(one, "  layout: lfn\n  scope_algorithm: ctao_bdms\n  roots: [/ctao]\n", "")
	g.mount()
	if out := g.sh("ls " + g.path("ctao")); !strings.Contains(out, g.scope+"\n") {
		t.Fatalf("the root has %q, and not %s", out, g.scope)
	}
	day := "ctao/" + g.scope + "/DL0/LSTN-01/ctao-north/event/2025/02/04"
	g.ok("mkdir", "-p", "--dataset", g.path(day))
	name := "TEL001_SDH0000_20250204T213354_SBID0000000002000000066_OBSID0000000002000000200_CHUNK001.fits.fz"
	data := g.write(day+"/"+name, 3<<20)
	g.drain()
	g.reads(day+"/"+name, data)
	lfn := "/" + day + "/" + name
	if out := g.rucio("did", "show", g.scope+":/"+day); !strings.Contains(out, "DATASET") {
		t.Errorf("the day is\n%s", out)
	}
	if got := g.children("/" + day); len(got) != 1 || got[0] != lfn {
		t.Errorf("the day has %v, want %s", got, lfn)
	}
	if b, err := os.ReadFile(dir + lfn); err != nil || string(b) != string(data) {
		t.Errorf("the file at its place in the storage: %d bytes, %v", len(b), err)
	}
	g.rucio("rule", "add", g.scope+":/"+day, "--copies", "1", "--rses", two, "--lifetime", "3600")
	if rules := g.settled("/" + day); len(rules) != 2 {
		t.Errorf("rules on the day: %+v", rules)
	}
	g.shut(one, "read")
	g.ok("refresh")
	g.ok("evict", g.path(day, name))
	g.reads(day+"/"+name, data)
	out := g.work + "/down"
	if err := os.MkdirAll(out+"/"+g.scope+"/"+day, 0o755); err != nil { // which that client leaves to its user
		t.Fatal(err)
	}
	said := g.rucio("download", "--dir", out, "--rses", two, g.scope+":"+lfn)
	if err := g.sameBelow(out, name, data); err != nil {
		t.Errorf("%v\n%s\n%s", err, g.sh("find "+out), said)
	}
	if o, err := g.trySh("mkdir " + g.path(day, "sub")); err == nil || !strings.Contains(o, "not permitted") {
		t.Errorf("a directory in a dataset: %v, %s", err, o)
	}
	g.ok("meta", "set", g.path(day), "obs_id=2000000200")
	if got := g.rows("find", "/ctao", "obs_id=2000000200 and type=file"); len(got) != 1 || got[0]["path"] != lfn {
		t.Errorf("found by the day's metadata: %v", got)
	}
	g.umount()
}
