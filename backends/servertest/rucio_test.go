package servertest

import (
	"bytes"
	"crypto/tls"
	"hash/adler32"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarn/integration/needed"
)

func TestMain(m *testing.M) {
	code := m.Run()
	StopRucio() // they would end by themselves, but a little later
	os.Exit(code)
}

// processes are those of a Rucio server: what has its folder in its arguments or works for it.
func processes(t *testing.T, dir string) (found []string) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, n := range names {
		b, _ := os.ReadFile(n)
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(n), "environ"))
		if bytes.Contains(b, []byte(dir)) || bytes.Contains(env, []byte("RUCIO_ROOT="+dir+"\x00")) {
			found = append(found, string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return found
}

func TestRucio(t *testing.T) { testRucio(t, RucioOptions{}) }

func TestRucio41(t *testing.T) { testRucio(t, RucioOptions{Version: "41"}) }

// testRucio registers a file by REST, with nothing of ours but net/http, and wants the real client to see it.
func testRucio(t *testing.T, o RucioOptions) {
	r := Rucio(t, o)
	account, scope := r.Unique("alice"), r.Unique("scope")
	r.AddAccount(account)
	dir := t.TempDir()
	rse := r.AddRSE(RucioRSE{
		Protocols:  []RucioProtocol{{Scheme: "file", Host: "localhost", Prefix: dir + "/one/"}},
		Attributes: map[string]string{"site": "ORM"},
	})
	if token := r.Login(account, account); !strings.HasPrefix(token, account+"-") {
		t.Errorf("token of %s: %q", account, token)
	}
	r.AddScope(account, scope)
	r.Do("POST", "/dids/"+scope+"/run1", map[string]any{"type": "DATASET"})
	data := []byte("the bytes of a file")
	sum := strconv.FormatUint(1<<32|uint64(adler32.Checksum(data)), 16)[1:]
	r.Do("POST", "/replicas", map[string]any{"rse": rse, "files": []any{map[string]any{"scope": scope, "name": "f1", "bytes": len(data), "adler32": sum}}})
	r.Do("POST", "/dids/"+scope+"/run1/dids", map[string]any{"dids": []any{map[string]string{"scope": scope, "name": "f1"}}})

	if out := r.Run("did", "content", "list", scope+":run1"); !strings.Contains(out, scope+":f1") {
		t.Errorf("the client's content of the dataset: %s", out)
	}
	out := r.Run("replica", "list", "file", scope+":f1")
	if !strings.Contains(out, rse) || !strings.Contains(out, sum) || !strings.Contains(out, "file://localhost"+dir+"/one/"+scope+"/") {
		t.Errorf("the client's replica: %s", out)
	}
	if out, err := r.RunAs(r.Client(account), nil, "whoami"); err != nil || !strings.Contains(out, account) {
		t.Errorf("the client as %s: %v, %s", account, err, out)
	}
	if out, err := r.RunAs(r.Client("stranger"), nil, "whoami"); err == nil {
		t.Errorf("a stranger comes in: %s", out)
	}

	// A restart of the server loses nothing; the next test gets the same one.
	r.Stop()
	if _, err := http.Get(r.URL + "/ping"); err == nil {
		t.Error("a stopped server serves")
	}
	r.Start()
	if text := r.Do("GET", "/dids/"+scope+"/f1", nil); !strings.Contains(text, sum) {
		t.Errorf("the file after a restart: %s", text)
	}
	if same := Rucio(t, o); same.URL != r.URL {
		t.Errorf("another server for the same options: %s, %s", r.URL, same.URL)
	}
}

// TestRucioWithCertificates logs in by certificate, proxy and VOMS proxy, by net/http and by the real client.
func TestRucioWithCertificates(t *testing.T) {
	p := NewPKI(t)
	r := Rucio(t, RucioOptions{PKI: p})
	r.AddAccount("alice")
	r.AddIdentity("alice", "X509", RucioDN(p.User), "")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "usercert.pem"), filepath.Join(dir, "userkey.pem")
	p.User.Write(t, cert, key)
	stranger := p.CA.User(t, "Stranger")
	strange := filepath.Join(dir, "stranger.pem")
	stranger.WriteProxy(t, strange)
	proxy := p.Proxy(t, time.Hour)
	for _, c := range []struct {
		what, cert, key, path string
		status                int
	}{
		{"certificate", cert, key, "/auth/x509", 200},
		{"proxy", proxy, proxy, "/auth/x509_proxy", 200},
		{"stranger's", strange, strange, "/auth/x509", 401},
	} {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		must(t, err)
		hc := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, r.CA), Certificates: []tls.Certificate{pair}}}}
		req, err := http.NewRequest("GET", r.URL+c.path, nil)
		must(t, err)
		req.Header.Set("X-Rucio-Account", "alice")
		resp, err := hc.Do(req)
		must(t, err)
		resp.Body.Close()
		hc.CloseIdleConnections()
		if resp.StatusCode != c.status || (resp.Header.Get("X-Rucio-Auth-Token") != "") != (c.status == 200) {
			t.Errorf("%s: %s, %v\n%s", c.what, resp.Status, resp.Header, r.LogTail())
		}
	}
	text, err := os.ReadFile(r.Client("alice"))
	must(t, err)
	config := filepath.Join(dir, "proxy.cfg")
	must(t, os.WriteFile(config, []byte(strings.Replace(string(text), "auth_type = userpass", "auth_type = x509_proxy", 1)), 0o600))
	if out, err := r.RunAs(config, []string{"X509_USER_PROXY=" + proxy}, "whoami"); err != nil || !strings.Contains(out, "alice") {
		t.Errorf("the client with a proxy: %v, %s", err, out)
	}
}

