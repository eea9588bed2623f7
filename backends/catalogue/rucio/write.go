package rucio

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// Add makes a collection, or a file with its replicas.
func (c *Catalogue) Add(ctx context.Context, in backends.Info, meta backends.Meta, at ...backends.Replica) error {
	if in.Type.IsCollection() {
		return edge("add", in.DID, c.addCollection(ctx, in, meta))
	}
	if in.IsSymlink() {
		return edge("add", in.DID, fmt.Errorf("there are no symbolic links in Rucio: %w", backends.ErrNotSupported))
	}
	_, err := c.addFiles(ctx, []backends.Entry{{Info: in, Meta: meta, Replicas: at}})
	return edge("add", in.DID, err)
}

// addCollection makes one, in layout lfn in the one that it belongs into. A name that was removed comes back.
func (c *Catalogue) addCollection(ctx context.Context, in backends.Info, meta backends.Meta) error {
	d := in.DID
	if err := c.newName(d); err != nil {
		return err
	}
	var into []backends.DID // the parent, if the name tells one
	if c.isLFN() && !c.isRoot(d) {
		p, err := c.stat(ctx, c.home(d))
		if err != nil {
			return fmt.Errorf("its parent: %w", err)
		}
		if err := holdsCollections(p.info.DID, p.info.Type); err != nil {
			return err
		}
		into = []backends.DID{p.info.DID}
	}
	defer c.changed(d)
	a, err := c.ask(ctx, d)
	if err != nil {
		return err
	}
	switch {
	case a.none:
		err = c.c.AddDIDs(ctx, []rest.NewDID{{Scope: d.Scope, Name: d.Name, Type: typeWord(in.Type)}})
	case a.info.Type != in.Type:
		err = backends.ErrExist
	case a.hidden:
		err = c.c.BulkSetMeta(ctx, []rest.DIDMeta{revived(d)})
	case len(into) == 0:
		err = backends.ErrExist
	default: // who made it may have died before it was attached
		var parents []backends.DID
		if parents, err = c.c.Parents(ctx, d); err == nil && slices.Contains(parents, into[0]) {
			err = backends.ErrExist
		}
	}
	if err != nil {
		return err
	}
	for _, p := range into {
		if err := c.attachAll(ctx, map[kin][]backends.DID{{p, in.Type}: {d}}); err != nil {
			return err
		}
	}
	if len(meta) > 0 {
		return c.c.SetMeta(ctx, d, meta)
	}
	return nil
}

// addFiles registers files in bulk, at most rest.Page. It tells how many were not there before. At the first that cannot be
// it ends, with those before it registered.
func (c *Catalogue) addFiles(ctx context.Context, all []backends.Entry) (added int64, err error) {
	var ends error // why the rest of all is left out
	cut := func(i int, err error) {
		ends = err
		if len(all) > 1 {
			ends = fmt.Errorf("%s: %w", all[i].Info.DID, err)
		}
		all = all[:i]
	}
	// The parents first: what cannot be attached is not to be registered.
	var homes []backends.DID
	for i, e := range all {
		err := c.newName(e.Info.DID)
		if err == nil && e.Info.Checksums.Adler32 == "" && e.Info.Checksums.MD5 == "" && e.Info.Size > 0 {
			err = fmt.Errorf("neither adler32 nor md5 is known, and Rucio keeps no other checksums: %w", backends.ErrNotSupported)
		}
		if err != nil {
			cut(i, err)
			break
		}
		if up := c.into(e); up.Name != "" && (len(homes) == 0 || up != homes[len(homes)-1]) {
			homes = append(homes, up)
		}
	}
	slices.SortFunc(homes, func(a, b backends.DID) int { return strings.Compare(a.String(), b.String()) })
	parents, why, err := c.datasets(ctx, slices.Compact(homes))
	if err != nil {
		return 0, err
	}
	for i, e := range all {
		if err := why[c.into(e)]; err != nil {
			cut(i, fmt.Errorf("its directory %s: %w", c.into(e).Name, err))
			break
		}
	}
	before, err := c.c.BulkMeta(ctx, didsOf(all))
	if err != nil {
		return 0, err
	}
	at := map[string]bool{}
	for _, e := range all {
		for _, r := range e.Replicas {
			at[r.RSE] = true
		}
	}
	rses, err := c.rsesOf(ctx, slices.Collect(maps.Keys(at)))
	if err != nil {
		return 0, err
	}
	defer c.changed(didsOf(all)...)
	byRSE := map[string][]rest.NewReplica{}
	var again, metas []rest.DIDMeta
	for i, e := range all {
		d := e.Info.DID
		m, there := before[d]
		if err = nil; there {
			err = same(e.Info, m)
		} else if len(e.Replicas) == 0 {
			err = fmt.Errorf("a file comes into being with its first replica in Rucio: %w", backends.ErrNotSupported)
		}
		var reps map[string]rest.NewReplica
		if err == nil {
			reps, err = newReplicas(rses, e)
		}
		if err != nil {
			cut(i, err)
			break
		}
		for name, r := range reps {
			byRSE[name] = append(byRSE[name], r)
		}
		switch {
		case !there:
			added++
		case m.Hidden != nil && *m.Hidden:
			again = append(again, revived(d))
		}
		if len(e.Meta) > 0 {
			metas = append(metas, rest.DIDMeta{Scope: d.Scope, Name: d.Name, Meta: e.Meta})
		}
	}
	for name, reps := range byRSE {
		if err := c.c.AddReplicas(ctx, name, reps); err != nil {
			return 0, fmt.Errorf("register at %s: %w", name, err)
		}
	}
	// Files that were registered with other bytes in this moment are success for the server.
	if len(byRSE) > 0 {
		now, err := c.c.BulkMeta(ctx, didsOf(all))
		if err != nil {
			return 0, err
		}
		for _, e := range all {
			m, ok := now[e.Info.DID]
			err := fmt.Errorf("%s: Rucio has forgotten it at once: %w", e.Info.DID, backends.ErrStale)
			if ok {
				err = same(e.Info, m)
			}
			if err != nil {
				return 0, err
			}
		}
	}
	if err := c.c.BulkSetMeta(ctx, again); err != nil {
		return 0, err
	}
	if err := c.attachFiles(ctx, all, parents); err != nil {
		return 0, err
	}
	if err := c.c.BulkSetMeta(ctx, metas); err != nil {
		return 0, err
	}
	for _, e := range all {
		if e.Info.Inode != 0 { // who has the file open knows it by this one
			c.inodes.Add(e.Info.DID, e.Info.Inode)
		}
	}
	return added, ends
}

