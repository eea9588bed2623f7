package backendstest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarn/backends"
)

// CatalogueModel does random changes on a catalogue and on plain maps, and compares
// what both say. It prints its seed; TARN_MODEL_SEED repeats a run.
func CatalogueModel(t *testing.T, open Open, steps int) {
	seed, err := strconv.ParseUint(os.Getenv("TARN_MODEL_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("TARN_MODEL_SEED=%d", seed)
	k := newCatalogueTest(t, open)
	k.needVersions()
	k.needRename()
	reopen := k.Reopen
	k.Reopen = nil
	m := &model{catalogueTest: k, rnd: rand.New(rand.NewPCG(seed, 1)), root: &node{dir: true, children: map[string]*node{}, members: map[string]*node{}}}
	m.root.name = k.scope
	for i := range steps {
		m.step()
		if t.Failed() {
			t.Fatalf("after step %d, last %s", i, m.last)
		}
		if i%50 == 49 || i == steps-1 {
			m.compare()
			if k.Check != nil {
				k.Check(t)
			}
			if reopen != nil {
				k.Opened = reopen(t)
				reopen = k.Opened.Reopen
				m.compare()
			}
		}
	}
}

// node is a DID of the model.
type node struct {
	name     string
	parent   *node // nil: the scope, or not in the tree
	dir      bool
	children map[string]*node
	members  map[string]*node // attached to it
	in       []*node          // what it is attached to

	size     int
	inode    uint64
	replicas map[string]bool
	meta     string
}

// oldContent is a Past of the model; its collection stays what it was, also removed.
type oldContent struct {
	of       *node // parent
	name     string
	size     int
	replicas map[string]bool
	meta     string
}

type model struct {
	*catalogueTest
	rnd     *rand.Rand
	root    *node
	pasts   []oldContent
	content int
	last    string
}

func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	return strings.TrimPrefix(n.parent.path()+"/"+n.name, "/")
}

// walk calls f for n and what is at home below it, in order.
func (n *node) walk(f func(*node)) {
	f(n)
	var names []string
	for name := range n.children {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		n.children[name].walk(f)
	}
}

// inside tells whether n is over, or at home below it.
func (n *node) inside(over *node) bool {
	for ; n != nil; n = n.parent {
		if n == over {
			return true
		}
	}
	return false
}

// below tells whether n is reached from over, at home or by attachment.
func (n *node) below(over *node) bool {
	if n == nil {
		return false
	}
	if n == over || n.parent.below(over) {
		return true
	}
	for _, p := range n.in {
		if p.below(over) {
			return true
		}
	}
	return false
}

func (m *model) pick(f func(*node) bool) *node {
	var all []*node
	m.root.walk(func(n *node) {
		if f(n) {
			all = append(all, n)
		}
	})
	if len(all) == 0 {
		return nil
	}
	return all[m.rnd.IntN(len(all))]
}

func (m *model) anyDir() *node { return m.pick(func(n *node) bool { return n.dir }) }

func (m *model) anyFile() *node { return m.pick(func(n *node) bool { return !n.dir }) }

func (m *model) anyNode() *node { return m.pick(func(n *node) bool { return n != m.root }) }

func (m *model) newName() string {
	return string(rune('a' + m.rnd.IntN(6)))
}

// expect compares an outcome with what the model says.
func (m *model) expect(err, want error) bool {
	m.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		m.Errorf("%s: error is %v, the model says %v", m.last, err, want)
	}
	return want == nil && err == nil
}

func (m *model) step() {
	switch p := m.rnd.IntN(100); {
	case p < 25:
		m.addFile()
	case p < 37:
		m.addDir()
	case p < 57:
		m.move()
	case p < 70:
		m.remove()
	case p < 76:
		m.attach()
	case p < 80:
		m.detach()
	case p < 86:
		m.setMeta()
	case p < 91:
		m.replica()
	case p < 97:
		m.undelete()
	default:
		m.purge()
	}
}

func (m *model) addFile() {
	dir, name := m.anyDir(), m.newName()
	m.content++
	size := m.content
	rs := map[string]bool{}
	var at []backends.Replica
	if m.rnd.IntN(4) > 0 {
		rs["DISK"] = true
		at = append(at, replica("DISK"))
	}
	d := m.did(strings.TrimPrefix(dir.path()+"/"+name, "/"))
	m.last = fmt.Sprintf("add file %v of size %d", d, size)
	old := dir.children[name]
	var want error
	if old != nil && old.dir || old == nil && dir.members[name] != nil {
		want = backends.ErrExist
	}
	if !m.expect(m.Catalogue.Add(m.ctx, fileInfo(d, size), nil, at...), want) {
		return
	}
	if old != nil {
		m.bury(old)
		old.size, old.replicas = size, rs
		return
	}
	dir.children[name] = &node{name: name, parent: dir, size: size, replicas: rs, inode: m.stat(d).Inode}
}

