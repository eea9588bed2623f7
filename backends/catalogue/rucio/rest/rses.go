package rest

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"tarn/backends"
)

// RSE is a storage element as the server describes it (GET /rses/RSE).
type RSE struct {
	Name          string     `json:"rse"`
	Type          string     `json:"rse_type"` // DISK, TAPE
	Deterministic bool       `json:"deterministic"`
	Algorithm     string     `json:"lfn2pfn_algorithm"`
	Read          bool       `json:"availability_read"`
	Write         bool       `json:"availability_write"`
	Delete        bool       `json:"availability_delete"`
	Staging       bool       `json:"staging_area"`
	Volatile      bool       `json:"volatile"`
	Protocols     []Protocol `json:"protocols"`
	Attributes    map[string]string
}

// Protocol is one way to an RSE.
type Protocol struct {
	Scheme   string                    `json:"scheme"`
	Hostname string                    `json:"hostname"`
	Port     int                       `json:"port"`
	Prefix   string                    `json:"prefix"`
	Impl     string                    `json:"impl"`
	Domains  map[string]map[string]Int `json:"domains"` // lan, wan: priorities of read, write, delete, third_party_copy_read, ...; 0 and null: not offered
	Extended map[string]any            `json:"extended_attributes"`
}

// RSEs lists the names of those that match an expression, "" for all (GET /rses/).
func (c *Client) RSEs(ctx context.Context, expression string) (names []string, err error) {
	k := call{method: http.MethodGet, route: "/rses/", path: "/rses/"}
	if expression != "" {
		k.query = url.Values{"expression": {expression}}
	}
	err = rows(ctx, c, k, func(r struct {
		RSE string `json:"rse"`
	}) error {
		names = append(names, r.RSE)
		return nil
	})
	return names, err
}

// RSE describes one, its attributes with it (GET /rses/RSE and /rses/RSE/attr/). ErrNotExist.
func (c *Client) RSE(ctx context.Context, name string) (RSE, error) {
	var r RSE
	at := "/rses/" + segment(name)
	if err := c.ask(ctx, call{method: http.MethodGet, route: "/rses/RSE", path: at}, &r); err != nil {
		return r, err
	}
	attrs := map[string]any{}
	if err := c.ask(ctx, call{method: http.MethodGet, route: "/rses/RSE/attr/", path: at + "/attr/"}, &attrs); err != nil {
		return r, err
	}
	r.Attributes = map[string]string{}
	for k, v := range attrs {
		if v != nil {
			r.Attributes[k] = fmt.Sprint(v)
		}
	}
	return r, nil
}

// Usage is the space of an RSE in bytes, from one source.
type Usage struct {
	Source string `json:"source"`
	Used   Int    `json:"used"`
	Free   Int    `json:"free"`
	Total  Int    `json:"total"`
	Files  Int    `json:"files"`
}

// Usage tells of the space of an RSE (GET /rses/RSE/usage).
func (c *Client) Usage(ctx context.Context, rse string) ([]Usage, error) {
	return list[Usage](ctx, c, call{method: http.MethodGet, route: "/rses/RSE/usage", path: "/rses/" + segment(rse) + "/usage"})
}

// PFNs asks the server for the PFNs of files at an RSE (GET /rses/RSE/lfns2pfns).
func (c *Client) PFNs(ctx context.Context, rse, scheme string, dids []backends.DID) (map[string]string, error) {
	q := url.Values{"scheme": {scheme}, "domain": {"wan"}, "operation": {"read"}}
	for _, d := range dids {
		q.Add("lfn", d.String())
	}
	out := map[string]string{}
	err := c.ask(ctx, call{method: http.MethodGet, route: "/rses/RSE/lfns2pfns", path: "/rses/" + segment(rse) + "/lfns2pfns", query: q}, &out)
	return out, err
}

// Root is the URL below which a protocol has its files, without a slash at its end; the port is left out where it is 0 or the scheme is file.
func (p Protocol) Root() string {
	prefix := strings.TrimRight(p.Prefix, "/")
	if p.Scheme == "file" {
		return prefix
	}
	host := p.Hostname
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p.Port > 0 {
		host = fmt.Sprintf("%s:%d", host, p.Port)
	}
	if !strings.HasPrefix(prefix, "/") {
		prefix = "/" + prefix
	}
	return p.Scheme + "://" + host + prefix
}

// LFN2PFN is the algorithm by which the paths of a deterministic RSE follow from the names: the site's word for it, or hash, Rucio's
// own default (lib/rucio/rse/translation.py, _DEFAULT_LFN2PFN).
func (r RSE) LFN2PFN() string {
	if word := cmp.Or(r.Algorithm, r.Attributes["lfn2pfn_algorithm"]); word != "" && word != "default" {
		return word
	}
	return "hash"
}

// PFN is that of a path by the first protocol of the RSE; false when it has none.
func (r RSE) PFN(below string) (pfn string, ok bool) {
	if len(r.Protocols) == 0 {
		return "", false
	}
	p := r.Protocols[0]
	pfn = p.Root() + "/" + strings.TrimLeft(below, "/")
	if p.Scheme == "file" {
		pfn = "file://" + p.Hostname + pfn
	}
	return pfn, true
}

// Below gives the path of a PFN below one of the RSE's protocols; false when it is at none of them.
func (r RSE) Below(pfn string) (string, bool) {
	i := strings.Index(pfn, "://")
	if i < 0 {
		return "", false
	}
	rest := pfn[i+3:]
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		return "", false
	}
	full := "/" + strings.TrimLeft(rest[slash:], "/")
	for _, p := range r.Protocols {
		if p.Scheme != pfn[:i] {
			continue
		}
		prefix := "/" + strings.Trim(p.Prefix, "/")
		if prefix == "/" {
			return strings.TrimLeft(full, "/"), true
		}
		if below, ok := strings.CutPrefix(full, prefix+"/"); ok {
			return strings.TrimLeft(below, "/"), true
		}
	}
	return "", false
}
