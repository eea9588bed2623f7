package backendstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tarn/backends"
)

var addCases = []catalogueCase{
	{"Add needs the parent", func(k *catalogueTest) {
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(k.did("d/f"), 1), nil), backends.ErrNotExist)
		k.file(k.did("f"), 1)
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(k.did("f/f"), 1), nil), backends.ErrNotDir)
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(backends.DID{Scope: "nosuch", Name: "/nosuch/f"}, 1), nil), backends.ErrNotExist)
		k.missing(k.did("d/f"))
	}},
	{"Add attaches to the parent", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.file(k.did("d/f"), 1)
		k.equal("Contents", k.names(k.did("d"), ""), []string{k.did("d/f").Name})
	}},
	{"a collection that exists is ErrExist", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.file(k.did("f"), 1)
		for _, in := range []backends.Info{{DID: k.did("d"), Type: backends.Container}, {DID: k.did("d"), Type: backends.Dataset}, fileInfo(k.did("d"), 1),
			{DID: k.did("f"), Type: backends.Dataset}, {DID: k.did(""), Type: backends.Container}} {
			k.wants(k.Catalogue.Add(k.ctx, in, nil), backends.ErrExist)
		}
	}},
	{"a file that exists with the same generation is success and gets what it lacks", func(k *catalogueTest) {
		was := k.file(k.did("f"), 1)
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("f"), backends.Meta{"a": "1"}))
		other := replica("DISK")
		other.PFN = "elsewhere"
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 1), backends.Meta{"b": "2"}, other, replica("TAPE")))
		rs, err := k.Catalogue.Replicas(k.ctx, k.did("f"))
		k.must(err)
		k.equal("Replicas", rs, []backends.Replica{replica("DISK"), replica("TAPE")})
		k.equal("Inode", k.stat(k.did("f")).Inode, was.Inode)
		k.equal("Meta", k.meta(k.did("f")), backends.Meta{"a": "1", "b": "2"})
	}},
	{"another generation replaces the content, which becomes a Past, if Traits.Versions", func(k *catalogueTest) {
		was := k.file(k.did("f"), 1)
		err := k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 2), nil, replica("B"))
		if !k.Catalogue.Traits().Versions {
			k.wants(err, backends.ErrExist)
			return
		}
		k.must(err)
		now := k.stat(k.did("f"))
		k.equal("Size", now.Size, 2)
		k.equal("Inode", now.Inode, was.Inode)
		rs, err := k.Catalogue.Replicas(k.ctx, k.did("f"))
		k.must(err)
		k.equal("Replicas", rs, []backends.Replica{replica("B")})
		ps := k.pasts(k.did("f"))
		if len(ps) != 1 || ps[0].Info.Generation != was.Generation || !ps[0].Replaced || ps[0].Info.Inode != was.Inode {
			k.Fatalf("pasts are %+v", ps)
		}
	}},
	{"a replaced file keeps inode, metadata and attachments, unless the new Inode says otherwise", func(k *catalogueTest) {
		if !k.Catalogue.Traits().Versions {
			k.Skip("no versions")
		}
		k.dir(k.did("d"))
		was := k.file(k.did("f"), 1)
		k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("f")))
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("f"), backends.Meta{"a": "1"}))
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 2), backends.Meta{"b": "2"}))
		k.equal("Inode", k.stat(k.did("f")).Inode, was.Inode)
		k.equal("Meta", k.meta(k.did("f")), backends.Meta{"a": "1", "b": "2"})
		in := fileInfo(k.did("f"), 3)
		in.Inode = 1 << 40
		k.must(k.Catalogue.Add(k.ctx, in, backends.Meta{"c": "3"}))
		k.equal("Inode", k.stat(k.did("f")).Inode, 1<<40)
		k.equal("Meta", k.meta(k.did("f")), backends.Meta{"c": "3"})
		k.equal("members", collect(k, k.Catalogue.Contents(k.ctx, k.did("d"), "")), []backends.Info{k.stat(k.did("f"))})
	}},
	{"Inodes are unique, and one that is taken is ErrExist", func(k *catalogueTest) {
		seen := map[uint64]bool{}
		for i := range 5 {
			in := k.file(k.did(fmt.Sprint(i)), i+1)
			if in.Inode < 2 || seen[in.Inode] {
				k.Fatalf("inode %d", in.Inode)
			}
			seen[in.Inode] = true
			next := fileInfo(k.did(fmt.Sprint("given", i)), 1) // the next few that would be allotted
			next.Inode = in.Inode + 2
			k.must(k.Catalogue.Add(k.ctx, next, nil))
			seen[next.Inode] = true
			next.DID = k.did("again")
			k.wants(k.Catalogue.Add(k.ctx, next, nil), backends.ErrExist)
		}
	}},
	{"symbolic links keep their target", func(k *catalogueTest) {
		if !k.Catalogue.Traits().Symlinks {
			k.Skip("no symlinks")
		}
		in := backends.Info{DID: k.did("l"), Type: backends.File, Target: "../to/this", Mode: 0o777}
		k.must(k.Catalogue.Add(k.ctx, in, nil))
		k.equal("Target", k.stat(in.DID).Target, "../to/this")
		k.equal("Size", k.stat(in.DID).Size, 10)
		k.must(k.Catalogue.Add(k.ctx, in, nil)) // the same again
		_, err := k.Catalogue.Stat(k.ctx, k.did("l/x"))
		k.wants(err, backends.ErrNotDir)
		k.file(in.DID, 4) // a file takes its place
		k.equal("Target", k.stat(in.DID).Target, "")
		k.equal("number of pasts", len(k.pasts(in.DID)), 0)
		in.Target = "x"
		k.must(k.Catalogue.Add(k.ctx, in, nil)) // and a link that of the file
		k.equal("Target", k.stat(in.DID).Target, "x")
		k.equal("number of pasts", len(k.pasts(in.DID)), 1)
	}},
	{"after an error nothing has changed", func(k *catalogueTest) {
		k.dir(k.did("d"))
		files, bytes := k.Catalogue.Usage()
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(k.did("d/f"), 1), backends.Meta{"x": strings.Repeat("x", 1<<20)}), backends.ErrQuota)
		k.missing(k.did("d/f"))
		k.equal("Contents", k.names(k.did("d"), ""), []string(nil))
		f2, b2 := k.Catalogue.Usage()
		k.equal("Usage", []int64{f2, b2}, []int64{files, bytes})
	}},
	{"Usage counts files and bytes", func(k *catalogueTest) {
		usage := func(files, bytes int64) {
			k.Helper()
			f, b := k.Catalogue.Usage()
			k.equal("Usage", []int64{f, b}, []int64{files, bytes})
		}
		usage(0, 0)
		k.dir(k.did("d"))
		k.file(k.did("d/a"), 10)
		k.file(k.did("b"), 5)
		usage(2, 15)
		k.file(k.did("b"), 6)
		usage(2, 16)
		if k.Namespace != nil {
			k.must(k.Namespace.Rename(k.ctx, k.did("b"), k.did("d/a")))
			usage(1, 6)
			k.must(k.Namespace.Remove(k.ctx, k.did("d/a")))
			usage(0, 0)
		}
	}},
}

