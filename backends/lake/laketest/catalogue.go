// Package laketest holds a lake in memory for tests: a catalogue, storages and tape
// systems that keep their contracts, fail on demand, count what they are asked, and
// sleep only on the clock, so that tests of recalls and replication run in a synctest
// bubble.
//
//	cat := laketest.NewCatalogue()
//	disk, tape := laketest.NewStorage(), laketest.NewTape(time.Minute)
//	l, err := lake.New(lake.Options{Catalogue: cat, Namespace: cat, Versions: cat, Rules: cat, RSEs: ...})
package laketest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/query"
)

// Grace is how long a Past is kept.
const Grace = 24 * time.Hour

// Catalogue is a catalogue in memory, of both layouts, with versions and rules.
type Catalogue struct {
	mu      sync.Mutex
	fail    func(op string, d backends.DID) error
	calls   map[string]int
	scopes  map[string]backends.Info
	entries map[backends.DID]*entry
	pasts   []backends.Past
	rules   []backends.RuleStatus
	inode   uint64
	seq     int
}

type entry struct {
	info     backends.Info
	meta     backends.Meta
	replicas []backends.Replica
	children map[backends.DID]bool // attached, in layout contents
}

var (
	_ backends.Catalogue = (*Catalogue)(nil)
	_ backends.Namespace = (*Catalogue)(nil)
	_ backends.Versions  = (*Catalogue)(nil)
	_ backends.Rules     = (*Catalogue)(nil)
	_ backends.Places    = (*Catalogue)(nil)
)

// NewCatalogue gives an empty catalogue.
func NewCatalogue() *Catalogue {
	return &Catalogue{calls: map[string]int{}, scopes: map[string]backends.Info{}, entries: map[backends.DID]*entry{}, inode: 1}
}

// Fail makes every method ask f first, with its name in lower case; an error of f is the answer.
func (c *Catalogue) Fail(f func(op string, d backends.DID) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = f
}

// Calls tells how often the method of that name, in lower case, was called.
func (c *Catalogue) Calls(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[op]
}

// begin counts the call and asks for a failure; on success the lock is held.
func (c *Catalogue) begin(op string, d backends.DID) error {
	c.mu.Lock()
	c.calls[op]++
	if f := c.fail; f != nil {
		c.mu.Unlock()
		if err := f(op, d); err != nil {
			return &backends.OpError{Op: op, DID: d, Err: err}
		}
		c.mu.Lock()
	}
	return nil
}

func (c *Catalogue) find(op string, d backends.DID) (*entry, error) {
	e := c.entries[d]
	if e == nil {
		err := backends.ErrNotExist
		for i := range d.Name {
			if d.Name[i] == '/' && c.layout(d.Scope) == backends.LayoutLFN {
				if p := c.entries[backends.DID{Scope: d.Scope, Name: d.Name[:i]}]; p != nil && !p.info.IsDir() {
					err = backends.ErrNotDir
				}
			}
		}
		return nil, &backends.OpError{Op: op, DID: d, Err: err}
	}
	return e, nil
}

func (c *Catalogue) layout(scope string) backends.Layout { return c.scopes[scope].Layout }

// Stat is backends.Catalogue's.
func (c *Catalogue) Stat(_ context.Context, d backends.DID) (backends.Info, error) {
	if err := c.begin("stat", d); err != nil {
		return backends.Info{}, err
	}
	defer c.mu.Unlock()
	e, err := c.find("stat", d)
	if err != nil {
		return backends.Info{}, err
	}
	return e.info, nil
}

// Contents is backends.Catalogue's. It works on a copy.
func (c *Catalogue) Contents(_ context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		if err := c.begin("contents", d); err != nil {
			yield(backends.Info{}, err)
			return
		}
		list, key, err := c.contentsLocked(d)
		c.mu.Unlock()
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		slices.SortFunc(list, func(a, b backends.Info) int { return strings.Compare(key(a.DID), key(b.DID)) })
		for _, in := range list {
			if key(in.DID) > after && !yield(in, nil) {
				return
			}
		}
	}
}

func (c *Catalogue) contentsLocked(d backends.DID) (list []backends.Info, key func(backends.DID) string, err error) {
	e, err := c.find("contents", d)
	if err != nil {
		return nil, nil, err
	}
	if !e.info.IsDir() {
		return nil, nil, &backends.OpError{Op: "contents", DID: d, Err: backends.ErrNotDir}
	}
	if c.layout(d.Scope) == backends.LayoutContents {
		attached := map[backends.DID]bool{}
		if d.Name == "" {
			for _, x := range c.entries {
				maps.Copy(attached, x.children)
			}
		}
		for k, x := range c.entries {
			if e.children[k] || d.Name == "" && k.Scope == d.Scope && k.Name != "" && !attached[k] {
				list = append(list, x.info)
			}
		}
		return list, backends.DID.String, nil
	}
	for k, x := range c.entries {
		if i := strings.LastIndexByte(k.Name, '/'); k.Scope == d.Scope && i > 0 && k.Name[:i] == d.Name {
			list = append(list, x.info)
		}
	}
	return list, func(d backends.DID) string { return d.Name[strings.LastIndexByte(d.Name, '/')+1:] }, nil
}

