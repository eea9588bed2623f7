package embedded

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"strings"

	"tarn/backends"
)

// Side records have nothing to do with the rest: an older program leaves them alone, and a backup has them.

var (
	_ backends.Side  = (*Catalogue)(nil)
	_ backends.Names = (*Catalogue)(nil)
)

func sideKey(table, key string) []byte {
	k := make([]byte, 0, 2+len(table)+len(key))
	k = append(append(append(k, prefixSide), table...), 0)
	return append(k, key...)
}

func checkSide(table, key string) error {
	switch {
	case table == "" || strings.IndexByte(table, 0) >= 0:
		return fmt.Errorf("table %q: %w", table, backends.ErrName)
	case len(table) > 64:
		return fmt.Errorf("table %.20q...: %w", table, backends.ErrNameTooLong)
	case len(key) > backends.MaxSideKey:
		return fmt.Errorf("key %.20q... of %d bytes, at most %d: %w", key, len(key), backends.MaxSideKey, backends.ErrNameTooLong)
	}
	return nil
}

func sideError(op, table string, err error) error {
	return &backends.OpError{Op: op, At: table, Err: err}
}

// SideRecord gives the value at a key.
func (c *Catalogue) SideRecord(ctx context.Context, table, key string) (val []byte, err error) {
	if err = checkSide(table, key); err == nil {
		err = c.read(ctx, func(v *view) error {
			val, err = v.get(sideKey(table, key))
			if err == nil && val == nil {
				err = backends.ErrNotExist
			}
			return err
		})
	}
	if err != nil {
		return nil, sideError("side record", table, err)
	}
	return val, nil
}

// SideRecords streams records in the order of their keys.
func (c *Catalogue) SideRecords(ctx context.Context, table, prefix, after string) iter.Seq2[backends.SideRecord, error] {
	return pages(ctx, c, "side records of "+table, backends.DID{}, func() pager[backends.SideRecord] {
		return func(f finder, emit func(backends.SideRecord)) (bool, error) {
			if err := checkSide(table, prefix); err != nil {
				return false, err
			}
			base, head := sideKey(table, ""), sideKey(table, prefix)
			n, size := 0, 0
			more := false
			err := f.scan(head, afterKey(base, after), func(key, val []byte) (bool, error) {
				if more = n == pageSize || size > 1<<20; more {
					return false, nil
				}
				after = string(key[len(base):])
				emit(backends.SideRecord{Table: table, Key: after, Value: append([]byte{}, val...)})
				n++
				size += len(val)
				return true, nil
			})
			return more, err
		}
	})
}

// PutSide stores records as one transaction.
func (c *Catalogue) PutSide(ctx context.Context, records ...backends.SideRecord) error {
	if len(records) == 0 {
		return nil
	}
	frees := true
	for _, r := range records {
		err := checkSide(r.Table, r.Key)
		if err == nil && len(r.Value) > backends.MaxSideValue {
			err = fmt.Errorf("a record of %d bytes, at most %d: %w", len(r.Value), backends.MaxSideValue, backends.ErrQuota)
		}
		if err != nil {
			return sideError("put side record", r.Table, err)
		}
		frees = frees && r.Value == nil
	}
	err := c.update(ctx, frees, func(t *tx) error {
		for _, r := range records {
			if r.Value != nil {
				t.set(sideKey(r.Table, r.Key), bytes.Clone(r.Value))
			} else if has, err := t.has(sideKey(r.Table, r.Key)); err != nil {
				return err
			} else if has {
				t.del(sideKey(r.Table, r.Key))
			}
		}
		return nil
	})
	if err != nil {
		return sideError("put side records", records[0].Table, err)
	}
	return nil
}

// LoadSide stores records in batches.
func (c *Catalogue) LoadSide(ctx context.Context, records iter.Seq2[backends.SideRecord, error]) (stored int64, err error) {
	var batch []backends.SideRecord
	size := 0
	flush := func() error {
		err := c.PutSide(ctx, batch...)
		if err == nil {
			stored += int64(len(batch))
		}
		clear(batch)
		batch, size = batch[:0], 0
		return err
	}
	for r, err := range records {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return stored, errOr(flushed(ctx, flush), err)
		}
		n := len(r.Table) + len(r.Key) + len(r.Value) + 40
		if len(batch) > 0 && (len(batch) >= c.maxKeys/3 || size+n > c.maxTxn/3) {
			if err := flush(); err != nil {
				return stored, err
			}
		}
		batch = append(batch, r)
		size += n
	}
	return stored, flush()
}

// NameOf gives the DID that has the inode.
func (c *Catalogue) NameOf(ctx context.Context, inode uint64) (d backends.DID, err error) {
	err = c.read(ctx, func(v *view) error {
		if _, _, err := v.entryOf(inode); err != nil {
			return err
		}
		d, err = v.didOf(inode)
		return err
	})
	if err != nil {
		return backends.DID{}, opError(fmt.Sprintf("name of inode %d", inode), backends.DID{}, err)
	}
	return d, nil
}
