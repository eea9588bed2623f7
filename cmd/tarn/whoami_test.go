package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends/credential"
	"tarn/backends/servertest"
	"tarn/cmd/tarn/control"
)

func TestWhoami(t *testing.T) {
	pki := servertest.NewPKI(t)
	issuer := servertest.NewIssuer(t, pki)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	secret := issuer.Token(t, "storage.read:/ storage.modify:/pnfs", time.Hour)
	if err := os.WriteFile(token, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"TARN_LAKE", "BEARER_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.Setenv(v, "")
	}
	t.Setenv("HOME", dir)
	t.Setenv("BEARER_TOKEN_FILE", token)
	t.Setenv("X509_USER_PROXY", pki.Proxy(t, time.Hour))
	t.Setenv("X509_CERT_DIR", pki.Certificates)
	lake := filepath.Join(dir, "lake")
	writeTree(t, lake, map[string]string{"lake.yaml": `
rses:
  - name: SITE
    protocols:
      - {url: "davs://door.example.org/pnfs"}
      - {url: "gsiftp://door.example.org/pnfs", read: 2}
      - {url: "dav://door.example.org/pnfs", read: 3}
  - {name: DISK, path: disk}
scopes: [{name: s}]
`})
	c := tester{t: t, lake: lake}
	rows := func(out string) (rows []whoRow) {
		t.Helper()
		if strings.Contains(out, secret) || strings.Contains(out, strings.Split(secret, ".")[2]) {
			t.Fatal("the token is shown")
		}
		for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); {
			var r whoRow
			if err := dec.Decode(&r); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, r)
		}
		return rows
	}
	all := rows(c.ok("whoami", "--json"))
	if len(all) != 6 {
		t.Fatalf("%d rows", len(all))
	}
	if f := all[0].Credential; f == nil || f.Kind != "token" || f.From != token || f.Issuer != issuer.URL || f.Name != servertest.GridUser ||
		strings.Join(f.Scopes, " ") != "storage.read:/ storage.modify:/pnfs" || len(f.Audience) != 1 || time.Until(f.Expires) > time.Hour {
		t.Errorf("token: %+v", f)
	}
	if f := all[1].Credential; f == nil || f.Kind != "proxy" || f.Name != pki.User.DN() || f.Problem != "" {
		t.Errorf("proxy: %+v", f)
	}
	if a := all[2].Authorities; a == nil || a.Dir != pki.Certificates || a.Trusted != 1 || a.Lists != 1 || a.Stale != 0 || a.System || a.Oldest.IsZero() {
		t.Errorf("authorities: %+v", a)
	}
	for i, with := range []string{"token proxy", "proxy", ""} {
		if u := all[3+i].Use; u == nil || u.RSE != "SITE" || strings.Join(u.With, " ") != with || u.Missing != "" {
			t.Errorf("use %d: %+v", i, u)
		}
	}
	out := c.ok("whoami")
	for _, want := range []string{pki.User.DN(), "may storage.read:/ storage.modify:/pnfs", "(in 59 min", "1 authority, 1 list of revoked", "as token and proxy", "shows no credentials"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not told:\n%s", want, out)
		}
	}

	// Expired, and not there.
	t.Setenv("X509_USER_PROXY", pki.Proxy(t, -time.Minute))
	c.fails(control.CodeRefused, []string{"2 credentials expired, missing or of no use"}, "whoami")
	t.Setenv("X509_USER_PROXY", filepath.Join(dir, "none"))
	_, _, err := c.run("whoami")
	if code := report(&strings.Builder{}, err, false); code != control.CodeRefused {
		t.Errorf("a proxy that is not there: exit code %d", code)
	}
	t.Setenv("X509_USER_PROXY", "")
	t.Setenv("BEARER_TOKEN_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	if _, err := os.Stat(fmt.Sprintf("/tmp/x509up_u%d", os.Geteuid())); err == nil {
		return // this machine's own
	}
	out, _, err = c.run("whoami")
	if code := report(&strings.Builder{}, err, false); code != control.CodeRefused || !strings.Contains(out, "no proxy: make one with voms-proxy-init") || !strings.Contains(out, "as nobody: only what is open to all") {
		t.Errorf("with nothing: exit code %d:\n%s", code, out)
	}
	var said strings.Builder
	err = (&session{t: &terminal{out: &said, err: &said, now: time.Now}}).whoami(t.Context(), credential.None(), nil)
	if code := report(&said, err, false); code != control.CodeNothing || !strings.Contains(said.String(), "no credentials were found") {
		t.Errorf("with nothing and no lake: exit code %d:\n%s", code, said.String())
	}
}

