package rucio

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// element is an RSE as the server described it.
type element struct {
	rest.RSE
	asked time.Time
}

// rseTTL is how many TTL what an RSE is like is taken for true.
const rseTTL = 10

// RSEs gives all storage elements, a few asked for at a time where they are not known.
func (c *Catalogue) RSEs(ctx context.Context) (map[string]rest.RSE, error) {
	c.mu.Lock()
	names, asked := c.names, c.named
	c.mu.Unlock()
	if names == nil || c.now().Sub(asked) >= rseTTL*c.o.TTL {
		got, err := c.c.RSEs(ctx, "")
		if err != nil && (names == nil || !c.away(err)) {
			return nil, edge("list the RSEs", backends.DID{}, err)
		}
		if err == nil {
			names = append([]string{}, got...)
			c.mu.Lock()
			c.names, c.named = names, c.now()
			c.mu.Unlock()
		}
	}
	all, err := c.rsesOf(ctx, names)
	return all, edge("list the RSEs", backends.DID{}, err)
}

// rsesOf gives those of the names that there are.
func (c *Catalogue) rsesOf(ctx context.Context, names []string) (map[string]rest.RSE, error) {
	all := make(map[string]rest.RSE, len(names))
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, n := range names {
		g.Go(func() error {
			r, err := c.rse(ctx, n)
			if errors.Is(err, backends.ErrNotExist) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			all[n] = r
			return err
		})
	}
	return all, g.Wait()
}

// rse gives one. ErrNotExist.
func (c *Catalogue) rse(ctx context.Context, name string) (rest.RSE, error) {
	c.mu.Lock()
	have, ok := c.rses[name]
	c.mu.Unlock()
	if ok && c.now().Sub(have.asked) < rseTTL*c.o.TTL {
		return have.RSE, nil
	}
	r, err := c.c.RSE(ctx, name)
	switch {
	case errors.Is(err, backends.ErrNotExist):
		return r, fmt.Errorf("RSE %s: Rucio has none of this name: %w", name, backends.ErrNotExist)
	case err != nil && ok && c.away(err):
		return have.RSE, nil
	case err != nil:
		return r, fmt.Errorf("RSE %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rses == nil {
		c.rses = map[string]element{}
	}
	c.rses[name] = element{r, c.now()}
	return r, nil
}
