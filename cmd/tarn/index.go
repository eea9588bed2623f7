package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/index"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// indexFolder is where the index of metadata is.
func indexFolder(cfg *config.Config) string { return filepath.Join(cfg.Run, "index") }

// indexedStored is this machine's catalogue with an index.
type indexedStored struct {
	index.Hooks
	storedBelow
}

// indexedRucio is Rucio's.
type indexedRucio struct {
	index.Hooks
	rucioBelow
}

// What stands below the hooks: deeper, so that theirs count.
type (
	storedBelow struct{ *embedded.Catalogue }
	rucioBelow  struct{ *withTapes }
)

// Undelete brings back what has a name again.
func (c *indexedStored) Undelete(ctx context.Context, handle string) error {
	var d backends.DID
	for p, err := range c.Pasts(ctx, backends.DID{}) {
		if err != nil {
			return err
		}
		if p.Handle == handle {
			d = p.Info.DID
			break
		}
	}
	f := func() error { return c.storedBelow.Undelete(ctx, handle) }
	if d.IsZero() {
		return f() // it will say so
	}
	return c.Again(d, f)
}

// openIndex puts the index between the catalogue and everybody. It opens in the background.
func (o *opened) openIndex() (err error) {
	opt := index.Options{
		Dir: indexFolder(o.cfg), MaxAge: o.cfg.Index.MaxAge.D(), Memory: max(int64(o.cfg.Memory)/16, 16<<20), Log: o.log, Now: o.now,
	}
	switch c := o.cat.(type) {
	case *embedded.Catalogue:
		opt.Catalogue, opt.Lake = c, "embedded "+o.cfg.Catalogue.Path
		opt.Home, opt.Refuse = storedHome, o.refuseFlat
	case *withTapes:
		k := o.cfg.Catalogue
		opt.Catalogue = c
		opt.Lake = fmt.Sprintf("rucio %s %q %s %s %q %q", o.client.URL(), k.VO, k.Layout, k.ScopeOf, k.Roots, k.Shown)
		opt.Metas, opt.Stats, opt.Complete, opt.Refresh = c.Metas, c.Stats, c.Own, c.Refresh
		if opt.Flat = k.Layout != string(backends.LayoutLFN); !opt.Flat {
			opt.Home = c.Home
		}
	default:
		return fmt.Errorf("open the index of lake %s: a catalogue of type %T", o.cfg.Name, c)
	}
	if o.index, err = index.Open(opt); err != nil {
		return err
	}
	o.onClose(o.index.Close)
	switch c := o.cat.(type) {
	case *embedded.Catalogue:
		o.cat = &indexedStored{o.index.Hooks(), storedBelow{c}}
	case *withTapes:
		o.cat = &indexedRucio{o.index.Hooks(), rucioBelow{c}}
	}
	return nil
}

// storedHome is the directory that a path is in.
func storedHome(d backends.DID) (backends.DID, bool) {
	up := path.Dir(d.Name)
	return backends.DID{Scope: d.Scope, Name: up}, strings.Count(d.Name, "/") > 1
}

// refuseFlat refuses scopes of layout contents in a catalogue of this machine: what is found there depends on where it is looked for from, and
// a query that goes through all of it takes seconds.
func (o *opened) refuseFlat(ctx context.Context, root backends.DID) error {
	for in, err := range o.stored.Scopes(ctx) {
		if err != nil {
			return err
		}
		if in.Layout == backends.LayoutContents && (root.IsZero() || root.Scope == in.DID.Scope) {
			return control.Fail(backends.ErrNotSupported, "index the other scopes: tarn index /SCOPE...", "scope %s has layout contents: in a catalogue of this machine it is not indexed", in.DID.Scope)
		}
	}
	return nil
}

// reindex makes what is indexed anew, as long as the lake is open, when it has the age of index.every.
func (o *opened) reindex() {
	every := o.cfg.Index.Every.D()
	if every == 0 {
		return
	}
	o.whileOpen(min(every/10, time.Minute), func(ctx context.Context) { o.reindexOld(ctx, every) })
}

func (o *opened) reindexOld(ctx context.Context, every time.Duration) {
	list, _, err := o.index.Covers(ctx)
	if err != nil {
		return
	}
	for _, c := range list {
		if age := o.now().Sub(c.AsOf); age < every && age > -every && c.Stale == "" {
			continue
		}
		now, err := o.index.Build(ctx, c.Root, c.Path, nil)
		switch {
		case err == nil:
			o.log.Info("the index of metadata is made anew", "path", c.Path, "dids", now.DIDs)
		case errors.Is(err, backends.ErrNotExist):
			o.log.Warn("what was indexed is not there any more", "path", c.Path)
			if _, err := o.index.Drop(ctx, c.Root); err != nil {
				o.log.Warn("it stays in the index", "path", c.Path, "err", err)
			}
		case ctx.Err() == nil && !errors.Is(err, backends.ErrBusy):
			o.log.Warn("the index of metadata is not made anew", "path", c.Path, "err", err)
		}
	}
}

// dropIndex forgets what was indexed of a catalogue that is another one now.
func dropIndex(cfg *config.Config) error {
	if err := os.RemoveAll(indexFolder(cfg)); err != nil {
		return fmt.Errorf("drop the index of metadata: %w", err)
	}
	return nil
}
