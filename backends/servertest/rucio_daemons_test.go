package servertest

import (
	"bytes"
	"encoding/json"
	"hash/adler32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// pfn asks the server where a file's replica at an RSE is; "" when there is none.
func pfn(t *testing.T, r *RucioServer, scope, name, rse string) string {
	t.Helper()
	for line := range strings.Lines(r.Do("POST", "/replicas/list", map[string]any{"dids": []any{map[string]string{"scope": scope, "name": name}}, "rse_expression": rse, "all_states": true})) {
		var row struct{ Rses map[string][]string }
		must(t, json.Unmarshal([]byte(line), &row))
		if p := row.Rses[rse]; len(p) == 1 {
			return p[0]
		}
	}
	return ""
}

// replica registers a file at an RSE and writes its bytes below the folder that the RSE's prefix is.
func replica(t *testing.T, r *RucioServer, scope, name, rse, prefix, folder string, data []byte, sum string) {
	t.Helper()
	r.Do("POST", "/replicas", map[string]any{"rse": rse, "files": []any{map[string]any{"scope": scope, "name": name, "bytes": len(data), "adler32": sum}}})
	_, path, ok := strings.Cut(pfn(t, r, scope, name, rse), prefix)
	if !ok {
		t.Fatalf("%s: the path of %s does not begin with %s", rse, name, prefix)
	}
	file := filepath.Join(folder, path)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, data, 0o644))
}

// addRule adds one of root's, for an hour.
func addRule(t *testing.T, r *RucioServer, scope, name, expression string, more map[string]any) string {
	t.Helper()
	body := map[string]any{"dids": []any{map[string]string{"scope": scope, "name": name}}, "account": RucioRoot, "copies": 1, "rse_expression": expression, "lifetime": 3600, "grouping": "DATASET"}
	for k, v := range more {
		body[k] = v
	}
	var ids []string
	must(t, json.Unmarshal([]byte(r.Do("POST", "/rules/", body)), &ids))
	return ids[0]
}

func ruleState(t *testing.T, r *RucioServer, rule string) string {
	t.Helper()
	var got struct{ State string }
	must(t, json.Unmarshal([]byte(r.Do("GET", "/rules/"+rule, nil)), &got))
	return got.State
}

func daemonLog(r *RucioServer) []byte {
	log, _ := os.ReadFile(filepath.Join(r.Dir, "log/daemons"))
	return log[max(0, len(log)-6000):]
}

func randomData(n int) (data []byte, sum string) {
	data = make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(data)
	return data, strconv.FormatUint(1<<32|uint64(adler32.Checksum(data)), 16)[1:]
}

// TestRucioMoves has rules fulfilled by the mover, from a folder to servers of all kinds, and one that fails.
func TestRucioMoves(t *testing.T) { testRucioMoves(t, RucioOptions{}) }

func TestRucio41Moves(t *testing.T) { testRucioMoves(t, RucioOptions{Version: "41"}) }

func testRucioMoves(t *testing.T, o RucioOptions) {
	r := Rucio(t, o)
	dav, xrd, s3 := NGINX(t, NGINXOptions{}), XRootD(t, XRootDOptions{}), S3(t, S3Options{})
	dir := t.TempDir()
	scope := r.Unique("moved")
	r.AddScope(RucioRoot, scope)
	from := r.AddRSE(RucioRSE{Protocols: []RucioProtocol{{Scheme: "file", Host: "localhost", Prefix: dir + "/"}}})
	r.MoverEnv("AWS_ACCESS_KEY_ID="+S3Access, "AWS_SECRET_ACCESS_KEY="+S3Secret)
	type destination struct {
		server *Server
		below  string // where Server.Dir has what the prefix is
		rse    string
		rule   string
	}
	add := func(s *Server, url, scheme, prefix, below string) *destination {
		return &destination{server: s, below: below, rse: r.AddRSE(RucioRSE{Protocols: []RucioProtocol{{Scheme: scheme, Host: "127.0.0.1", Port: portOf(t, url), Prefix: prefix}}})}
	}
	to := []*destination{
		add(dav, dav.HTTP, "http", "/rse/", "rse"),
		add(xrd, xrd.Root, "root", "//data/rse/", "data/rse"),
		add(s3, s3.HTTP, "s3", "/lake/rse/", "lake/rse"),
	}
	data, sum := randomData(3 << 20)
	replica(t, r, scope, "good", from, dir+"/", dir, data, sum)
	replica(t, r, scope, "bad", from, dir+"/", dir, data, "00000001")
	for _, d := range to {
		d.rule = addRule(t, r, scope, "good", d.rse, nil)
		if s := ruleState(t, r, d.rule); s != "REPLICATING" {
			t.Fatalf("the rule before anything is moved: %s", s)
		}
	}
	bad := addRule(t, r, scope, "bad", to[0].rse, nil)
	r.Daemons("mover")
	hashed := func(d *destination) string {
		_, path, _ := strings.Cut(pfn(t, r, scope, "good", d.rse), "/rse/")
		return d.server.Path(d.below + "/" + path)
	}
	files := map[string]string{}
	for _, d := range to {
		if s := ruleState(t, r, d.rule); s != "OK" {
			t.Fatalf("the rule for %s after the mover: %s\n%s", d.server.name, s, daemonLog(r))
		}
		files[d.rse] = hashed(d)
		if got, err := os.ReadFile(files[d.rse]); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s has other bytes: %d of them, %v", d.server.name, len(got), err)
		}
	}
	for range 6 { // Rucio tries again a few times
		if ruleState(t, r, bad) == "STUCK" {
			break
		}
		r.Daemons("mover")
	}
	if s := ruleState(t, r, bad); s != "STUCK" {
		t.Errorf("a rule for a file with another checksum than the catalogue's: %s", s)
	}
	// What nobody wants any longer is deleted, on the storage too. (S3 would need Rucio's own credentials for it.)
	for _, d := range to[:2] {
		r.Do("PUT", "/rules/"+d.rule, map[string]any{"options": map[string]any{"lifetime": -1, "purge_replicas": true}})
	}
	r.Daemons("cleaner", "reaper")
	for _, d := range to[:2] {
		if exists(files[d.rse]) {
			t.Errorf("the file of an expired rule is on %s yet\n%s", d.server.name, daemonLog(r))
		}
	}
	if !exists(files[to[2].rse]) {
		t.Error("the file of a rule that lasts is gone")
	}
}

