package backendstest

import (
	"errors"
	"fmt"
	"time"

	"tarn/backends"
)

func (k *catalogueTest) needVersions() {
	k.Helper()
	k.needNamespace()
	if k.Versions == nil || !k.Catalogue.Traits().Versions {
		k.Skip("no versions")
	}
}

var versionCases = []catalogueCase{
	{"a removed file with replicas is a Past for the grace period, with metadata and replicas", func(k *catalogueTest) {
		k.needVersions()
		was := k.file(k.did("f"), 1)
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("f"), backends.Meta{"run": "7"}))
		before := k.clock.now()
		k.must(k.Namespace.Remove(k.ctx, k.did("f")))
		ps := k.pasts(k.did("f"))
		if len(ps) != 1 {
			k.Fatalf("%d pasts", len(ps))
		}
		p := ps[0]
		if !p.Removed.After(before) || p.Removed.After(k.clock.now()) || !p.Until.Equal(p.Removed.Add(k.Grace)) || p.Replaced || p.Handle == "" {
			k.Fatalf("past is %+v", p)
		}
		k.equal("Info", []any{p.Info.DID, p.Info.Inode, p.Info.Generation, p.Info.Size}, []any{was.DID, was.Inode, was.Generation, 1})
		k.equal("Replicas", p.Replicas, []backends.Replica{replica("DISK")})
		k.equal("Meta", p.Meta, backends.Meta{"run": "7"})
		if now := k.file(k.did("f"), 1); now.Inode == was.Inode {
			k.Error("a new file has the inode of a Past")
		}
		k.equal("Meta of the new file", k.meta(k.did("f")), backends.Meta{})
	}},
	{"Pasts streams those of a name newest first, all of them oldest first", func(k *catalogueTest) {
		k.needVersions()
		for i := range 3 {
			k.file(k.did("f"), i+1)
		}
		k.file(k.did("g"), 9)
		k.must(k.Namespace.Remove(k.ctx, k.did("g")))
		k.must(k.Namespace.Remove(k.ctx, k.did("f")))
		sizes := func(d backends.DID) (out []int64) {
			for _, p := range k.pasts(d) {
				out = append(out, p.Info.Size)
			}
			return out
		}
		k.equal("Pasts of f", sizes(k.did("f")), []int64{3, 2, 1})
		k.equal("all Pasts", sizes(backends.DID{}), []int64{1, 2, 9, 3})
		k.equal("Pasts of a name that never was", sizes(k.did("x")), []int64(nil))
	}},
	{"Undelete makes the Past current again, and back and forth", func(k *catalogueTest) {
		k.needVersions()
		one := k.file(k.did("f"), 1)
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("f"), backends.Meta{"v": "1"}))
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 2), backends.Meta{"v": "2"}, replica("TWO")))
		for i := range 4 {
			ps := k.pasts(k.did("f"))
			if len(ps) != 1 {
				k.Fatalf("%d pasts", len(ps))
			}
			k.must(k.Versions.Undelete(k.ctx, ps[0].Handle))
			want := []string{"1", "2"}[i%2]
			k.equal("Inode", k.stat(k.did("f")).Inode, one.Inode)
			k.equal("Meta", k.meta(k.did("f")), backends.Meta{"v": want})
			rs, err := k.Catalogue.Replicas(k.ctx, k.did("f"))
			k.must(err)
			k.equal("Replicas", rs, []backends.Replica{replica([]string{"DISK", "TWO"}[i%2])})
			k.equal("names", len(k.names(k.did(""), "")), 1)
		}
		k.must(k.Namespace.Remove(k.ctx, k.did("f")))
		k.must(k.Versions.Undelete(k.ctx, k.pasts(k.did("f"))[0].Handle))
		k.equal("Size", k.stat(k.did("f")).Size, 2)
		files, bytes := k.Catalogue.Usage()
		k.equal("Usage", []int64{files, bytes}, []int64{1, 2})
	}},
	{"Undelete of a content whose newer generation has moved on gives it another inode", func(k *catalogueTest) {
		k.needVersions()
		k.file(k.did("f"), 1)
		k.file(k.did("f"), 2)
		k.must(k.Namespace.Rename(k.ctx, k.did("f"), k.did("g")))
		k.must(k.Versions.Undelete(k.ctx, k.pasts(k.did("f"))[0].Handle))
		f, g := k.stat(k.did("f")), k.stat(k.did("g"))
		if f.Inode == g.Inode || f.Size != 1 || g.Size != 2 {
			k.Fatalf("f is %v, g is %v", f, g)
		}
	}},
	{"Undelete brings removed collections back, with their inodes and metadata", func(k *catalogueTest) {
		k.needVersions()
		a := k.dir(k.did("a"))
		k.dir(k.did("a/b"))
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("a"), backends.Meta{"x": "y"}))
		k.file(k.did("a/b/f"), 1)
		k.file(k.did("a/b/g"), 2)
		for _, n := range []string{"a/b/f", "a/b/g", "a/b", "a"} {
			k.must(k.Namespace.Remove(k.ctx, k.did(n)))
		}
		k.missing(k.did("a"))
		k.equal("names", k.names(k.did(""), ""), []string(nil))
		ps := k.pasts(k.did("a/b/f"))
		k.equal("DIDs", []backends.DID{ps[0].Info.DID, k.pasts(backends.DID{})[1].Info.DID}, []backends.DID{k.did("a/b/f"), k.did("a/b/g")})
		k.must(k.Versions.Undelete(k.ctx, ps[0].Handle))
		k.stat(k.did("a/b/f"))
		k.equal("Inode", k.stat(k.did("a")).Inode, a.Inode)
		k.equal("Meta", k.meta(k.did("a")), backends.Meta{"x": "y"})
		k.must(k.Versions.Undelete(k.ctx, k.pasts(k.did("a/b/g"))[0].Handle))
		k.equal("names", len(k.names(k.did("a/b"), "")), 2)
	}},
	{"Undelete goes into a collection that was made anew, and a file in the way is ErrNotDir", func(k *catalogueTest) {
		k.needVersions()
		remove := func() {
			k.must(k.Namespace.Remove(k.ctx, k.did("d/f")))
			k.must(k.Namespace.Remove(k.ctx, k.did("d")))
		}
		k.dir(k.did("d"))
		k.file(k.did("d/f"), 1)
		remove()
		anew := k.dir(k.did("d"))
		k.file(k.did("d/f"), 2)
		remove()
		ps := k.pasts(k.did("d/f"))
		k.equal("number of pasts", len(ps), 2)
		k.file(k.did("d"), 3)
		k.wants(k.Versions.Undelete(k.ctx, ps[0].Handle), backends.ErrNotDir)
		k.must(k.Namespace.Remove(k.ctx, k.did("d")))
		k.must(k.Versions.Undelete(k.ctx, ps[0].Handle))
		k.must(k.Versions.Undelete(k.ctx, ps[1].Handle))
		k.equal("Inode", k.stat(k.did("d")).Inode, anew.Inode)
		k.equal("Size", k.stat(k.did("d/f")).Size, 1)
		k.equal("number of pasts", len(k.pasts(k.did("d/f"))), 1)
	}},
	{"Pasts follow a collection that is renamed", func(k *catalogueTest) {
		k.needVersions()
		k.needRename()
		k.dir(k.did("d"))
		k.file(k.did("d/f"), 1)
		k.must(k.Namespace.Remove(k.ctx, k.did("d/f")))
		k.must(k.Namespace.Rename(k.ctx, k.did("d"), k.did("e")))
		k.equal("Pasts of the old name", len(k.pasts(k.did("d/f"))), 0)
		ps := k.pasts(k.did("e/f"))
		k.equal("DID", ps[0].Info.DID, k.did("e/f"))
		k.must(k.Versions.Undelete(k.ctx, ps[0].Handle))
		k.stat(k.did("e/f"))
	}},
	{"Undelete attaches again where the DID was a member", func(k *catalogueTest) {
		k.needVersions()
		k.dir(k.flatDID("s"))
		k.file(k.flatDID("f"), 1)
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("s"), k.flatDID("f")))
		k.must(k.Namespace.Remove(k.ctx, k.flatDID("f")))
		k.must(k.Versions.Undelete(k.ctx, k.pasts(k.flatDID("f"))[0].Handle))
		k.equal("members", k.names(k.flatDID("s"), ""), []string{"f"})
		k.equal("scope", k.names(backends.DID{Scope: k.flat}, ""), []string{"s"})
	}},
	{"Purge forgets; Undelete and Purge of what was purged are ErrNotExist", func(k *catalogueTest) {
		k.needVersions()
		k.dir(k.did("d"))
		k.file(k.did("d/f"), 1)
		k.file(k.did("d/f"), 2)
		k.must(k.Namespace.Remove(k.ctx, k.did("d/f")))
		k.must(k.Namespace.Remove(k.ctx, k.did("d")))
		for i := range 2 {
			ps := k.pasts(backends.DID{})
			k.equal("number of pasts", len(ps), 2-i)
			k.must(k.Versions.Purge(k.ctx, ps[0].Handle))
			k.wants(k.Versions.Purge(k.ctx, ps[0].Handle), backends.ErrNotExist)
			k.wants(k.Versions.Undelete(k.ctx, ps[0].Handle), backends.ErrNotExist)
		}
		k.equal("number of pasts", len(k.pasts(backends.DID{})), 0)
		for _, h := range []string{"", "x", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"} {
			k.wants(k.Versions.Undelete(k.ctx, h), backends.ErrNotExist)
		}
	}},
	{"a scope with Pasts can be removed, and comes back with them", func(k *catalogueTest) {
		k.needVersions()
		k.file(k.did("f"), 1)
		k.must(k.Namespace.Remove(k.ctx, k.did("f")))
		k.must(k.Namespace.RemoveScope(k.ctx, k.scope))
		ps := k.pasts(backends.DID{})
		k.equal("DID", ps[0].Info.DID, k.did("f"))
		k.must(k.Versions.Undelete(k.ctx, ps[0].Handle))
		k.stat(k.did("f"))
		k.equal("Layout", k.stat(k.did("")).Layout, backends.LayoutLFN)
	}},
}