// attachFiles puts files into the datasets of their directories. Those of layout contents that name none are attached by who adds them.
func (c *Catalogue) attachFiles(ctx context.Context, all []backends.Entry, parents map[backends.DID]backends.DID) error {
	into := map[kin][]backends.DID{}
	for _, e := range all {
		up := c.into(e)
		if up.Name == "" {
			continue
		}
		k := kin{parents[up], backends.File}
		into[k] = append(into[k], e.Info.DID)
		if !c.isLFN() {
			defer c.changed(up, k.parent)
		}
	}
	return c.attachAll(ctx, into)
}

func didsOf(all []backends.Entry) []backends.DID {
	out := make([]backends.DID, len(all))
	for i, e := range all {
		out[i] = e.Info.DID
	}
	return out
}

// same tells whether a row is of this content.
func same(in backends.Info, m rest.Meta) error {
	taken := func(why string) error {
		return fmt.Errorf("the name has another content in Rucio (%s), and a name never gets a second one there; use another name: %w", why, backends.ErrExist)
	}
	switch {
	case m.Type != rest.TypeFile:
		return fmt.Errorf("it is a %s: %w", strings.ToLower(m.Type), backends.ErrExist)
	case int64(m.Bytes) != in.Size:
		return taken(fmt.Sprintf("%d bytes, and not %d", m.Bytes, in.Size))
	case m.Adler32 != "" && in.Checksums.Adler32 != "" && m.Adler32 != in.Checksums.Adler32:
		return taken("adler32 " + m.Adler32 + ", and not " + in.Checksums.Adler32)
	case m.MD5 != "" && in.Checksums.MD5 != "" && m.MD5 != in.Checksums.MD5:
		return taken("md5 " + m.MD5 + ", and not " + in.Checksums.MD5)
	}
	return nil
}

// Attach puts children into a collection.
func (c *Catalogue) Attach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	p, err := c.stat(ctx, parent)
	if err == nil && !p.info.IsDir() {
		err = backends.ErrNotDir
	}
	var files []backends.DID
	into := map[kin][]backends.DID{}
	if err == nil {
		err = c.warm(ctx, children)
	}
	for _, d := range children {
		if err != nil {
			break
		}
		var a attr
		a, err = c.look(ctx, d)
		switch {
		case err != nil:
			err = fmt.Errorf("%s: %w", d, err)
		case d == parent:
			err = backends.ErrLoop
		case a.info.IsDir():
			k := kin{parent, a.info.Type}
			into[k] = append(into[k], d)
		default:
			files = append(files, d)
		}
	}
	if err == nil && parent.Name == "" {
		return nil // a scope's collection has what nobody else has
	}
	if err == nil && len(into) > 0 && p.info.Type == backends.Dataset {
		err = fmt.Errorf("a dataset holds nothing but files in Rucio: %w", backends.ErrNotSupported)
	}
	to := parent
	if err == nil && len(files) > 0 {
		to, err = c.dataset(ctx, parent)
	}
	if err != nil {
		return edge("attach to", parent, err)
	}
	defer c.changed(append(slices.Clone(children), parent, to)...)
	if len(files) > 0 {
		into[kin{to, backends.File}] = files
	}
	err = c.attachAll(ctx, into)
	if rest.Is(err, "UnsupportedOperation") && strings.Contains(strings.ToLower(err.Error()), "circular") {
		err = backends.ErrLoop
	}
	return edge("attach to", parent, err)
}

// Detach takes children out of a collection.
func (c *Catalogue) Detach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	if c.isLFN() {
		for _, d := range children {
			if !c.isRoot(d) && c.home(d) == parent {
				return edge("detach from", parent, fmt.Errorf("%s is in it by its name; remove it: %w", d, backends.ErrNotSupported))
			}
		}
	}
	if _, err := c.stat(ctx, parent); err != nil {
		return edge("detach from", parent, err)
	}
	return edge("detach from", parent, c.detach(ctx, parent, children...))
}

func (c *Catalogue) detach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	defer c.changed(append(slices.Clone(children), parent, loose(parent))...)
	for _, d := range children {
		for _, from := range []backends.DID{parent, loose(parent)} {
			if from != parent {
				if _, err := c.look(ctx, from); errors.Is(err, backends.ErrNotExist) {
					continue
				}
			}
			if err := c.c.Detach(ctx, from, []backends.DID{d}); err != nil && !errors.Is(err, backends.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
