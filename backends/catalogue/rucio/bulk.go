package rucio

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// kin are the children of one type for one collection: Rucio takes datasets and containers of one collection one after the other
// (core/did.py, __add_collections_to_container).
type kin struct {
	parent backends.DID
	typ    backends.Type
}

// attachAll puts children into collections. What is there is success.
func (c *Catalogue) attachAll(ctx context.Context, all map[kin][]backends.DID) error {
	var list []rest.Attachment
	for of, children := range all {
		list = append(list, rest.Attachment{Scope: of.parent.Scope, Name: of.parent.Name, DIDs: children})
	}
	return c.c.Attach(ctx, list)
}

// revived are the columns of a collection that was removed and is made again.
func revived(d backends.DID) rest.DIDMeta {
	return rest.DIDMeta{Scope: d.Scope, Name: d.Name, Meta: map[string]any{"hidden": false, "lifetime": nil}}
}

// make makes collections that have none of the names yet, in one transaction if nobody else makes one of them at the same time.
func (c *Catalogue) make(ctx context.Context, all []rest.NewDID) error {
	for part := range slices.Chunk(all, rest.Page) {
		err := c.c.AddDIDs(ctx, part)
		if errors.Is(err, backends.ErrExist) && len(part) > 1 {
			for _, one := range part {
				if err = c.c.AddDIDs(ctx, []rest.NewDID{one}); err != nil && !errors.Is(err, backends.ErrExist) {
					return err
				}
			}
			continue
		}
		if err != nil && !errors.Is(err, backends.ErrExist) {
			return err
		}
	}
	return nil
}

// addCollections makes those of the entries that are not there, at most rest.Page, parents before what they hold, and attaches all to their
// parents, so that what a crash left half done becomes whole. It ends at the first that cannot be: at is its place.
func (c *Catalogue) addCollections(ctx context.Context, all []backends.Entry) (added int64, at int, err error) {
	want := make([]backends.DID, 0, 2*len(all))
	for _, e := range all {
		want = append(want, e.Info.DID)
		if up := c.into(e); up.Name != "" && (!c.isLFN() || strings.Count(e.Info.DID.Name, "/") > 1) {
			want = append(want, up)
		}
	}
	slices.SortFunc(want, func(a, b backends.DID) int { return strings.Compare(a.String(), b.String()) })
	rows, err := c.c.BulkMeta(ctx, slices.Compact(want))
	if err != nil {
		return 0, 0, err
	}
	made := map[backends.DID]backends.Type{}
	typeOf := func(d backends.DID) (backends.Type, bool) {
		if t, ok := made[d]; ok {
			return t, true
		}
		m, ok := rows[d]
		return c.info(m).Type, ok
	}
	var news []rest.NewDID
	var again, metas []rest.DIDMeta
	into := map[kin][]backends.DID{}
	ups := map[backends.DID]backends.DID{} // what each becomes part of
	at = len(all)
	var ends error
	for i, e := range all {
		d, up := e.Info.DID, c.into(e)
		err := c.newName(d)
		if err == nil && up.Name != "" {
			switch t, ok := typeOf(up); {
			case !ok:
				err = fmt.Errorf("its parent: %w", backends.ErrNotExist)
			default:
				err = holdsCollections(up, t)
			}
		}
		if err != nil {
			ends, at = fmt.Errorf("%s: %w", d, err), i
			break
		}
		m, there := rows[d]
		_, twice := made[d]
		if there && c.info(m).Type == backends.File {
			continue // what is to be below it finds that
		}
		if err := c.alone(ctx, e, up, there || twice, ups[d]); err != nil {
			ends, at = fmt.Errorf("%s: %w", d, err), i
			break
		}
		ups[d] = up
		made[d] = e.Info.Type
		switch {
		case twice:
			continue
		case !there:
			added++
			news = append(news, rest.NewDID{Scope: d.Scope, Name: d.Name, Type: typeWord(e.Info.Type)})
		default:
			made[d] = c.info(m).Type
			if m.Hidden != nil && *m.Hidden {
				added++
				again = append(again, revived(d))
			}
		}
		if up.Name != "" {
			k := kin{up, made[d]}
			into[k] = append(into[k], d)
		}
		if len(e.Meta) > 0 {
			metas = append(metas, rest.DIDMeta{Scope: d.Scope, Name: d.Name, Meta: e.Meta})
		}
	}
	defer c.changed(append(didsOf(all), slices.Collect(maps.Values(ups))...)...)
	err = c.make(ctx, news)
	if err == nil {
		err = c.c.BulkSetMeta(ctx, again)
	}
	if err == nil {
		err = c.attachAll(ctx, into)
	}
	if err == nil {
		err = c.c.BulkSetMeta(ctx, metas)
	}
	if err != nil {
		return 0, 0, err
	}
	for d, up := range ups {
		c.within.Add(edgeOf{up, d}, c.now())
	}
	return added, at, ends
}

