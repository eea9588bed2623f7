package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/checksum"
	"tarn/backends/credential"
	"tarn/backends/servertest"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func openForTest(t *testing.T, r config.RSE) *protocols {
	t.Helper()
	cred := credential.New(credential.Options{})
	p, err := openProtocols(r, doorsOf(&config.Config{RSEs: []config.RSE{r}}, cred, slog.New(slog.DiscardHandler)), cred, checksum.Default, slog.New(slog.DiscardHandler), time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestProtocolsAreOneStorage(t *testing.T) {
	backendstest.Storage(t, func(t *testing.T) backends.Storage {
		return openForTest(t, config.RSE{Protocols: []config.Protocol{{URL: "file://" + t.TempDir()}}})
	})
}

// What one protocol cannot do now, the next one does; what is not there is not looked for elsewhere.
func TestProtocolsStandInForOneAnother(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String() + "/x"
	l.Close()
	dir, other := t.TempDir(), t.TempDir()
	two, none := 2, 0
	p := openForTest(t, config.RSE{Protocols: []config.Protocol{
		{URL: "file://" + other, Read: &none, Write: &none, Delete: &none},
		{URL: "file://" + dir, Read: &two, Write: &two, Delete: &two},
		{URL: dead},
	}})
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, p, "d/f", data)
	if got, err := backendstest.Get(t.Context(), p, "d/f"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := p.Space(t.Context()); err != nil {
		t.Errorf("space: %v", err)
	}
	n := 0
	for _, err := range p.List(t.Context(), "d") {
		if n++; err != nil {
			t.Errorf("list: %v", err)
		}
	}
	if n != 1 {
		t.Errorf("list: %d entries", n)
	}
	if err := p.Remove(t.Context(), "d/f"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if es, _ := os.ReadDir(other); len(es) > 0 {
		t.Errorf("what is never to be used was: %v", es)
	}
	// With all of them away it is the first that is told of.
	p = openForTest(t, config.RSE{Protocols: []config.Protocol{{URL: dead}, {URL: "file:///no/such/folder"}}})
	if _, err := p.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
}

// A server that failed again and again is not asked for a while, which `tarn rse ls` tells.
func TestDeadServerIsLeftAlone(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	lake := t.TempDir()
	writeTree(t, lake, map[string]string{"lake.yaml": fmt.Sprintf(`
rses:
  - {name: DEAD, protocols: [{url: "http://%[1]s/x", limits: {concurrent: 8}}]}
  - {name: TWIN, protocols: [{url: "dav://%[1]s/y"}]}
  - {name: DISK, path: disk}
scopes: [{name: s}]
`, addr)})
	t.Setenv("TARN_LAKE", "")
	c := tester{t: t, lake: lake}
	c.ok("init", lake)
	var seen []control.RSEEntry
	for dec := json.NewDecoder(strings.NewReader(c.ok("rse", "ls", "--json"))); dec.More(); {
		var e control.RSEEntry
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, e)
	}
	if len(seen) != 3 || len(seen[0].Endpoints) != 1 || len(seen[1].Endpoints) != 1 || len(seen[2].Endpoints) != 0 {
		t.Fatalf("%+v", seen)
	}
	for _, r := range seen[:2] { // they are behind one door
		e := r.Endpoints[0]
		if e.Endpoint != "dav://"+addr || e.State != backends.EndpointOpen || e.Concurrent != 8 || e.Failures != 5 || !strings.Contains(e.Error, "refused") {
			t.Errorf("%s: %+v", r.Name, e)
		}
	}
	if !strings.Contains(seen[1].Error, backends.ErrHeldOff.Error()) {
		t.Errorf("the second was asked: %s", seen[1].Error)
	}
	if out := c.ok("rse", "ls"); !strings.Contains(out, "dav://"+addr+" is left alone for ") {
		t.Errorf("for people:\n%s", out)
	}
}

// Two servers take one person each: each protocol shows its own credential, and nobody the environment's.
func TestProtocolsHaveTheirOwnCredentials(t *testing.T) {
	pki := servertest.NewPKI(t)
	dir := t.TempDir()
	env := map[string]string{"X509_CERT_DIR": pki.Certificates, "X509_USER_PROXY": filepath.Join(dir, "proxy-0")}
	cred := credential.New(credential.Options{Getenv: func(k string) string { return env[k] }, UID: os.Geteuid(), TmpDir: dir})
	var people []*servertest.Identity
	for i, name := range []string{"Ada", "Bob"} {
		id := pki.CA.User(t, name)
		id.Proxy(t, time.Hour).WriteProxy(t, filepath.Join(dir, fmt.Sprint("proxy-", i)))
		people = append(people, id)
	}
	try := func(t *testing.T, p config.Protocol) error {
		t.Helper()
		r := config.RSE{Protocols: []config.Protocol{p}}
		st, err := openProtocols(r, doorsOf(&config.Config{RSEs: []config.RSE{r}}, cred, slog.New(slog.DiscardHandler)), cred, checksum.Default, slog.New(slog.DiscardHandler), time.Now, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		u, err := st.Create(t.Context(), "f", 1)
		if err != nil {
			return err
		}
		defer u.Abort()
		if _, err = u.Write([]byte("x")); err == nil {
			_, err = u.Commit(t.Context(), backendstest.Sums([]byte("x")))
		}
		if err == nil {
			err = st.Remove(t.Context(), "f")
		}
		return err
	}
	check := func(t *testing.T, urls []string, with func(p *config.Protocol, i int)) {
		for i, url := range urls {
			for k := range 2 {
				p := config.Protocol{URL: url}
				with(&p, k)
				if err := try(t, p); i == k && err != nil || i != k && !errors.Is(err, backends.ErrPermission) {
					t.Errorf("server %d, credential %d: %v", i, k, err)
				}
			}
		}
	}
	t.Run("proxies", func(t *testing.T) {
		var urls []string
		for _, id := range people {
			s := servertest.GridFTP(t, servertest.GridFTPOptions{PKI: pki, DNs: []string{id.DN()}})
			urls = append(urls, s.FTP+s.Dir)
		}
		check(t, urls, func(p *config.Protocol, i int) { p.Proxy = filepath.Join(dir, fmt.Sprint("proxy-", i)) })
		if err := try(t, config.Protocol{URL: urls[0]}); err != nil {
			t.Errorf("that of the environment, where none is named: %v", err)
		}
		if err := try(t, config.Protocol{URL: urls[0], Proxy: filepath.Join(dir, "none")}); !errors.Is(err, backends.ErrPermission) {
			t.Errorf("one that is not there: %v", err)
		}
	})
	t.Run("tokens", func(t *testing.T) {
		env["BEARER_TOKEN_FILE"] = filepath.Join(dir, "token-0")
		var urls []string
		for i := range 2 {
			issuer := servertest.NewIssuer(t, pki)
			token := issuer.Token(t, "storage.read:/ storage.create:/ storage.modify:/", time.Hour)
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("token-", i)), []byte(token), 0o600); err != nil {
				t.Fatal(err)
			}
			s := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Issuer: issuer, Authorize: true})
			urls = append(urls, s.HTTPS+"/data")
		}
		check(t, urls, func(p *config.Protocol, i int) { p.Token = filepath.Join(dir, fmt.Sprint("token-", i)) })
	})
}
