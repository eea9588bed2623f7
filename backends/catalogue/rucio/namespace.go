package rucio

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"tarn/backends"
)

// Scopes streams what stands at the root of the tree: in layout contents the scopes, in layout lfn the roots.
func (c *Catalogue) Scopes(ctx context.Context) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		if c.isLFN() {
			for _, p := range slices.Sorted(slices.Values(c.o.Roots)) {
				d := backends.DID{Scope: c.o.ScopeOf(p), Name: p}
				a, err := c.look(ctx, d)
				if errors.Is(err, backends.ErrNotExist) {
					continue
				}
				in := a.info
				in.Layout = backends.LayoutLFN
				if !yield(in, edge("stat", d, err)) || err != nil {
					return
				}
			}
			return
		}
		names, err := c.scopeNames(ctx)
		if err != nil {
			yield(backends.Info{}, edge("list scopes", backends.DID{}, err))
			return
		}
		for _, n := range names {
			if !yield(c.scopeInfo(n), nil) {
				return
			}
		}
	}
}

// lookScope is for the virtual collection of a scope in layout contents.
func (c *Catalogue) lookScope(ctx context.Context, d backends.DID) (attr, error) {
	names, err := c.scopeNames(ctx)
	if err != nil {
		return attr{}, err
	}
	if !slices.Contains(names, d.Scope) {
		return attr{}, backends.ErrNotExist
	}
	return attr{info: c.scopeInfo(d.Scope), length: -1}, nil
}

// scopeInfo is the Info of a scope's collection.
func (c *Catalogue) scopeInfo(name string) backends.Info {
	d := backends.DID{Scope: name}
	return backends.Info{DID: d, Type: backends.Container, Mode: 0o755, UID: c.o.UID, GID: c.o.GID, MTime: epoch, CTime: epoch, Inode: inode(d), Layout: backends.LayoutContents}
}

// epoch is the time of what Rucio tells no time of.
var epoch = time.Unix(0, 0).UTC()

// scopeNames lists the scopes.
func (c *Catalogue) scopeNames(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	have, asked := c.scopes, c.scoped
	c.mu.Unlock()
	if have != nil && c.now().Sub(asked) < c.o.TTL {
		return have, nil
	}
	names, err := c.c.Scopes(ctx)
	if err != nil {
		if have != nil && c.away(err) && c.now().Sub(asked) < c.o.Stale {
			return have, nil
		}
		return nil, err
	}
	if c.o.Scopes != nil {
		names = slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(c.o.Scopes, n) })
	}
	if names == nil {
		names = []string{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scopes, c.scoped = names, c.now()
	return names, nil
}

// allScopes are those of the server, whatever the tree shows.
func (c *Catalogue) allScopes(ctx context.Context) ([]string, error) {
	if c.o.Scopes == nil {
		return c.scopeNames(ctx)
	}
	return c.c.Scopes(ctx)
}

// AddScope makes a scope of the account's own, and in layout lfn the container of a root.
func (c *Catalogue) AddScope(ctx context.Context, in backends.Info) error {
	d := in.DID
	if err := backends.CheckScope(d.Scope); err != nil {
		return edge("add scope", d, err)
	}
	names, err := c.allScopes(ctx)
	if err != nil {
		return edge("add scope", d, err)
	}
	there := slices.Contains(names, d.Scope)
	if !there { // which Rucio's own permissions leave to administrators
		account, _ := c.c.Account()
		err = c.c.AddScope(ctx, account, d.Scope)
		c.mu.Lock()
		c.scoped = time.Time{}
		c.mu.Unlock()
	}
	switch {
	case err != nil:
		return edge("add scope", d, err)
	case there && (!c.isLFN() || !c.isRoot(d)):
		return edge("add scope", d, backends.ErrExist)
	case !c.isLFN():
		return nil
	}
	if !c.isRoot(d) {
		return edge("add scope", d, fmt.Errorf("only %v stand at the root of this lake: %w", c.o.Roots, backends.ErrNotSupported))
	}
	in.Type = backends.Container
	return c.Add(ctx, in, nil)
}

// RemoveScope: Rucio removes none.
func (c *Catalogue) RemoveScope(_ context.Context, scope string) error {
	return edge("remove scope", backends.DID{Scope: scope}, fmt.Errorf("no scope is ever removed from Rucio: %w", backends.ErrNotSupported))
}

// Rename: Rucio's names are for ever.
func (c *Catalogue) Rename(_ context.Context, from, _ backends.DID) error {
	return edge("rename", from, fmt.Errorf("nothing is ever renamed in Rucio: %w", backends.ErrNotSupported))
}

// Update: Rucio keeps no attributes.
func (c *Catalogue) Update(_ context.Context, d backends.DID, _ backends.Change) error {
	return edge("update", d, fmt.Errorf("modes, owners and times are not kept in Rucio: %w", backends.ErrNotSupported))
}

// Remove takes d out of all collections and hides its name. A collection must be empty, and expires. Replicas go with the rules
// that hold them.
func (c *Catalogue) Remove(ctx context.Context, d backends.DID) error {
	return edge("remove", d, c.remove(ctx, d))
}

func (c *Catalogue) remove(ctx context.Context, d backends.DID) error {
	a, err := c.stat(ctx, d)
	if err != nil {
		return err
	}
	if d.Name == "" || c.isRoot(d) {
		return fmt.Errorf("a root of the tree stays: %w", backends.ErrImmutable)
	}
	if a.info.IsDir() {
		c.listings.drop(d)
		l, err := c.listNames(ctx, d)
		if err != nil {
			return err
		}
		if len(l.infos) > 0 {
			return backends.ErrNotEmpty
		}
	}
	// Hidden first: a name that is in no collection, and not hidden, would still be found by its name.
	change := map[string]any{"hidden": true}
	if err := c.c.SetMeta(ctx, d, change); err != nil {
		return err
	}
	defer c.changed(d)
	c.joined.Remove(loose(d))
	parents, err := c.c.Parents(ctx, d)
	if err != nil {
		return err
	}
	for _, p := range parents {
		if err := c.c.Detach(ctx, p, []backends.DID{d}); err != nil && !errors.Is(err, backends.ErrNotExist) {
			return err
		}
		c.changed(p)
		if isLoose(p) {
			c.listings.drop(backends.DID{Scope: p.Scope, Name: p.Name[:len(p.Name)-len(filesName)-1]})
		}
	}
	if a.info.IsDir() {
		c.dropLoose(ctx, d)
	}
	if a.info.IsDir() || c.o.Expire {
		// The undertaker erases a collection that has expired, and the rules on it.
		if err := c.c.SetMeta(ctx, d, map[string]any{"lifetime": 0}); err != nil {
			c.log.Warn("removed, and does not expire", "did", d, "err", err)
		}
	}
	return nil
}

// dropLoose ends the empty dataset of the loose files of a container that is removed. What fails stays, and is in no directory.
func (c *Catalogue) dropLoose(ctx context.Context, d backends.DID) {
	files := loose(d)
	if a, err := c.ask(ctx, files); err != nil || a.none || a.hidden {
		return
	}
	err := c.c.SetMeta(ctx, files, map[string]any{"hidden": true, "lifetime": 0})
	if derr := c.c.Detach(ctx, d, []backends.DID{files}); derr != nil && !errors.Is(derr, backends.ErrNotExist) {
		err = errors.Join(err, derr)
	}
	if err != nil {
		c.log.Warn("removed, and the dataset of its files stays", "did", files, "err", err)
	}
	c.changed(files)
}
