package filecat

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/query"
)

// Status is DIRAC's of a dataset.
type Status string

// The states of a dataset.
const (
	Dynamic Status = "Dynamic" // its files are those that match its query now
	Frozen  Status = "Frozen"  // its files are those that matched when it was frozen
)

// Dataset is a set of files that is defined by a query. Files, Bytes and Hash are those of when it was added, updated or
// frozen last: Modified.
type Dataset struct {
	Name       string          `json:"name"`
	Query      string          `json:"query"`                // in the language of tarn find
	MetaQuery  json.RawMessage `json:"meta_query,omitempty"` // the same as DIRAC's dictionary, if that can say it
	Path       string          `json:"path"`                 // at and below which it looks; "/" is the whole lake
	Status     Status          `json:"status"`
	Files      int64           `json:"files"`
	Bytes      int64           `json:"bytes"`
	Hash       string          `json:"hash"` // of names, sizes and contents, in whatever order
	Annotation string          `json:"annotation,omitempty"`
	Created    time.Time       `json:"created"`
	Modified   time.Time       `json:"modified"`
}

// dataset is the record of one: with the list of its files (table tableFile).
type dataset struct {
	Dataset
	List string `json:"list"`
}

// The bounds of what a dataset has beside its files.
const (
	maxDatasetName = 1024
	maxAnnotation  = 4096
	maxQuery       = 16 << 10
)

// AddDataset defines one (addDataset): the files at and below root ("" or "/": everywhere) that match the query. ErrExist.
func (c *Catalogue) AddDataset(ctx context.Context, name, root, text string) (Dataset, error) {
	fail := func(err error) (Dataset, error) { return Dataset{}, fmt.Errorf("add dataset %q: %w", name, err) }
	switch {
	case name == "" || len(name) > maxDatasetName || strings.ContainsAny(name, "\x00\n"):
		return fail(fmt.Errorf("want a name of 1 to %d bytes on one line: %w", maxDatasetName, backends.ErrName))
	case len(text) > maxQuery:
		return fail(fmt.Errorf("a query of %d bytes, at most %d: %w", len(text), maxQuery, backends.ErrQuota))
	}
	parsed, err := query.Parse(text)
	if err != nil {
		return fail(err)
	}
	if err := c.get(ctx, tableDataset, name, &dataset{}); !isNotExist(err) {
		if err == nil {
			err = backends.ErrExist
		}
		return fail(err)
	}
	now := c.o.Now().UTC()
	d := dataset{Dataset: Dataset{Name: name, Query: parsed.String(), Path: root, Status: Dynamic, Created: now, Modified: now}}
	if d.Path == "" {
		d.Path = "/"
	}
	if meta, ok := query.Dictionary(parsed); ok {
		d.MetaQuery = meta
	}
	if d, err = c.listAnew(ctx, d, func(have *dataset) error {
		if have != nil {
			return backends.ErrExist
		}
		return nil
	}); err != nil {
		return fail(err)
	}
	return d.Dataset, nil
}

// Dataset gives one. ErrNotExist.
func (c *Catalogue) Dataset(ctx context.Context, name string) (Dataset, error) {
	d, err := c.dataset(ctx, name)
	return d.Dataset, err
}

func (c *Catalogue) dataset(ctx context.Context, name string) (d dataset, err error) {
	if err = c.get(ctx, tableDataset, name, &d); err != nil {
		err = fmt.Errorf("dataset %q: %w", name, err)
	}
	return d, err
}

// Datasets streams all whose names match a pattern with * and ? ("": all), by name (getDatasets).
func (c *Catalogue) Datasets(ctx context.Context, pattern string) iter.Seq2[Dataset, error] {
	return func(yield func(Dataset, error) bool) {
		want := query.Term{Key: "name", Op: query.Like, Values: []string{pattern}}
		for name, read := range records[dataset](ctx, c, tableDataset, "") {
			var d dataset
			err := read(&d)
			if err == nil && pattern != "" && !want.Match(func(string) (any, bool) { return query.Text(name), true }) {
				continue
			}
			if !yield(d.Dataset, err) || err != nil {
				return
			}
		}
	}
}

