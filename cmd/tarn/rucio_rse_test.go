package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/cmd/tarn/config"
)

// TestRSEOfRucio translates what a server says of its RSEs, with what a lake file says over it.
func TestRSEOfRucio(t *testing.T) {
	ranks := func(read, write int) map[string]map[string]rest.Int {
		return map[string]map[string]rest.Int{
			"lan": {"read": rest.Int(read), "write": rest.Int(write), "delete": 1},
			"wan": {"read": rest.Int(read + 1), "write": rest.Unknown, "third_party_copy_read": 1},
		}
	}
	r := rest.RSE{
		Name: "PIC-DISK", Type: "DISK", Deterministic: true, Algorithm: "hash", Read: true, Write: true,
		Attributes: map[string]string{"site": "PIC", "PIC-DISK": "true", "country": "ES"},
		Protocols: []rest.Protocol{
			{Scheme: "davs", Hostname: "door.pic.es", Port: 8452, Prefix: "/pnfs/rucio/", Domains: ranks(1, 2)},
			{Scheme: "srm", Hostname: "srm.pic.es", Port: 8443, Prefix: "/srm/managerv2?SFN=/pnfs", Domains: ranks(1, 1)},
			{Scheme: "s3", Hostname: "s3.pic.es", Port: 443, Prefix: "/bucket/a", Domains: ranks(2, 0)},
			{Scheme: "file", Hostname: "nas", Prefix: "/nas/rucio", Domains: ranks(3, 3)},
		},
	}
	over := config.RSE{
		Name: "PIC-DISK", Distance: 3, Path: "/mnt/nas", Attributes: map[string]string{"country": "FR"},
		Protocols: []config.Protocol{{URL: "https://door.pic.es:8452", Token: "/t", Limits: config.Limits{Concurrent: 4}}},
	}
	x := rseOf(r, over)
	if x.Kind != config.Disk || x.Naming != "hash" || x.Closed != "" || x.Unread != "" || x.Distance != 3 {
		t.Errorf("it is %+v", x)
	}
	if x.Attributes["country"] != "FR" || x.Attributes["site"] != "PIC" || x.Attributes["PIC-DISK"] != "" {
		t.Errorf("attributes %v", x.Attributes)
	}
	if len(x.Unspoken) != 1 || !strings.Contains(x.Unspoken[0], "srm") {
		t.Errorf("not spoken: %q", x.Unspoken)
	}
	var urls []string
	for _, p := range x.Protocols {
		urls = append(urls, p.URL)
	}
	if got, want := strings.Join(urls, " "), "https://door.pic.es:8452/pnfs/rucio s3s://s3.pic.es:443/bucket/a file:///mnt/nas"; got != want {
		t.Errorf("URLs %s, want %s", got, want)
	}
	if p := x.Protocols[0]; p.Token != "/t" || p.Limits.Concurrent != 4 {
		t.Errorf("the override is not there: %+v", p)
	}
	for _, c := range []struct {
		site        string
		read, write int
	}{{"PIC", 1, 2}, {"CNAF", 2, 0}} {
		here := (&config.Config{Site: c.site}).Here(x.RSE).Protocols[0]
		if config.Priority(here.Read) != c.read || config.Priority(here.Write) != c.write || here.CopyReadPriority() != 0 {
			t.Errorf("from %s: read %d, write %d, copies %d", c.site, config.Priority(here.Read), config.Priority(here.Write), here.CopyReadPriority())
		}
	}
	// The lake file is strict about RSEs of its own; what Rucio says must pass it too.
	for _, c := range []struct {
		what   string
		change func(*rest.RSE)
		closed string
	}{
		{"closed for writing", func(r *rest.RSE) { r.Write = false }, "availability_write"},
		{"tape", func(r *rest.RSE) { r.Type = "TAPE" }, "tape"},
		{"old tape", func(r *rest.RSE) { r.Attributes = map[string]string{"istape": "True"} }, "tape"},
		{"staging area", func(r *rest.RSE) { r.Staging = true }, "staging area"},
		{"an algorithm of its own", func(r *rest.RSE) { r.Algorithm = "ligo" }, ""},
		{"an algorithm that is not of deterministic ones", func(r *rest.RSE) { r.Algorithm = "ligo"; r.Deterministic = false }, ""},
	} {
		y := r
		c.change(&y)
		if got := rseOf(y, config.RSE{}).Closed; c.closed == "" && got != "" || !strings.Contains(got, c.closed) {
			t.Errorf("%s: closed %q, want %q", c.what, got, c.closed)
		}
	}
	r.Read = false
	if rseOf(r, over).Unread == "" {
		t.Error("it is closed for reading, and is read")
	}
}

