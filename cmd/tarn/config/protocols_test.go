package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const remote = `
rses:
  - name: SITE
    protocols:
      - {url: "davs://door.example.org:2880/pnfs"}
      - {url: "http://cache.example.org/pnfs", read: 2, write: 0, delete: 0}
  - {name: OLD, path: rse/OLD}
  - name: OBJECTS
    protocols: [{url: "s3s://s3.example.org:9000/bucket/prefix", keys: secret/s3, style: path, region: eu-west-1}]
scopes: [{name: x}]
`

func TestProtocols(t *testing.T) {
	c, err := Parse("/srv/lake.yaml", []byte(remote))
	if err != nil {
		t.Fatal(err)
	}
	ps := c.RSEs[0].Protocols
	if len(ps) != 2 || Priority(ps[0].Read) != 1 || Priority(ps[1].Read) != 2 || Priority(ps[1].Write) != 0 || c.RSEs[0].Path != "" || c.RSEs[0].Kind != Disk {
		t.Errorf("%+v", c.RSEs[0])
	}
	if p := c.RSEs[2].Protocols[0]; p.Keys != "/srv/secret/s3" || p.Style != "path" || p.Region != "eu-west-1" {
		t.Errorf("%+v", p)
	}
}

// All that is wrong is told at once, with its line, and no password with it.
func TestProtocolFaults(t *testing.T) {
	_, err := Parse("/srv/lake.yaml", []byte(`
rses:
  - name: A
    protocols:
      - url: gopher://host/x
      - url: davs://ada:hunter2@host/x
      - url: davs:///x
      - url: "https://host/x?authz=hunter2"
      - url: file://rse/x
      - url: davs://host/../x
      - url: ""
      - {url: "dav://host/x", read: -1}
      - url: dav://host/x
        third_party_copy_read: -1
        lan: {third_party_copy_write: -2}
  - name: B
    path: rse/B
    protocols: [{url: "dav://hostb/b", read: 0, write: 0, delete: 0}]
  - {name: C}
  - name: D
    read_only: true
    protocols: [{url: "dav://hostd/d", write: 0, delete: 0}]
  - name: E
    protocols:
      - {url: "s3s://ID:hunter2@host/b"}
      - {url: "s3://host"}
      - {url: "s3s://host/b", style: both}
      - {url: "dav://host/e", keys: k, style: path, region: r}
scopes: [{name: x}]
`))
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatal(err)
	}
	text := err.Error()
	if strings.Contains(text, "hunter2") {
		t.Errorf("a secret is told:\n%s", text)
	}
	for _, want := range []string{
		`lake.yaml:5: rses[0].protocols[0].url: want a scheme of davs, https, dav, http, root, roots, gsiftp, ftp, s3s, s3, file, not "gopher"`,
		"lake.yaml:6: rses[0].protocols[1].url: has a user or password in it",
		"lake.yaml:7: rses[0].protocols[2].url: has no host",
		"lake.yaml:8: rses[0].protocols[3].url: want nothing after the path",
		"lake.yaml:9: rses[0].protocols[4].url: want file:///path",
		"lake.yaml:10: rses[0].protocols[5].url: want a path without ..",
		"lake.yaml:11: rses[0].protocols[6].url: want the URL",
		"lake.yaml:12: rses[0].protocols[7].read: want 1 (first) and up",
		"lake.yaml:13: rses[0].protocols[8].url: is that of protocols[7]",
		"lake.yaml:14: rses[0].protocols[8].third_party_copy_read: want 1 (first) and up",
		"lake.yaml:15: rses[0].protocols[8].lan.third_party_copy_write: want 1 (first) and up",
		"lake.yaml:17: rses[1].path: want a path or protocols, not both",
		"lake.yaml:18: rses[1].protocols: none of them reads",
		"lake.yaml:18: rses[1].protocols: none of them writes",
		"lake.yaml:18: rses[1].protocols: none of them deletes",
		"rses[2].path: want the folder of the replicas, or protocols",
		"lake.yaml:25: rses[4].protocols[0].url: has a user or password in it: name a file by keys",
		"lake.yaml:26: rses[4].protocols[1].url: has no bucket",
		`lake.yaml:27: rses[4].protocols[2].style: want path or host, not "both"`,
		"lake.yaml:28: rses[4].protocols[3].keys: is for URLs of s3s and s3 only",
		"lake.yaml:28: rses[4].protocols[3].style: is for",
		"lake.yaml:28: rses[4].protocols[3].region: is for",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not told", want)
		}
	}
	if strings.Contains(text, "rses[3]") || len(bad.Faults) != 22 {
		t.Errorf("%d faults:\n%s", len(bad.Faults), text)
	}
}

