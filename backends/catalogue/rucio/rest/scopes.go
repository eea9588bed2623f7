package rest

import (
	"context"
	"net/http"
	"slices"
)

// ScopesOf lists the scopes of an account (GET /scopes/ACCOUNT/scopes).
func (c *Client) ScopesOf(ctx context.Context, account string) (names []string, err error) {
	err = c.ask(ctx, call{method: http.MethodGet, route: "/scopes/ACCOUNT/scopes", path: "/scopes/" + segment(account) + "/scopes"}, &names)
	slices.Sort(names)
	return names, err
}

// ScopeOwners gives the account of each scope (GET /scopes/owner/, of Rucio 39 and later). With an older server it is ErrUnavailable.
func (c *Client) ScopeOwners(ctx context.Context) (map[string]string, error) {
	var all []struct {
		Scope   string `json:"scope"`
		Account string `json:"account"`
	}
	if err := c.ask(ctx, call{method: http.MethodGet, route: "/scopes/owner/", path: "/scopes/owner/"}, &all); err != nil {
		return nil, err
	}
	out := make(map[string]string, len(all))
	for _, s := range all {
		out[s.Scope] = s.Account
	}
	return out, nil
}

// SetScopeOwner gives a scope to another account (PUT /scopes/ACCOUNT/SCOPE, of Rucio 39 and later), for administrators.
func (c *Client) SetScopeOwner(ctx context.Context, account, scope string) error {
	return c.ask(ctx, call{method: http.MethodPut, route: "/scopes/ACCOUNT/SCOPE", twice: true, path: "/scopes/" + segment(account) + "/" + segment(scope)}, nil)
}