var historyCases = []catalogueCase{
	{"History streams attach and detach events since a time, oldest first", func(k *catalogueTest) {
		k.needVersions()
		k.dir(k.did("d"))
		k.dir(k.did("e"))
		start := k.clock.now()
		f := k.file(k.did("d/f"), 1)
		g := k.file(k.did("d/f"), 2)
		mid := k.clock.now()
		k.must(k.Catalogue.Attach(k.ctx, k.did("e"), k.did("d/f")))
		if k.Catalogue.Traits().Rename {
			k.must(k.Namespace.Rename(k.ctx, k.did("d/f"), k.did("d/r")))
		} else {
			k.Skip("no Rename")
		}
		k.must(k.Namespace.Remove(k.ctx, k.did("d/r")))
		events := func(d backends.DID, since time.Time) (out []string) {
			for _, e := range collect(k, k.Versions.History(k.ctx, d, since)) {
				if e.Parent != d || e.Time.Before(since) {
					k.Errorf("event %+v", e)
				}
				out = append(out, fmt.Sprint(e.Op, " ", e.Child.Name, " ", e.Gen))
			}
			return out
		}
		ev := func(op, name string, in backends.Info) string {
			return fmt.Sprint(op, " ", k.did(name).Name, " ", in.Generation)
		}
		all := []string{ev("attach", "d/f", f), ev("detach", "d/f", f), ev("attach", "d/f", g), ev("detach", "d/f", g), ev("attach", "d/r", g), ev("detach", "d/r", g)}
		k.equal("History of d", events(k.did("d"), start), all)
		k.equal("History of d", events(k.did("d"), time.Time{}), all)
		k.equal("History of d since", events(k.did("d"), mid), all[3:])
		k.equal("History of e", events(k.did("e"), start), []string{ev("attach", "d/f", g), ev("detach", "d/r", g)})
		k.wants(failure(k, k.Versions.History(k.ctx, k.did("x"), start)), backends.ErrNotExist)
	}},
}

