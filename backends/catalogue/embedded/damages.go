package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// Damages lists all that is wrong with the files of a catalogue that does not open, where
// Open tells of the first only: a MANIFEST that does not parse, tables that it names and
// that are gone, blocks, indexes and logs that do not agree with their checksums. It
// changes nothing. What cannot be read is listed like what is wrong. ErrBusy while
// somebody has the catalogue.
func Damages(ctx context.Context, o Options) (all []error, err error) {
	o = o.withDefaults()
	l, err := takeLock(o.Dir, o.Now())
	if err != nil {
		return nil, fmt.Errorf("look at catalogue %q: %w", o.Dir, err)
	}
	defer func() { err = errors.Join(err, l.release()) }()
	found := func(d error) bool { all = append(all, d); return ctx.Err() == nil }
	db := filepath.Join(o.Dir, "db")
	tables, err := readManifest(o, db, nil)
	if err != nil {
		found(err)
		if tables, err = filepath.Glob(filepath.Join(db, "*.sst")); err != nil {
			return all, err
		}
	} else if err := manifestLength(o.Dir, db); err != nil {
		found(err)
	}
	for _, t := range tables {
		if _, err := os.Stat(t); errors.Is(err, os.ErrNotExist) {
			found(fmt.Errorf("%s is gone: %w", filepath.Base(t), backends.ErrDamaged))
		} else if err := tableDamage(ctx, t, true, found); err != nil {
			found(fmt.Errorf("%s: %w", filepath.Base(t), err))
		}
		if ctx.Err() != nil {
			return all, context.Cause(ctx)
		}
	}
	if err := logDamage(db, found); err != nil {
		found(err)
	}
	return all, nil
}

// manifestLength compares the MANIFEST with the length that is on record.
func manifestLength(dir, db string) error {
	if _, err := os.Stat(filepath.Join(dir, "durable")); errors.Is(err, os.ErrNotExist) {
		return nil // nothing is on record; opening it would make it
	}
	d, err := openDurable(dir)
	if err != nil {
		return classify(err)
	}
	defer d.close()
	st, err := os.Stat(filepath.Join(db, badger.ManifestFilename))
	if err != nil {
		return classify(err)
	}
	return d.checkManifest(st)
}
