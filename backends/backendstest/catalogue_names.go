package backendstest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"tarn/backends"
)

func contextCancelled(k *catalogueTest) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(k.ctx)
	cancel()
	return ctx, cancel
}

// manyFiles gives entries for an import below a collection.
func manyFiles(k *catalogueTest, dir string, n int) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		for i := range n {
			e := backends.Entry{Info: fileInfo(k.did(dir+fmt.Sprintf("%06d", i)), i+1), Replicas: []backends.Replica{replica("TAPE")}}
			if i%10 == 0 {
				e.Meta = backends.Meta{"tenth": i}
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (k *catalogueTest) needNamespace() {
	k.Helper()
	if k.Namespace == nil {
		k.Skip("no Namespace")
	}
}

func (k *catalogueTest) needRename() {
	k.Helper()
	k.needNamespace()
	if !k.Catalogue.Traits().Rename {
		k.Skip("no Rename")
	}
}

var namespaceCases = []catalogueCase{
	{"Scopes streams the scopes in ascending order, as their collections", func(k *catalogueTest) {
		k.needNamespace()
		k.must(k.Namespace.AddScope(k.ctx, backends.Info{DID: backends.DID{Scope: "b"}, Mode: 0o700, UID: 3, GID: 4}))
		k.must(k.Namespace.AddScope(k.ctx, backends.Info{DID: backends.DID{Scope: "a"}, Layout: backends.LayoutContents}))
		in := collect(k, k.Namespace.Scopes(k.ctx))
		if len(in) != 3 || in[0].DID != (backends.DID{Scope: "a"}) || in[1].DID != (backends.DID{Scope: "b", Name: "/b"}) || in[2].DID != k.did("") {
			k.Fatalf("Scopes gives %v", in)
		}
		k.equal("attributes", []any{in[1].Mode, in[1].UID, in[1].GID, in[1].Layout, in[0].Layout}, []any{0o700, 3, 4, "lfn", "contents"})
		k.equal("Stat", k.stat(in[1].DID), in[1])
	}},
	{"AddScope of one that exists or has no valid name", func(k *catalogueTest) {
		k.needNamespace()
		for name, want := range map[string]error{k.scope: backends.ErrExist, "": backends.ErrName, "a/b": backends.ErrName, "..": backends.ErrName, "abcdefghijklmnopqrstuvwxyz": backends.ErrNameTooLong} {
			k.wants(k.Namespace.AddScope(k.ctx, backends.Info{DID: backends.DID{Scope: name}}), want)
		}
	}},
	{"RemoveScope deletes an empty scope", func(k *catalogueTest) {
		k.needNamespace()
		k.file(k.did("f"), 1)
		k.wants(k.Namespace.RemoveScope(k.ctx, k.scope), backends.ErrNotEmpty)
		k.must(k.Namespace.Remove(k.ctx, k.did("f")))
		k.must(k.Namespace.RemoveScope(k.ctx, k.scope))
		k.missing(k.did(""))
		k.wants(k.Namespace.RemoveScope(k.ctx, k.scope), backends.ErrNotExist)
		k.equal("Scopes", len(collect(k, k.Namespace.Scopes(k.ctx))), 0)
	}},
	{"Remove drops the name; a collection must be empty", func(k *catalogueTest) {
		k.needNamespace()
		k.dir(k.did("d"))
		k.file(k.did("d/f"), 1)
		k.file(k.did("g"), 2)
		k.wants(k.Namespace.Remove(k.ctx, k.did("d")), backends.ErrNotEmpty)
		k.must(k.Namespace.Remove(k.ctx, k.did("d/f")))
		k.missing(k.did("d/f"))
		k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("g")))
		k.wants(k.Namespace.Remove(k.ctx, k.did("d")), backends.ErrNotEmpty)
		k.must(k.Catalogue.Detach(k.ctx, k.did("d"), k.did("g")))
		k.must(k.Namespace.Remove(k.ctx, k.did("d")))
		k.missing(k.did("d"))
		k.wants(k.Namespace.Remove(k.ctx, k.did("d")), backends.ErrNotExist)
	}},
	{"Remove detaches everywhere", func(k *catalogueTest) {
		k.needNamespace()
		k.dir(k.did("d"))
		k.file(k.did("f"), 1)
		k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("f")))
		k.must(k.Namespace.Remove(k.ctx, k.did("f")))
		k.equal("members", k.names(k.did("d"), ""), []string(nil))
	}},
	{"a file without replicas leaves no Past, and a new file has a new inode", func(k *catalogueTest) {
		k.needNamespace()
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 1), backends.Meta{"a": 1}))
		was := k.stat(k.did("f")).Inode
		k.must(k.Namespace.Remove(k.ctx, k.did("f")))
		k.equal("number of pasts", len(k.pasts(k.did("f"))), 0)
		if now := k.file(k.did("f"), 1).Inode; now == was {
			k.Errorf("inode %d again", now)
		}
		k.equal("Meta", k.meta(k.did("f")), backends.Meta{})
	}},
	{"Update changes attributes; CTime becomes now", func(k *catalogueTest) {
		k.needNamespace()
		if !k.Catalogue.Traits().Attributes {
			k.Skip("no attributes")
		}
		mode, uid, gid, mtime := uint32(0o4711), uint32(7), uint32(8), time.Date(1901, 2, 3, 4, 5, 6, 7, time.UTC)
		for _, d := range []backends.DID{k.file(k.did("f"), 1).DID, k.did("")} {
			was := k.stat(d)
			before := k.clock.now()
			k.must(k.Namespace.Update(k.ctx, d, backends.Change{Mode: &mode}))
			k.must(k.Namespace.Update(k.ctx, d, backends.Change{UID: &uid, GID: &gid}))
			k.must(k.Namespace.Update(k.ctx, d, backends.Change{MTime: &mtime}))
			in := k.stat(d)
			if !in.CTime.After(before) || in.CTime.After(k.clock.now()) {
				k.Errorf("CTime is %v", in.CTime)
			}
			was.Mode, was.UID, was.GID, was.MTime, was.CTime = mode, uid, gid, mtime, in.CTime
			k.equal("Info", in, was)
		}
		k.wants(k.Namespace.Update(k.ctx, k.did("x"), backends.Change{Mode: &mode}), backends.ErrNotExist)
	}},
	{"the times of a collection follow what comes and goes, but a late Add does not undo a change", func(k *catalogueTest) {
		k.needNamespace()
		if !k.Catalogue.Traits().Attributes {
			k.Skip("no attributes")
		}
		moved := func(what string, f func()) {
			k.Helper()
			was := k.stat(k.did("d"))
			f()
			if now := k.stat(k.did("d")); !now.MTime.After(was.MTime) || !now.CTime.After(was.CTime) {
				k.Errorf("%s: times %v %v were %v %v", what, now.MTime, now.CTime, was.MTime, was.CTime)
			}
		}
		k.dir(k.did("d"))
		moved("add", func() { k.file(k.did("d/f"), 1) })
		moved("rename", func() { k.must(k.Namespace.Rename(k.ctx, k.did("d/f"), k.did("f"))) })
		moved("attach", func() { k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("f"))) })
		moved("detach", func() { k.must(k.Catalogue.Detach(k.ctx, k.did("d"), k.did("f"))) })
		moved("rename", func() { k.must(k.Namespace.Rename(k.ctx, k.did("f"), k.did("d/f"))) })
		moved("remove", func() { k.must(k.Namespace.Remove(k.ctx, k.did("d/f"))) })
		late := fileInfo(k.did("d/late"), 1)
		late.CTime = k.clock.now()
		old := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
		k.must(k.Namespace.Update(k.ctx, k.did("d"), backends.Change{MTime: &old}))
		k.must(k.Catalogue.Add(k.ctx, late, nil))
		k.equal("MTime", k.stat(k.did("d")).MTime, old)
	}},
}

