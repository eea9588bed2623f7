package rest

import (
	"context"
	"net/http"

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