// alone refuses a directory of layout contents whose name has another one of the scope: the files of both would be one dataset. before
// is what it became part of a moment ago.
func (c *Catalogue) alone(ctx context.Context, e backends.Entry, up backends.DID, there bool, before backends.DID) error {
	if c.isLFN() || up.Name == "" || !there || before == up {
		return nil
	}
	if asked, ok := c.within.Get(edgeOf{up, e.Info.DID}); ok && c.now().Sub(asked) < c.o.TTL {
		return nil
	}
	parents := []backends.DID{before}
	if before.Name == "" {
		var err error
		if parents, err = c.c.Parents(ctx, e.Info.DID); err != nil {
			return err
		}
	}
	if len(parents) == 0 || slices.Contains(parents, up) { // who made it may have died before it was attached
		return nil
	}
	return fmt.Errorf("a collection of this name is in %s already, and a name is one collection in the whole scope in layout contents; use other names for directories: %w", parents[0], backends.ErrExist)
}

// holdsCollections tells why nothing can be made in a directory.
func holdsCollections(d backends.DID, t backends.Type) error {
	switch t {
	case backends.Container:
		return nil
	case backends.Dataset:
		return fmt.Errorf("%s is a dataset, which holds nothing but files in Rucio; make the directory beside it: %w", d, backends.ErrImmutable)
	}
	return backends.ErrNotDir
}

func typeWord(t backends.Type) string {
	if t == backends.Dataset {
		return rest.TypeDataset
	}
	return rest.TypeContainer
}

// isJoined tells whether a dataset of loose files is known to be attached to its container.
func (c *Catalogue) isJoined(files backends.DID) bool {
	at, ok := c.joined.Get(files)
	return ok && c.now().Sub(at) < c.o.TTL
}

// datasets gives for each directory the dataset that its files are attached to, making those of containers that have none
// yet; or why it has none.
func (c *Catalogue) datasets(ctx context.Context, dirs []backends.DID) (map[backends.DID]backends.DID, map[backends.DID]error, error) {
	known := slices.Clone(dirs)
	for _, d := range dirs {
		if !c.isJoined(loose(d)) {
			known = append(known, loose(d))
		}
	}
	if err := c.warm(ctx, known); err != nil {
		return nil, nil, err
	}
	out, why := map[backends.DID]backends.DID{}, map[backends.DID]error{}
	var news []rest.NewDID
	var again []rest.DIDMeta
	into := map[kin][]backends.DID{}
	for _, dir := range dirs {
		a, err := c.stat(ctx, dir)
		switch {
		case err != nil:
			why[dir] = err
			continue
		case !a.info.IsDir():
			why[dir] = backends.ErrNotDir
			continue
		case a.info.Type == backends.Dataset:
			out[dir] = dir
			continue
		}
		files := loose(dir)
		if out[dir] = files; c.isJoined(files) {
			continue
		}
		// That it is there says nothing of whether it was attached: who made it may have died in between.
		switch f, err := c.look(ctx, files); {
		case errors.Is(err, backends.ErrNotExist):
			news = append(news, rest.NewDID{Scope: files.Scope, Name: files.Name, Type: rest.TypeDataset})
		case err != nil:
			return nil, nil, err
		case f.info.Type != backends.Dataset:
			why[dir] = fmt.Errorf("%s is no dataset: %w", files, backends.ErrNotSupported)
			continue
		case f.hidden:
			again = append(again, revived(files))
		}
		into[kin{dir, backends.Dataset}] = []backends.DID{files}
	}
	err := c.make(ctx, news)
	if err == nil {
		err = c.c.BulkSetMeta(ctx, again)
	}
	if err == nil {
		err = c.attachAll(ctx, into)
	}
	for of := range into {
		c.changed(loose(of.parent), of.parent)
		if err == nil {
			c.joined.Add(loose(of.parent), c.now())
		}
	}
	return out, why, err
}

// dataset is datasets for one directory.
func (c *Catalogue) dataset(ctx context.Context, dir backends.DID) (backends.DID, error) {
	out, why, err := c.datasets(ctx, []backends.DID{dir})
	if err == nil {
		err = why[dir]
	}
	return out[dir], err
}

// Import adds entries in bulk, a thousand at a time: the collections of these first, since files need them.
func (c *Catalogue) Import(ctx context.Context, entries iter.Seq2[backends.Entry, error]) (added int64, err error) {
	var dirs, files []backends.Entry
	var before []int // how many files came before each of dirs
	flush := func() error {
		var failed error
		if len(dirs) > 0 {
			n, at, err := c.addCollections(ctx, dirs)
			added += n
			if failed = err; err != nil {
				files = files[:before[at]]
			}
		}
		if len(files) > 0 {
			n, err := c.addFiles(ctx, files)
			added += n
			failed = errors.Join(err, failed)
		}
		dirs, files, before = dirs[:0], files[:0], before[:0]
		return failed
	}
	for e, err := range entries {
		if err != nil {
			err = errors.Join(err, flush())
			return added, err
		}
		if e.Info.Type.IsCollection() {
			dirs, before = append(dirs, e), append(before, len(files))
		} else {
			files = append(files, e)
		}
		if max(len(dirs), len(files)) == rest.Page {
			if err := flush(); err != nil {
				return added, edge("import", backends.DID{}, err)
			}
		}
	}
	err = flush()
	return added, edge("import", backends.DID{}, err)
}
