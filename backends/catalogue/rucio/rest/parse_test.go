package rest

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"tarn/backends"
)

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o700))
		must(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	file := write("rucio.cfg", "\ufeff# a comment\n[DEFAULT]\nvo: cta\n[database]\nthis is\n[client]\nRUCIO_HOST = https://rucio.example.org:443\nauth_host=%(rucio_host)s\n"+
		"; more\naccount = alice\nauth_type = userpass\nusername = alice\npassword = a#b;c\"d' 100%% =:x\n    goes on\nclient_cert = ~/.globus/usercert.pem\nclient_key = $HOME/key\n"+
		"client_x509_proxy = /p\nca_cert = $X/ca\nssh_private_key = ~/.ssh/id_rsa\n[other]\naccount = bob\n")
	env := map[string]string{"HOME": "/home/alice", "X": "/x"}
	getenv := func(k string) string { return env[k] }
	want := Config{Host: "https://rucio.example.org:443", AuthHost: "https://rucio.example.org:443", Account: "alice", VO: "cta", AuthType: "userpass", Username: "alice", Password: `a#b;c"d' 100% =:x`,
		Cert: "/home/alice/.globus/usercert.pem", Key: "/home/alice/key", Proxy: "/p", CA: "/x/ca", SSHKey: "/home/alice/.ssh/id_rsa", From: file}
	load := func() Config {
		t.Helper()
		c, err := Load(file, getenv)
		must(t, err)
		return c
	}
	if c := load(); c != want {
		t.Errorf("%s", diff(c, want))
	}
	env["X509_USER_PROXY"] = "/user" // counts less than the file
	if c := load(); c.Proxy != "/p" {
		t.Errorf("proxy %q", c.Proxy)
	}
	for k, v := range map[string]string{"RUCIO_ACCOUNT": "carol", "RUCIO_AUTH_TYPE": "x509", "RUCIO_VO": "def", "RUCIO_CLIENT_PROXY": "/q", "RUCIO_CLIENT_CERT": "/c", "RUCIO_CLIENT_KEY": "/k", "X509_CERT_DIR": "/certs"} {
		env[k] = v
	}
	want.Account, want.AuthType, want.VO, want.Proxy, want.Cert, want.Key, want.CA = "carol", "x509", "def", "/q", "/c", "/k", ""
	if c := load(); c != want {
		t.Errorf("%s", diff(c, want))
	}
	if c, err := Load(write("empty", ""), func(k string) string { return map[string]string{"X509_USER_PROXY": "/user"}[k] }); err != nil || c.Proxy != "/user" {
		t.Errorf("%v, %v", c, err)
	}
	// All indented is not all going on.
	if c, err := Load(write("indented", "[client]\n  rucio_host = http://h\n  account = x\n"), func(string) string { return "" }); err != nil || c.Host != "http://h" || c.Account != "x" {
		t.Errorf("%v, %v", c, err)
	}
	for name, text := range map[string]string{"no end": "[client\n", "no setting": "[client]\ngeheim\n", "no section": "password = geheim\n", "no key": "[client]\n=geheim\n"} {
		if _, err := Load(write(name, text), getenv); !errors.Is(err, backends.ErrDamaged) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Load(filepath.Join(dir, "nosuch"), getenv); !errors.Is(err, backends.ErrNotExist) {
		t.Error(err)
	}

	// The search.
	home, venv := write("home/etc/rucio.cfg", ""), write("venv/etc/rucio.cfg", "")
	for _, x := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"RUCIO_CONFIG": "/given", "RUCIO_HOME": dir + "/home"}, "/given"},
		{map[string]string{"RUCIO_HOME": dir + "/home", "VIRTUAL_ENV": dir + "/venv"}, home},
		{map[string]string{"RUCIO_HOME": dir + "/nosuch", "VIRTUAL_ENV": dir + "/venv"}, venv},
	} {
		if got := Find(func(k string) string { return x.env[k] }); got != x.want {
			t.Errorf("%v: %q", x.env, got)
		}
	}
}