// TestGate is what a closed RSE answers.
func TestGate(t *testing.T) {
	g := newGate("SRM-DISK", nil, []string{"srm://a: tarn does not speak srm"})
	if _, err := g.Open(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotExist) || !strings.Contains(err.Error(), "srm") {
		t.Errorf("open: %v", err)
	}
	g.set("", "")
	if g.unread() == "" {
		t.Error("an RSE that nothing here speaks to was opened")
	}
	if _, err := g.Create(t.Context(), "f", 1); !errors.Is(err, backends.ErrReadOnly) {
		t.Errorf("create: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// TestKeptRSEs: what is kept is read back as it was.
func TestKeptRSEs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run/rses.json")
	all := map[string]rest.RSE{"A": {Name: "A", Read: true, Attributes: map[string]string{"x": "y"}, Protocols: []rest.Protocol{{Scheme: "davs", Hostname: "h", Port: 1, Domains: map[string]map[string]rest.Int{"lan": {"read": 2}}}}}}
	if err := keepRSEs(file, all); err != nil {
		t.Fatal(err)
	}
	got, err := keptRSEs(file)
	if err != nil || !got["A"].Read || got["A"].Attributes["x"] != "y" || got["A"].Protocols[0].Domains["lan"]["read"] != 2 {
		t.Errorf("kept %+v, %v", got, err)
	}
	if names, _ := filepath.Glob(filepath.Dir(file) + "/*"); len(names) != 1 {
		t.Errorf("left beside it: %v", names)
	}
}

// TestRucioClient: what a lake file says counts before rucio.cfg and the environment, and a password is in a file.
func TestRucioClient(t *testing.T) {
	dir := t.TempDir()
	cfg, secret := filepath.Join(dir, "rucio.cfg"), filepath.Join(dir, "secret")
	for name, text := range map[string]string{cfg: "[client]\nrucio_host = https://a.example.org\nauth_host = https://auth.example.org\naccount = ada\nauth_type = userpass\nusername = u\npassword = p\n", secret: "hidden\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"RUCIO_CONFIG": cfg, "RUCIO_ACCOUNT": "eve"}
	got, err := rucioClient(config.Rucio{}, func(k string) string { return env[k] })
	if err != nil || got.Host != "https://a.example.org" || got.AuthHost != "https://auth.example.org" || got.Account != "eve" || got.Password != "p" {
		t.Errorf("of rucio.cfg: %v, %v", got, err)
	}
	got, err = rucioClient(config.Rucio{URL: "https://b.example.org", Account: "bob", Username: "v", Password: secret}, func(k string) string { return env[k] })
	if err != nil || got.Host != "https://b.example.org" || got.AuthHost == "https://auth.example.org" || got.Account != "bob" || got.Password != "hidden" {
		t.Errorf("of the lake file: %v, %v", got, err)
	}
	if _, err := rucioClient(config.Rucio{}, func(string) string { return "" }); err == nil {
		t.Error("no server is named, and one is found")
	}
	c := &config.Config{Catalogue: config.Catalogue{Rucio: config.Rucio{Client: filepath.Join(dir, "none")}}}
	if _, err := connectRucio(c, nil, slog.New(slog.DiscardHandler), time.Now); err == nil || !strings.Contains(err.Error(), "rucio.cfg") {
		t.Errorf("a rucio.cfg that is not there: %v", err)
	}
}
