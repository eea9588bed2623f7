package integration

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarn/backends/servertest"
)

// rucioRig is a lake whose catalogue is a real Rucio server's, as an ordinary account of its own sees it.
type rucioRig struct {
	*site
	r       *servertest.RucioServer
	account string
	scope   string // the account's
	cfg     string // rucio.cfg of the account
	work    string // a folder for files beside the mount
}

// newRucio makes an account and its scope.
func newRucio(t *testing.T, o servertest.RucioOptions) *rucioRig {
	t.Helper()
	r := servertest.Rucio(t, o)
	account := strings.ReplaceAll(r.Unique("ada"), "-", "")
	g := &rucioRig{site: bareSite(t), r: r, account: account, scope: "user." + account, work: t.TempDir()}
	if o.CTAO {
		g.scope = account
	}
	r.AddAccount(account, g.scope)
	g.cfg = r.Client(account)
	t.Setenv("RUCIO_CONFIG", g.cfg)
	for _, v := range []string{"RUCIO_ACCOUNT", "RUCIO_AUTH_TYPE", "RUCIO_HOME", "RUCIO_VO"} {
		t.Setenv(v, "") // so that it is set again at the end
		if err := os.Unsetenv(v); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// disk adds an RSE where an ordinary account may register files (Rucio's generic permissions), and gives the account room there.
func (g *rucioRig) disk(ps ...servertest.RucioProtocol) string {
	g.t.Helper()
	name := g.r.AddRSE(servertest.RucioRSE{Name: strings.ToUpper(strings.ReplaceAll(g.r.Unique("site"), "-", "")) + "_USERDISK", Protocols: ps, Attributes: map[string]string{"country": "ES"}})
	g.r.SetQuota(g.account, -1, name)
	return name
}

// folderDisk is a disk that is a folder of this machine.
func (g *rucioRig) folderDisk() (rse, dir string) {
	g.t.Helper()
	dir = g.t.TempDir()
	return g.disk(servertest.RucioProtocol{Scheme: "file", Host: "localhost", Prefix: dir + "/"}), dir
}

// lake writes the lake file: new files go to the RSE, and more is what else stands in it.
func (g *rucioRig) lake(rse, catalogue, more string) {
	g.t.Helper()
	text := "name: rucio\ncatalogue:\n  type: rucio\n  scopes: [" + g.scope + "]\n  ttl: 2s\n  negative_ttl: 200ms\n" + catalogue
	if strings.Contains(catalogue, "layout: lfn") {
		text = strings.Replace(text, "  scopes: ["+g.scope+"]\n", "", 1)
	}
	if rse != "" {
		text += "write_rules:\n  - {copies: 1, expression: " + rse + "}\n"
	}
	text += "cache: {path: cache, limit: 1G, free_floor: 16M}\njournal: {path: journal, delay: 50ms, drain: 0s}\n" + more
	writeFiles(g.t, g.dir, map[string]string{"lake.yaml": text})
	g.ok("config", "check", g.dir)
}

// rucio runs the real client as the account.
func (g *rucioRig) rucio(args ...string) string {
	g.t.Helper()
	out, err := g.r.RunAs(g.cfg, nil, args...)
	if err != nil {
		g.t.Fatalf("rucio %q: %v\n%s", args, err, out)
	}
	return out
}

// upload has the real client upload a file of n bytes, whose name is that of the DID, and gives these.
func (g *rucioRig) upload(rse, name string, n int) []byte {
	g.t.Helper()
	b := content(uint64(len(name)+n), n)
	writeFiles(g.t, g.work, map[string]string{name: string(b)})
	g.rucio("upload", "--register-after-upload", "--rse", rse, "--scope", g.scope, filepath.Join(g.work, name))
	return b
}

// download has the real client download a file from the RSE, and gives its bytes.
func (g *rucioRig) download(rse, name string) []byte {
	g.t.Helper()
	dir, err := os.MkdirTemp(g.work, "down-")
	if err != nil {
		g.t.Fatal(err)
	}
	g.rucio("download", "--dir", dir, "--rses", rse, g.scope+":"+name)
	b, err := os.ReadFile(filepath.Join(dir, g.scope, name))
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

// rucioRule is a rule as the server tells of it.
type rucioRule struct {
	ID, State, Name string
	Expression      string `json:"rse_expression"`
	Account         string
	Copies          int
}

// rules are those of the account that are on a DID of its scope.
func (g *rucioRig) rules(name string) (out []rucioRule) {
	g.t.Helper()
	for line := range strings.Lines(g.r.Do("GET", "/rules/?account="+g.account+"&scope="+g.scope+"&name="+url.QueryEscape(name), nil)) {
		var r rucioRule
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			g.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// settled runs Rucio's daemons until all rules on a DID are OK.
func (g *rucioRig) settled(name string) []rucioRule {
	g.t.Helper()
	var all []rucioRule
	for range 5 {
		g.r.Daemons("injector", "evaluator", "mover")
		all = g.rules(name)
		ok := len(all) > 0
		for _, r := range all {
			ok = ok && r.State == "OK"
		}
		if ok {
			return all
		}
	}
	g.t.Fatalf("the rules on %s do not come to OK: %+v", name, all)
	return nil
}

// replicas are the states of a file's copies by RSE, as the server has them.
func (g *rucioRig) replicas(name string) map[string]string {
	g.t.Helper()
	out := map[string]string{}
	body := map[string]any{"dids": []any{map[string]string{"scope": g.scope, "name": name}}, "all_states": true, "ignore_availability": true}
	for line := range strings.Lines(g.r.Do("POST", "/replicas/list", body)) {
		var row struct{ States map[string]string }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			g.t.Fatal(err)
		}
		for k, v := range row.States {
			out[k] = v
		}
	}
	return out
}

// children are the names attached to a collection of the scope, as the server has them.
func (g *rucioRig) children(name string) (out []string) {
	g.t.Helper()
	status, exception, text := g.r.Call("GET", "/dids/"+g.scope+"/"+url.PathEscape(name)+"/dids", nil)
	if status == 404 && exception == "DataIdentifierNotFound" {
		return nil
	}
	if status != 200 {
		g.t.Fatalf("children of %s: %d %s", name, status, text)
	}
	for line := range strings.Lines(text) {
		var row struct{ Name string }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			g.t.Fatal(err)
		}
		out = append(out, row.Name)
	}
	return out
}

// write puts a file into the mount with cp, as users do, and gives its bytes.
func (g *rucioRig) write(p string, n int) []byte {
	g.t.Helper()
	b := content(uint64(len(p)*7+n), n)
	file := filepath.Join(g.work, "w-"+filepath.Base(p))
	if err := os.WriteFile(file, b, 0o600); err != nil {
		g.t.Fatal(err)
	}
	g.sh("cp " + file + " " + g.path(p))
	return b
}

// reads compares a file of the mount with what it should hold.
func (g *rucioRig) reads(p string, want []byte) {
	g.t.Helper()
	got, err := os.ReadFile(g.path(p))
	if err != nil || string(got) != string(want) {
		g.t.Errorf("%s: %d bytes that are not the %d written, %v", p, len(got), len(want), err)
	}
}

// state gives what an upload says of itself, "" for one that is safe.
func (g *rucioRig) state(p string) (state, why string) {
	g.t.Helper()
	for _, u := range g.rows("uploads", "ls") {
		if u["path"] == "/"+p {
			why, _ = u["error"].(string)
			return fmt.Sprint(u["state"]), why
		}
	}
	return "", ""
}

// retry lets all uploads go on now.
func (g *rucioRig) retry() {
	g.t.Helper()
	for _, u := range g.rows("uploads", "ls") {
		if r := g.try("uploads", "retry", fmt.Sprint(u["id"])); r.code != 0 && r.code != 4 { // 4: it has gone on by itself
			g.t.Fatalf("uploads retry: exit %d\n%s", r.code, r.err)
		}
	}
}

func portOfURL(t testing.TB, u string) int {
	t.Helper()
	p, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p.Port())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// eventually waits until ok.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
