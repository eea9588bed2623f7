package fs

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/backends"
	"tarn/backends/query"
	"tarn/fs/vfs"
)

// dotName is the directory about the mount itself: it can be entered, and is never listed.
const dotName = ".tarn"

// dotBit marks the ids of nodes below .tarn, with the bit after it clear.
const dotBit = 1 << 63

func isDot(id uint64) bool { return id>>62 == dotBit>>62 }

// findLimit bounds the entries of one .tarn/find/<query> directory.
const findLimit = 100000

// dotNode is a file, directory or link below .tarn.
type dotNode struct {
	id      uint64
	mode    uint32
	text    func() []byte           // of a file
	names   func() []*dotNode       // of a directory that is listed
	find    func(s string) *dotNode // of a directory that is looked up in, nil: among names
	name    string
	target  string
	lookups uint64
}

// dotTree serves .tarn: stats, config, uploads, recalls, and find/<query>/, whose
// entries are links to the files that match.
type dotTree struct {
	r    *rawFS
	root *dotNode

	mu    sync.Mutex
	last  uint64
	nodes map[uint64]*dotNode // known to the kernel
}

func newDotTree(r *rawFS) *dotTree {
	t := &dotTree{r: r, nodes: map[uint64]*dotNode{}}
	asJSON := func(x any) []byte {
		b, err := json.MarshalIndent(x, "", "  ")
		if err != nil {
			return []byte(err.Error() + "\n")
		}
		return append(b, '\n')
	}
	text := func(f func() []byte) func() []byte {
		if f == nil {
			return func() []byte { return nil }
		}
		return f
	}
	kids := []*dotNode{
		t.node("config", fuse.S_IFREG|0o444),
		t.node("find", fuse.S_IFDIR|0o555),
		t.node("recalls", fuse.S_IFREG|0o444),
		t.node("stats", fuse.S_IFREG|0o444),
		t.node("uploads", fuse.S_IFREG|0o444),
	}
	kids[0].text = text(r.o.Config)
	kids[1].names = func() []*dotNode { return nil }
	kids[1].find = t.query
	kids[2].text = text(r.o.Recalls)
	kids[3].text = func() []byte {
		s := struct {
			vfs.Stats
			Ingests any `json:"ingests,omitempty"`
		}{Stats: r.vfs.Stats()}
		if r.o.Ingests != nil {
			s.Ingests = r.o.Ingests()
		}
		return asJSON(s)
	}
	kids[4].text = func() []byte { return asJSON(r.vfs.Uploads()) }
	t.root = t.node(dotName, fuse.S_IFDIR|0o555)
	t.root.names = func() []*dotNode { return kids }
	return t
}

func (t *dotTree) node(name string, mode uint32) *dotNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	return &dotNode{id: t.last | dotBit, name: name, mode: mode}
}

// query makes the directory of a query, nil when it is none.
func (t *dotTree) query(s string) *dotNode {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	q, err := t.r.vfs.Query(ctx, s)
	if err != nil {
		t.r.log.Info("query below .tarn/find", "query", s, "err", err)
		return nil
	}
	n := t.node(s, fuse.S_IFDIR|0o555)
	var once sync.Once
	var found []*dotNode
	n.names = func() []*dotNode {
		once.Do(func() { found = t.matches(q) })
		return found
	}
	return n
}

func (t *dotTree) matches(q query.Expr) (out []*dotNode) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	seen := map[string]int{}
	from := &backends.Indexed{}
	defer func() {
		if !from.AsOf.IsZero() {
			t.r.log.Debug("find: from the index", "query", q.String(), "as_of", from.AsOf)
		}
	}()
	for w, err := range t.r.vfs.Find(backends.WithIndex(ctx, from), "/", q) {
		if err != nil {
			t.r.log.Warn("find", "query", q.String(), "err", err)
			return out
		}
		name := path.Base(w.Path)
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s~%d", name, seen[name])
		}
		l := t.node(name, fuse.S_IFLNK|0o777)
		l.target = "../../.." + w.Path
		if out = append(out, l); len(out) == findLimit {
			t.r.log.Warn("find: further matches are not shown", "query", q.String(), "shown", findLimit)
			return out
		}
	}
	return out
}

func (t *dotTree) known(id uint64) *dotNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodes[id]
}

