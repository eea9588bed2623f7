package rest

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"tarn/backends"
)

// suffixes are the last parts of routes below /dids/SCOPE/NAME.
var suffixes = []string{"files", "meta", "dids", "rules", "parents", "status", "associated_rules", "follow"}

// Shadowed tells whether a name ends like a route, so that the server takes a question for the DID as one for what is above it
// (GET /dids/s/a/files lists the files of a). Such a DID is reached by the routes that have names in their body: BulkMeta, BulkFiles.
func Shadowed(name string) bool {
	last := name[strings.LastIndexByte(name, '/')+1:]
	return slices.Contains(suffixes, last) || name == "guid" || strings.HasSuffix("/"+name, "/dids/history")
}

// DIDInfo is what the server tells of one DID (GET /dids/SCOPE/NAME). Of a collection Bytes and Length are Unknown until it is closed,
// unless they were counted.
type DIDInfo struct {
	Scope     string `json:"scope"`
	Name      string `json:"name"`
	Type      string `json:"type"`
	Account   string `json:"account"`
	Open      bool   `json:"open"`
	Monotonic bool   `json:"monotonic"`
	Bytes     Int    `json:"bytes"`
	Length    Int    `json:"length"`
	Adler32   string `json:"adler32"`
	MD5       string `json:"md5"`
	Expires   Time   `json:"expired_at"`
}

// DID describes one. count, TypeFile or TypeDataset, has the server count a collection's bytes and length now, down to these; "" does not. A DID that is
// Shadowed is described by its row, without a count. ErrNotExist.
func (c *Client) DID(ctx context.Context, d backends.DID, count string) (info DIDInfo, err error) {
	if Shadowed(d.Name) {
		return c.shadowed(ctx, d)
	}
	k := call{method: http.MethodGet, route: "/dids/SCOPE/NAME", path: didPath(d, "")}
	if count != "" {
		k.query = url.Values{"dynamic_depth": {count}}
	}
	err = c.ask(ctx, k, &info)
	return info, err
}

func (c *Client) shadowed(ctx context.Context, d backends.DID) (info DIDInfo, err error) {
	all, err := c.BulkMeta(ctx, []backends.DID{d})
	if err != nil {
		return info, err
	}
	m, ok := all[d]
	if !ok {
		return info, &Error{Status: http.StatusNotFound, Class: "DataIdentifierNotFound", Method: http.MethodPost, Route: "/dids/bulkmeta", is: backends.ErrNotExist}
	}
	info = DIDInfo{Scope: m.Scope, Name: m.Name, Type: m.Type, Account: m.Account, Bytes: m.Bytes, Length: m.Length, Adler32: m.Adler32, MD5: m.MD5, Expires: m.Expires}
	info.Open = m.Open != nil && *m.Open
	return info, nil
}

// SetOpen closes a collection, which gives it its length and bytes, or opens it again, which may need an administrator (PUT
// /dids/SCOPE/NAME/status). It is a success also when it is so already.
func (c *Client) SetOpen(ctx context.Context, d backends.DID, open bool) error {
	k := call{method: http.MethodPut, route: "/dids/SCOPE/NAME/status", twice: true, path: didPath(d, "/status"), body: map[string]any{"open": open}}
	err := c.ask(ctx, k, nil)
	if !Is(err, "UnsupportedStatus", "UnsupportedOperation") {
		return err
	}
	if info, ierr := c.DID(ctx, d, ""); ierr == nil && info.Open == open && info.Type != TypeFile {
		return nil
	}
	return err
}

// SetLifetime has the undertaker erase a DID after so many seconds, 0: the next time it comes (POST /dids/SCOPE/NAME/meta).
func (c *Client) SetLifetime(ctx context.Context, d backends.DID, seconds int64) error {
	return c.SetMeta(ctx, d, map[string]any{"lifetime": seconds})
}

// DatasetsOf streams the datasets that have a file of that GUID (GET /dids/GUID/guid).
func (c *Client) DatasetsOf(ctx context.Context, guid string, f func(backends.DID) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/dids/GUID/guid", path: "/dids/" + segment(guid) + "/guid"}, f)
}

// Meta gives all that one metadata plug-in knows of a DID (GET /dids/SCOPE/NAME/meta): DID_COLUMN (also ""), JSON, ALL, or a site's own.
func (c *Client) Meta(ctx context.Context, d backends.DID, plugin string) (m map[string]any, err error) {
	k := call{method: http.MethodGet, route: "/dids/SCOPE/NAME/meta", path: didPath(d, "/meta")}
	if plugin != "" {
		k.query = url.Values{"plugin": {plugin}}
	}
	err = c.ask(ctx, k, &m)
	return m, err
}
