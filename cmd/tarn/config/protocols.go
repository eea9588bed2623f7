package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Schemes are those of URLs in Protocol.URL.
var Schemes = []string{"davs", "https", "dav", "http", "gsiftp", "ftp", "file"}

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
		for _, f := range []struct {
			name string
			prio *int
			n    *int
		}{{"read", p.Read, &read}, {"write", p.Write, &write}, {"delete", p.Delete, &remove}} {
			switch n := Priority(f.prio); {
			case n < 0:
				j.fault(key+"."+f.name, "want 1 (first) and up, or 0 (never), not %d", n)
			case n > 0:
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

// urlFault says what is wrong with a URL, or "".
func urlFault(text string) string {
	if text == "" {
		return "want the URL of the folder of replicas, such as davs://door.example.org:2880/path"
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "is no URL; want one such as davs://door.example.org:2880/path"
	case u.User != nil:
		return "has a user or password in it: name a token by BEARER_TOKEN_FILE or a proxy by X509_USER_PROXY instead"
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
	}
	return ""
}
