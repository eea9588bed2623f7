package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/rseexpr"
)

// The words of Catalogue.Type.
const (
	EmbeddedType = "embedded"
	RucioType    = "rucio"
)

// Rucio is a catalogue that is a Rucio server's. What is left out is as the user's rucio.cfg has it; no secret stands in a lake file, only
// the names of files that hold one.
type Rucio struct {
	URL      string `yaml:"url"`           // https://rucio.example.org; default: rucio_host of rucio.cfg
	AuthURL  string `yaml:"auth_url"`      // default: auth_host, or URL
	Client   string `yaml:"client_config"` // a rucio.cfg; default: as Rucio's own clients find it
	Account  string `yaml:"account"`
	VO       string `yaml:"vo"`       //
	Auth     string `yaml:"auth"`     // userpass, x509, x509_proxy, oidc, ssh
	Username string `yaml:"username"` // userpass
	Password string `yaml:"password"` // userpass: the file that it is in
	Cert     string `yaml:"cert"`     // x509: files
	Key      string `yaml:"key"`      // and ssh: the private key
	Proxy    string `yaml:"proxy"`    // x509_proxy: a file
	Token    string `yaml:"token"`    // oidc: a file; default: where tokens are looked for (BEARER_TOKEN_FILE ...)
	CA       string `yaml:"ca"`       // a file or folder of the authorities to trust

	Layout  string   `yaml:"layout"`          // contents: scopes, containers, datasets; lfn: the DIDs' names are the paths
	ScopeOf string   `yaml:"scope_algorithm"` // lfn: how the scope follows from a path: dirac, belleii, ctao_bdms
	Roots   []string `yaml:"roots"`           // lfn: the paths that stand at the root, as /ctao
	Shown   []string `yaml:"scopes"`          // contents: these only

	TTL      Duration `yaml:"ttl"`          // how long an answer of the server is taken for true
	Negative Duration `yaml:"negative_ttl"` // and one that there is nothing
	Stale    Duration `yaml:"stale"`        // how long answers serve while the server is away

	RuleLifetime Duration `yaml:"rule_lifetime"` // of the rules that new files get; 0: for ever
	PinLifetime  Duration `yaml:"pin_lifetime"`  // of those that recall from tape
	PinTo        string   `yaml:"pin_to"`        // the RSE expression they recall to where the tape has no staging area; default rse_type=DISK
	Activity     string   `yaml:"activity"`      // of both
	Comment      string   `yaml:"comment"`       //
	Remove       string   `yaml:"remove"`        // detach: rm takes a file out of its collection; expire: and lets it go when it is in no other
}

// The words of Rucio.Remove.
const (
	RemoveDetach = "detach"
	RemoveExpire = "expire"
)

// ScopeAlgorithms are the words of Rucio.ScopeOf.
var ScopeAlgorithms = []string{"dirac", "belleii", "ctao_bdms"}

// defaultRucio is what a Rucio catalogue has without a word on it.
func defaultRucio() Rucio {
	return Rucio{
		Layout: string(backends.LayoutContents), TTL: Duration(time.Minute), Negative: Duration(5 * time.Second), Stale: Duration(24 * time.Hour),
		PinLifetime: Duration(7 * 24 * time.Hour), Remove: RemoveDetach,
	}
}

// IsRucio tells whether the catalogue is a Rucio server's.
func (c *Config) IsRucio() bool { return c.Catalogue.Type == RucioType }

// files are the settings that name files.
func (r *Rucio) files() []*string {
	return []*string{&r.Client, &r.Password, &r.Cert, &r.Key, &r.Proxy, &r.Token, &r.CA}
}

// catalogue judges the section for its type.
func (j judge) catalogue() {
	c := &j.c.Catalogue
	j.oneOf("catalogue.type", c.Type, EmbeddedType, RucioType)
	j.within("catalogue.cache", int64(c.Cache), int64(MiB), int64(TiB), sizeWord)
	if c.Type == RucioType {
		j.rucio()
		return
	}
	for key, v := range map[string]string{
		"url": c.URL, "auth_url": c.AuthURL, "client_config": c.Client, "account": c.Account, "vo": c.VO, "auth": c.Auth, "username": c.Username, "password": c.Password,
		"cert": c.Cert, "key": c.Key, "proxy": c.Proxy, "token": c.Token, "ca": c.CA, "scope_algorithm": c.ScopeOf, "activity": c.Activity, "comment": c.Comment, "pin_to": c.PinTo,
	} {
		if v != "" {
			j.fault("catalogue."+key, "is for type: rucio only")
		}
	}
	if len(c.Roots) > 0 {
		j.fault("catalogue.roots", "is for type: rucio only")
	}
	if len(c.Shown) > 0 {
		j.fault("catalogue.scopes", "is for type: rucio only; the scopes of this lake stand in scopes")
	}
}

