package filecat

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"tarn/backends"
)

// listed is a file in the list of a dataset. Its record is found by its id, which stays over renames and new
// contents; names can be any bytes but NUL, which parts the fields.
type listed struct {
	did        backends.DID
	id         uint64
	size       int64
	generation backends.Generation
}

func (c *Catalogue) listedOf(in backends.Info) listed {
	return listed{in.DID, c.id(in), in.Size, in.Generation}
}

func (l listed) info() backends.Info {
	return backends.Info{DID: l.did, Type: backends.File, Size: l.size, Generation: l.generation}
}

func (l listed) record(list string) backends.SideRecord {
	v := strings.Join([]string{l.did.Scope, l.did.Name, strconv.FormatInt(l.size, 10), string(l.generation)}, "\x00")
	return backends.SideRecord{Table: tableFile, Key: list + idKey(l.id), Value: []byte(v)}
}

func idKey(id uint64) string { return fmt.Sprintf("%016x", id) }

func parseListed(list string, r backends.SideRecord) (l listed, err error) {
	f := strings.SplitN(string(r.Value), "\x00", 4)
	if l.id, err = strconv.ParseUint(strings.TrimPrefix(r.Key, list), 16, 64); err == nil && len(f) == 4 {
		l.did, l.generation = backends.DID{Scope: f[0], Name: f[1]}, backends.Generation(f[3])
		l.size, err = strconv.ParseInt(f[2], 10, 64)
	}
	if err != nil || len(f) != 4 {
		return l, fmt.Errorf("record %q of a dataset's file: %w", r.Key, backends.ErrDamaged)
	}
	return l, nil
}

// listed streams the list of a dataset. ErrStale when the list was dropped meanwhile, and is cut short.
func (c *Catalogue) listed(ctx context.Context, d dataset) iter.Seq2[listed, error] {
	return func(yield func(listed, error) bool) {
		n := int64(0)
		for r, err := range c.o.Side.SideRecords(ctx, tableFile, d.List, "") {
			var l listed
			if err == nil {
				l, err = parseListed(d.List, r)
			}
			if !yield(l, err) || err != nil {
				return
			}
			n++
		}
		if n != d.Files {
			yield(listed{}, fmt.Errorf("the list of dataset %q has %d files, and %d are left of it: %w", d.Name, d.Files, n, backends.ErrStale))
		}
	}
}

// now is what became of a listed file, also under another name. ErrNotExist.
func (c *Catalogue) now(ctx context.Context, l listed) (backends.Info, error) {
	d := l.did
	if c.o.Names != nil {
		var err error
		if d, err = c.o.Names.NameOf(ctx, l.id); err != nil {
			return backends.Info{}, err
		}
	}
	in, err := c.o.Catalogue.Stat(ctx, d)
	if err == nil && c.id(in) != l.id {
		err = fmt.Errorf("%s is another file now: %w", d, backends.ErrNotExist)
	}
	return in, err
}

// tally sums up a list.
type tally struct {
	files, bytes int64
	hash         [sha256.Size]byte
}

// add counts a file in. The hashes of all are joined by exclusive or, so that their order does not matter.
func (t *tally) add(l listed) {
	t.files++
	t.bytes += l.size
	r := l.record("")
	for i, b := range sha256.Sum256(r.Value) {
		t.hash[i] ^= b
	}
}

// sum has the form of DIRAC's DatasetHash.
func (t *tally) sum() string { return strings.ToUpper(hex.EncodeToString(t.hash[:16])) }

// tableList notes which lists are being written or dropped, so that those of a crash can be dropped.
const tableList = "dirac.list"

// listAnew writes a new list of the files that match the query of d, and stores d with it, unless check, which is
// given what is stored by then (nil: nothing), says no. Nothing of it is seen before.
func (c *Catalogue) listAnew(ctx context.Context, d dataset, check func(have *dataset) error) (dataset, error) {
	list, done, err := c.beginList(ctx)
	if err != nil {
		return d, err
	}
	defer done()
	var t tally
	_, err = c.o.Side.LoadSide(ctx, func(yield func(backends.SideRecord, error) bool) {
		c.matching(ctx, d, func(in backends.Info, err error) bool {
			if err != nil {
				return yield(backends.SideRecord{}, err)
			}
			l := c.listedOf(in)
			t.add(l)
			return yield(l.record(list), nil)
		})
	})
	if err != nil {
		return d, c.abandon(ctx, list, err)
	}
	d.List, d.Files, d.Bytes, d.Hash = list, t.files, t.bytes, t.sum()
	c.mu.Lock()
	defer c.mu.Unlock()
	var have dataset
	switch err = c.get(ctx, tableDataset, d.Name, &have); {
	case err == nil:
		err = check(&have)
		d.Annotation = have.Annotation
	case isNotExist(err):
		err = check(nil)
	}
	if err != nil {
		return d, c.abandon(ctx, list, err)
	}
	r, err := record(tableDataset, d.Name, d)
	if err != nil {
		return d, c.abandon(ctx, list, err)
	}
	rs := []backends.SideRecord{r, {Table: tableList, Key: list}}
	if have.List != "" {
		rs = append(rs, toDrop(have.List))
	}
	if err := c.o.Side.PutSide(ctx, rs...); err != nil {
		return d, err // it may have been stored all the same: the list goes when it is found to be nobody's
	}
	if have.List != "" {
		err = c.dropList(ctx, have.List)
	}
	return d, err
}

// toDrop notes that a list is nobody's any more.
func toDrop(list string) backends.SideRecord {
	return backends.SideRecord{Table: tableList, Key: list, Value: []byte{}}
}

// beginList makes a name for a list, notes that it is being written, and drops those that a crash left.
func (c *Catalogue) beginList(ctx context.Context) (list string, done func(), err error) {
	var b [12]byte
	rand.Read(b[:])
	list = hex.EncodeToString(b[:]) + "."
	c.mu.Lock()
	defer c.mu.Unlock()
	for r, err := range c.o.Side.SideRecords(ctx, tableList, "", "") {
		if err == nil && !c.writing[r.Key] {
			err = c.dropList(ctx, r.Key)
		}
		if err != nil {
			return "", nil, err
		}
	}
	if err := c.o.Side.PutSide(ctx, toDrop(list)); err != nil {
		return "", nil, err
	}
	c.writing[list] = true
	return list, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.writing, list)
	}, nil
}

func (c *Catalogue) dropList(ctx context.Context, list string) error {
	if err := c.drop(ctx, tableFile, list); err != nil {
		return err
	}
	return c.o.Side.PutSide(ctx, backends.SideRecord{Table: tableList, Key: list})
}

// abandon drops a list that did not become one. What cannot be dropped now is by the next one.
func (c *Catalogue) abandon(ctx context.Context, list string, why error) error {
	_ = c.dropList(context.WithoutCancel(ctx), list)
	return why
}