// Parents is backends.Catalogue's.
func (c *Catalogue) Parents(_ context.Context, d backends.DID) iter.Seq2[backends.DID, error] {
	return func(yield func(backends.DID, error) bool) {
		if err := c.begin("parents", d); err != nil {
			yield(backends.DID{}, err)
			return
		}
		var list []backends.DID
		if c.layout(d.Scope) == backends.LayoutLFN {
			if i := strings.LastIndexByte(d.Name, '/'); i > 0 {
				list = append(list, backends.DID{Scope: d.Scope, Name: d.Name[:i]})
			}
		}
		for k, e := range c.entries {
			if e.children[d] {
				list = append(list, k)
			}
		}
		c.mu.Unlock()
		for _, p := range list {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// Find is not supported.
func (c *Catalogue) Find(_ context.Context, root backends.DID, _ query.Expr) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		yield(backends.Info{}, &backends.OpError{Op: "find", DID: root, Err: backends.ErrNotSupported})
	}
}

// Add is backends.Catalogue's; a new content makes a Past of the old one.
func (c *Catalogue) Add(_ context.Context, in backends.Info, meta backends.Meta, at ...backends.Replica) error {
	if err := c.begin("add", in.DID); err != nil {
		return err
	}
	defer c.mu.Unlock()
	if i := strings.LastIndexByte(in.DID.Name, '/'); c.layout(in.DID.Scope) == backends.LayoutLFN {
		if i <= 0 {
			return &backends.OpError{Op: "add", DID: in.DID, Err: backends.ErrName}
		}
		if _, err := c.find("add", backends.DID{Scope: in.DID.Scope, Name: in.DID.Name[:i]}); err != nil {
			return err
		}
	}
	if in.Type == backends.File && in.Generation == "" {
		in.Generation = backends.GenerationOf(in.DID, in.Size, in.Checksums)
	}
	old := c.entries[in.DID]
	switch {
	case old != nil && in.Type != backends.File:
		return &backends.OpError{Op: "add", DID: in.DID, Err: backends.ErrExist}
	case old != nil && old.info.Generation == in.Generation:
		for _, r := range at {
			old.put(r)
		}
		return nil
	case old != nil:
		in.Inode = old.info.Inode
		c.pastLocked(old, true)
	}
	if in.Inode == 0 {
		c.inode++
		in.Inode = c.inode
	}
	c.entries[in.DID] = &entry{info: in, meta: meta.Clone(), replicas: slices.Clone(at), children: map[backends.DID]bool{}}
	return nil
}

func (e *entry) put(r backends.Replica) {
	i := slices.IndexFunc(e.replicas, func(x backends.Replica) bool { return x.RSE == r.RSE })
	if i < 0 {
		e.replicas = append(e.replicas, r)
		return
	}
	e.replicas[i] = r
}

func (c *Catalogue) pastLocked(e *entry, replaced bool) {
	now := time.Now()
	c.seq++
	c.pasts = append(c.pasts, backends.Past{Info: e.info, Replicas: e.replicas, Meta: e.meta, Removed: now, Until: now.Add(Grace),
		Replaced: replaced, Handle: fmt.Sprintf("p%d", c.seq)})
}

// Attach is backends.Catalogue's.
func (c *Catalogue) Attach(_ context.Context, parent backends.DID, children ...backends.DID) error {
	if err := c.begin("attach", parent); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e, err := c.find("attach", parent)
	if err != nil {
		return err
	}
	for _, d := range children {
		e.children[d] = true
	}
	return nil
}

// Detach is backends.Catalogue's.
func (c *Catalogue) Detach(_ context.Context, parent backends.DID, children ...backends.DID) error {
	if err := c.begin("detach", parent); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e, err := c.find("detach", parent)
	if err != nil {
		return err
	}
	for _, d := range children {
		delete(e.children, d)
	}
	return nil
}

// Replicas is backends.Catalogue's.
func (c *Catalogue) Replicas(_ context.Context, d backends.DID) ([]backends.Replica, error) {
	if err := c.begin("replicas", d); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	e, err := c.find("replicas", d)
	if err != nil {
		return nil, err
	}
	return slices.Clone(e.replicas), nil
}

// PutReplica is backends.Catalogue's.
func (c *Catalogue) PutReplica(_ context.Context, d backends.DID, gen backends.Generation, r backends.Replica) error {
	if err := c.begin("putreplica", d); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e, err := c.find("putreplica", d)
	if err != nil {
		return err
	}
	if gen != "" && gen != e.info.Generation {
		return &backends.OpError{Op: "put replica", DID: d, Err: backends.ErrStale}
	}
	e.put(r)
	return nil
}

// DropReplica is backends.Catalogue's.
func (c *Catalogue) DropReplica(_ context.Context, d backends.DID, rse, pfn string) error {
	if err := c.begin("dropreplica", d); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e, err := c.find("dropreplica", d)
	if err != nil {
		return err
	}
	e.replicas = slices.DeleteFunc(e.replicas, func(r backends.Replica) bool { return r.RSE == rse && (pfn == "" || r.PFN == pfn) })
	return nil
}

// Holders is backends.Places's, for all RSEs.
func (c *Catalogue) Holders(_ context.Context, rse, pfn string) (n int, err error) {
	if err := c.begin("holders", backends.DID{}); err != nil {
		return 0, err
	}
	defer c.mu.Unlock()
	count := func(rs []backends.Replica) {
		for _, r := range rs {
			if r.RSE == rse && r.PFN == pfn {
				n++
			}
		}
	}
	for _, e := range c.entries {
		count(e.replicas)
	}
	for _, p := range c.pasts {
		count(p.Replicas)
	}
	return n, nil
}

// Meta is backends.Catalogue's.
func (c *Catalogue) Meta(_ context.Context, d backends.DID) (backends.Meta, error) {
	if err := c.begin("meta", d); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	e, err := c.find("meta", d)
	if err != nil {
		return nil, err
	}
	return e.meta.Clone(), nil
}

// SetMeta is backends.Catalogue's.
func (c *Catalogue) SetMeta(_ context.Context, d backends.DID, m backends.Meta) error {
	if err := c.begin("setmeta", d); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e, err := c.find("setmeta", d)
	if err != nil {
		return err
	}
	for k, v := range m {
		if v == nil {
			delete(e.meta, k)
		} else {
			e.meta[k] = v
		}
	}
	return nil
}

// Usage is backends.Catalogue's.
func (c *Catalogue) Usage() (files, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.info.Type == backends.File {
			files, bytes = files+1, bytes+e.info.Size
		}
	}
	return files, bytes
}