func (j judge) rucio() {
	c := &j.c.Catalogue
	for _, u := range []struct{ key, text string }{{"url", c.URL}, {"auth_url", c.AuthURL}} {
		if what := serverFault(u.text); what != "" {
			j.fault("catalogue."+u.key, "%s", what)
		}
	}
	if c.Auth != "" {
		j.oneOf("catalogue.auth", c.Auth, "userpass", "x509", "x509_proxy", "oidc", "ssh")
	}
	for _, f := range []struct {
		key, value string
		for_       string
	}{{"username", c.Username, "userpass"}, {"password", c.Password, "userpass"}, {"cert", c.Cert, "x509"}, {"key", c.Key, keyFor(c.Auth)}, {"proxy", c.Proxy, "x509_proxy"}, {"token", c.Token, "oidc"}} {
		if f.value != "" && c.Auth != "" && c.Auth != f.for_ {
			j.fault("catalogue."+f.key, "is for auth: %s, not %s", f.for_, c.Auth)
		}
	}
	j.oneOf("catalogue.layout", c.Layout, string(backends.LayoutContents), string(backends.LayoutLFN))
	lfn := c.Layout == string(backends.LayoutLFN)
	switch {
	case lfn && c.ScopeOf == "":
		j.fault("catalogue.scope_algorithm", "layout lfn needs one of %s: the scope of a path follows from it", strings.Join(ScopeAlgorithms, ", "))
	case lfn:
		j.oneOf("catalogue.scope_algorithm", c.ScopeOf, ScopeAlgorithms...)
	case c.ScopeOf != "":
		j.fault("catalogue.scope_algorithm", "is for layout: lfn")
	}
	if lfn && len(c.Roots) == 0 {
		j.fault("catalogue.roots", "layout lfn needs the paths that stand at the root of the tree, such as [/ctao]")
	}
	if lfn && len(c.Shown) > 0 {
		j.fault("catalogue.scopes", "is for layout: contents; layout lfn has roots")
	}
	for i, r := range c.Roots {
		key := fmt.Sprintf("catalogue.roots[%d]", i)
		switch {
		case !lfn:
			j.fault(key, "is for layout: lfn")
		case !strings.HasPrefix(r, "/") || r == "/" || strings.Contains(r[1:], "/"):
			j.fault(key, "want a path of one element, such as /ctao, not %q", r)
		case slices.Contains(c.Roots[:i], r):
			j.fault(key, "%q is given twice", r)
		}
	}
	for i, s := range c.Shown {
		if err := backends.CheckScope(s); err != nil {
			j.fault(fmt.Sprintf("catalogue.scopes[%d]", i), "%v", err)
		}
	}
	for _, d := range []struct {
		key   string
		v     Duration
		least time.Duration
	}{{"ttl", c.TTL, 0}, {"negative_ttl", c.Negative, 0}, {"stale", c.Stale, 0}, {"rule_lifetime", c.RuleLifetime, 0}, {"pin_lifetime", c.PinLifetime, time.Minute}} {
		if d.v.D() < d.least {
			j.fault("catalogue."+d.key, "want %v and more, not %v", Duration(d.least), d.v)
		}
	}
	if c.PinTo != "" {
		if _, err := rseexpr.Parse(c.PinTo); err != nil {
			j.fault("catalogue.pin_to", "%v", err)
		}
	}
	j.oneOf("catalogue.remove", c.Remove, RemoveDetach, RemoveExpire)
	if len(j.c.Scopes) > 0 {
		j.fault("scopes", "the scopes are Rucio's; catalogue.scopes names those that are shown")
	}
}

// keyFor is the kind of login that a key is for.
func keyFor(auth string) string {
	if auth == "ssh" {
		return auth
	}
	return "x509"
}

// serverFault says what is wrong with the URL of a Rucio server, or "". No fault shows it: it may have a password in it.
func serverFault(text string) string {
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return "want the URL of a Rucio server, such as https://rucio.example.org"
	case u.User != nil:
		return "has a user or password in it: name the user by username, and the file of the password by password, instead"
	case u.RawQuery != "" || u.Fragment != "":
		return "want nothing after the path"
	}
	return ""
}

// overrides judges what a lake file says of RSEs that Rucio describes: parts of them.
func (j judge) overrides(key string, r RSE) {
	if r.Tape != nil {
		j.fault(key+".tape", "is for emulated libraries: this RSE is Rucio's")
	}
	for _, f := range []struct {
		key string
		set bool
	}{{"high", r.High != 0}, {"low", r.Low != 0}, {"scratch", r.Scratch}, {"drain", r.Drain}, {"drain_to", r.DrainTo != ""}} {
		if f.set {
			j.fault(key+"."+f.key, "is Rucio's business: its reaper deletes, and its rules move")
		}
	}
	seen := map[string]bool{}
	for i, p := range r.Protocols {
		key := fmt.Sprintf("%s.protocols[%d]", key, i)
		u, err := url.Parse(p.URL)
		switch {
		case err != nil || u.Scheme == "" || u.Scheme != "file" && u.Hostname() == "":
			j.fault(key+".url", "want the scheme, host and port of one of the RSE's protocols, such as davs://door.example.org:2880")
		case u.User != nil:
			j.fault(key+".url", "has a user or password in it: name a file by token, proxy or keys instead")
		case !slices.Contains(Schemes, u.Scheme):
			j.fault(key+".url", "want a scheme of %s, not %q", strings.Join(Schemes, ", "), u.Scheme)
		case seen[p.Door()]:
			j.fault(key+".url", "is given twice")
		}
		seen[p.Door()] = true
		j.limits(key+".limits", p.Limits)
		j.s3(key, p)
		j.credentials(key, p)
		j.priorities(key, Domain{p.Read, p.Write, p.Delete, p.CopyRead, p.CopyWrite})
	}
}

// rucioRules judges write rules, of which only the form can be: the RSEs are not known here.
func (j judge) rucioRules() {
	for i, w := range j.c.WriteRules {
		key := fmt.Sprintf("write_rules[%d]", i)
		if w.Copies < 1 {
			j.fault(key+".copies", "want at least 1, not %d", w.Copies)
		}
		if _, err := rseexpr.Parse(w.Expression); err != nil {
			j.fault(key+".expression", "%v", err)
		}
	}
}
