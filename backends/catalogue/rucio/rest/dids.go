package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"tarn/backends"
)

// The DID types as Rucio writes them.
const (
	TypeFile      = "FILE"
	TypeDataset   = "DATASET"
	TypeContainer = "CONTAINER"
)

// Child is one row of a collection's content: scope, name, type, size in bytes, checksums.
type Child struct {
	Scope   string `json:"scope"`
	Name    string `json:"name"`
	Type    string `json:"type"`
	Bytes   Int    `json:"bytes"`
	Adler32 string `json:"adler32"`
	MD5     string `json:"md5"`
}

// DID names the row.
func (c Child) DID() backends.DID { return backends.DID{Scope: c.Scope, Name: c.Name} }

// Meta is the row of one DID as its columns have it.
type Meta struct {
	Scope   string `json:"scope"`
	Name    string `json:"name"`
	Type    string `json:"did_type"`
	Bytes   Int    `json:"bytes"`
	Length  Int    `json:"length"` // files of a dataset that is closed
	Adler32 string `json:"adler32"`
	MD5     string `json:"md5"`
	GUID    string `json:"guid"`
	Account string `json:"account"`
	Open    *bool  `json:"is_open"`
	Hidden  *bool  `json:"hidden"`
	Created Time   `json:"created_at"`
	Updated Time   `json:"updated_at"`
	Expires Time   `json:"expired_at"`
}

// DID names the row.
func (m Meta) DID() backends.DID { return backends.DID{Scope: m.Scope, Name: m.Name} }

// Scopes lists the names of all scopes (GET /scopes/).
func (c *Client) Scopes(ctx context.Context) (names []string, err error) {
	err = c.ask(ctx, call{method: http.MethodGet, route: "/scopes/", path: "/scopes/"}, &names)
	slices.Sort(names)
	return names, err
}

// AddScope makes a scope of an account (POST /scopes/ACCOUNT/SCOPE). ErrExist.
func (c *Client) AddScope(ctx context.Context, account, scope string) error {
	return c.ask(ctx, call{method: http.MethodPost, route: "/scopes/ACCOUNT/SCOPE", path: "/scopes/" + segment(account) + "/" + segment(scope)}, nil)
}

// Orphans streams the DIDs of a scope that have no parent (GET /dids/SCOPE/).
func (c *Client) Orphans(ctx context.Context, scope string, f func(Child) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/dids/SCOPE/", path: "/dids/" + segment(scope) + "/"}, f)
}

// Content streams the children of a collection, in no order (GET /dids/SCOPE/NAME/dids). ErrNotExist.
func (c *Client) Content(ctx context.Context, d backends.DID, f func(Child) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/dids/SCOPE/NAME/dids", path: didPath(d, "/dids")}, f)
}

// Parents lists the collections that d is attached to (GET /dids/SCOPE/NAME/parents).
func (c *Client) Parents(ctx context.Context, d backends.DID) (out []backends.DID, err error) {
	err = rows(ctx, c, call{method: http.MethodGet, route: "/dids/SCOPE/NAME/parents", path: didPath(d, "/parents")}, func(r Child) error {
		out = append(out, r.DID())
		return nil
	})
	return out, err
}

// parallel is how many calls of one list are made at a time.
const parallel = 4