func (m *model) addDir() {
	dir, name := m.anyDir(), m.newName()
	d := m.did(strings.TrimPrefix(dir.path()+"/"+name, "/"))
	m.last = fmt.Sprintf("add collection %v", d)
	var want error
	if dir.children[name] != nil || dir.members[name] != nil {
		want = backends.ErrExist
	}
	if m.expect(m.Catalogue.Add(m.ctx, backends.Info{DID: d, Type: backends.Dataset}, nil), want) {
		dir.children[name] = &node{name: name, parent: dir, dir: true, children: map[string]*node{}, members: map[string]*node{}, inode: m.stat(d).Inode}
	}
}

func (m *model) bury(n *node) {
	if len(n.replicas) > 0 {
		m.pasts = append(m.pasts, oldContent{of: n.parent, name: n.name, size: n.size, replicas: n.replicas, meta: n.meta})
	}
	n.replicas = map[string]bool{}
}

// leave takes n out of all it is attached to, and gives what that was.
func (n *node) leave() []*node {
	in := n.in
	for _, p := range in {
		delete(p.members, n.name)
	}
	n.in = nil
	return in
}

// join attaches n again where its name is free.
func (n *node) join(to []*node) {
	for _, p := range to {
		if p == n.parent || p.children[n.name] != nil || p.members[n.name] != nil || n.dir && p.below(n) {
			continue
		}
		p.members[n.name] = n
		n.in = append(n.in, p)
	}
}

func (m *model) move() {
	n, dir, name := m.anyNode(), m.anyDir(), m.newName()
	if n == nil {
		return
	}
	from := m.did(n.path())
	to := m.did(strings.TrimPrefix(dir.path()+"/"+name, "/"))
	m.last = fmt.Sprintf("rename %v to %v", from, to)
	old := dir.children[name]
	want := n.moveError(dir, name, old)
	if !m.expect(m.Namespace.Rename(m.ctx, from, to), want) || old == n {
		return
	}
	var members []*node
	if old != nil {
		members = old.leave()
		m.bury(old)
		delete(dir.children, name)
	}
	in := n.leave()
	delete(n.parent.children, n.name)
	n.parent, n.name = dir, name
	dir.children[name] = n
	n.join(in)
	n.join(members)
}

func (n *node) moveError(dir *node, name string, old *node) error {
	switch {
	case old == n:
		return nil
	case n.dir && dir.inside(n):
		return backends.ErrName
	case n.dir && dir.below(n):
		return backends.ErrLoop
	case old != nil && old.dir && !n.dir:
		return backends.ErrIsDir
	case old != nil && !old.dir && n.dir:
		return backends.ErrNotDir
	case old != nil && old.dir && len(old.children)+len(old.members) > 0:
		return backends.ErrNotEmpty
	case old == nil && dir.members[name] != nil && dir.members[name] != n:
		return backends.ErrExist
	}
	for _, p := range n.in {
		if p == dir || name == n.name {
			continue
		}
		if x := p.members[name]; x != nil && x != old {
			return backends.ErrExist
		}
		if x := p.children[name]; x != nil && x != old {
			return backends.ErrExist
		}
	}
	return nil
}

func (m *model) remove() {
	n := m.anyNode()
	if n == nil {
		return
	}
	m.last = "remove " + n.path()
	var want error
	if len(n.children)+len(n.members) > 0 {
		want = backends.ErrNotEmpty
	}
	if m.expect(m.Namespace.Remove(m.ctx, m.did(n.path())), want) {
		n.leave()
		m.bury(n)
		delete(n.parent.children, n.name)
	}
}

func (m *model) attach() {
	p, n := m.anyDir(), m.anyNode()
	if n == nil {
		return
	}
	m.last = fmt.Sprintf("attach %s to %s", n.path(), p.path())
	var want error
	has := n.parent == p || slices.Contains(n.in, p)
	switch {
	case has:
	case n.dir && p.below(n):
		want = backends.ErrLoop
	case p.children[n.name] != nil || p.members[n.name] != nil:
		want = backends.ErrExist
	}
	if m.expect(m.Catalogue.Attach(m.ctx, m.did(p.path()), m.did(n.path())), want) && !has {
		p.members[n.name] = n
		n.in = append(n.in, p)
	}
}