func (k *catalogueTest) meta(d backends.DID) backends.Meta {
	k.Helper()
	m, err := k.Catalogue.Meta(k.ctx, d)
	if err != nil {
		k.Fatal(err)
	}
	return m
}

func (k *catalogueTest) pasts(d backends.DID) []backends.Past {
	k.Helper()
	if k.Versions == nil {
		k.Skip("no Versions")
	}
	return collect(k, k.Versions.Pasts(k.ctx, d))
}

var memberCases = []catalogueCase{
	{"Attach makes members, twice is success", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.dir(k.did("e"))
		for i, n := range []string{"e/b", "e/d", "d/c"} {
			k.file(k.did(n), i+1)
		}
		k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("e/d"), k.did("e/b")))
		k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("e/b"), k.did("d/c")))
		k.equal("Contents", k.names(k.did("d"), ""), []string{k.did("e/b").Name, k.did("d/c").Name, k.did("e/d").Name})
		k.equal("Contents after b", k.names(k.did("d"), "b"), []string{k.did("d/c").Name, k.did("e/d").Name})
		k.equal("one inode", collect(k, k.Catalogue.Contents(k.ctx, k.did("d"), ""))[0].Inode, k.stat(k.did("e/b")).Inode)
	}},
	{"Attach of what is not there, or to no collection, changes nothing", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.file(k.did("f"), 1)
		k.wants(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("f"), k.did("x")), backends.ErrNotExist)
		k.equal("Contents", k.names(k.did("d"), ""), []string(nil))
		k.wants(k.Catalogue.Attach(k.ctx, k.did("x"), k.did("f")), backends.ErrNotExist)
		k.wants(k.Catalogue.Attach(k.ctx, k.did("f"), k.did("d")), backends.ErrNotDir)
	}},
	{"Attach is ErrLoop when the parent would come to contain itself", func(k *catalogueTest) {
		for _, n := range []string{"d", "d/e", "x"} {
			k.dir(k.did(n))
		}
		k.wants(k.Catalogue.Attach(k.ctx, k.did("d/e"), k.did("d")), backends.ErrLoop)
		k.must(k.Catalogue.Attach(k.ctx, k.did("d/e"), k.did("x")))
		k.wants(k.Catalogue.Attach(k.ctx, k.did("x"), k.did("d")), backends.ErrLoop)
		if k.Namespace != nil && k.Catalogue.Traits().Rename {
			k.wants(k.Namespace.Rename(k.ctx, k.did("d"), k.did("x/d")), backends.ErrLoop)
		}
	}},
	{"a name that another child has is ErrExist", func(k *catalogueTest) {
		for _, n := range []string{"a", "b", "c"} {
			k.dir(k.did(n))
			k.file(k.did(n+"/f"), 1)
		}
		k.dir(k.did("d"))
		k.wants(k.Catalogue.Attach(k.ctx, k.did("a"), k.did("b/f")), backends.ErrExist)
		k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("b/f")))
		k.wants(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("c/f")), backends.ErrExist)
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(k.did("d/f"), 1), nil), backends.ErrExist)
	}},
	{"Detach takes members out, twice is success", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.file(k.did("f"), 1)
		k.must(k.Catalogue.Attach(k.ctx, k.did("d"), k.did("f")))
		k.must(k.Catalogue.Detach(k.ctx, k.did("d"), k.did("f")))
		k.must(k.Catalogue.Detach(k.ctx, k.did("d"), k.did("f")))
		k.equal("Contents", k.names(k.did("d"), ""), []string(nil))
		k.stat(k.did("f"))
	}},
	{"the home parent cannot be detached from", func(k *catalogueTest) {
		k.file(k.did("f"), 1)
		k.wants(k.Catalogue.Detach(k.ctx, k.did(""), k.did("f")), backends.ErrNotSupported)
		k.stat(k.did("f"))
	}},
}