// TestRucioStages brings a file from an XRootD server's tape to its buffer by a rule on the staging area.
func TestRucioStages(t *testing.T) {
	r := Rucio(t, RucioOptions{})
	xrd := XRootD(t, XRootDOptions{Tape: true})
	scope := r.Unique("staged")
	r.AddScope(RucioRoot, scope)
	door := RucioProtocol{Scheme: "root", Host: "127.0.0.1", Port: portOf(t, xrd.Root), Prefix: "//tape/"}
	buffer := r.AddRSE(RucioRSE{Staging: true, Protocols: []RucioProtocol{door}})
	tape := r.AddRSE(RucioRSE{Tape: true, Protocols: []RucioProtocol{door}, Attributes: map[string]string{"staging_buffer": buffer}})
	data, sum := randomData(1 << 20)
	replica(t, r, scope, "old", tape, "//tape/", xrd.Tape, data, sum)
	rule := addRule(t, r, scope, "old", buffer, nil)
	if s := ruleState(t, r, rule); s != "REPLICATING" {
		t.Fatalf("before: %s", s)
	}
	_, path, _ := strings.Cut(pfn(t, r, scope, "old", tape), "//tape/")
	if exists(xrd.Path("tape/" + path)) {
		t.Fatal("it is in the buffer already")
	}
	r.Daemons("mover")
	if s := ruleState(t, r, rule); s != "OK" {
		t.Errorf("after: %s\n%s", s, daemonLog(r))
	}
	if got, err := os.ReadFile(xrd.Path("tape/" + path)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the buffer: %d bytes, %v", len(got), err)
	}
}

// TestRucioJudges runs the daemons of rules: an asynchronous rule, a file attached later, a quota.
func TestRucioJudges(t *testing.T) {
	r := Rucio(t, RucioOptions{})
	scope, dir := r.Unique("judged"), t.TempDir()
	r.AddScope(RucioRoot, scope)
	door := func(name string) []RucioProtocol {
		return []RucioProtocol{{Scheme: "file", Host: "localhost", Prefix: dir + "/" + name + "/"}}
	}
	one, two := r.AddRSE(RucioRSE{Protocols: door("one")}), r.AddRSE(RucioRSE{Protocols: door("two"), Attributes: map[string]string{"site": "PIC"}})
	data, sum := randomData(1000)
	attach := func(name string) {
		replica(t, r, scope, name, one, "/one/", dir+"/one", data, sum)
		r.Do("POST", "/dids/"+scope+"/set/dids", map[string]any{"dids": []any{map[string]string{"scope": scope, "name": name}}})
	}
	r.Do("POST", "/dids/"+scope+"/set", map[string]any{"type": "DATASET"})
	attach("f1")
	rule := addRule(t, r, scope, "set", "site=PIC&"+two, map[string]any{"asynchronous": true})
	for _, step := range []struct{ daemon, state string }{{"", "INJECT"}, {"injector", "REPLICATING"}, {"mover", "OK"}} {
		if step.daemon != "" {
			r.Daemons(step.daemon)
		}
		if s := ruleState(t, r, rule); s != step.state {
			t.Fatalf("after %q: %s, not %s\n%s", step.daemon, s, step.state, daemonLog(r))
		}
	}
	attach("f2")
	r.Daemons("evaluator")
	if s := ruleState(t, r, rule); s != "REPLICATING" {
		t.Errorf("with another file: %s", s)
	}
	r.Daemons("mover")
	if s := ruleState(t, r, rule); s != "OK" || pfn(t, r, scope, "f2", two) == "" {
		t.Errorf("when it is moved: %s", s)
	}
	account := r.Unique("poor")
	r.AddAccount(account)
	r.SetQuota(account, 10, two)
	body := map[string]any{"dids": []any{map[string]string{"scope": scope, "name": "set"}}, "account": account, "copies": 1, "rse_expression": two, "lifetime": 60, "grouping": "DATASET"}
	if status, exception, text := r.Call("POST", "/rules/", body); exception != "InsufficientAccountLimit" {
		t.Errorf("over quota: %d %s %s", status, exception, text)
	}
}

func portOf(t *testing.T, u string) int {
	t.Helper()
	n, err := strconv.Atoi(u[strings.LastIndexByte(u, ':')+1:])
	must(t, err)
	return n
}
