package rest

import (
	"context"
	"net/http"
)

// Account is one of the server's (GET /accounts/ACCOUNT).
type Account struct {
	Name    string `json:"account"`
	Type    string `json:"account_type"` // USER, GROUP, SERVICE
	Email   string `json:"email"`
	Status  string `json:"status"` // ACTIVE, SUSPENDED, DELETED
	Created Time   `json:"created_at"`
	Updated Time   `json:"updated_at"`
}

// AccountInfo describes one. ErrNotExist.
func (c *Client) AccountInfo(ctx context.Context, name string) (a Account, err error) {
	err = c.ask(ctx, call{method: http.MethodGet, route: "/accounts/ACCOUNT", path: "/accounts/" + segment(name)}, &a)
	return a, err
}

// Quotas gives how many bytes of rules an account may have, by RSE (GET /accounts/ACCOUNT/limits/local); Unknown: any number.
func (c *Client) Quotas(ctx context.Context, account string) (map[string]Int, error) {
	return c.quotas(ctx, account, "local")
}

// GlobalQuotas is Quotas by expression of RSEs that share one (GET /accounts/ACCOUNT/limits/global).
func (c *Client) GlobalQuotas(ctx context.Context, account string) (map[string]Int, error) {
	return c.quotas(ctx, account, "global")
}

func (c *Client) quotas(ctx context.Context, account, kind string) (map[string]Int, error) {
	out := map[string]Int{}
	err := c.ask(ctx, call{method: http.MethodGet, route: "/accounts/ACCOUNT/limits/" + kind, path: "/accounts/" + segment(account) + "/limits/" + kind}, &out)
	return out, err
}

// AddAccount makes an account of type USER, GROUP or SERVICE (POST /accounts/ACCOUNT), for administrators. ErrExist.
func (c *Client) AddAccount(ctx context.Context, name, typ, email string) error {
	k := call{method: http.MethodPost, route: "/accounts/ACCOUNT", path: "/accounts/" + segment(name), body: map[string]any{"type": typ, "email": email}}
	return c.ask(ctx, k, nil)
}

// SetQuota lets an account have rules of so many bytes at an RSE, -1: any (POST /accountlimits/local/ACCOUNT/RSE), for administrators.
func (c *Client) SetQuota(ctx context.Context, account, rse string, bytes int64) error {
	k := call{method: http.MethodPost, route: "/accountlimits/local/ACCOUNT/RSE", twice: true, path: "/accountlimits/local/" + segment(account) + "/" + segment(rse), body: map[string]any{"bytes": bytes}}
	return c.ask(ctx, k, nil)
}
