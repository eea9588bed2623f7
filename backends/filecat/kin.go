package filecat

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"tarn/backends"
)

// Ancestors are the files that a file was made of. Each pair is two records, one to go up by and one to go down by. They
// hang on ids (inodes where there are any): a renamed file keeps its kin, a new content of the same file too, and a file that replaces another by a
// rename has none. What is gone is still told of, by the name that it had.

// Relation is the way that is gone.
type Relation string

// The relations.
const (
	Ancestors   Relation = tableAncestor
	Descendants Relation = tableDescendant
)

// Kin is an ancestor or descendant of a file.
type Kin struct {
	DID   backends.DID
	Depth int  // 1: of the file itself; the shortest way where there are several
	Gone  bool // it does not exist any more

	id uint64
}

// maxKin bounds the files of one answer, which are kept to see each once.
const maxKin = 200_000

// AddAncestors notes that a file was made of others (addFileAncestors); what is noted already is success. ErrNotExist,
// ErrIsDir for what is no file, ErrLoop when a file would become its own ancestor.
func (c *Catalogue) AddAncestors(ctx context.Context, d backends.DID, ancestors ...backends.DID) error {
	child, err := c.file(ctx, d)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	above := map[uint64]bool{} // the new ancestors and all of theirs
	var rs []backends.SideRecord
	for _, a := range ancestors {
		in, err := c.file(ctx, a)
		if err != nil {
			return err
		}
		if id := c.id(in); id != c.id(child) && !above[id] {
			above[id] = true
			if err := c.walk(ctx, Ancestors, id, 0, above, func(Kin) error { return nil }); err != nil {
				return err
			}
		}
		if c.id(in) == c.id(child) || above[c.id(child)] {
			return fmt.Errorf("%s would be its own ancestor by way of %s: %w", d, a, backends.ErrLoop)
		}
		rs = append(rs, kinRecord(Ancestors, c.id(child), c.id(in), in.DID), kinRecord(Descendants, c.id(in), c.id(child), d))
	}
	_, err = c.o.Side.LoadSide(ctx, func(yield func(backends.SideRecord, error) bool) {
		for _, r := range rs {
			if !yield(r, nil) {
				return
			}
		}
	})
	return err
}

// RemoveAncestors takes that back; what is not noted is success.
func (c *Catalogue) RemoveAncestors(ctx context.Context, d backends.DID, ancestors ...backends.DID) error {
	child, err := c.file(ctx, d)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range ancestors {
		id, err := c.kinNamed(ctx, c.id(child), a)
		if err != nil {
			return err
		}
		up, down := kinRecord(Ancestors, c.id(child), id, a), kinRecord(Descendants, id, c.id(child), d)
		up.Value, down.Value = nil, nil
		if err := c.o.Side.PutSide(ctx, up, down); err != nil {
			return err
		}
	}
	return nil
}

// kinNamed finds the id of the file of that name, or of the ancestor of a file that had it and is gone.
func (c *Catalogue) kinNamed(ctx context.Context, of uint64, name backends.DID) (uint64, error) {
	in, err := c.file(ctx, name)
	if !isNotExist(err) {
		return c.id(in), err
	}
	for r, e := range c.o.Side.SideRecords(ctx, string(Ancestors), idKey(of), "") {
		if e != nil {
			return 0, e
		}
		if k, e := parseKin(r); e != nil {
			return 0, e
		} else if k.DID == name {
			return k.id, nil
		}
	}
	return 0, err
}

func (c *Catalogue) file(ctx context.Context, d backends.DID) (backends.Info, error) {
	in, err := c.o.Catalogue.Stat(ctx, d)
	if err == nil && in.Type != backends.File {
		err = fmt.Errorf("%s: %w", d, backends.ErrIsDir)
	}
	return in, err
}

// Kin gives the ancestors or descendants of a file down to a depth (0: all), nearest first, each once
// (getFileAncestors, getFileDescendents). ErrNotExist; ErrQuota for more than can be told of.
func (c *Catalogue) Kin(ctx context.Context, way Relation, d backends.DID, depth int, f func(Kin) error) error {
	in, err := c.file(ctx, d)
	if err != nil {
		return err
	}
	return c.walk(ctx, way, c.id(in), depth, map[uint64]bool{c.id(in): true}, func(k Kin) error {
		if c.o.Names != nil {
			now, err := c.o.Names.NameOf(ctx, k.id)
			switch {
			case err == nil:
				k.DID = now
			case isNotExist(err):
				k.Gone = true
			default:
				return err
			}
		} else if _, err := c.o.Catalogue.Stat(ctx, k.DID); isNotExist(err) {
			k.Gone = true
		} else if err != nil {
			return err
		}
		return f(k)
	})
}

// walk goes breadth first from an id, over what is not in seen, to which it adds.
func (c *Catalogue) walk(ctx context.Context, way Relation, from uint64, depth int, seen map[uint64]bool, f func(Kin) error) error {
	level := []uint64{from}
	for at := 1; len(level) > 0 && (depth == 0 || at <= depth); at++ {
		var next []uint64
		for _, id := range level {
			for r, err := range c.o.Side.SideRecords(ctx, string(way), idKey(id), "") {
				if err != nil {
					return err
				}
				k, err := parseKin(r)
				if err != nil {
					return err
				}
				if seen[k.id] {
					continue
				}
				if len(seen) >= maxKin {
					return fmt.Errorf("more than %d files; ask for a smaller depth: %w", maxKin, backends.ErrQuota)
				}
				seen[k.id] = true
				k.Depth = at
				next = append(next, k.id)
				if err := f(k); err != nil {
					return err
				}
			}
		}
		level = next
	}
	return nil
}

func kinRecord(way Relation, of, to uint64, name backends.DID) backends.SideRecord {
	return backends.SideRecord{Table: string(way), Key: idKey(of) + idKey(to), Value: []byte(name.Scope + "\x00" + name.Name)}
}

func parseKin(r backends.SideRecord) (k Kin, err error) {
	scope, name, ok := strings.Cut(string(r.Value), "\x00")
	if len(r.Key) == 32 && ok {
		if k.id, err = strconv.ParseUint(r.Key[16:], 16, 64); err == nil {
			k.DID = backends.DID{Scope: scope, Name: name}
			return k, nil
		}
	}
	return k, fmt.Errorf("record %q of an ancestor: %w", r.Key, backends.ErrDamaged)
}