var replicaCases = []catalogueCase{
	{"no copy is no error", func(k *catalogueTest) {
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 1), nil))
		rs, err := k.Catalogue.Replicas(k.ctx, k.did("f"))
		k.must(err)
		k.equal("Replicas", len(rs), 0)
	}},
	{"PutReplica adds, and replaces the one at the same RSE; Replicas gives all states", func(k *catalogueTest) {
		k.file(k.did("f"), 1)
		bad := backends.Replica{RSE: "TAPE", PFN: "a b\n", State: backends.Bad, Error: "rotten", Verified: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
		k.must(k.Catalogue.PutReplica(k.ctx, k.did("f"), "", replica("TAPE")))
		k.must(k.Catalogue.PutReplica(k.ctx, k.did("f"), k.stat(k.did("f")).Generation, bad))
		rs, err := k.Catalogue.Replicas(k.ctx, k.did("f"))
		k.must(err)
		k.equal("Replicas", rs, []backends.Replica{replica("DISK"), bad})
	}},
	{"PutReplica of another generation is ErrStale", func(k *catalogueTest) {
		was := k.file(k.did("f"), 1)
		k.wants(k.Catalogue.PutReplica(k.ctx, k.did("f"), "sha256:00:1", replica("B")), backends.ErrStale)
		if k.Catalogue.Traits().Versions {
			k.file(k.did("f"), 2)
			k.wants(k.Catalogue.PutReplica(k.ctx, k.did("f"), was.Generation, replica("B")), backends.ErrStale)
		}
	}},
	{"DropReplica forgets, twice is success", func(k *catalogueTest) {
		k.file(k.did("f"), 1)
		k.must(k.Catalogue.DropReplica(k.ctx, k.did("f"), "DISK", ""))
		k.must(k.Catalogue.DropReplica(k.ctx, k.did("f"), "DISK", ""))
		rs, err := k.Catalogue.Replicas(k.ctx, k.did("f"))
		k.must(err)
		k.equal("Replicas", len(rs), 0)
	}},
	{"DropReplica of another path forgets nothing", func(k *catalogueTest) {
		k.file(k.did("f"), 1)
		rs, err := k.Catalogue.Replicas(k.ctx, k.did("f"))
		k.must(err)
		k.must(k.Catalogue.DropReplica(k.ctx, k.did("f"), "DISK", rs[0].PFN+".old"))
		now, err := k.Catalogue.Replicas(k.ctx, k.did("f"))
		k.must(err)
		k.equal("Replicas", len(now), len(rs))
		k.must(k.Catalogue.DropReplica(k.ctx, k.did("f"), "DISK", rs[0].PFN))
		now, err = k.Catalogue.Replicas(k.ctx, k.did("f"))
		k.must(err)
		k.equal("Replicas", len(now), len(rs)-1)
	}},
	{"replicas are of files that exist", func(k *catalogueTest) {
		k.dir(k.did("d"))
		for d, want := range map[backends.DID]error{k.did("d"): backends.ErrIsDir, k.did("x"): backends.ErrNotExist} {
			_, err := k.Catalogue.Replicas(k.ctx, d)
			k.wants(err, want)
			k.wants(k.Catalogue.PutReplica(k.ctx, d, "", replica("A")), want)
			k.wants(k.Catalogue.DropReplica(k.ctx, d, "A", ""), want)
		}
	}},
	{"SetMeta merges, a nil value deletes the key, Meta gives d's own", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.equal("Meta", k.meta(k.did("d")), backends.Meta{})
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("d"), backends.Meta{"s": "x", "n": 1.5, "b": true, "l": []any{"a", 2.0}, "big": json.Number("9007199254740993")}))
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("d"), backends.Meta{"s": nil, "b": false, "none": nil, "o": map[string]any{"k": "v"}}))
		k.equal("Meta", k.meta(k.did("d")), backends.Meta{"n": 1.5, "b": false, "l": []any{"a", 2.0}, "big": json.Number("9007199254740993"), "o": map[string]any{"k": "v"}})
		k.file(k.did("d/f"), 1)
		k.equal("Meta below", k.meta(k.did("d/f")), backends.Meta{})
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("d"), backends.Meta{"n": nil, "b": nil, "l": nil, "big": nil, "o": nil}))
		k.equal("Meta", k.meta(k.did("d")), backends.Meta{})
		k.wants(k.Catalogue.SetMeta(k.ctx, k.did("x"), backends.Meta{"a": 1}), backends.ErrNotExist)
		_, err := k.Catalogue.Meta(k.ctx, k.did("x"))
		k.wants(err, backends.ErrNotExist)
	}},
}

