package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tarn/backends/servertest"
)

// TestRucioDIRAC has DIRAC's commands on a lake of Rucio's: names and metadata are the server's, fields, datasets and ancestors are
// kept beside it (F1 to F5).
func TestRucioDIRAC(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	near, _ := g.folderDisk()
	g.lake(near, "", "")
	g.mount()
	top := "/" + g.scope + "/prod5b"
	g.dirac(top)
}

// TestRucioDIRACOfCTAO has them where names are paths and the scope follows from these.
func TestRucioDIRACOfCTAO(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("CTAO's policy package is for make test-long")
	}
	g := newRucio(t, servertest.RucioOptions{CTAO: true})
	near, _ := g.folderDisk()
	g.r.SetAttribute(near, "lfn2pfn_algorithm", "ctao_bdms")
	root := "/ctao/" + g.scope
	g.r.Call("POST", "/scopes/root/root", nil) // another test may have made it
	g.r.Call("POST", "/dids/root/%2Fctao", map[string]string{"type": "CONTAINER"})
	g.r.Do("POST", "/dids/"+g.scope+"/"+strings.ReplaceAll(root, "/", "%2F"), map[string]string{"type": "CONTAINER"})
	g.r.Do("POST", "/dids/root/%2Fctao/dids", map[string]any{"dids": []any{map[string]string{"scope": g.scope, "name": root}}})
	g.lake(near, "  layout: lfn\n  scope_algorithm: ctao_bdms\n  roots: [/ctao]\n", "")
	g.mount()
	top := root + "/prod5b"
	g.dirac(top)
}

// dirac is a small production below a directory.
func (g *rucioRig) dirac(top string) {
	t := g.t
	t.Helper()
	gamma, electron := top+"/gamma", top+"/electron"
	g.ok("catalogue", "mkdir", top, gamma, electron)
	for _, f := range [][]string{{"-d", "MCCampaign", "string"}, {"-d", "particle", "string"}, {"-d", "thetaP", "float"}, {"-f", "runNumber", "int"}} {
		g.ok(append([]string{"catalogue", "field", "add"}, f...)...)
	}
	g.ok("catalogue", "meta", "set", top, "MCCampaign=PROD5b")
	g.ok("catalogue", "meta", "set", gamma, "particle=gamma", "thetaP=20.0")
	g.ok("catalogue", "meta", "set", electron, "particle=electron", "thetaP=20")
	bulk := map[string]map[string]any{}
	var paths []string
	for i := range 3 {
		for _, dir := range []string{gamma, electron} {
			p := fmt.Sprintf("%s/%s%d.zst", dir, filepath.Base(dir), i)
			g.write(strings.TrimPrefix(p, "/"), 100+i)
			bulk[p] = map[string]any{"runNumber": i}
			paths = append(paths, p)
		}
	}
	g.drain()
	b, err := json.Marshal(bulk)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(g.work, "meta.json")
	writeFiles(t, g.work, map[string]string{"meta.json": string(b)})
	g.ok("catalogue", "meta", "set", "--from", file)

	// What is declared holds for extended attributes, too (F1, F2).
	wantErr(t, "an attribute of the wrong type", unix.Setxattr(g.path(paths[0]), "user.runNumber", []byte("one"), 0), syscall.EINVAL)
	wantErr(t, "a metadata conflict", unix.Setxattr(g.path(gamma), "user.MCCampaign", []byte("PROD6"), 0), syscall.EEXIST)

	// Names in answers are paths that commands take.
	find := func(n int, args ...string) (lfns []string) {
		t.Helper()
		if err := json.Unmarshal([]byte(g.ok(append([]string{"catalogue", "find", "--json"}, args...)...)), &lfns); err != nil {
			t.Fatal(err)
		}
		if len(lfns) != n {
			t.Errorf("find %q gives %v, want %d", args, lfns, n)
		}
		return lfns
	}
	look := func() {
		t.Helper()
		lfns := find(3, top, "MCCampaign=PROD5b particle=gamma thetaP=20")
		find(2, top, `{"particle": {"in": ["gamma", "proton"]}, "runNumber": {">=": 1}}`)
		find(3, "Path="+electron+" thetaP>=20")
		find(1, "-d", "Path="+top+" particle=gamma")
		var sizes struct {
			Successful map[string]float64
			Failed     map[string]string
		}
		if err := json.Unmarshal([]byte(g.ok(append([]string{"catalogue", "filesize", "--json"}, lfns...)...)), &sizes); err != nil || len(sizes.Successful) != 3 || len(sizes.Failed) != 0 {
			t.Errorf("sizes of %v: %+v, %v", lfns, sizes, err)
		}
		detailed := g.ok("catalogue", "find", "-m", "--json", top, "runNumber=2 particle=gamma")
		if !strings.Contains(detailed, `"MCCampaign":"PROD5b"`) && !strings.Contains(detailed, `"MCCampaign": "PROD5b"`) {
			t.Errorf("with metadata: %s", detailed)
		}
		var values map[string][]any
		if err := json.Unmarshal([]byte(g.ok("catalogue", "values", "--json", top, "particle=electron")), &values); err != nil || fmt.Sprint(values["runNumber"]) != "[0 1 2]" || fmt.Sprint(values["MCCampaign"]) != "[PROD5b]" {
			t.Errorf("values: %v, %v", values, err)
		}
		if got := g.ok("catalogue", "meta", "get", "--json", gamma); !strings.Contains(got, "PROD5b") || !strings.Contains(got, "20") {
			t.Errorf("metadata of the directory: %s", got)
		}
	}
	look()

	const ds = "gamma_20deg"
	g.ok("catalogue", "dataset", "add", ds, top, "particle=gamma")
	g.ok("catalogue", "dataset", "freeze", ds)
	g.ok("catalogue", "ancestors", "add", paths[1], paths[0], paths[2])
	if r := g.try("catalogue", "ancestors", "add", paths[0], paths[1]); r.code != 1 || !strings.Contains(r.err, "its own ancestor") {
		t.Errorf("a cycle of ancestors: %+v", r)
	}
	if r := g.try("catalogue", "dataset", "check", ds); r.code != 0 {
		t.Errorf("check of what is unchanged: %+v", r)
	}
	g.sh("rm " + g.path(paths[2]))
	g.ok("catalogue", "meta", "set", paths[4], "runNumber=7")
	late := func() {
		t.Helper()
		if rows := g.rows("catalogue", "dataset", "check", ds); !strings.Contains(fmt.Sprint(rows), "map[removed:1]") {
			t.Errorf("the check tells of %v", rows)
		}
		var kin struct{ Successful map[string]map[string]int }
		if err := json.Unmarshal([]byte(g.ok("catalogue", "ancestors", "get", "--json", paths[1])), &kin); err != nil || len(kin.Successful[paths[1]]) != 2 {
			t.Errorf("ancestors: %+v, %v", kin, err)
		}
		find(2, top, "particle=gamma")
		find(1, top, "runNumber=7")
	}
	late()
	g.umount()
	late() // without a daemon, and what was kept is there again
	g.mount()
	late()
	if r := g.try("catalogue", "pfn", "file://localhost/x"); r.code == 0 || !strings.Contains(r.err, "Rucio") {
		t.Errorf("a look-up by PFN: %+v", r)
	}
	g.umount()
}
