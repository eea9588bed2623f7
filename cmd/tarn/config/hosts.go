package config

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Lookup is net.Resolver.LookupHost, or what stands in for it.
type Lookup func(ctx context.Context, host string) ([]string, error)

// lookupTime is how long all lookups together may take.
const lookupTime = 5 * time.Second

// LoadResolved is Load that takes hosts of URLs which do not exist for faults, too. A name server that does not
// answer is none: the host may be there.
func LoadResolved(ctx context.Context, lookup Lookup, file string, settings ...Setting) (*Config, error) {
	return load(file, func(j judge) { j.hosts(ctx, lookup) }, settings)
}

// Unresolved are the faults that only LoadResolved finds, for who goes on with them.
func (c *Config) Unresolved(ctx context.Context, lookup Lookup) []Fault {
	bad := &Error{File: c.file}
	judge{c, bad}.hosts(ctx, lookup)
	bad.sort()
	return bad.Faults
}

// hosts asks for each host once, many at a time.
func (j judge) hosts(ctx context.Context, lookup Lookup) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	type place struct{ key, host string }
	var all []place
	for i, r := range j.c.RSEs {
		for k, p := range r.Protocols {
			u, err := url.Parse(p.URL)
			if err == nil && u.Hostname() != "" && net.ParseIP(u.Hostname()) == nil {
				all = append(all, place{fmt.Sprintf("rses[%d].protocols[%d].url", i, k), u.Hostname()})
			}
		}
	}
	for _, f := range []struct{ key, text string }{{"catalogue.url", j.c.Catalogue.URL}, {"catalogue.auth_url", j.c.Catalogue.AuthURL}} {
		if u, err := url.Parse(f.text); err == nil && u.Hostname() != "" && net.ParseIP(u.Hostname()) == nil {
			all = append(all, place{f.key, u.Hostname()})
		}
	}
	var mu sync.Mutex // guards missing
	asked, missing := map[string]bool{}, map[string]bool{}
	var g errgroup.Group
	g.SetLimit(16)
	for _, p := range all {
		if asked[p.host] {
			continue
		}
		asked[p.host] = true
		g.Go(func() error {
			var dns *net.DNSError
			if _, err := lookup(ctx, p.host); errors.As(err, &dns) && dns.IsNotFound {
				mu.Lock()
				defer mu.Unlock()
				missing[p.host] = true
			}
			return nil
		})
	}
	_ = g.Wait() // they give no errors
	for _, p := range all {
		if missing[p.host] {
			j.fault(p.key, "the host %s does not resolve", p.host)
		}
	}
}