var importCases = []catalogueCase{
	{"Import adds every entry, and skips what exists with the same generation", func(k *catalogueTest) {
		if k.Importer == nil {
			k.Skip("no Importer")
		}
		k.dir(k.did("d"))
		entries := func(yield func(backends.Entry, error) bool) {
			if !yield(backends.Entry{Info: backends.Info{DID: k.did("d/sub"), Type: backends.Dataset}, Meta: backends.Meta{"set": "1"}}, nil) {
				return
			}
			manyFiles(k, "d/sub/", 2500)(yield)
		}
		n, err := k.Importer.Import(k.ctx, entries)
		k.must(err)
		k.equal("added", n, 2501)
		k.equal("number of entries", len(k.names(k.did("d/sub"), "")), 2500)
		k.equal("Meta", fmt.Sprint(k.meta(k.did("d/sub/000010"))["tenth"]), "10")
		rs, err := k.Catalogue.Replicas(k.ctx, k.did("d/sub/002499"))
		k.must(err)
		k.equal("Replicas", rs, []backends.Replica{replica("TAPE")})
		n, err = k.Importer.Import(k.ctx, entries)
		k.must(err)
		k.equal("added again", n, 0)
		files, bytes := k.Catalogue.Usage()
		k.equal("Usage", []int64{files, bytes}, []int64{2500, 2500 * 2501 / 2})
	}},
	{"Import ends at the first error, with what came before it added", func(k *catalogueTest) {
		if k.Importer == nil {
			k.Skip("no Importer")
		}
		n, err := k.Importer.Import(k.ctx, func(yield func(backends.Entry, error) bool) {
			if yield(backends.Entry{Info: fileInfo(k.did("a"), 1)}, nil) && yield(backends.Entry{Info: fileInfo(k.did("no/parent"), 1)}, nil) {
				yield(backends.Entry{Info: fileInfo(k.did("b"), 1)}, nil)
			}
		})
		k.wants(err, backends.ErrNotExist)
		k.equal("added", n, 1)
		k.stat(k.did("a"))
		k.missing(k.did("b"))
		broken := errors.New("broken source")
		n, err = k.Importer.Import(k.ctx, func(yield func(backends.Entry, error) bool) {
			if yield(backends.Entry{Info: fileInfo(k.did("c"), 1)}, nil) {
				yield(backends.Entry{}, broken)
			}
		})
		k.wants(err, broken)
		k.equal("added", n, 1)
		k.stat(k.did("c"))
	}},
}
