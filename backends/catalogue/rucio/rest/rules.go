package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"tarn/backends"
)

// Rule is a replication rule (GET /rules/ID).
type Rule struct {
	ID          string `json:"id"`
	Scope       string `json:"scope"`
	Name        string `json:"name"`
	Account     string `json:"account"`
	Copies      int    `json:"copies"`
	Expression  string `json:"rse_expression"`
	Source      string `json:"source_replica_expression"`
	State       string `json:"state"` // OK, REPLICATING, STUCK, SUSPENDED, WAITING_APPROVAL, INJECT
	Error       string `json:"error"`
	Activity    string `json:"activity"`
	Comments    string `json:"comments"`
	Grouping    string `json:"grouping"`
	Weight      string `json:"weight"`
	Priority    int    `json:"priority"`
	OK          Int    `json:"locks_ok_cnt"`
	Replicating Int    `json:"locks_replicating_cnt"`
	Stuck       Int    `json:"locks_stuck_cnt"`
	Created     Time   `json:"created_at"`
	Expires     Time   `json:"expires_at"`
}

// NewRule is what a rule asks for. Lifetime is in seconds; 0: for ever.
type NewRule struct {
	DIDs         []backends.DID `json:"dids"`
	Account      string         `json:"account"`
	Copies       int            `json:"copies"`
	Expression   string         `json:"rse_expression"`
	Source       *string        `json:"source_replica_expression"`
	Lifetime     *int64         `json:"lifetime"`
	Grouping     string         `json:"grouping"`
	Weight       *string        `json:"weight"`
	Activity     *string        `json:"activity"`
	Comment      *string        `json:"comment"`
	Priority     int            `json:"priority"`
	Asynchronous bool           `json:"asynchronous"`
	Locked       bool           `json:"locked"`
	Notify       *string        `json:"notify"`
	Purge        bool           `json:"purge_replicas"`
	IgnoreAvail  bool           `json:"ignore_availability"`
	AskApproval  bool           `json:"ask_approval"`
}

// AddRule makes a rule (POST /rules/) and gives its ID. ErrExist when the account has one of the same kind, ErrQuota, ErrNotSupported
// for an expression that matches too little.
func (c *Client) AddRule(ctx context.Context, r NewRule) (id string, err error) {
	var ids []string
	if err := c.ask(ctx, call{method: http.MethodPost, route: "/rules/", path: "/rules/", body: r}, &ids); err != nil {
		return "", err
	}
	if len(ids) > 0 {
		id = ids[0]
	}
	return id, nil
}

// EnsureRule is AddRule that gives the rule which the account has already, if it is one of the same kind: on the same DID, with as many copies at
// the same expression (core/rule.py, UniqueConstraint).
func (c *Client) EnsureRule(ctx context.Context, r NewRule) (id string, err error) {
	id, err = c.AddRule(ctx, r)
	if !Is(err, "DuplicateRule") || len(r.DIDs) != 1 {
		return id, err
	}
	d := r.DIDs[0]
	err = c.Rules(ctx, url.Values{"scope": {d.Scope}, "name": {d.Name}, "account": {r.Account}}, func(x Rule) error {
		if x.Copies == r.Copies && x.Expression == r.Expression {
			id = x.ID
			return ErrStop
		}
		return nil
	})
	if err == nil && id == "" { // it ended in this moment
		err = fmt.Errorf("there is such a rule on %s in Rucio, which shows none: %w", d, errDown)
	}
	return id, err
}

// Rule gives one. ErrNotExist.
func (c *Client) Rule(ctx context.Context, id string) (r Rule, err error) {
	err = c.ask(ctx, call{method: http.MethodGet, route: "/rules/ID", path: "/rules/" + segment(id)}, &r)
	return r, err
}

// Rules streams those that match all of the filters: account, scope, name, state ... (GET /rules/).
func (c *Client) Rules(ctx context.Context, filter url.Values, f func(Rule) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/rules/", path: "/rules/", query: filter}, f)
}

// RulesOf streams the rules on a DID itself (GET /dids/SCOPE/NAME/rules).
func (c *Client) RulesOf(ctx context.Context, d backends.DID, f func(Rule) error) error {
	return rows(ctx, c, call{method: http.MethodGet, route: "/dids/SCOPE/NAME/rules", path: didPath(d, "/rules")}, f)
}

// DeleteRule ends a rule (DELETE /rules/ID): Rucio does so about an hour later.
func (c *Client) DeleteRule(ctx context.Context, id string) error {
	return c.ask(ctx, call{method: http.MethodDelete, route: "/rules/ID", twice: true, path: "/rules/" + segment(id), body: map[string]any{}}, nil)
}

// WhoAmI gives the account of the token (GET /accounts/whoami).
func (c *Client) WhoAmI(ctx context.Context) (account string, err error) {
	var a struct {
		Account string `json:"account"`
	}
	err = c.ask(ctx, call{method: http.MethodGet, route: "/accounts/whoami", path: "/accounts/whoami"}, &a)
	return a.Account, err
}

// IsAdmin tells whether an account has the attribute admin (GET /accounts/ACCOUNT/attr/), for which the server does not look at quotas.
func (c *Client) IsAdmin(ctx context.Context, account string) (bool, error) {
	lists, err := list[[]struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	}](ctx, c, call{method: http.MethodGet, route: "/accounts/ACCOUNT/attr", path: "/accounts/" + segment(account) + "/attr/"})
	for _, l := range lists {
		for _, a := range l {
			if a.Key == "admin" {
				return fmt.Sprint(a.Value) == "true" || fmt.Sprint(a.Value) == "1", err
			}
		}
	}
	return false, err
}

// AccountUsage is what an account has at one RSE, and may have; Unknown: no limit.
type AccountUsage struct {
	RSE       string `json:"rse"`
	Bytes     Int    `json:"bytes"`
	Files     Int    `json:"files"`
	Limit     Int    `json:"bytes_limit"`
	Remaining Int    `json:"bytes_remaining"`
}

// AccountUsage tells of all RSEs (GET /accounts/ACCOUNT/usage/local).
func (c *Client) AccountUsage(ctx context.Context, account string) ([]AccountUsage, error) {
	return list[AccountUsage](ctx, c, call{method: http.MethodGet, route: "/accounts/ACCOUNT/usage/local", path: "/accounts/" + segment(account) + "/usage/local"})
}
