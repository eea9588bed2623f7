package rest

import (
	"context"
	"net/http"
)

// Limits gives the limits of an RSE by name, MinFreeSpace and the like, in bytes (GET /rses/RSE/limits).
func (c *Client) Limits(ctx context.Context, rse string) (map[string]Int, error) {
	out := map[string]Int{}
	err := c.ask(ctx, call{method: http.MethodGet, route: "/rses/RSE/limits", path: rsePath(rse) + "/limits"}, &out)
	return out, err
}

// SetLimit sets one (PUT /rses/RSE/limits).
func (c *Client) SetLimit(ctx context.Context, rse, name string, value int64) error {
	k := call{method: http.MethodPut, route: "/rses/RSE/limits", twice: true, path: rsePath(rse) + "/limits", body: map[string]any{"name": name, "value": value}}
	return c.ask(ctx, k, nil)
}

func rsePath(rse string) string { return "/rses/" + segment(rse) }

// Protocols lists the ways to an RSE (GET /rses/RSE/protocols).
func (c *Client) Protocols(ctx context.Context, rse string) ([]Protocol, error) {
	var all []Protocol
	err := c.ask(ctx, call{method: http.MethodGet, route: "/rses/RSE/protocols", path: rsePath(rse) + "/protocols"}, &all)
	return all, err
}

// NewRSE is an RSE to be made.
type NewRSE struct {
	Deterministic bool   `json:"deterministic"`
	Volatile      bool   `json:"volatile"`
	Staging       bool   `json:"staging_area"`
	Type          string `json:"rse_type,omitempty"` // DISK, TAPE
}

// AddRSE makes one (POST /rses/RSE). ErrExist. The server remembers what expressions gave for ten minutes or so, and shows it to rules only then.
func (c *Client) AddRSE(ctx context.Context, name string, r NewRSE) error {
	return c.ask(ctx, call{method: http.MethodPost, route: "/rses/RSE", path: rsePath(name), body: r}, nil)
}

// DeleteRSE removes one that is empty (DELETE /rses/RSE).
func (c *Client) DeleteRSE(ctx context.Context, name string) error {
	return c.ask(ctx, call{method: http.MethodDelete, route: "/rses/RSE", path: rsePath(name)}, nil)
}

// Availability is what an RSE is open for; nil leaves it as it is.
type Availability struct {
	Read   *bool `json:"availability_read,omitempty"`
	Write  *bool `json:"availability_write,omitempty"`
	Delete *bool `json:"availability_delete,omitempty"`
}

// SetAvailability opens and closes an RSE (PUT /rses/RSE).
func (c *Client) SetAvailability(ctx context.Context, name string, a Availability) error {
	return c.ask(ctx, call{method: http.MethodPut, route: "/rses/RSE", twice: true, path: rsePath(name), body: a}, nil)
}

// SetAttribute sets an attribute of an RSE (POST /rses/RSE/attr/KEY); one that is set is set anew.
func (c *Client) SetAttribute(ctx context.Context, rse, key string, value any) error {
	k := call{method: http.MethodPost, route: "/rses/RSE/attr/KEY", twice: true, path: rsePath(rse) + "/attr/" + segment(key), body: map[string]any{"value": value}}
	return c.ask(ctx, k, nil)
}

// AddProtocol adds a way to an RSE (POST /rses/RSE/protocols/SCHEME). ErrExist.
func (c *Client) AddProtocol(ctx context.Context, rse string, p Protocol) error {
	body := map[string]any{"hostname": p.Hostname, "port": p.Port, "prefix": p.Prefix, "impl": p.Impl, "domains": p.Domains}
	if p.Extended != nil {
		body["extended_attributes"] = p.Extended
	}
	k := call{method: http.MethodPost, route: "/rses/RSE/protocols/SCHEME", path: rsePath(rse) + "/protocols/" + segment(p.Scheme), body: body}
	return c.ask(ctx, k, nil)
}

// SetUsage tells how full an RSE is, in bytes, as a probe does (PUT /rses/RSE/usage).
func (c *Client) SetUsage(ctx context.Context, rse string, u Usage) error {
	body := map[string]any{"source": u.Source, "used": u.Used, "free": u.Free}
	if u.Files >= 0 {
		body["files"] = u.Files
	}
	k := call{method: http.MethodPut, route: "/rses/RSE/usage", twice: true, path: rsePath(rse) + "/usage", body: body}
	return c.ask(ctx, k, nil)
}

// SetDistance says how far one RSE is from another (POST /rses/FROM/distances/TO); a pair without a distance is never copied between.
func (c *Client) SetDistance(ctx context.Context, from, to string, distance int) error {
	at := call{method: http.MethodPost, route: "/rses/FROM/distances/TO", path: rsePath(from) + "/distances/" + segment(to), body: map[string]any{"distance": distance}}
	err := c.ask(ctx, at, nil)
	if Is(err, "Duplicate") {
		at.method, at.twice = http.MethodPut, true
		err = c.ask(ctx, at, nil)
	}
	return err
}