func (m *model) detach() {
	p, n := m.anyDir(), m.anyNode()
	if n == nil {
		return
	}
	if len(n.in) > 0 && m.rnd.IntN(2) == 0 {
		p = n.in[0]
	}
	m.last = fmt.Sprintf("detach %s from %s", n.path(), p.path())
	var want error
	if n.parent == p {
		want = backends.ErrNotSupported
	}
	if m.expect(m.Catalogue.Detach(m.ctx, m.did(p.path()), m.did(n.path())), want) {
		if i := slices.Index(n.in, p); i >= 0 {
			n.in = slices.Delete(n.in, i, i+1)
			delete(p.members, n.name)
		}
	}
}

func (m *model) setMeta() {
	n := m.anyNode()
	if n == nil {
		return
	}
	m.last = "set metadata of " + n.path()
	val := []any{nil, "x", "y"}[m.rnd.IntN(3)]
	if m.expect(m.Catalogue.SetMeta(m.ctx, m.did(n.path()), backends.Meta{"k": val}), nil) {
		n.meta, _ = val.(string)
	}
}

func (m *model) replica() {
	n := m.anyFile()
	if n == nil {
		return
	}
	m.last = "replica of " + n.path()
	rse := []string{"DISK", "TAPE"}[m.rnd.IntN(2)]
	if m.rnd.IntN(2) == 0 {
		if m.expect(m.Catalogue.PutReplica(m.ctx, m.did(n.path()), "", replica(rse)), nil) {
			n.replicas[rse] = true
		}
	} else if m.expect(m.Catalogue.DropReplica(m.ctx, m.did(n.path()), rse, ""), nil) {
		delete(n.replicas, rse)
	}
}

// live tells whether a collection stands in the tree.
func (m *model) live(n *node) bool {
	for ; n.parent != nil; n = n.parent {
		if n.parent.children[n.name] != n {
			return false
		}
	}
	return n == m.root
}

func (m *model) undelete() {
	if len(m.pasts) == 0 {
		return
	}
	i := m.rnd.IntN(len(m.pasts))
	p := m.pasts[i]
	if !m.live(p.of) {
		return // what comes back then has a suite of its own
	}
	m.last = fmt.Sprintf("undelete %s of size %d", strings.TrimPrefix(p.of.path()+"/"+p.name, "/"), p.size)
	h, in := m.handle(p.size)
	old := p.of.children[p.name]
	var want error
	if old != nil && old.dir {
		want = backends.ErrIsDir
	} else if old == nil && p.of.members[p.name] != nil {
		want = backends.ErrExist
	}
	if !m.expect(m.Versions.Undelete(m.ctx, h), want) {
		return
	}
	m.pasts = slices.Delete(m.pasts, i, i+1)
	n := &node{name: p.name, parent: p.of, size: p.size, replicas: p.replicas, meta: p.meta}
	var members []*node
	if old != nil {
		members = old.leave()
		m.bury(old)
	}
	p.of.children[p.name] = n
	got := m.stat(m.did(n.path()))
	n.inode = got.Inode
	taken := false
	m.root.walk(func(o *node) { taken = taken || o != n && o.inode == in })
	if !taken && n.inode != in {
		m.Errorf("%s: inode is %d, was %d", m.last, n.inode, in)
	}
	// Where it was a member before, it may be one again: ask.
	for _, d := range collect(m.catalogueTest, m.Catalogue.Parents(m.ctx, got.DID)) {
		if o := m.pick(func(o *node) bool { return m.did(o.path()) == d }); o != nil && o != n.parent {
			n.join([]*node{o})
		}
	}
	for _, o := range members {
		if !slices.Contains(n.in, o) {
			m.Errorf("%s: it is no member of %s any more", m.last, o.path())
		}
	}
}

// handle finds the Past of a content, each of which has a size of its own.
func (m *model) handle(size int) (string, uint64) {
	for _, p := range collect(m.catalogueTest, m.Versions.Pasts(m.ctx, backends.DID{})) {
		if p.Info.Size == int64(size) {
			return p.Handle, p.Info.Inode
		}
	}
	m.Fatalf("%s: no past of size %d", m.last, size)
	return "", 0
}

func (m *model) purge() {
	if len(m.pasts) == 0 {
		return
	}
	i := m.rnd.IntN(len(m.pasts))
	m.last = fmt.Sprintf("purge the past of size %d", m.pasts[i].size)
	h, _ := m.handle(m.pasts[i].size)
	if m.expect(m.Versions.Purge(m.ctx, h), nil) {
		m.pasts = slices.Delete(m.pasts, i, i+1)
	}
}
