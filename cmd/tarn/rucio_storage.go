package main

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"

	"tarn/backends"
)

// gate is the storage of an RSE of Rucio's: what of it is closed, now or because nothing here speaks to it, answers in words. It stands before
// every storage, so that what Rucio opens and closes while the lake is mounted counts at once.
type gate struct {
	rse    string
	under  backends.Storage // nil: none of its protocols can be used
	closed atomic.Pointer[closing]
}

// closing is what is closed, each with its reason; "" is open.
type closing struct{ read, write string }

var _ backends.Decorator = (*gate)(nil)

// newGate makes the gate of a storage, which may be nil; unspoken says why.
func newGate(rse string, under backends.Storage, unspoken []string) *gate {
	g := &gate{rse: rse, under: under}
	g.set("", "")
	if under == nil {
		why := strings.Join(unspoken, "; ")
		g.set(why, why)
	}
	return g
}

// set changes what is closed. What is not there stays so.
func (g *gate) set(read, write string) {
	if g.under == nil && g.closed.Load() != nil && read == "" {
		read = g.closed.Load().read
	}
	g.closed.Store(&closing{read: read, write: write})
}

// unread says why nothing is read, "" for nothing.
func (g *gate) unread() string { return g.closed.Load().read }

func (g *gate) reads(op string) error {
	if why := g.closed.Load().read; why != "" {
		return fmt.Errorf("%s at %s: %s: %w", op, g.rse, why, backends.ErrUnavailable)
	}
	if g.under == nil {
		return fmt.Errorf("%s at %s: none of its protocols can be used: %w", op, g.rse, backends.ErrUnavailable)
	}
	return nil
}

func (g *gate) writes(op string) error {
	if why := g.closed.Load().write; why != "" {
		return fmt.Errorf("%s at %s: %s: %w", op, g.rse, why, backends.ErrReadOnly)
	}
	if g.under == nil {
		return fmt.Errorf("%s at %s: none of its protocols can be used: %w", op, g.rse, backends.ErrReadOnly)
	}
	return nil
}

// Stat implements backends.Storage, as the methods after it.
func (g *gate) Stat(ctx context.Context, path string) (backends.Attr, error) {
	if err := g.reads("stat"); err != nil {
		return backends.Attr{}, err
	}
	return g.under.Stat(ctx, path)
}

func (g *gate) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	if err := g.reads("list"); err != nil {
		return func(yield func(backends.Attr, error) bool) { yield(backends.Attr{}, err) }
	}
	return g.under.List(ctx, dir)
}

func (g *gate) Open(ctx context.Context, path string) (backends.Object, error) {
	if err := g.reads("open"); err != nil {
		return nil, err
	}
	return g.under.Open(ctx, path)
}

func (g *gate) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	if err := g.writes("create"); err != nil {
		return nil, err
	}
	return g.under.Create(ctx, path, size)
}

func (g *gate) Checksum(ctx context.Context, path string) (backends.Checksums, error) {
	if err := g.reads("checksum"); err != nil {
		return backends.Checksums{}, err
	}
	return g.under.Checksum(ctx, path)
}

// Remove is for uploads that are given up, before Rucio knows of them: what it knows its reaper deletes.
func (g *gate) Remove(ctx context.Context, path string) error {
	if err := g.writes("remove"); err != nil {
		return err
	}
	return g.under.Remove(ctx, path)
}

func (g *gate) Space(ctx context.Context) (total, free int64, err error) {
	if err := g.reads("space"); err != nil {
		return 0, 0, err
	}
	return g.under.Space(ctx)
}

func (g *gate) Traits() backends.StorageTraits {
	if g.under == nil {
		return backends.StorageTraits{}
	}
	return g.under.Traits()
}

func (g *gate) Unwrap() backends.Storage { return g.under }

func (g *gate) Close() error {
	if g.under == nil {
		return nil
	}
	return g.under.Close()
}
