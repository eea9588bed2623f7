package rest

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"tarn/backends"
)

// ListOptions say which replicas are listed, and in which order.
type ListOptions struct {
	Schemes    []string // nil: all
	Expression string   // of RSEs; "": all
	Site       string   // of the client: the LAN protocols of RSEs with this attribute site are given
	Domain     string   // lan, wan, all; "": by the site
	Sort       string   // geoip (also ""), random, custom_table
	AllStates  bool     // also what is no use: BAD, COPYING ...
	Closed     bool     // also at RSEs that are closed for reading
	Parents    bool     // tell of the collections, too
}

// StreamReplicas streams the replicas of DIDs (POST /replicas/list), in one call for each Page of them. What does not exist is left out, and so are files
// without replicas where a collection was asked for: this lists no directories.
func (c *Client) StreamReplicas(ctx context.Context, dids []backends.DID, o ListOptions, f func(Replicas) error) error {
	body := map[string]any{"all_states": o.AllStates, "ignore_availability": o.Closed, "resolve_parents": o.Parents}
	if len(o.Schemes) > 0 {
		body["schemes"] = o.Schemes
	}
	for key, v := range map[string]string{"rse_expression": o.Expression, "domain": o.Domain, "sort": o.Sort} {
		if v != "" {
			body[key] = v
		}
	}
	if o.Site != "" {
		body["client_location"] = map[string]string{"site": o.Site}
	}
	return inTurn(dids, f, func(part []backends.DID, f func(Replicas) error) error {
		one := map[string]any{"dids": part}
		for k, v := range body {
			one[k] = v
		}
		return rows(ctx, c, call{method: http.MethodPost, route: "/replicas/list", twice: true, path: "/replicas/list", body: one}, f)
	})
}

// ReplicaState is a new state for a copy: A available, U unavailable, C copying, B bad, T temporary unavailable.
type ReplicaState struct {
	Scope string `json:"scope"`
	Name  string `json:"name"`
	State string `json:"state"`
}

// SetReplicaStates sets the states of copies at one RSE (PUT /replicas), in transactions of Page, for administrators. ErrNotExist.
func (c *Client) SetReplicaStates(ctx context.Context, rse string, all []ReplicaState) error {
	for part := range slices.Chunk(all, Page) {
		k := call{method: http.MethodPut, route: "/replicas", twice: true, path: "/replicas", body: map[string]any{"rse": rse, "files": part}}
		if err := c.ask(ctx, k, nil); err != nil {
			return err
		}
	}
	return nil
}

// DatasetReplica is how much of a dataset is at an RSE.
type DatasetReplica struct {
	RSE             string `json:"rse"`
	State           string `json:"state"`
	Bytes           Int    `json:"bytes"`
	Length          Int    `json:"length"`
	AvailableBytes  Int    `json:"available_bytes"`
	AvailableLength Int    `json:"available_length"`
	Created         Time   `json:"created_at"`
	Updated         Time   `json:"updated_at"`
	Accessed        Time   `json:"accessed_at"`
}

// DatasetReplicas lists the RSEs with files of a dataset (GET /replicas/SCOPE/NAME/datasets). deep has them counted now; else it is what
// a daemon has counted some time ago.
func (c *Client) DatasetReplicas(ctx context.Context, d backends.DID, deep bool) ([]DatasetReplica, error) {
	k := call{method: http.MethodGet, route: "/replicas/SCOPE/NAME/datasets", path: "/replicas/" + segment(d.Scope) + "/" + segment(d.Name) + "/datasets"}
	if deep {
		k.query = url.Values{"deep": {"true"}}
	}
	return list[DatasetReplica](ctx, c, k)
}

// DatasetsAt streams the datasets that have replicas at an RSE, as a daemon has counted them (GET /replicas/rse/RSE).
func (c *Client) DatasetsAt(ctx context.Context, rse string, f func(backends.DID) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/replicas/rse/RSE", path: "/replicas/rse/" + segment(rse)}, f)
}