func TestLimits(t *testing.T) {
	c, err := Parse("/srv/lake.yaml", []byte(`
rses:
  - name: SITE
    protocols:
      - {url: "davs://Door.example.org/pnfs", limits: {concurrent: 32, read: 800MB/s, write: 64MiB}}
      - {url: "https://door.example.org:443/other", read: 2}
      - {url: "gsiftp://door.example.org/x", read: 3}
      - {url: "file:///srv", read: 4}
scopes: [{name: x}]
`))
	if err != nil {
		t.Fatal(err)
	}
	ps := c.RSEs[0].Protocols
	if ps[0].Limits != (Limits{32, 800e6, 64 << 20}) || ps[1].Limits != (Limits{}) {
		t.Errorf("%+v", ps)
	}
	for i, want := range []string{"davs://door.example.org:443", "davs://door.example.org:443", "gsiftp://door.example.org:2811", ""} {
		if got := ps[i].Door(); got != want {
			t.Errorf("door of %s is %q, want %q", ps[i].URL, got, want)
		}
	}
	_, err = Parse("/srv/lake.yaml", []byte(`
rses:
  - name: SITE
    protocols:
      - url: davs://a/x
        limits:
          concurrent: -1
          read: 100
          write: fast
      - url: file:///x
        limits: {concurrent: 1}
scopes: [{name: x}]
`))
	for _, want := range []string{
		"lake.yaml:7: rses[0].protocols[0].limits.concurrent: want 1 and more",
		"lake.yaml:8: rses[0].protocols[0].limits.read: want 64KiB/s and more",
		`lake.yaml:9: rses[0].protocols[0].limits.write: "fast" is not a rate`,
		"lake.yaml:11: rses[0].protocols[1].limits: a folder has no server",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told:\n%v", want, err)
		}
	}
}

// The priorities are those of the domain that this machine is in: lan where the RSE's attribute site is its own.
func TestDomains(t *testing.T) {
	text := `
rses:
  - name: SITE
    attributes: {site: PIC}
    protocols:
      - {url: "root://a/x", read: 2, wan: {read: 0, write: 0}}
      - {url: "davs://a/x", lan: {read: 3}}
      - {url: "gsiftp://a/x", third_party_copy_read: 4, lan: {third_party_copy_read: 0, third_party_copy_write: 5}, wan: {write: 6}}
scopes: [{name: x}]
`
	// Read, write, delete, and both of copies by third party of each.
	abroad := "00100|11111|16146"
	for site, want := range map[string]string{"": abroad, "site: CNAF": abroad, "site: PIC": "21121|31131|11105"} {
		c, err := Parse("/srv/lake.yaml", []byte(site+text))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range c.Here(c.RSEs[0]).Protocols {
			got = append(got, fmt.Sprint(Priority(p.Read), Priority(p.Write), Priority(p.Delete), p.CopyReadPriority(), p.CopyWritePriority()))
		}
		if s := strings.ReplaceAll(strings.Join(got, "|"), " ", ""); s != want {
			t.Errorf("%q: %s, want %s", site, s, want)
		}
		if lan := c.LAN(c.RSEs[0]); lan != (site == "site: PIC") {
			t.Errorf("%q: LAN %v", site, lan)
		}
	}
	_, err := Parse("/srv/lake.yaml", []byte(`site: PIC
rses:
  - name: SITE
    attributes: {site: PIC}
    protocols:
      - url: davs://a/x
        lan: {read: 0, delete: -1}
        wan: {write: -2}
scopes: [{name: x}]
`))
	for _, want := range []string{"lake.yaml:6: rses[0].protocols: none of them reads", "lake.yaml:7: rses[0].protocols[0].lan.delete: want 1", "lake.yaml:8: rses[0].protocols[0].wan.write: want 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told:\n%v", want, err)
		}
	}
}

