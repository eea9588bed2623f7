package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Schemes are those of URLs in Protocol.URL.
var Schemes = []string{"davs", "https", "dav", "http", "root", "roots", "gsiftp", "ftp", "s3s", "s3", "file"}

// protocols judges the ways to an RSE. No fault shows a URL: it may have a password in it.
func (j judge) protocols(key string, r RSE) {
	if r.Path != "" {
		j.fault(key+".path", "want a path or protocols, not both")
	}
	if r.Kind == TapeKind {
		j.fault(key+".protocols", "a tape RSE is a library on this machine: want its path")
	}
	if r.Size < 0 {
		j.fault(key+".size", "want 0 (not known) or more, not %v", r.Size)
	}
	first := map[string]int{}
	var read, write, remove int
	for i, p := range r.Protocols {
		key := fmt.Sprintf("%s.protocols[%d]", key, i)
		if what := urlFault(p.URL); what != "" {
			j.fault(key+".url", "%s", what)
		} else if k, twice := first[p.URL]; twice {
			j.fault(key+".url", "is that of protocols[%d]", k)
		} else {
			first[p.URL] = i
		}
		if p.Limits != (Limits{}) && strings.HasPrefix(p.URL, "file:") {
			j.fault(key+".limits", "a folder has no server to spare: want none")
		}
		j.limits(key+".limits", p.Limits)
		j.s3(key, p)
		j.credentials(key, p)
		j.priorities(key, Domain{p.Read, p.Write, p.Delete, p.CopyRead, p.CopyWrite})
		for _, d := range []struct {
			name string
			of   *Domain
		}{{"lan", p.LAN}, {"wan", p.WAN}} {
			if d.of != nil {
				j.priorities(key+"."+d.name, *d.of)
			}
		}
		here := p.in(j.c.LAN(r))
		for _, f := range []struct{ prio, n *int }{{here.Read, &read}, {here.Write, &write}, {here.Delete, &remove}} {
			if Priority(f.prio) > 0 {
				*f.n++
			}
		}
	}
	if read == 0 {
		j.fault(key+".protocols", "none of them reads: want read: 1 at one")
	}
	if write == 0 && !r.ReadOnly {
		j.fault(key+".protocols", "none of them writes: want write: 1 at one, or read_only: true")
	}
	if remove == 0 && !r.ReadOnly {
		j.fault(key+".protocols", "none of them deletes: want delete: 1 at one, or read_only: true")
	}
}

func (j judge) priorities(key string, d Domain) {
	for _, f := range []struct {
		name string
		prio *int
	}{{"read", d.Read}, {"write", d.Write}, {"delete", d.Delete}, {"third_party_copy_read", d.CopyRead}, {"third_party_copy_write", d.CopyWrite}} {
		if n := Priority(f.prio); n < 0 {
			j.fault(key+"."+f.name, "want 1 (first) and up, or 0 (never), not %d", n)
		}
	}
}

// LAN tells whether an RSE is at the site of this machine.
func (c *Config) LAN(r RSE) bool { return c.Site != "" && r.Attributes["site"] == c.Site }

// Here gives r with the priorities that its protocols have for this machine.
func (c *Config) Here(r RSE) RSE {
	r.Protocols = slices.Clone(r.Protocols)
	for i := range r.Protocols {
		r.Protocols[i] = r.Protocols[i].in(c.LAN(r))
	}
	return r
}

// in gives p with the priorities of a domain for its own.
func (p Protocol) in(lan bool) Protocol {
	d := p.WAN
	if lan {
		d = p.LAN
	}
	if d != nil {
		p.Read, p.Write, p.Delete = cmp.Or(d.Read, p.Read), cmp.Or(d.Write, p.Write), cmp.Or(d.Delete, p.Delete)
		p.CopyRead, p.CopyWrite = cmp.Or(d.CopyRead, p.CopyRead), cmp.Or(d.CopyWrite, p.CopyWrite)
	}
	p.LAN, p.WAN = nil, nil
	return p
}

// slowest is the least rate that gets a block through before its reader gives up.
const slowest = Rate(64 * KiB)

