package vfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"tarn/backends"
	"tarn/cache"
	"tarn/cache/journal"
)

// ErrNoAttr is an extended attribute that is not there (ENODATA).
var ErrNoAttr = errors.New("no such attribute")

const (
	attrPrefix = "user.tarn."
	attrStatus = "user.status" // the word that gfal and grid users know
)

// fixedAttrs are the attributes that every node has, or may have.
var fixedAttrs = []string{"did", "type", "locality", "replicas", "checksum", "generation", "state", "durability", "error", "explain", "asof"}

// GetXattr gives an extended attribute: user.tarn.* from what tarn knows, user.status,
// and any other user.* from the catalogue's metadata. Everything else is
// backends.ErrNotSupported, as when it is set.
func (v *FS) GetXattr(ctx context.Context, n *Node, name string) ([]byte, error) {
	if !strings.HasPrefix(name, "user.") {
		return nil, fmt.Errorf("%s of %s: only user.* attributes are kept: %w", name, n.Path(), backends.ErrNotSupported)
	}
	if n == v.root && !strings.HasPrefix(name, attrPrefix) {
		return nil, ErrNoAttr
	}
	var s string
	var err error
	switch {
	case name == attrStatus:
		s, err = v.locality(ctx, n)
	case strings.HasPrefix(name, attrPrefix):
		s, err = v.fixedAttr(ctx, n, name[len(attrPrefix):])
	default:
		var meta backends.Meta
		if meta, err = v.metaOf(ctx, n); err != nil {
			return nil, err
		}
		x, ok := meta[name[len("user."):]]
		if !ok {
			return nil, ErrNoAttr
		}
		return []byte(MetaText(x)), nil
	}
	if err != nil {
		return nil, err
	}
	if s == "" {
		return nil, ErrNoAttr
	}
	return []byte(s), nil
}

// MetaText shows a metadata value as text: strings as they are, all else as JSON.
func MetaText(x any) string {
	if s, ok := x.(string); ok {
		return s
	}
	b, err := json.Marshal(x)
	if err != nil {
		return fmt.Sprint(x)
	}
	return string(b)
}

// MetaValue reads what a person typed: JSON numbers and booleans become such, all else
// is a string. Leading zeros stay text, since 0012 names something and counts nothing.
func MetaValue(s string) any {
	switch s {
	case "true":
		return true
	case "false":
		return false
	}
	var f float64
	if json.Unmarshal([]byte(s), &f) == nil {
		if b, err := json.Marshal(f); err == nil && string(b) == s {
			return f // only what reads back as it was written
		}
	}
	return s
}

func (v *FS) fixedAttr(ctx context.Context, n *Node, name string) (string, error) {
	in := n.Info()
	switch name {
	case "did":
		if n == v.root {
			return "", nil
		}
		if in.DID.Scope == "" { // not registered yet
			return v.lake.PathDID(n.Path()).String(), nil
		}
		return in.DID.String(), nil
	case "type":
		return in.Type.String(), nil
	case "asof":
		if t := v.lake.AsOf(in.DID); !t.IsZero() {
			return t.UTC().Format(time.RFC3339), nil
		}
		return "", nil
	case "error":
		n.mu.Lock()
		why, u := n.lastErr, n.work
		n.mu.Unlock()
		if u != nil {
			u.mu.Lock()
			if u.why != "" {
				why = u.why
			}
			u.mu.Unlock()
		}
		return why, nil
	}
	if in.IsDir() || in.IsSymlink() {
		return "", nil
	}
	switch name {
	case "locality":
		return v.locality(ctx, n)
	case "checksum":
		return in.Checksums.String(), nil
	case "generation":
		return string(in.Generation), nil
	case "state":
		return string(v.state(n)), nil
	case "replicas", "durability":
		reps, err := v.replicasOf(ctx, n)
		if err != nil {
			return "", err
		}
		if name == "durability" {
			return durability(v.state(n), reps), nil
		}
		b, err := json.Marshal(reps)
		return string(b), err
	case "explain":
		e, err := v.Explain(ctx, n)
		if err != nil {
			return "", err
		}
		return e.Text(), nil
	}
	return "", nil
}