// Traits says what this catalogue can do.
func (c *Catalogue) Traits() backends.CatalogueTraits {
	return backends.CatalogueTraits{Versions: true, Symlinks: true, Attributes: true, AnyName: true}
}

// Close does nothing.
func (c *Catalogue) Close() error { return nil }

// Scopes is backends.Namespace's.
func (c *Catalogue) Scopes(context.Context) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		if err := c.begin("scopes", backends.DID{}); err != nil {
			yield(backends.Info{}, err)
			return
		}
		scopes := maps.Clone(c.scopes)
		c.mu.Unlock()
		for _, k := range slices.Sorted(maps.Keys(scopes)) {
			if !yield(scopes[k], nil) {
				return
			}
		}
	}
}

// AddScope is backends.Namespace's.
func (c *Catalogue) AddScope(_ context.Context, in backends.Info) error {
	if err := c.begin("addscope", in.DID); err != nil {
		return err
	}
	defer c.mu.Unlock()
	if in.Layout == "" {
		in.Layout = backends.LayoutLFN
	}
	in.Type, in.DID.Name = backends.Container, ""
	if in.Layout == backends.LayoutLFN {
		in.DID.Name = "/" + in.DID.Scope
	}
	c.inode++
	in.Inode = c.inode
	c.scopes[in.DID.Scope] = in
	c.entries[in.DID] = &entry{info: in, children: map[backends.DID]bool{}}
	return nil
}

// RemoveScope is backends.Namespace's.
func (c *Catalogue) RemoveScope(_ context.Context, scope string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, c.scopes[scope].DID)
	delete(c.scopes, scope)
	return nil
}

// Rename is not supported.
func (c *Catalogue) Rename(_ context.Context, from, _ backends.DID) error {
	return &backends.OpError{Op: "rename", DID: from, Err: backends.ErrNotSupported}
}

// Remove is backends.Namespace's.
func (c *Catalogue) Remove(_ context.Context, d backends.DID) error {
	if err := c.begin("remove", d); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e, err := c.find("remove", d)
	if err != nil {
		return err
	}
	if len(e.replicas) > 0 {
		c.pastLocked(e, false)
	}
	delete(c.entries, d)
	for _, x := range c.entries {
		delete(x.children, d)
	}
	return nil
}

// Update is not supported.
func (c *Catalogue) Update(_ context.Context, d backends.DID, _ backends.Change) error {
	return &backends.OpError{Op: "update", DID: d, Err: backends.ErrNotSupported}
}

// ErrDown is a storage, tape system or catalogue that does not answer.
var ErrDown = errors.Join(backends.ErrUnavailable, backends.ErrTemporary)