var renameCases = []catalogueCase{
	{"Rename moves a DID with all that is below it", func(k *catalogueTest) {
		k.needRename()
		for _, d := range []string{"a", "a/b", "z"} {
			k.dir(k.did(d))
		}
		k.file(k.did("a/b/f"), 1)
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("a/b/f"), backends.Meta{"x": "y"}))
		was := k.stat(k.did("a/b/f"))
		k.must(k.Namespace.Rename(k.ctx, k.did("a"), k.did("z/new")))
		now := k.stat(k.did("z/new/b/f"))
		k.missing(k.did("a"))
		k.missing(k.did("a/b/f"))
		k.equal("names", k.names(k.did("z/new/b"), ""), []string{k.did("z/new/b/f").Name})
		was.DID = now.DID
		k.equal("Info", now, was)
		k.equal("Meta", k.meta(now.DID), backends.Meta{"x": "y"})
		rs, err := k.Catalogue.Replicas(k.ctx, now.DID)
		k.must(err)
		k.equal("Replicas", rs, []backends.Replica{replica("DISK")})
		k.equal("Parents", collect(k, k.Catalogue.Parents(k.ctx, now.DID)), []backends.DID{k.did("z/new/b")})
		k.dir(k.did("a")) // the old name is free, and empty
		k.equal("names", k.names(k.did("a"), ""), []string(nil))
		k.missing(k.did("a/b/f"))
	}},
	{"Rename over a file replaces it", func(k *catalogueTest) {
		k.needRename()
		old := k.file(k.did("old"), 1)
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("old"), backends.Meta{"which": "old"}))
		was := k.file(k.did("new"), 2)
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("new"), backends.Meta{"which": "new"}))
		k.must(k.Namespace.Rename(k.ctx, k.did("new"), k.did("old")))
		now := k.stat(k.did("old"))
		k.equal("Inode", now.Inode, was.Inode)
		k.equal("Generation", now.Generation, was.Generation)
		k.equal("Meta", k.meta(k.did("old")), backends.Meta{"which": "new"})
		ps := k.pasts(k.did("old"))
		if len(ps) != 1 || ps[0].Info.Inode != old.Inode || ps[0].Meta["which"] != "old" || !ps[0].Replaced || ps[0].Info.DID != k.did("old") {
			k.Fatalf("pasts are %+v", ps)
		}
	}},
	{"Rename replaces an empty collection by a collection, else fails as rename(2)", func(k *catalogueTest) {
		k.needRename()
		for _, d := range []string{"full", "empty", "dir", "dir/sub"} {
			k.dir(k.did(d))
		}
		k.file(k.did("full/f"), 1)
		k.file(k.did("f"), 2)
		for _, c := range []struct {
			from, to string
			want     error
		}{
			{"dir", "full", backends.ErrNotEmpty}, {"f", "full", backends.ErrIsDir}, {"f", "empty", backends.ErrIsDir}, {"dir", "f", backends.ErrNotDir},
			{"dir", "dir/x", backends.ErrName}, {"dir", "dir/sub/x", backends.ErrName}, {"dir", "dir/sub", backends.ErrName}, {"dir/sub", "dir", backends.ErrNotEmpty},
			{"x", "y", backends.ErrNotExist}, {"f", "x/y", backends.ErrNotExist}, {"f", "f/y", backends.ErrNotDir}, {"", "x", backends.ErrNotSupported},
		} {
			if err := k.Namespace.Rename(k.ctx, k.did(c.from), k.did(c.to)); !errors.Is(err, c.want) {
				k.Errorf("rename %q to %q is %v, want %v", c.from, c.to, err, c.want)
			}
		}
		k.must(k.Namespace.Rename(k.ctx, k.did("f"), k.did("f")))
		k.must(k.Namespace.Rename(k.ctx, k.did("dir"), k.did("empty")))
		k.stat(k.did("empty/sub"))
		k.missing(k.did("dir"))
	}},
	{"Rename goes between lfn scopes, and not to other layouts", func(k *catalogueTest) {
		k.needRename()
		k.must(k.Namespace.AddScope(k.ctx, backends.Info{DID: backends.DID{Scope: "other"}}))
		k.dir(k.did("d"))
		k.file(k.did("d/f"), 1)
		k.must(k.Namespace.Rename(k.ctx, k.did("d"), backends.DID{Scope: "other", Name: "/other/d"}))
		k.stat(backends.DID{Scope: "other", Name: "/other/d/f"})
		k.file(k.did("f"), 1)
		k.file(k.flatDID("g"), 1)
		k.wants(k.Namespace.Rename(k.ctx, k.did("f"), k.flatDID("f")), backends.ErrNotSupported)
		k.wants(k.Namespace.Rename(k.ctx, k.flatDID("g"), k.did("g")), backends.ErrNotSupported)
		k.wants(k.Namespace.Rename(k.ctx, k.flatDID("g"), k.flatDID("h")), backends.ErrNotSupported)
	}},
	{"members keep following a DID that is renamed", func(k *catalogueTest) {
		k.needRename()
		for _, d := range []string{"d", "e", "e/sub"} {
			k.dir(k.did(d))
		}
		k.file(k.did("e/f"), 1)
		k.file(k.did("e/sub/g"), 2)
		k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("e/f"), k.did("e/sub/g")))
		k.must(k.Namespace.Rename(k.ctx, k.did("e/f"), k.did("e/a")))
		k.must(k.Namespace.Rename(k.ctx, k.did("e"), k.did("moved")))
		k.equal("members", k.names(k.did("d"), ""), []string{k.did("moved/a").Name, k.did("moved/sub/g").Name})
		k.must(k.Namespace.Rename(k.ctx, k.did("moved/a"), k.did("d/a"))) // it comes home
		k.equal("members", k.names(k.did("d"), ""), []string{k.did("d/a").Name, k.did("moved/sub/g").Name})
		k.equal("Parents", collect(k, k.Catalogue.Parents(k.ctx, k.did("d/a"))), []backends.DID{k.did("d")})
	}},
}