func TestNaming(t *testing.T) {
	c, err := Parse("/srv/lake.yaml", []byte(`
rses:
  - {name: A, path: rse/A}
  - {name: B, path: rse/B, naming: hash}
  - {name: C, naming: identity, protocols: [{url: "dav://host/x"}]}
  - {name: D, path: rse/D, naming: belleii}
scopes: [{name: x}]
`))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"unique", "hash", "identity", "belleii"} {
		if got := c.RSEs[i].Naming; got != want {
			t.Errorf("naming of %s is %q, want %q", c.RSEs[i].Name, got, want)
		}
	}
	_, err = Parse("/srv/lake.yaml", []byte(`
rses:
  - name: A
    path: rse/A
    naming: Hash
  - name: T
    kind: tape
    path: rse/T
    tape: {drives: 1}
    naming: hash
  - {name: U, kind: tape, path: rse/U, tape: {drives: 1}, naming: unique}
scopes: [{name: x}]
`))
	var bad *Error
	if !errors.As(err, &bad) || len(bad.Faults) != 2 {
		t.Fatal(err)
	}
	for _, want := range []string{
		`lake.yaml:5: rses[0].naming: want unique or hash or identity or belleii or ctao_bdms, not "Hash"`,
		"lake.yaml:10: rses[1].naming: hash is for disk RSEs: want unique",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told:\n%v", want, err)
		}
	}
	if !slices.Contains(Keys(), Key{"rses[].naming", "unique"}) {
		t.Error("no key rses[].naming")
	}
}

// A protocol's own credentials are refused where the scheme cannot show them.
func TestCredentialsOfProtocols(t *testing.T) {
	c, err := Parse("/srv/lake.yaml", []byte(`
rses:
  - name: A
    protocols:
      - {url: "davs://a/x", proxy: secret/x509, token: /etc/bt}
      - {url: "gsiftp://a/x", proxy: secret/x509}
      - {url: "root://a/x", proxy: secret/x509}
      - {url: "roots://a/x", token: /etc/bt, proxy: secret/x509}
scopes: [{name: x}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if p := c.RSEs[0].Protocols[0]; p.Proxy != "/srv/secret/x509" || p.Token != "/etc/bt" {
		t.Errorf("%+v", p)
	}
	_, err = Parse("/srv/lake.yaml", []byte(`
rses:
  - name: A
    protocols:
      - {url: "dav://a/x", proxy: p, token: t}
      - {url: "ftp://a/x", proxy: p}
      - {url: "gsiftp://a/x", token: t}
      - {url: "s3s://a/x", token: t, proxy: p}
      - {url: "file:///x", proxy: p}
      - {url: "root://a/x", token: t}
      - {url: "root://a/x", proxy: "my proxy"}
scopes: [{name: x}]
`))
	text := fmt.Sprint(err)
	for _, want := range []string{
		"lake.yaml:5: rses[0].protocols[0].proxy: is for URLs of davs, https, root, roots and gsiftp only",
		"lake.yaml:5: rses[0].protocols[0].token: is for URLs of davs, https and roots only",
		"lake.yaml:6: rses[0].protocols[1].proxy: is for",
		"lake.yaml:7: rses[0].protocols[2].token: is for",
		"lake.yaml:8: rses[0].protocols[3].token: is for",
		"lake.yaml:8: rses[0].protocols[3].proxy: is for",
		"lake.yaml:9: rses[0].protocols[4].proxy: is for",
		"lake.yaml:10: rses[0].protocols[5].token: goes over TLS only: want a URL of roots",
		"lake.yaml:11: rses[0].protocols[6].proxy: want a path without &, ?, =, %, # and spaces",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not told:\n%s", want, text)
		}
	}
}

// TestServersOfTwoRSEs: what lies at one is not to be taken for something of the other, which nobody knows.
func TestServersOfTwoRSEs(t *testing.T) {
	for _, c := range []struct {
		a, b string
		ok   bool
	}{
		{"davs://door.example.org:2880/pnfs", "davs://door.example.org:2880/pnfs", false},
		{"davs://door.example.org:2880/pnfs/", "davs://DOOR.example.org:2880/pnfs/disk", false},
		{"davs://door.example.org:2880/pnfs/tape/", "davs://door.example.org:2880/", false},
		{"davs://door.example.org:2880/pnfs/tape", "davs://door.example.org:2880/pnfs/tapes", true},
		{"davs://door.example.org:2880/pnfs", "davs://other.example.org:2880/pnfs", true},
		{"s3s://s3.example.org/one", "s3s://s3.example.org/two", true},
		{"s3s://s3.example.org/one", "s3s://s3.example.org/one/two", false},
	} {
		_, err := Parse("/srv/lake.yaml", []byte(`
rses:
  - {name: A, protocols: [{url: "`+c.a+`"}, {url: "`+c.a+`/", read: 2}]}
  - {name: B, protocols: [{url: "`+c.b+`"}]}
scopes: [{name: x}]
`))
		if got := err != nil && strings.Contains(err.Error(), "overlaps with rses[0].protocols[0].url of RSE A"); got == c.ok {
			t.Errorf("%s and %s: %v", c.a, c.b, err)
		}
	}
}
