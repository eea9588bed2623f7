package rest

import (
	"context"
	"net/http"
)

// NewFile is a child that is registered with its replica as it is attached. PFN is for an RSE that is not deterministic.
type NewFile struct {
	Scope   string         `json:"scope"`
	Name    string         `json:"name"`
	Bytes   int64          `json:"bytes"`
	Adler32 string         `json:"adler32,omitempty"`
	MD5     string         `json:"md5,omitempty"` // null is refused
	PFN     string         `json:"pfn,omitempty"`
	Meta    map[string]any `json:"meta,omitempty"` // guid
}

// FileAttachment is files of one RSE for one collection.
type FileAttachment struct {
	Scope string    `json:"scope"`
	Name  string    `json:"name"`
	RSE   string    `json:"rse"`
	Files []NewFile `json:"dids"`
}

// AttachFiles registers files with a replica each and puts them into collections, in one step (POST /dids/attachments with rse), in
// transactions of at most Page files: what is there already is success, also when its size or checksum is another: compare afterwards. Unlike
// AddReplicas it asks of a plain user no more than the scope.
func (c *Client) AttachFiles(ctx context.Context, all []FileAttachment) error {
	return attach(ctx, c, all, func(a FileAttachment) []NewFile { return a.Files }, func(a FileAttachment, part []NewFile) FileAttachment { a.Files = part; return a })
}

// attach sends attachments of at most Page children together.
func attach[A, D any](ctx context.Context, c *Client, all []A, children func(A) []D, with func(A, []D) A) error {
	var batch []A
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
		for rest := children(a); len(rest) > 0; {
			room := min(Page-n, len(rest))
			batch, n, rest = append(batch, with(a, rest[:room])), n+room, rest[room:]
			if n == Page {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}