func (j judge) limits(key string, l Limits) {
	if l.Concurrent < 0 {
		j.fault(key+".concurrent", "want 1 and more, or 0 (no limit), not %d", l.Concurrent)
	}
	for _, r := range []struct {
		name string
		rate Rate
	}{{"read", l.Read}, {"write", l.Write}} {
		if r.rate != 0 && r.rate < slowest {
			j.fault(key+"."+r.name, "want %v and more, or 0 (no limit), not %v", slowest, r.rate)
		}
	}
}

// Family names the protocols whose servers may understand one another: the schemes of one protocol, with TLS or without.
func (p Protocol) Family() string {
	scheme, _, _ := strings.Cut(p.URL, ":")
	switch scheme {
	case "davs", "https", "dav", "http":
		return "dav"
	case "root", "roots":
		return "root"
	case "gsiftp", "ftp":
		return "ftp"
	case "s3s", "s3":
		return "s3"
	}
	return scheme
}

// Door is where a protocol connects to, scheme://host:port with the scheme's own port where none is
// given; protocols with one door share its limits, and what is known of its health. "" for a folder.
func (p Protocol) Door() string {
	u, err := url.Parse(p.URL)
	if err != nil || u.Scheme == "file" {
		return ""
	}
	scheme, port := u.Scheme, u.Port()
	if alias, ok := aliases[scheme]; ok {
		scheme = alias
	}
	if port == "" {
		port = ports[scheme]
	}
	return scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

var (
	aliases = map[string]string{"https": "davs", "http": "dav"}
	ports   = map[string]string{"davs": "443", "dav": "80", "gsiftp": "2811", "ftp": "21", "root": "1094", "roots": "1094", "s3": "80", "s3s": "443"}
)

// s3 judges what only S3 knows.
func (j judge) s3(key string, p Protocol) {
	is := isS3(p.URL)
	for _, f := range []struct{ name, value string }{{"keys", p.Keys}, {"style", p.Style}, {"region", p.Region}} {
		if f.value != "" && !is {
			j.fault(key+"."+f.name, "is for URLs of s3s and s3 only")
		}
	}
	if is && p.Style != "" {
		j.oneOf(key+".style", p.Style, "path", "host")
	}
}

// credentials judges the files of a protocol's own identity.
func (j judge) credentials(key string, p Protocol) {
	scheme, _, _ := strings.Cut(p.URL, ":")
	tls := scheme == "davs" || scheme == "https"
	xrootd := scheme == "root" || scheme == "roots"
	if p.Proxy != "" {
		switch {
		case xrootd && strings.ContainsAny(p.Proxy, "&?=%# "):
			j.fault(key+".proxy", "want a path without &, ?, =, %%, # and spaces: libXrdCl is told it in a URL")
		case !tls && !xrootd && scheme != "gsiftp":
			j.fault(key+".proxy", "is for URLs of davs, https, root, roots and gsiftp only")
		}
	}
	if p.Token != "" {
		switch {
		case scheme == "root":
			j.fault(key+".token", "goes over TLS only: want a URL of roots")
		case !tls && !xrootd:
			j.fault(key+".token", "is for URLs of davs, https and roots only")
		}
	}
}

func isS3(text string) bool {
	return strings.HasPrefix(text, "s3:") || strings.HasPrefix(text, "s3s:")
}

// urlFault says what is wrong with a URL, or "".
func urlFault(text string) string {
	if text == "" {
		return "want the URL of the folder of replicas, such as davs://door.example.org:2880/path"
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "is no URL; want one such as davs://door.example.org:2880/path"
	case u.User != nil && isS3(text):
		return "has a user or password in it: name a file by keys, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, instead"
	case u.User != nil:
		return "has a user or password in it: name a file by token or proxy, or set BEARER_TOKEN_FILE or X509_USER_PROXY, instead"
	case !slices.Contains(Schemes, u.Scheme):
		return fmt.Sprintf("want a scheme of %s, not %q", strings.Join(Schemes, ", "), u.Scheme)
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "want nothing after the path"
	case slices.Contains(strings.Split(u.Path, "/"), ".."):
		return "want a path without .."
	case u.Scheme == "file" && (u.Host != "" || !strings.HasPrefix(u.Path, "/")):
		return "want file:///path, with three slashes"
	case u.Scheme != "file" && u.Hostname() == "":
		return "has no host"
	case isS3(text) && strings.Trim(u.Path, "/") == "":
		return "has no bucket; want one such as s3s://s3.example.org/bucket/path"
	}
	return ""
}
