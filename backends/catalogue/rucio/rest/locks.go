package rest

import (
	"context"
	"net/http"
	"net/url"

	"tarn/backends"
)

// Lock is a rule's hold on the copy of a file at an RSE.
type Lock struct {
	Scope  string `json:"scope"`
	Name   string `json:"name"`
	RSE    string `json:"rse"`
	RuleID string `json:"rule_id"`
	State  string `json:"state"` // OK, REPLICATING, STUCK
}

// DID names the file.
func (l Lock) DID() backends.DID { return backends.DID{Scope: l.Scope, Name: l.Name} }

// Locks streams those of a rule (GET /rules/ID/locks).
func (c *Client) Locks(ctx context.Context, rule string, f func(Lock) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/rules/ID/locks", path: "/rules/" + segment(rule) + "/locks"}, f)
}

// DatasetLock is a rule's hold on a dataset at an RSE.
type DatasetLock struct {
	Scope   string `json:"scope"`
	Name    string `json:"name"`
	RSE     string `json:"rse"`
	RuleID  string `json:"rule_id"`
	Account string `json:"account"`
	State   string `json:"state"`
	Bytes   Int    `json:"bytes"`
	Length  Int    `json:"length"`
}

// DatasetLocks streams those on a dataset (GET /locks/SCOPE/NAME).
func (c *Client) DatasetLocks(ctx context.Context, d backends.DID, f func(DatasetLock) error) error {
	k := call{method: http.MethodGet, route: "/locks/SCOPE/NAME", path: "/locks/" + segment(d.Scope) + "/" + segment(d.Name), query: url.Values{"did_type": {"dataset"}}}
	return rows(ctx, c, k, f)
}

// Analysis tells why a rule is stuck.
type Analysis struct {
	Error     string `json:"rule_error"`
	Transfers []struct {
		Scope    string `json:"scope"`
		Name     string `json:"name"`
		RSE      string `json:"rse"`
		Attempts Int    `json:"attempts"`
		Error    string `json:"last_error"`
		Source   string `json:"last_source"`
		Last     Time   `json:"last_time"`
	} `json:"transfers"` // of the files that are stuck
}

// Analyse asks the server for that (GET /rules/ID/analysis). ErrNotExist.
func (c *Client) Analyse(ctx context.Context, rule string) (a Analysis, err error) {
	err = c.ask(ctx, call{method: http.MethodGet, route: "/rules/ID/analysis", path: "/rules/" + segment(rule) + "/analysis"}, &a)
	return a, err
}

// UpdateRule changes a rule's options: lifetime in seconds (nil: for ever), locked, comment, state, boost_rule and others (PUT /rules/ID). A plain
// user may not, by Rucio's own policy.
func (c *Client) UpdateRule(ctx context.Context, id string, options map[string]any) error {
	k := call{method: http.MethodPut, route: "/rules/ID", twice: true, path: "/rules/" + segment(id), body: map[string]any{"options": options}}
	return c.ask(ctx, k, nil)
}

// RulesHolding streams the rules whose locks cover a file, those on collections above it too (GET /dids/SCOPE/NAME/associated_rules).
func (c *Client) RulesHolding(ctx context.Context, d backends.DID, f func(Rule) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/dids/SCOPE/NAME/associated_rules", path: didPath(d, "/associated_rules")}, f)
}
