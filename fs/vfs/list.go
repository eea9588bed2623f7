package vfs

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"

	"tarn/backends"
	"tarn/backends/lake"
)

// Entry is one name of a directory.
type Entry struct {
	Name string
	Info backends.Info

	names uint64 // Node.names of the directory when it was listed
}

// Page is how many catalogue entries one call of List reads at most.
const Page = 1024

// Changes counts what may have changed the listing of a directory: entries that List gave
// when it was the same are still those.
func (n *Node) Changes() uint64 { return n.names.Load() }

// List gives the entries of a directory that follow the name after, in byte order, as
// many as one page holds; fewer than Page means the end. Unsent files are merged in, so a name is
// seen exactly once over all pages if it stays while they are read, even when it is
// registered between two of them.
func (v *FS) List(ctx context.Context, n *Node, after string) ([]Entry, error) {
	return v.list(ctx, n, after, v.lake.List)
}

// Names is List for those who want to see the names first: files may be without their times (Info.Undated), and are then
// given no node.
func (v *FS) Names(ctx context.Context, n *Node, after string) ([]Entry, error) {
	return v.list(ctx, n, after, v.lake.Names)
}

func (v *FS) list(ctx context.Context, n *Node, after string, entries func(context.Context, backends.Info, string) iter.Seq2[lake.Named, error]) ([]Entry, error) {
	if !n.IsDir() {
		return nil, fmt.Errorf("list %s: %w", n.Path(), backends.ErrNotDir)
	}
	v.tree.RLock()
	defer v.tree.RUnlock()
	n.dir.RLock()
	defer n.dir.RUnlock()
	var out []Entry
	full := false
	names := n.names.Load()
	for e, err := range entries(ctx, n.Info(), after) {
		if err != nil {
			return nil, err
		}
		if len(out) == fewEntries && cap(out) < Page {
			out = v.roomFor(out)
		}
		out = append(out, Entry{e.Name, e.Info, names})
		if len(out) == Page {
			full = true
			break
		}
	}
	v.mu.Lock()
	var here []Entry
	for name, u := range v.names[n.pathLocked()] {
		if name > after && (!full || name <= out[len(out)-1].Name) {
			here = append(here, Entry{name, u.info(), names})
		}
	}
	for i := range out {
		if u := v.newestLocked(out[i].Info.Inode); u != nil {
			u.fill(&out[i].Info)
		}
	}
	v.mu.Unlock()
	if len(here) == 0 {
		return out, nil
	}
	sort.Slice(here, func(i, j int) bool { return here[i].Name < here[j].Name })
	merged := make([]Entry, 0, len(out)+len(here))
	for i, j := 0, 0; i < len(out) || j < len(here); {
		switch {
		case j == len(here) || i < len(out) && out[i].Name < here[j].Name:
			merged = append(merged, out[i])
			i++
		default:
			if i < len(out) && out[i].Name == here[j].Name {
				i++ // the unsent content hides the published one
			}
			merged = append(merged, here[j])
			j++
		}
	}
	return merged, nil
}

// fewEntries is how many entries of a page are made room for bit by bit: most directories
// have no more, and beyond it growing makes more garbage than a page is.
const fewEntries = 64

// roomFor gives the entries the room of a page, of one that was given back if there is one.
func (v *FS) roomFor(entries []Entry) []Entry {
	if old, ok := v.rooms.Get().(*[]Entry); ok {
		return append((*old)[:0], entries...)
	}
	return slices.Grow(entries, Page-len(entries))
}

// Free gives back a page that List returned, of which the caller uses nothing any more: who
// lists many directories leaves little else behind.
func (v *FS) Free(page []Entry) {
	if cap(page) < Page {
		return
	}
	page = page[:cap(page)]
	clear(page) // the names and digests are not kept for it
	v.rooms.Put(&page)
}

// Place gives the node of an entry that List returned, with a reference. It makes no call
// to the catalogue, unless something in the directory changed since: then it is nil for a
// name that is gone, and for one whose times are not known.
func (v *FS) Place(ctx context.Context, parent *Node, e Entry) *Node {
	return v.PlaceAll(ctx, parent, []Entry{e}, nil)[0]
}

// PlaceAll appends to nodes those of entries that one List returned, as Place does.
func (v *FS) PlaceAll(ctx context.Context, parent *Node, entries []Entry, nodes []*Node) []*Node {
	v.tree.RLock()
	defer v.tree.RUnlock()
	parent.dir.RLock()
	defer parent.dir.RUnlock()
	if len(entries) > 0 && parent.names.Load() != entries[0].names {
		for i := range entries {
			var n *Node
			u, cat, found, err := v.lookupLocked(ctx, parent, entries[i].Name)
			if err == nil && (u != nil || found) {
				n = v.nodeOf(parent, entries[i].Name, u, cat)
			}
			nodes = append(nodes, n)
		}
		return nodes
	}
	var later []func()
	v.mu.Lock()
	unsent := v.names[parent.pathLocked()]
	for i := range entries {
		info, u := &entries[i].Info, unsent[entries[i].Name]
		if u != nil {
			in := u.info()
			info = &in
		} else {
			u = v.newestLocked(info.Inode)
		}
		if info.Undated() {
			nodes = append(nodes, nil)
			continue
		}
		n, born := v.placeLocked(parent, entries[i].Name, *info, u)
		if !born {
			later = append(later, func() { n.update(*info, u) })
		}
		nodes = append(nodes, n)
	}
	v.mu.Unlock()
	for _, f := range later {
		f()
	}
	return nodes
}