// pages calls f for each part of at most Page of a list, a few at a time; the first error ends all.
func pages[T any](ctx context.Context, all []T, f func(ctx context.Context, part []T) error) error {
	if len(all) <= Page {
		if len(all) == 0 {
			return nil
		}
		return f(ctx, all)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for part := range slices.Chunk(all, Page) {
		g.Go(func() error { return f(ctx, part) })
	}
	return g.Wait()
}

// BulkMeta gives the rows of those of the DIDs that exist (POST /dids/bulkmeta), in ceil(n/Page) calls, and some more where an answer lacks some:
// see bulkmeta. What is missing does not exist.
func (c *Client) BulkMeta(ctx context.Context, dids []backends.DID) (map[backends.DID]Meta, error) {
	return bulkmeta(ctx, c, dids, false, "DID_COLUMN", func(m Meta) (backends.DID, Meta) { return m.DID(), m })
}

// lacking is how often at most those are asked for again that an answer lacks.
const lacking = 5

// bulkmeta asks for the rows of DIDs. An answer that broke off looks like a whole one (see Whole), and what it lacks as if it did not exist. Only
// the server's first row is certain: what goes wrong before it is an error. So those that an answer lacks are asked for again until one has none
// of them; ErrUnavailable and temporary when that does not come to an end.
func bulkmeta[Row, T any](ctx context.Context, c *Client, dids []backends.DID, inherit bool, plugin string, of func(Row) (backends.DID, T)) (map[backends.DID]T, error) {
	var mu sync.Mutex
	out := make(map[backends.DID]T, len(dids))
	err := pages(ctx, dids, func(ctx context.Context, part []backends.DID) error {
		for range lacking {
			k := call{method: http.MethodPost, route: "/dids/bulkmeta", twice: true, path: "/dids/bulkmeta", body: map[string]any{"dids": part, "inherit": inherit, "plugin": plugin}}
			n := 0
			err := rows(ctx, c, k, func(r Row) error {
				n++
				d, v := of(r)
				mu.Lock()
				defer mu.Unlock()
				out[d] = v
				return nil
			})
			if err != nil || n == 0 {
				return err
			}
			mu.Lock()
			part = slices.DeleteFunc(slices.Clone(part), func(d backends.DID) bool { _, ok := out[d]; return ok })
			mu.Unlock()
			if len(part) == 0 {
				return nil
			}
		}
		return fmt.Errorf("rows of %d DIDs: each answer lacked some that the next one had: %w", len(dids), errDown)
	})
	return out, err
}

// columns are the keys of a DID's row that are no metadata of a user's; the others of it are (did_column_meta.py).
var columns = map[string]bool{
	"scope": true, "name": true, "did_type": true, "bytes": true, "length": true, "adler32": true, "md5": true, "account": true, "is_open": true, "hidden": true,
	"created_at": true, "updated_at": true, "expired_at": true, "deleted_at": true, "closed_at": true, "accessed_at": true, "is_new": true, "monotonic": true,
	"obsolete": true, "complete": true, "availability": true, "suppressed": true, "access_cnt": true, "is_archive": true, "constituent": true, "purge_replicas": true,
	"eol_at": true, "transient": true, "events": false, "guid": true,
}

// UserMeta gives a DID's metadata (GET /dids/SCOPE/NAME/meta?plugin=ALL): what users have set, in columns or as JSON.
func (c *Client) UserMeta(ctx context.Context, d backends.DID) (backends.Meta, error) {
	all := map[string]any{}
	k := call{method: http.MethodGet, route: "/dids/SCOPE/NAME/meta", path: didPath(d, "/meta"), query: url.Values{"plugin": {"ALL"}}}
	if err := c.ask(ctx, k, &all); err != nil {
		return nil, err
	}
	return usersOwn(all), nil
}

// BulkUserMeta gives the metadata of many DIDs, with that of the collections above them, nearest wins (POST /dids/bulkmeta with all
// plug-ins and inherit, without which the server gives columns only), in ceil(n/Page) calls; the server makes some queries of each DID. Where
// there are several ways up it takes one, whichever its database gives first. There is an answer for a DID that does not exist, too.
func (c *Client) BulkUserMeta(ctx context.Context, dids []backends.DID) (map[backends.DID]backends.Meta, error) {
	return bulkmeta(ctx, c, dids, true, "ALL", func(m map[string]any) (backends.DID, backends.Meta) {
		return backends.DID{Scope: fmt.Sprint(m["scope"]), Name: fmt.Sprint(m["name"])}, usersOwn(m)
	})
}

// usersOwn leaves out what is no metadata of a user's.
func usersOwn(all map[string]any) backends.Meta {
	out := backends.Meta{}
	for key, v := range all {
		if v != nil && !columns[key] {
			out[key] = v
		}
	}
	return out
}

// SetMeta sets metadata of one DID (POST /dids/SCOPE/NAME/meta).
func (c *Client) SetMeta(ctx context.Context, d backends.DID, m map[string]any) error {
	if path.Base(d.Name) == "meta" { // /dids/s/a/meta/meta would be the key "meta" of a
		return c.BulkSetMeta(ctx, []DIDMeta{{d.Scope, d.Name, m}})
	}
	return c.ask(ctx, call{method: http.MethodPost, route: "/dids/SCOPE/NAME/meta", twice: true, path: didPath(d, "/meta"), body: map[string]any{"meta": m, "recursive": false}}, nil)
}

// DeleteMeta deletes one key of JSON metadata (DELETE /dids/SCOPE/NAME/meta); that it is not there is success.
func (c *Client) DeleteMeta(ctx context.Context, d backends.DID, key string) error {
	err := c.ask(ctx, call{method: http.MethodDelete, route: "/dids/SCOPE/NAME/meta", twice: true, path: didPath(d, "/meta"), query: url.Values{"key": {key}}}, nil)
	if Is(err, "KeyNotFound") {
		return nil
	}
	return err
}

// DIDMeta is the metadata of one DID.
type DIDMeta struct {
	Scope string         `json:"scope"`
	Name  string         `json:"name"`
	Meta  map[string]any `json:"meta"`
}

// BulkSetMeta sets the metadata of many (POST /dids/bulkdidsmeta), in transactions of Page.
func (c *Client) BulkSetMeta(ctx context.Context, all []DIDMeta) error {
	for part := range slices.Chunk(all, Page) {
		k := call{method: http.MethodPost, route: "/dids/bulkdidsmeta", twice: true, path: "/dids/bulkdidsmeta", body: map[string]any{"dids": part}}
		if err := c.ask(ctx, k, nil); err != nil {
			return err
		}
	}
	return nil
}

// NewDID is a collection to be made.
type NewDID struct {
	Scope string         `json:"scope"`
	Name  string         `json:"name"`
	Type  string         `json:"type"`
	Meta  map[string]any `json:"meta,omitempty"`
}

// AddDIDs makes collections in one transaction (POST /dids). ErrExist when one of them exists: then none is made.
func (c *Client) AddDIDs(ctx context.Context, all []NewDID) error {
	return c.ask(ctx, call{method: http.MethodPost, route: "/dids", path: "/dids", body: all}, nil)
}

// Attachment is children for one collection.
type Attachment struct {
	Scope string         `json:"scope"`
	Name  string         `json:"name"`
	DIDs  []backends.DID `json:"dids"`
}

// Attach puts children into collections (POST /dids/attachments with ignore_duplicate), in transactions of at most Page children: what is
// there already is success.
func (c *Client) Attach(ctx context.Context, all []Attachment) error {
	var batch []Attachment
	n := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		k := call{method: http.MethodPost, route: "/dids/attachments", twice: true, path: "/dids/attachments", body: map[string]any{"attachments": batch, "ignore_duplicate": true}}
		batch, n = nil, 0
		return collide(ctx, func() error { return c.ask(ctx, k, nil) })
	}
	for _, a := range all {
		for left := a.DIDs; len(left) > 0; {
			room := min(Page-n, len(left))
			a.DIDs = left[:room]
			batch, n, left = append(batch, a), n+room, left[room:]
			if n == Page {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// Detach takes children out of a collection (DELETE /dids/SCOPE/NAME/dids), in transactions of Page. ErrNotExist when one is not in it,
// and then the rest of its transaction is not done either.
func (c *Client) Detach(ctx context.Context, parent backends.DID, children []backends.DID) error {
	for part := range slices.Chunk(children, Page) {
		k := call{method: http.MethodDelete, route: "/dids/SCOPE/NAME/dids", path: didPath(parent, "/dids"), body: map[string]any{"dids": part}}
		if err := c.ask(ctx, k, nil); err != nil {
			return err
		}
	}
	return nil
}