func TestRucioOfCTAO(t *testing.T) { testRucioOfCTAO(t, RucioOptions{CTAO: true}) }

func TestRucio41OfCTAO(t *testing.T) { testRucioOfCTAO(t, RucioOptions{CTAO: true, Version: "41"}) }

// testRucioOfCTAO registers a file under a name that begins with a slash.
func testRucioOfCTAO(t *testing.T, o RucioOptions) {
	r := Rucio(t, o)
	scope := strings.ReplaceAll(r.Unique("dl"), "-", "")
	r.AddScope(RucioRoot, scope)
	dir := t.TempDir()
	rse := r.AddRSE(RucioRSE{Protocols: []RucioProtocol{{Scheme: "file", Host: "localhost", Prefix: dir + "/"}}})
	name := "/ctao/" + scope + "/LSTN-01/2025/02/04"
	r.Run("did", "add", "--type", "dataset", scope+":"+name)
	r.Do("POST", "/replicas", map[string]any{"rse": rse, "files": []any{map[string]any{"scope": scope, "name": name + "/f1.fits.fz", "bytes": 3, "adler32": "00000001"}}})
	if got := pfn(t, r, scope, name+"/f1.fits.fz", rse); got != "file://localhost"+dir+"/"+name+"/f1.fits.fz" {
		t.Errorf("the name is the path: %s", got)
	}
	if status, exception, text := r.Call("POST", "/replicas", map[string]any{"rse": rse, "files": []any{map[string]any{"scope": scope, "name": "noslash", "bytes": 3, "adler32": "00000001"}}}); exception != "InvalidObject" {
		t.Errorf("a name without a slash: %d %s %s", status, exception, text)
	}
}

// TestRucioPython runs a snippet in the server's environment.
func TestRucioPython(t *testing.T) {
	r := Rucio(t, RucioOptions{})
	account := r.Unique("bob")
	r.AddAccount(account)
	out := r.Python("from rucio.core.account import account_exists\nfrom rucio.common.types import InternalAccount\nfrom rucio.db.sqla.session import db_session\n"+
		"from rucio.db.sqla.constants import DatabaseOperationType\nwith db_session(DatabaseOperationType.READ) as s:\n  print([account_exists(InternalAccount(n), session=s) for n in names])",
		map[string]any{"names": []string{account, "nobodys"}})
	if out != "[True, False]\n" {
		t.Errorf("the server's own view: %q", out)
	}
}

// TestRucioPauses freezes the server under a request.
func TestRucioPauses(t *testing.T) {
	r := Rucio(t, RucioOptions{})
	r.Token()
	r.Pause()
	hc := &http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	if resp, err := hc.Get(r.URL + "/ping"); err == nil {
		t.Errorf("a frozen server answers: %s", resp.Status)
	}
	r.Resume()
	if status, _, _ := r.Call("GET", "/accounts/root", nil); status != 200 {
		t.Errorf("after it: %d", status)
	}
}

// TestRucioEnds wants nothing left of a server, neither processes nor its folder.
func TestRucioEnds(t *testing.T) {
	var dir string
	t.Run("one", func(t *testing.T) {
		r := Rucio(t, RucioOptions{Own: true})
		dir = r.Dir
		r.Python("print(1)", nil)
		if p := processes(t, dir); len(p) < 5 {
			t.Errorf("only these are seen to run: %q", p)
		}
	})
	if p := processes(t, dir); len(p) > 0 {
		t.Errorf("left running: %q", p)
	}
	if exists(dir) {
		t.Errorf("%s is left", dir)
	}
}

// TestRucioUpAndDown is what a user types.
func TestRucioUpAndDown(t *testing.T) {
	needed.Server(t)
	Rucio(t, RucioOptions{}) // skips where there is none
	dir := filepath.Join(folder(t, "rucio-up"), "try")
	script := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(filepath.Join(scripts(t), name), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	t.Cleanup(func() { exec.Command(filepath.Join(scripts(t), "rucio-down"), dir).Run() })
	script("rucio-up", "--dir", dir)
	before := processes(t, dir)
	if out := script("rucio-up", "--dir", dir); !strings.Contains(out, "runs already") {
		t.Errorf("up once more: %s", out)
	}
	if after := processes(t, dir); len(before) < 5 || len(after) != len(before) {
		t.Errorf("processes: %d, and after another up %d", len(before), len(after))
	}
	try := exec.Command("bash", "-euc", `. "$1/env"; cd "$1"; echo text >file; export RUCIO_CONFIG=$RUCIO_HOME/etc/user.cfg
rucio upload --register-after-upload --rse SITE1_USERDISK --scope user.tarn file
rucio rule add --copies 1 --rses SITE2_USERDISK user.tarn:file
rucio-daemons mover
rucio replica list file user.tarn:file`, "-", dir)
	if out, err := try.CombinedOutput(); err != nil || !strings.Contains(string(out), "/rse/SITE2_USERDISK/user/tarn/") {
		t.Errorf("upload and replication: %v\n%s", err, out)
	}
	script("rucio-down", dir)
	if p := processes(t, dir); len(p) > 0 {
		t.Errorf("left running: %q", p)
	}
	script("rucio-up", "--dir", dir) // what was in it is there again
	if out, err := exec.Command("bash", "-euc", `. "$1/env"; rucio did show user.tarn:file`, "-", dir).CombinedOutput(); err != nil {
		t.Errorf("after down and up: %v\n%s", err, out)
	}
	script("rucio-down", "--remove", dir)
	if exists(dir) || len(processes(t, dir)) > 0 {
		t.Errorf("left: %q", processes(t, dir))
	}
}
