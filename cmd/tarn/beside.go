package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/cmd/tarn/control"
)

// beside is the store of this machine for what users of DIRAC keep and a Rucio server does not: declared fields, datasets
// that are defined by queries, ancestors. It is opened when it is first used.
type beside struct {
	o *opened

	mu     sync.Mutex
	cat    *embedded.Catalogue // nil until then
	closed bool
}

func (o *opened) openBeside() *beside {
	b := &beside{o: o}
	o.onClose(b.Close)
	return b
}

// besideCache is its memory for blocks, in bytes.
const besideCache = 16 << 20

func (b *beside) side() (backends.Side, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, backends.ErrClosed
	}
	if b.cat != nil {
		return b.cat, nil
	}
	cfg := b.o.cfg
	if err := makeFolder(cfg.Catalogue.Path); err != nil {
		return nil, b.o.folderFault("catalogue.path", err)
	}
	cat, err := embedded.Open(embedded.Options{Dir: cfg.Catalogue.Path, CacheBytes: besideCache, FreeFloor: int64(cfg.Catalogue.FreeFloor), Now: b.o.now, Log: b.o.log})
	if errors.Is(err, backends.ErrBusy) {
		return nil, control.Fail(err, b.o.holder(), "open what lake %s keeps beside Rucio: %v", cfg.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open what lake %s keeps beside Rucio: %w", cfg.Name, err)
	}
	b.cat = cat
	return cat, nil
}

// Close closes it, if it was opened.
func (b *beside) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed = true; b.cat == nil {
		return nil
	}
	return b.cat.Close()
}

// SideRecord implements backends.Side.
func (b *beside) SideRecord(ctx context.Context, table, key string) ([]byte, error) {
	s, err := b.side()
	if err != nil {
		return nil, err
	}
	return s.SideRecord(ctx, table, key)
}

// SideRecords implements backends.Side.
func (b *beside) SideRecords(ctx context.Context, table, prefix, after string) iter.Seq2[backends.SideRecord, error] {
	s, err := b.side()
	if err != nil {
		return func(yield func(backends.SideRecord, error) bool) { yield(backends.SideRecord{}, err) }
	}
	return s.SideRecords(ctx, table, prefix, after)
}

// PutSide implements backends.Side.
func (b *beside) PutSide(ctx context.Context, records ...backends.SideRecord) error {
	s, err := b.side()
	if err != nil {
		return err
	}
	return s.PutSide(ctx, records...)
}

// LoadSide implements backends.Side.
func (b *beside) LoadSide(ctx context.Context, records iter.Seq2[backends.SideRecord, error]) (int64, error) {
	s, err := b.side()
	if err != nil {
		return 0, err
	}
	return s.LoadSide(ctx, records)
}