var lifeCases = []catalogueCase{
	{"a context that has ended ends every call", func(k *catalogueTest) {
		ctx, cancel := contextCancelled(k)
		defer cancel()
		if _, err := k.Catalogue.Stat(ctx, k.did("")); err == nil {
			k.Error("Stat answers")
		}
		if err := k.Catalogue.Add(ctx, fileInfo(k.did("f"), 1), nil); err == nil {
			k.Error("Add answers")
		}
		if failure(k, k.Catalogue.Contents(ctx, k.did(""), "")) == nil {
			k.Error("Contents is empty without an error")
		}
		k.missing(k.did("f"))
	}},
	{"all methods may be called in parallel", func(k *catalogueTest) {
		k.dir(k.did("d"))
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := range 30 {
					d := k.did(fmt.Sprintf("d/%d-%d", w, i))
					if err := k.Catalogue.Add(k.ctx, fileInfo(d, i+1), backends.Meta{"w": w}, replica("A")); err != nil {
						k.Error(err)
					}
					if _, err := k.Catalogue.Stat(k.ctx, d); err != nil {
						k.Error(err)
					}
					if err := k.Catalogue.PutReplica(k.ctx, d, "", replica("B")); err != nil {
						k.Error(err)
					}
					for _, err := range k.Catalogue.Contents(k.ctx, k.did("d"), "") {
						if err != nil {
							k.Error(err)
						}
					}
					if k.Namespace != nil && i%3 == 0 {
						if err := k.Namespace.Rename(k.ctx, d, k.did(fmt.Sprintf("d/r%d-%d", w, i))); err != nil {
							k.Error(err)
						}
					}
				}
			}()
		}
		wg.Wait()
		k.equal("number of entries", len(k.names(k.did("d"), "")), 240)
		files, _ := k.Catalogue.Usage()
		k.equal("files", files, 240)
	}},
	{"one of many that add the same name differently wins", func(k *catalogueTest) {
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := k.Catalogue.Add(k.ctx, backends.Info{DID: k.did("d"), Type: backends.Dataset}, nil); err != nil && !errors.Is(err, backends.ErrExist) {
					k.Error(err)
				}
				if err := k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), w+1), nil, replica("A")); err != nil && !errors.Is(err, backends.ErrExist) {
					k.Error(err)
				}
			}()
		}
		wg.Wait()
		k.equal("Contents", len(k.names(k.did(""), "")), 2)
		if k.Versions != nil {
			k.equal("number of pasts", len(k.pasts(k.did("f"))), 7)
		}
	}},
	{"Close ends all sequences, and every call after it is ErrClosed", func(k *catalogueTest) {
		if k.Importer == nil {
			k.Skip("no Importer")
		}
		_, err := k.Importer.Import(k.ctx, manyFiles(k, "", 2000))
		k.must(err)
		k.Reopen = nil
		n := 0
		var last error
		for _, err := range k.Catalogue.Contents(k.ctx, k.did(""), "") {
			if n++; n == 1 {
				if err := k.Catalogue.Close(); err != nil {
					k.Fatal(err)
				}
			}
			last = err
		}
		k.wants(last, backends.ErrClosed)
		_, err = k.Catalogue.Stat(k.ctx, k.did(""))
		k.wants(err, backends.ErrClosed)
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 1), nil), backends.ErrClosed)
		k.wants(failure(k, k.Catalogue.Contents(k.ctx, k.did(""), "")), backends.ErrClosed)
	}},
}