// state is the journal's state of an unsent file, SAFE for all others.
func (v *FS) state(n *Node) journal.State {
	n.mu.Lock()
	u := n.work
	n.mu.Unlock()
	if u == nil {
		return journal.Safe
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.dirty {
		return journal.Writing
	}
	return u.state
}

func (v *FS) replicasOf(ctx context.Context, n *Node) ([]backends.Replica, error) {
	n.mu.Lock()
	u := n.work
	n.mu.Unlock()
	if u != nil && !u.registered() {
		return []backends.Replica{}, nil
	}
	reps, err := v.lake.Catalogue().Replicas(ctx, n.did())
	if reps == nil {
		reps = []backends.Replica{}
	}
	return reps, err
}

// durability says in words where the bytes are safe.
func durability(s journal.State, reps []backends.Replica) string {
	var good []string
	for _, r := range reps {
		if r.State == backends.Available {
			good = append(good, r.RSE)
		}
	}
	sort.Strings(good)
	at := "no site yet"
	if len(good) > 0 {
		at = fmt.Sprintf("%d verified at %s", len(good), strings.Join(good, ", "))
	}
	switch s {
	case journal.Safe:
		return at
	case journal.Writing:
		return "being written"
	}
	return "local journal; " + at
}

// locality is where n's bytes can be had, the hot cache and the journal included.
func (v *FS) locality(ctx context.Context, n *Node) (string, error) {
	if n.isDir || n.isLink {
		return "", nil
	}
	locs, err := v.Localities(ctx, []backends.Info{n.Info()})
	if err != nil {
		return "", err
	}
	return string(locs[0]), nil
}

// Localities is lake.Localities with what lies in the hot cache and the journal taken
// into account: one answer an Info, in order; NONE for directories and links.
func (v *FS) Localities(ctx context.Context, infos []backends.Info) ([]backends.Locality, error) {
	out := make([]backends.Locality, len(infos))
	var ask []backends.Info
	var at []int
	for i, in := range infos {
		switch u := v.unsentOf(in.Inode); {
		case in.Type != backends.File || in.IsSymlink():
			out[i] = backends.NoLocality
		case u != nil || in.Size == 0:
			out[i] = backends.Online
		default:
			ask, at = append(ask, in), append(at, i)
		}
	}
	locs, err := v.lake.Localities(ctx, ask...)
	if err != nil {
		return nil, err
	}
	for k, i := range at {
		l := locs[k]
		if st, ok := v.cache.Status(cache.Key(infos[i].Generation)); ok && st.Whole {
			switch l {
			case backends.Nearline:
				l = backends.OnlineAndNearline
			case backends.Unavailable, backends.Lost:
				l = backends.Online
			}
		}
		out[i] = l
	}
	return out, nil
}

// metaOf is n's metadata, from the journal until it is registered.
func (v *FS) metaOf(ctx context.Context, n *Node) (backends.Meta, error) {
	n.mu.Lock()
	u := n.work
	n.mu.Unlock()
	if u != nil && !u.registered() {
		return backends.Meta(u.entry.Record().Meta), nil
	}
	did := n.did()
	if did.Scope == "" {
		return nil, nil
	}
	m, err := v.lake.Meta(ctx, did)
	if isNotExist(err) { // unlinked and open
		return nil, nil
	}
	return m, err
}

// Meta gives a node's metadata; SetMeta merges m into it, nil deletes a key.
func (v *FS) Meta(ctx context.Context, n *Node) (backends.Meta, error) {
	if n == v.root {
		return nil, nil
	}
	return v.metaOf(ctx, n)
}

// SetMeta merges m into n's metadata; a nil value deletes its key.
func (v *FS) SetMeta(ctx context.Context, n *Node, m backends.Meta) error {
	if v.opt.ReadOnly {
		return fmt.Errorf("set metadata of %s: the mount %w", n.Path(), backends.ErrReadOnly)
	}
	if n == v.root {
		return fmt.Errorf("set metadata of /: %w", backends.ErrImmutable)
	}
	if v.opt.CheckMeta != nil {
		var err error
		if m, err = v.opt.CheckMeta(ctx, n.Info(), m); err != nil {
			return err
		}
	}
	defer v.holdName(n)()
	n.mu.Lock()
	u, unlinked := n.work, n.unlinked
	n.mu.Unlock()
	if unlinked { // its DID may be another file's by now
		return fmt.Errorf("set metadata of %s: it is unlinked: %w", n.Path(), backends.ErrStale)
	}
	if u != nil && !u.registered() {
		return u.note(false, func(r *journal.Record) {
			all := backends.Meta(r.Meta).Clone()
			for k, x := range m {
				if x == nil {
					delete(all, k)
				} else {
					all[k] = x
				}
			}
			r.Meta = all
		})
	}
	return v.lake.SetMeta(ctx, n.did(), m)
}

// SetXattr sets a metadata key; user.tarn.* and user.status are read-only, and what is
// not user.* is not kept here. create and replace are XATTR_CREATE and XATTR_REPLACE.
func (v *FS) SetXattr(ctx context.Context, n *Node, name string, value []byte, create, replace bool) error {
	if err := settable(n, name); err != nil {
		return err
	}
	if create || replace {
		_, err := v.GetXattr(ctx, n, name)
		switch {
		case create && err == nil:
			return fmt.Errorf("%s of %s: %w", name, n.Path(), backends.ErrExist)
		case replace && err != nil:
			return err
		}
	}
	return v.SetMeta(ctx, n, backends.Meta{name[len("user."):]: MetaValue(string(value))})
}

// RemoveXattr deletes a metadata key.
func (v *FS) RemoveXattr(ctx context.Context, n *Node, name string) error {
	if err := settable(n, name); err != nil {
		return err
	}
	if _, err := v.GetXattr(ctx, n, name); err != nil {
		return err
	}
	return v.SetMeta(ctx, n, backends.Meta{name[len("user."):]: nil})
}

func settable(n *Node, name string) error {
	switch {
	case !strings.HasPrefix(name, "user.") || name == "user.":
		return fmt.Errorf("set %s of %s: only user.* attributes are kept: %w", name, n.Path(), backends.ErrNotSupported)
	case name == attrStatus || strings.HasPrefix(name, attrPrefix):
		return fmt.Errorf("set %s of %s: tarn's own attributes are read-only: %w", name, n.Path(), backends.ErrImmutable)
	}
	return nil
}

// ListXattr names n's attributes that have a value.
func (v *FS) ListXattr(ctx context.Context, n *Node) ([]string, error) {
	var out []string
	if n == v.root {
		return nil, nil
	}
	for _, a := range fixedAttrs {
		switch {
		case a == "did", a == "type":
		case (n.isDir || n.isLink) && a != "asof" && a != "error":
			continue
		case a == "asof", a == "error", a == "checksum", a == "generation":
			if s, err := v.fixedAttr(ctx, n, a); err != nil || s == "" {
				continue
			}
		case a == "explain":
			continue // long, and asked for by name
		}
		out = append(out, attrPrefix+a)
	}
	if !n.isDir && !n.isLink {
		out = append(out, attrStatus)
	}
	meta, err := v.metaOf(ctx, n)
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(meta))
	for k := range meta {
		if k != "" && !strings.ContainsRune(k, 0) {
			keys = append(keys, "user."+k)
		}
	}
	sort.Strings(keys)
	return append(out, keys...), nil
}
