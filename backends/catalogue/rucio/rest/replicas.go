package rest

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"tarn/backends"
)

// Replicas is what the server knows of one file's copies.
type Replicas struct {
	Scope   string              `json:"scope"`
	Name    string              `json:"name"`
	Bytes   Int                 `json:"bytes"`
	Adler32 string              `json:"adler32"`
	MD5     string              `json:"md5"`
	RSEs    map[string][]string `json:"rses"`   // PFNs by RSE
	States  map[string]string   `json:"states"` // AVAILABLE, UNAVAILABLE, COPYING, BAD, ...
	PFNs    map[string]struct {
		RSE      string `json:"rse"`
		Type     string `json:"type"`
		Domain   string `json:"domain"`
		Priority int    `json:"priority"`
		Volatile bool   `json:"volatile"`
	} `json:"pfns"`
}

// DID names the file.
func (r Replicas) DID() backends.DID { return backends.DID{Scope: r.Scope, Name: r.Name} }

// ListReplicas gives the copies of files in all states (POST /replicas/list), in ceil(n/Page) calls. A file that does not
// exist is missing in the answer.
func (c *Client) ListReplicas(ctx context.Context, dids []backends.DID) (map[backends.DID]Replicas, error) {
	var mu sync.Mutex
	out := make(map[backends.DID]Replicas, len(dids))
	err := pages(ctx, dids, func(ctx context.Context, part []backends.DID) error {
		k := call{method: http.MethodPost, route: "/replicas/list", twice: true, path: "/replicas/list", body: map[string]any{
			"dids": part, "all_states": true, "ignore_availability": true, "unavailable": true, "domain": "all",
		}}
		return rows(ctx, c, k, func(r Replicas) error {
			mu.Lock()
			defer mu.Unlock()
			out[r.DID()] = r
			return nil
		})
	})
	return out, err
}

// NewReplica is a copy to be registered. PFN is for an RSE that is not deterministic.
type NewReplica struct {
	Scope   string `json:"scope"`
	Name    string `json:"name"`
	Bytes   int64  `json:"bytes"`
	Adler32 string `json:"adler32,omitempty"`
	MD5     string `json:"md5,omitempty"` // null is refused
	PFN     string `json:"pfn,omitempty"`
	State   string `json:"state,omitempty"`
}

// AddReplicas registers copies at one RSE, and with them the files (POST /replicas), in transactions of Page. Those that
// exist are success, also when their size or checksum is another: compare afterwards.
func (c *Client) AddReplicas(ctx context.Context, rse string, all []NewReplica) error {
	for part := range slices.Chunk(all, Page) {
		k := call{method: http.MethodPost, route: "/replicas", twice: true, path: "/replicas", body: map[string]any{"rse": rse, "files": part, "ignore_availability": false}}
		if err := collide(ctx, func() error { return c.ask(ctx, k, nil) }); err != nil {
			return err
		}
	}
	return nil
}

// collide repeats what the database refused to all but one of those who did the same at a moment.
func collide(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if !Is(err, "RucioException", "DatabaseException", "DuplicateContent", "FileAlreadyExists") || try == 5 {
			return err
		}
		select {
		case <-time.After(time.Duration(try)*50*time.Millisecond + rand.N(100*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// at is a replica as some routes name it.
type at struct {
	Scope string `json:"scope"`
	Name  string `json:"name"`
	RSE   string `json:"rse"`
}

// DeclareBad marks a copy as bad (POST /replicas/bad), for administrators.
func (c *Client) DeclareBad(ctx context.Context, d backends.DID, rse, why string) error {
	return c.ask(ctx, call{method: http.MethodPost, route: "/replicas/bad", twice: true, path: "/replicas/bad", body: map[string]any{"replicas": []at{{d.Scope, d.Name, rse}}, "reason": why}}, nil)
}

// DeclareSuspicious tells of a copy that may be bad (POST /replicas/suspicious), for everybody.
func (c *Client) DeclareSuspicious(ctx context.Context, pfn, why string) error {
	return c.ask(ctx, call{method: http.MethodPost, route: "/replicas/suspicious", path: "/replicas/suspicious", body: map[string]any{"pfns": []string{pfn}, "reason": why}}, nil)
}

// Tombstone lets the reaper remove a copy (POST /replicas/tombstone). ErrBusy while a rule wants it.
func (c *Client) Tombstone(ctx context.Context, d backends.DID, rse string) error {
	return c.ask(ctx, call{method: http.MethodPost, route: "/replicas/tombstone", twice: true, path: "/replicas/tombstone", body: map[string]any{"replicas": []at{{d.Scope, d.Name, rse}}}}, nil)
}
