package rest

import (
	"context"
	"net/http"
	"net/url"

	"tarn/backends"
)

// Request is a transfer that Rucio has asked for (GET /requests/SCOPE/NAME/RSE).
type Request struct {
	ID         string `json:"id"`
	Scope      string `json:"scope"`
	Name       string `json:"name"`
	Type       string `json:"request_type"` // TRANSFER, STAGEIN
	State      string `json:"state"`        // QUEUED, SUBMITTED, ...
	SourceRSE  string `json:"source_rse"`
	DestRSE    string `json:"dest_rse"`
	DestURL    string `json:"dest_url"`
	ExternalID string `json:"external_id"` // of FTS
	RuleID     string `json:"rule_id"`
	Activity   string `json:"activity"`
	Error      string `json:"err_msg"`
	Retries    Int    `json:"retry_count"`
	Created    Time   `json:"created_at"`
	Submitted  Time   `json:"submitted_at"`
	Started    Time   `json:"started_at"`
}

// Request gives the transfer of a file to an RSE that is under way. ErrNotExist when there is none, or it has ended.
func (c *Client) Request(ctx context.Context, d backends.DID, rse string) (r Request, err error) {
	k := call{method: http.MethodGet, route: "/requests/SCOPE/NAME/RSE", path: "/requests/" + segment(d.Scope) + "/" + segment(d.Name) + "/" + segment(rse)}
	err = c.ask(ctx, k, &r)
	return r, err
}

// RequestsBetween streams the transfers from one RSE to another that are in the states, letters of Rucio's such as Q, S, W (GET /requests/list).
func (c *Client) RequestsBetween(ctx context.Context, from, to, states string, f func(Request) error) error {
	k := call{method: http.MethodGet, route: "/requests/list", path: "/requests/list", query: url.Values{"src_rse": {from}, "dst_rse": {to}, "request_states": {states}}}
	return rows(ctx, c, k, f)
}