// UpdateDataset counts a dynamic dataset anew (updateDataset). ErrImmutable for one that is frozen.
func (c *Catalogue) UpdateDataset(ctx context.Context, name string) (Dataset, error) {
	return c.relist(ctx, name, Dynamic)
}

// FreezeDataset makes the files that match now its files for good (freezeDataset). ErrImmutable for one that is frozen.
func (c *Catalogue) FreezeDataset(ctx context.Context, name string) (Dataset, error) {
	return c.relist(ctx, name, Frozen)
}

func (c *Catalogue) relist(ctx context.Context, name string, to Status) (Dataset, error) {
	d, err := c.dataset(ctx, name)
	if err != nil {
		return d.Dataset, err
	}
	frozen := fmt.Errorf("dataset %q is frozen: release it first: %w", name, backends.ErrImmutable)
	if d.Status == Frozen {
		return d.Dataset, frozen
	}
	d.Status, d.Modified = to, c.o.Now().UTC()
	old := d.List
	if d, err = c.listAnew(ctx, d, func(have *dataset) error {
		switch {
		case have == nil:
			return backends.ErrNotExist
		case have.Status == Frozen:
			return frozen
		case have.List != old:
			return fmt.Errorf("it was updated at the same time: %w", backends.ErrStale)
		}
		return nil
	}); err != nil {
		return d.Dataset, fmt.Errorf("dataset %q: %w", name, err)
	}
	return d.Dataset, nil
}

// change reads the record of a dataset, lets f change it, and stores it.
func (c *Catalogue) change(ctx context.Context, name string, f func(*dataset)) (Dataset, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.dataset(ctx, name)
	if err != nil {
		return d.Dataset, err
	}
	f(&d)
	return d.Dataset, c.put(ctx, tableDataset, name, d)
}

// ReleaseDataset makes a frozen dataset dynamic again (releaseDataset); one that is dynamic is success.
func (c *Catalogue) ReleaseDataset(ctx context.Context, name string) (Dataset, error) {
	return c.change(ctx, name, func(d *dataset) { d.Status = Dynamic })
}

// AnnotateDataset gives it a text (addDatasetAnnotation); "" takes it away.
func (c *Catalogue) AnnotateDataset(ctx context.Context, name, text string) (Dataset, error) {
	if len(text) > maxAnnotation {
		return Dataset{}, fmt.Errorf("an annotation of %d bytes, at most %d: %w", len(text), maxAnnotation, backends.ErrQuota)
	}
	return c.change(ctx, name, func(d *dataset) { d.Annotation = text })
}

// RemoveDataset forgets it (removeDataset); its files stay. ErrNotExist.
func (c *Catalogue) RemoveDataset(ctx context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.dataset(ctx, name)
	if err != nil {
		return err
	}
	if err := c.o.Side.PutSide(ctx, backends.SideRecord{Table: tableDataset, Key: name}, toDrop(d.List)); err != nil {
		return err
	}
	return c.dropList(ctx, d.List)
}

// DatasetFiles streams the files of a dataset (getDatasetFiles): of a frozen one those that it was frozen with, under
// the names that they have now, or had when they are gone.
func (c *Catalogue) DatasetFiles(ctx context.Context, name string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		d, err := c.dataset(ctx, name)
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		if d.Status == Dynamic {
			c.matching(ctx, d, yield)
			return
		}
		for l, err := range c.listed(ctx, d) {
			in := l.info()
			if err == nil {
				var now backends.Info
				if now, err = c.now(ctx, l); err == nil {
					in.DID = now.DID
				} else if isNotExist(err) {
					err = nil
				}
			}
			if !yield(in, err) || err != nil {
				return
			}
		}
	}
}

// matching streams the files that match the query of a dataset now.
func (c *Catalogue) matching(ctx context.Context, d dataset, yield func(backends.Info, error) bool) {
	e, err := c.Query(ctx, d.Query)
	if err != nil {
		yield(backends.Info{}, err)
		return
	}
	for in, err := range c.Find(ctx, d.Path, File, e) {
		if !yield(in, err) || err != nil {
			return
		}
	}
}
