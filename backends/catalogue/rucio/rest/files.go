package rest

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"tarn/backends"
)

// FileRow is a file at or below a collection; Parent is the one that was asked for, where several were.
type FileRow struct {
	Scope       string `json:"scope"`
	Name        string `json:"name"`
	Bytes       Int    `json:"bytes"`
	Adler32     string `json:"adler32"`
	GUID        string `json:"guid"`
	Events      Int    `json:"events"`
	ParentScope string `json:"parent_scope"`
	ParentName  string `json:"parent_name"`
}

// DID names the row.
func (r FileRow) DID() backends.DID { return backends.DID{Scope: r.Scope, Name: r.Name} }

// Parent names the collection.
func (r FileRow) Parent() backends.DID { return backends.DID{Scope: r.ParentScope, Name: r.ParentName} }

// Files streams the files of a collection and of those in it, or the file itself (GET /dids/SCOPE/NAME/files). ErrNotExist.
func (c *Client) Files(ctx context.Context, d backends.DID, f func(FileRow) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/dids/SCOPE/NAME/files", path: didPath(d, "/files")}, f)
}

// BulkFiles streams the files of many collections (POST /dids/bulkfiles), in one call for each Page of them. What does not exist is left out.
func (c *Client) BulkFiles(ctx context.Context, dids []backends.DID, f func(FileRow) error) error {
	return inTurn(dids, f, func(part []backends.DID, f func(FileRow) error) error {
		k := call{method: http.MethodPost, route: "/dids/bulkfiles", twice: true, path: "/dids/bulkfiles", body: map[string]any{"dids": part}}
		return rows(ctx, c, k, f)
	})
}

// inTurn streams the answers of pages one after the other; ErrStop ends all.
func inTurn[T, D any](all []D, f func(T) error, page func(part []D, f func(T) error) error) error {
	stopped := false
	for len(all) > 0 && !stopped {
		n := min(Page, len(all))
		err := page(all[:n], func(row T) error {
			err := f(row)
			stopped = errors.Is(err, ErrStop)
			return err
		})
		if err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// Former is a child that was detached, and when.
type Former struct {
	Child
	Deleted Time `json:"deleted_at"`
}

// History streams the children that a collection has no more (GET /dids/SCOPE/NAME/dids/history).
func (c *Client) History(ctx context.Context, d backends.DID, f func(Former) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/dids/SCOPE/NAME/dids/history", path: didPath(d, "/dids/history")}, f)
}

// Found is a DID of a search. Where the filters are of JSON metadata the server tells nothing but its name.
type Found struct {
	Scope  string `json:"scope"`
	Name   string `json:"name"`
	Type   string `json:"did_type"`
	Bytes  Int    `json:"bytes"`
	Length Int    `json:"length"`
}

// SearchOptions are what a search looks through.
type SearchOptions struct {
	Type      string // all, collection (also ""), dataset, container, file
	Recursive bool   // in what is found, too
	Limit     int    // 0: none. There is no order, so that a limit is no page.
}

// SearchRows is Search with types and sizes (GET /dids/SCOPE/dids/search with long).
func (c *Client) SearchRows(ctx context.Context, scope string, o SearchOptions, filters []map[string]any, f func(Found) error) error {
	text, err := pythonFilters(filters)
	if err != nil {
		return err
	}
	q := url.Values{"filters": {text}, "long": {"1"}}
	if o.Type != "" {
		q.Set("type", o.Type)
	}
	if o.Recursive {
		q.Set("recursive", "True")
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	return rows(ctx, c, call{method: http.MethodGet, route: "/dids/SCOPE/dids/search", path: "/dids/" + segment(scope) + "/dids/search", query: q}, f)
}
