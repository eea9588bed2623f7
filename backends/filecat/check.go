package filecat

import (
	"context"
	"errors"
	"fmt"

	"tarn/backends"
	"tarn/backends/query"
)

// What became of a file of a dataset.
const (
	Added   = "added"   // it matches, and is not on the list
	Removed = "removed" // it does not exist any more
	Left    = "left"    // it does not match any more
	Changed = "changed" // it has another content
	Moved   = "moved"   // it has another name
)

// Difference is a file by which a dataset differs from what it was when it was added, updated or frozen.
type Difference struct {
	What string
	DID  backends.DID // Moved: its name now
}

// Checked is the outcome of a check: how many files differ, by what, and what an update would make of it.
type Checked struct {
	Dataset     Dataset          `json:"dataset"`
	Now         Tally            `json:"now"`
	Differences map[string]int64 `json:"differences"`
}

// Tally is what files come to.
type Tally struct {
	Files int64  `json:"files"`
	Bytes int64  `json:"bytes"`
	Hash  string `json:"hash,omitempty"`
}

// Same tells whether nothing differs.
func (c Checked) Same() bool { return len(c.Differences) == 0 }

// CheckDataset compares a dataset with what matches its query now (checkDataset), in bounded memory, and calls
// f for each file that differs; an error of f ends it.
func (c *Catalogue) CheckDataset(ctx context.Context, name string, f func(Difference) error) (Checked, error) {
	out := Checked{Differences: map[string]int64{}}
	d, err := c.dataset(ctx, name)
	if err != nil {
		return out, err
	}
	out.Dataset = d.Dataset
	tell := func(what string, did backends.DID) error {
		out.Differences[what]++
		return f(Difference{what, did})
	}
	both, t, err := c.checkAdded(ctx, d, tell)
	if err != nil {
		return out, fmt.Errorf("check dataset %q: %w", name, err)
	}
	out.Now = Tally{t.files, t.bytes, t.sum()}
	if err := c.checkListed(ctx, d, both == d.Files, tell); err != nil {
		return out, fmt.Errorf("check dataset %q: %w", name, err)
	}
	return out, nil
}

// checkAdded goes over what matches now; both counts what is on the list, too.
func (c *Catalogue) checkAdded(ctx context.Context, d dataset, tell func(string, backends.DID) error) (both int64, t tally, err error) {
	c.matching(ctx, d, func(in backends.Info, e error) bool {
		if err = e; err != nil {
			return false
		}
		l := c.listedOf(in)
		t.add(l)
		_, err = c.o.Side.SideRecord(ctx, tableFile, l.record(d.List).Key)
		switch {
		case err == nil:
			both++
		case isNotExist(err):
			err = tell(Added, in.DID)
		}
		return err == nil
	})
	return both, t, err
}

// checkListed goes over the list; all tells that each file on it was found to match.
func (c *Catalogue) checkListed(ctx context.Context, d dataset, all bool, tell func(string, backends.DID) error) error {
	e, err := c.Query(ctx, d.Query)
	if err != nil {
		return err
	}
	k := &checker{c: c, d: d, e: e, up: full{c: c}, all: all, tell: tell}
	for l, err := range c.listed(ctx, d) {
		if err != nil {
			return err
		}
		in, err := c.now(ctx, l)
		switch {
		case isNotExist(err):
			err = tell(Removed, l.did)
		case err == nil:
			err = k.add(ctx, l, in)
		}
		if err != nil {
			return err
		}
	}
	return k.flush(ctx)
}

// checker compares the files of a list that are there, page by page.
type checker struct {
	c    *Catalogue
	d    dataset
	e    query.Expr
	up   full
	all  bool // they match
	tell func(string, backends.DID) error

	was []listed
	now []backends.Info
}

func (k *checker) add(ctx context.Context, l listed, in backends.Info) error {
	k.was, k.now = append(k.was, l), append(k.now, in)
	if len(k.now) < atOnce {
		return nil
	}
	return k.flush(ctx)
}

func (k *checker) flush(ctx context.Context) error {
	var metas map[backends.DID]backends.Meta
	if !k.all && len(k.now) > 0 {
		var err error
		if metas, err = k.up.of(ctx, k.now); err != nil {
			return err
		}
	}
	for i, in := range k.now {
		if err := k.one(ctx, k.was[i], in, metas); err != nil {
			return err
		}
	}
	k.was, k.now = k.was[:0], k.now[:0]
	return nil
}

func (k *checker) one(ctx context.Context, l listed, in backends.Info, metas map[backends.DID]backends.Meta) error {
	if !k.all {
		m, is := metas[in.DID]
		if is {
			var err error
			if is, err = k.c.matches(ctx, k.d.Path, k.e, m, in); err != nil {
				return err
			}
		}
		if !is { // it may be gone by now
			return k.tell(Left, in.DID)
		}
	}
	if in.Generation != l.generation {
		if err := k.tell(Changed, in.DID); err != nil {
			return err
		}
	}
	if in.DID != l.did {
		return k.tell(Moved, in.DID)
	}
	return nil
}

// matches tells whether one file, whose metadata is m, matches a prepared query at and below root.
func (c *Catalogue) matches(ctx context.Context, root string, e query.Expr, m backends.Meta, in backends.Info) (bool, error) {
	isPath := c.o.Tree.IsPath(in.DID)
	if below, ok := narrow(root, in.DID.Name); isPath && (!ok || below != in.DID.Name) {
		return false, nil
	}
	if at, rest := limit(e); !isPath && at != "/" { // it was limited when it was listed, and names that are no paths stay where they are
		e = rest
	}
	var failed error
	subject := backends.Subject{Info: &in, Meta: m, Flat: !isPath, Replicas: func() []backends.Replica {
		rs, err := c.o.Catalogue.Replicas(ctx, in.DID)
		failed = errors.Join(failed, err)
		return rs
	}}
	is := e == nil || e.Match(subject.Value)
	return is && failed == nil, failed
}