func (t *dotTree) lookup(parent uint64, name string, out *fuse.EntryOut) fuse.Status {
	n := t.root
	if isDot(parent) {
		p := t.known(parent)
		if p == nil {
			return fuse.Status(estale)
		}
		if p.names == nil {
			return fuse.ENOTDIR
		}
		n = nil
		if p.find != nil {
			if n = p.find(name); n == nil {
				return fuse.EINVAL
			}
		} else {
			for _, c := range p.names() {
				if c.name == name {
					n = c
				}
			}
		}
		if n == nil {
			return fuse.ENOENT
		}
	}
	t.give(n, out)
	return fuse.OK
}

// give hands a node to the kernel.
func (t *dotTree) give(n *dotNode, out *fuse.EntryOut) {
	t.mu.Lock()
	n.lookups++
	t.nodes[n.id] = n
	t.mu.Unlock()
	out.NodeId = n.id
	out.SetEntryTimeout(time.Second)
	out.SetAttrTimeout(time.Second)
	t.attr(n, &out.Attr)
}

func (t *dotTree) forget(id, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return
	}
	if n.lookups -= min(count, n.lookups); n.lookups == 0 {
		delete(t.nodes, id)
	}
}

func (t *dotTree) attr(n *dotNode, out *fuse.Attr) {
	now := time.Now()
	in := t.r.vfs.Root().Info()
	t.r.attr(vfs.Attr{Inode: n.id, Mode: n.mode, NLink: 1, Size: int64(len(n.target)), UID: in.UID, GID: in.GID, MTime: now, CTime: now}, out)
}

func (t *dotTree) getattr(id uint64, out *fuse.AttrOut) fuse.Status {
	n := t.known(id)
	if n == nil {
		return fuse.Status(estale)
	}
	t.attr(n, &out.Attr)
	out.SetTimeout(time.Second)
	return fuse.OK
}

func (t *dotTree) readlink(id uint64) ([]byte, fuse.Status) {
	n := t.known(id)
	if n == nil || n.target == "" {
		return nil, fuse.EINVAL
	}
	return []byte(n.target), fuse.OK
}

// dotFile is an open file of .tarn: the text as it was at open.
type dotFile struct{ text []byte }

func (t *dotTree) open(id uint64, out *fuse.OpenOut) fuse.Status {
	n := t.known(id)
	if n == nil || n.text == nil {
		return fuse.EINVAL
	}
	out.Fh = t.r.keep(&dotFile{n.text()})
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH // its size is not told
	return fuse.OK
}

func (t *dotTree) read(fh uint64, buf []byte, off int64) (fuse.ReadResult, fuse.Status) {
	t.r.mu.Lock()
	f, ok := t.r.fhs[fh].(*dotFile)
	t.r.mu.Unlock()
	if !ok {
		return nil, fuse.EBADF
	}
	if off >= int64(len(f.text)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return fuse.ReadResultData(buf[:copy(buf, f.text[off:])]), fuse.OK
}

// dotDir is an open directory of .tarn.
type dotDir struct {
	id    uint64
	nodes []*dotNode
}

func (t *dotTree) opendir(id uint64, out *fuse.OpenOut) fuse.Status {
	n := t.known(id)
	if n == nil || n.names == nil {
		return fuse.ENOTDIR
	}
	out.Fh = t.r.keep(&dotDir{id, n.names()})
	return fuse.OK
}

func (t *dotTree) readdir(fh, off uint64, out *fuse.DirEntryList) fuse.Status {
	return t.list(fh, off, out, false)
}

func (t *dotTree) readdirplus(fh, off uint64, out *fuse.DirEntryList) fuse.Status {
	return t.list(fh, off, out, true)
}

func (t *dotTree) list(fh, off uint64, out *fuse.DirEntryList, plus bool) fuse.Status {
	t.r.mu.Lock()
	d, ok := t.r.fhs[fh].(*dotDir)
	t.r.mu.Unlock()
	if !ok {
		return fuse.EBADF
	}
	for ; off < uint64(len(d.nodes))+2; off++ {
		if off < 2 {
			if !addDot(out, fuse.DirEntry{Name: strings.Repeat(".", int(off)+1), Mode: fuse.S_IFDIR, Ino: d.id, Off: off + 1}, plus) {
				return fuse.OK
			}
			continue
		}
		n := d.nodes[off-2]
		e := fuse.DirEntry{Name: n.name, Mode: n.mode, Ino: n.id, Off: off + 1}
		if !plus {
			if !out.AddDirEntry(e) {
				return fuse.OK
			}
			continue
		}
		eo := out.AddDirLookupEntry(e)
		if eo == nil {
			return fuse.OK
		}
		t.give(n, eo)
	}
	return fuse.OK
}
