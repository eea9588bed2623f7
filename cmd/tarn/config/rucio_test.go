package config

import (
	"strings"
	"testing"
	"time"
)

func TestRucioLakeFile(t *testing.T) {
	c, err := Parse("/srv/lake/lake.yaml", []byte(`
catalogue:
  type: rucio
  url: https://rucio.example.org
  account: ada
  auth: userpass
  username: ada
  password: secrets/rucio
  layout: lfn
  scope_algorithm: ctao_bdms
  roots: [/ctao]
  ttl: 5m
write_rules:
  - {copies: 1, expression: OFFSITE}
rses:
  - name: PIC-DISK
    distance: 1
    path: pic
    protocols:
      - {url: davs://door.example.org:2880, token: secrets/token, limits: {concurrent: 4}}
`))
	if err != nil {
		t.Fatal(err)
	}
	r := c.Catalogue
	for _, p := range []struct{ what, got, want string }{
		{"password", r.Password, "/srv/lake/secrets/rucio"}, {"client_config", r.Client, ""}, {"path of an override", c.RSEs[0].Path, "/srv/lake/pic"},
		{"token of an override", c.RSEs[0].Protocols[0].Token, "/srv/lake/secrets/token"}, {"remove", r.Remove, RemoveDetach},
	} {
		if p.got != p.want {
			t.Errorf("%s is %q, want %q", p.what, p.got, p.want)
		}
	}
	if r.TTL.D() != 5*time.Minute || r.Stale.D() != 24*time.Hour {
		t.Errorf("ttl %v and stale %v", r.TTL, r.Stale)
	}
	if c, err := Parse("/l/lake.yaml", []byte("catalogue: {type: rucio}\n")); err != nil || c.Catalogue.Layout != "contents" {
		t.Errorf("the least lake file of Rucio's is refused: %v", err)
	}
	set := Environment([]string{"TARN_CATALOGUE_ACCOUNT=eve"})
	if len(set) != 1 || set[0].Key != "catalogue.account" {
		t.Errorf("the environment's settings are %v", set)
	}
}

func TestRucioFaults(t *testing.T) {
	for _, p := range []struct{ name, text, want string }{
		{"a password in the URL", "catalogue: {type: rucio, url: 'https://a:b@rucio.example.org'}", "catalogue.url: has a user or password in it"},
		{"no URL", "catalogue: {type: rucio, url: rucio.example.org}", "catalogue.url: want the URL of a Rucio server"},
		{"auth", "catalogue: {type: rucio, auth: saml}", `catalogue.auth: want userpass or x509 or x509_proxy or oidc or ssh, not "saml"`},
		{"files of another auth", "catalogue: {type: rucio, auth: oidc, cert: a.pem}", "catalogue.cert: is for auth: x509, not oidc"},
		{"lfn without its algorithm", "catalogue: {type: rucio, layout: lfn, roots: [/a]}", "catalogue.scope_algorithm: layout lfn needs one of dirac"},
		{"lfn without roots", "catalogue: {type: rucio, layout: lfn, scope_algorithm: dirac}", "catalogue.roots: layout lfn needs"},
		{"a deep root", "catalogue: {type: rucio, layout: lfn, scope_algorithm: dirac, roots: [/a/b]}", "catalogue.roots[0]: want a path of one element"},
		{"an unknown algorithm", "catalogue: {type: rucio, layout: lfn, scope_algorithm: atlas, roots: [/a]}", "catalogue.scope_algorithm: want dirac or"},
		{"roots of contents", "catalogue: {type: rucio, roots: [/a]}", "catalogue.roots[0]: is for layout: lfn"},
		{"remove", "catalogue: {type: rucio, remove: erase}", `catalogue.remove: want detach or expire, not "erase"`},
		{"short pins", "catalogue: {type: rucio, pin_lifetime: 1s}", "catalogue.pin_lifetime: want 1m and more"},
		{"scopes of the lake", "catalogue: {type: rucio}\nscopes: [{name: a}]", "scopes: the scopes are Rucio's"},
		{"an RSE that is deleted from", "catalogue: {type: rucio}\nrses: [{name: A, high: 90%}]", "rses[0].high: is Rucio's business"},
		{"an emulated tape", "catalogue: {type: rucio}\nrses: [{name: A, tape: {drives: 2}}]", "rses[0].tape: is for emulated libraries"},
		{"an override of nothing", "catalogue: {type: rucio}\nrses: [{name: A, protocols: [{url: davs}]}]", "rses[0].protocols[0].url: want the scheme, host and port"},
		{"an override twice", "catalogue: {type: rucio}\nrses: [{name: A, protocols: [{url: 'davs://a'}, {url: 'https://a:443/x'}]}]", "rses[0].protocols[1].url: is given twice"},
		{"an expression", "catalogue: {type: rucio}\nwrite_rules: [{expression: '(('}]", "write_rules[0].expression"},
		{"Rucio's keys elsewhere", "catalogue: {account: ada}\nrses: [{name: A, path: a}]\nscopes: [{name: s}]", "catalogue.account: is for type: rucio only"},
		{"a misspelt key", "catalogue: {type: rucio, acount: ada}", `catalogue.acount: unknown key; did you mean "account"?`},
	} {
		t.Run(p.name, func(t *testing.T) {
			_, err := Parse("/l/lake.yaml", []byte(p.text))
			if err == nil || !strings.Contains(err.Error(), p.want) {
				t.Errorf("error is %v, want one with %q", err, p.want)
			}
			if err != nil && strings.Contains(err.Error(), "a:b") {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}