// Keys for S3 are those of the environment, or of the file that a protocol names.
func TestWhoamiForS3(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TARN_LAKE", "")
	t.Setenv("X509_CERT_DIR", dir)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIA0123456789")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	lake := filepath.Join(dir, "lake")
	writeTree(t, lake, map[string]string{"keys": "[default]\naws_access_key_id = MINE0123456789\naws_secret_access_key = hunter2\n", "lake.yaml": `
rses:
  - {name: A, protocols: [{url: "s3s://127.0.0.1/bucket/a"}]}
  - {name: B, protocols: [{url: "s3s://127.0.0.1/bucket/b", keys: keys}]}
scopes: [{name: s}]
`})
	c := tester{t: t, lake: lake}
	keys := filepath.Join(lake, "keys")
	for mode, want := range map[os.FileMode][]string{0o600: {"AKIA…6789", "MINE…6789", keys}, 0o644: {"chmod 600", "no s3 keys that can be used"}} {
		if err := os.Chmod(keys, mode); err != nil {
			t.Fatal(err)
		}
		out, _, err := c.run("whoami")
		for _, w := range want {
			if !strings.Contains(out, w) || strings.Contains(out, "hunter2") || (mode == 0o600) != (strings.Count(out, "as s3 keys") == 2) {
				t.Errorf("%o: want %q (%v):\n%s", mode, w, err, out)
			}
		}
	}
	for _, args := range [][]string{{"config", "show"}, {"config", "check", lake}} {
		if out, _, _ := c.run(args...); strings.Contains(out, "hunter2") {
			t.Errorf("%v shows a secret:\n%s", args, out)
		}
	}
}

// Credentials that a protocol has for itself are told with what they are used for, and nothing of the environment is
// used there.
func TestWhoamiOfProtocols(t *testing.T) {
	pki := servertest.NewPKI(t)
	dir := t.TempDir()
	for _, v := range []string{"TARN_LAKE", "BEARER_TOKEN_FILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.Setenv(v, "")
	}
	t.Setenv("HOME", dir)
	t.Setenv("BEARER_TOKEN", "s3cr3t-of-all")
	t.Setenv("X509_USER_PROXY", pki.Proxy(t, time.Hour))
	t.Setenv("X509_CERT_DIR", pki.Certificates)
	lake := filepath.Join(dir, "lake")
	writeTree(t, lake, map[string]string{"bt_ctao": "s3cr3t-of-ctao", "lake.yaml": `
rses:
  - name: MAGIC
    protocols:
      - {url: "gsiftp://127.0.0.1/x", proxy: x509_magic}
      - {url: "davs://127.0.0.1/x", proxy: x509_magic}
  - {name: CTAO, protocols: [{url: "davs://127.0.0.1/y", token: bt_ctao}]}
  - {name: REST, protocols: [{url: "davs://127.0.0.1/z"}]}
  - {name: ROOT, protocols: [{url: "roots://127.0.0.1/r", token: bt_ctao}]}
scopes: [{name: s}]
`})
	token, proxy := filepath.Join(lake, "bt_ctao"), filepath.Join(lake, "x509_magic")
	if err := os.Chmod(token, 0o600); err != nil {
		t.Fatal(err)
	}
	magic := pki.CA.User(t, "A Magician")
	magic.Proxy(t, time.Hour).WriteProxy(t, proxy)
	c := tester{t: t, lake: lake}
	out := c.ok("whoami")
	for what, n := range map[string]int{magic.DN(): 1, "as proxy of " + proxy: 2, "as token of " + token: 2, "as token and proxy\n": 1, "s3cr3t": 0} {
		if got := strings.Count(out, what); got != n {
			t.Errorf("%q is told %d times, want %d:\n%s", what, got, n, out)
		}
	}
	var uses []used
	for dec := json.NewDecoder(strings.NewReader(c.ok("whoami", "--json"))); dec.More(); {
		var r whoRow
		if err := dec.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if r.Use != nil {
			uses = append(uses, *r.Use)
		}
	}
	if len(uses) != 5 || strings.Join(uses[2].From, " ") != token || strings.Join(uses[2].With, " ") != "token" || len(uses[3].From) != 0 {
		t.Errorf("%+v", uses)
	}
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	os.Remove(proxy)
	out, _, err := c.run("whoami")
	if code := report(&strings.Builder{}, err, false); code != control.CodeRefused {
		t.Errorf("exit code %d", code)
	}
	for what, n := range map[string]int{"chmod 600": 1, "x509_magic is not there": 1, "no proxy that can be used": 2, "no token that can be used": 2, "s3cr3t": 0} {
		if got := strings.Count(out, what); got != n {
			t.Errorf("%q is told %d times, want %d:\n%s", what, got, n, out)
		}
	}
	for _, args := range [][]string{{"config", "show"}, {"config", "check", lake}} {
		if out, _, _ := c.run(args...); strings.Contains(out, "s3cr3t") {
			t.Errorf("%v shows a secret:\n%s", args, out)
		}
	}
}