// diff tells which fields are not the same, without their values when they are secret.
func diff(got, want Config) string {
	var out []string
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if g.Field(i).String() != w.Field(i).String() {
			out = append(out, g.Type().Field(i).Name+": "+g.Field(i).String()+", want "+w.Field(i).String())
		}
	}
	return strings.Join(out, "; ")
}

func TestChecks(t *testing.T) {
	for _, x := range []struct {
		c     Config
		words string // "": it is good
	}{
		{Config{Host: "https://h", AuthType: OIDC}, ""},
		{Config{Host: "https://h", Username: "u", Password: "p"}, ""},
		{Config{Host: "h"}, "URL"},
		{Config{Host: "ftp://h"}, "URL"},
		{Config{}, "URL"},
		{Config{Host: "https://u:geheim@h"}, "belong"},
		{Config{Host: "https://h", AuthType: Userpass, Username: "u"}, "password"},
		{Config{Host: "https://h", AuthType: X509, Cert: "c"}, "client_key"},
		{Config{Host: "https://h", AuthType: SSH, SSHKey: "k"}, "account"},
		{Config{Host: "https://h", AuthType: "gss"}, "gss"},
		{Config{Host: "https://h", AuthType: OIDC, CA: "/nosuch"}, "ca_cert"},
	} {
		_, err := New(Options{Config: x.c})
		if (err == nil) != (x.words == "") || err != nil && (!strings.Contains(err.Error(), x.words) || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("%v: %v", x.c, err)
		}
	}
}

func TestTimes(t *testing.T) {
	want := time.Date(2026, 11, 23, 10, 59, 36, 0, time.UTC)
	for _, s := range []string{"Mon, 23 Nov 2026 10:59:36 UTC", "Mon, 23 Nov 2026 10:59:36 GMT", "2026-11-23T10:59:36", "2026-11-23T10:59:36.000000", "2026-11-23 10:59:36", "2026-11-23T10:59:36Z", "2026-11-23T11:59:36+01:00"} {
		if got := ParseTime(s); !got.Equal(want) {
			t.Errorf("%q: %v", s, got)
		}
	}
	for _, s := range []string{"", "null", "None", "yesterday"} {
		if got := ParseTime(s); !got.IsZero() {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestInts(t *testing.T) {
	for s, want := range map[string]Int{"1": 1, "317.0": 317, "1e3": 1000, "null": Unknown, "Infinity": Unknown, "NaN": Unknown, `"12"`: 12, "-1": -1, "9007199254740993": 9007199254740993, "1e40": Unknown} {
		var v struct{ N Int }
		v.N = 5
		if err := decode([]byte(`{"N": `+s+`}`), &v); err != nil || v.N != want {
			t.Errorf("%s: %d, %v", s, v.N, err)
		}
	}
	var v struct{ N Int }
	for _, s := range []string{`{"N": true}`, `{"N": "x"}`, `{"N": {}}`} {
		if err := decode([]byte(s), &v); err == nil {
			t.Errorf("%s is %d", s, v.N)
		}
	}
}

func FuzzINI(f *testing.F) {
	f.Add("[client]\na = b\n  c\n[DEFAULT]\nx: %(a)s %% %(x)s\n")
	f.Add("[a]\n\xef\xbb\xbf=\n[client")
	f.Add("[client]\nrucio_host = %(%(a)s)s%(\n")
	f.Add("[client]\nrucio_host = " + strings.Repeat("%(rucio_host)s", 100)) // 100 to the tenth
	f.Fuzz(func(t *testing.T, text string) {
		var c Config
		if err := c.read(strings.NewReader(text)); err != nil && !errors.Is(err, backends.ErrDamaged) {
			t.Errorf("%v", err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a": Infinity, "b": [-Infinity, NaN], "c": "NaN\" Infinity"}`))
	f.Add([]byte(`{"bytes": 317.0, "created_at": "Mon, 23 Nov 2026 10:59:36 UTC"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var row Meta
		decode(b, &row)
		var got, want any
		if json.Unmarshal(b, &want) != nil { // what is JSON reads as it would without our tolerance
			return
		}
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber()
		d.Decode(&want)
		if err := decode(b, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v (%v), want %v", b, got, err, want)
		}
	})
}
