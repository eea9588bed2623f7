package backendstest

import "tarn/backends"

// flatCases need a scope of layout contents, and none of layout lfn.
var flatCases = []catalogueCase{
	{"a contents scope shows what is attached nowhere, a collection its members, by DID", func(k *catalogueTest) {
		for _, n := range []string{"box", "set", "f2", "f1", "a/slash"} {
			d := k.flatDID(n)
			if n == "box" || n == "set" {
				k.dir(d)
			} else {
				k.file(d, 1)
			}
		}
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("box"), k.flatDID("set")))
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("set"), k.flatDID("f2"), k.flatDID("f1")))
		root := backends.DID{Scope: k.flat}
		k.equal("scope", k.names(root, ""), []string{"a/slash", "box"})
		k.equal("scope after", k.names(root, k.flat+":a/slash"), []string{"box"})
		k.equal("scope after all", k.names(root, k.flat+":zz"), []string(nil))
		k.equal("box", k.names(k.flatDID("box"), ""), []string{"set"})
		k.equal("set", k.names(k.flatDID("set"), ""), []string{"f1", "f2"})
		k.equal("set after f1", k.names(k.flatDID("set"), k.flat+":f1"), []string{"f2"})
	}},
	{"Find in a contents scope", func(k *catalogueTest) {
		for _, d := range []string{"box", "s1", "s2"} {
			k.dir(k.flatDID(d))
		}
		for i, f := range []string{"/f1", "f2", "f3"} {
			k.file(k.flatDID(f), i+1)
		}
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("box"), k.flatDID("s1"), k.flatDID("s2")))
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("s1"), k.flatDID("/f1"), k.flatDID("f2")))
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("s2"), k.flatDID("f2")))
		k.must(k.Catalogue.SetMeta(k.ctx, k.flatDID("box"), backends.Meta{"run": 1}))
		k.must(k.Catalogue.SetMeta(k.ctx, k.flatDID("f2"), backends.Meta{"run": 1}))
		k.equal("box", k.find(k.flatDID("box"), "type = file"), []backends.DID{k.flatDID("/f1"), k.flatDID("f2")})
		k.equal("metadata of its own only", k.find(k.flatDID("box"), "run = 1"), []backends.DID{k.flatDID("box"), k.flatDID("f2")})
		k.equal("the scope", k.find(backends.DID{Scope: k.flat}, "type = file"), []backends.DID{k.flatDID("/f1"), k.flatDID("f2"), k.flatDID("f3")})
		k.equal("by name", k.find(backends.DID{}, "name = /f1"), []backends.DID{k.flatDID("/f1")})
	}},
	{"in a contents scope Attach is ErrLoop when the parent would come to contain itself", func(k *catalogueTest) {
		for _, n := range []string{"a", "b", "c"} {
			k.dir(k.flatDID(n))
		}
		k.wants(k.Catalogue.Attach(k.ctx, k.flatDID("a"), k.flatDID("a")), backends.ErrLoop)
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("a"), k.flatDID("b")))
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("b"), k.flatDID("c")))
		k.wants(k.Catalogue.Attach(k.ctx, k.flatDID("c"), k.flatDID("a")), backends.ErrLoop)
		k.wants(k.Catalogue.Attach(k.ctx, k.flatDID("b"), k.flatDID("a")), backends.ErrLoop)
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("a"), k.flatDID("c"))) // a diamond is none
	}},
	{"what is detached everywhere stands in its scope again", func(k *catalogueTest) {
		k.file(k.flatDID("f"), 1)
		k.dir(k.flatDID("d"))
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("d"), k.flatDID("f")))
		k.must(k.Catalogue.Detach(k.ctx, k.flatDID("d"), k.flatDID("f")))
		k.equal("the scope again", k.names(backends.DID{Scope: k.flat}, ""), []string{"d", "f"})
	}},
	{"in a contents scope Remove detaches everywhere", func(k *catalogueTest) {
		k.needNamespace()
		k.dir(k.flatDID("s"))
		k.file(k.flatDID("f"), 1)
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("s"), k.flatDID("f")))
		k.must(k.Namespace.Remove(k.ctx, k.flatDID("f")))
		k.equal("members", k.names(k.flatDID("s"), ""), []string(nil))
		k.missing(k.flatDID("f"))
		k.equal("the scope", k.names(backends.DID{Scope: k.flat}, ""), []string{"s"})
		k.must(k.Namespace.Remove(k.ctx, k.flatDID("s")))
		k.missing(k.flatDID("s"))
	}},
	{"a dataset and a container hold files, and a container collections", func(k *catalogueTest) {
		k.dir(k.flatDID("box"))
		k.must(k.Catalogue.Add(k.ctx, backends.Info{DID: k.flatDID("set"), Type: backends.Dataset}, nil))
		for i, n := range []string{"f1", "f2", "f3"} {
			k.file(k.flatDID(n), i+1)
		}
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("set"), k.flatDID("f1"), k.flatDID("f2")))
		k.must(k.Catalogue.Attach(k.ctx, k.flatDID("box"), k.flatDID("f3"), k.flatDID("set")))
		k.equal("box", k.names(k.flatDID("box"), ""), []string{"f3", "set"})
		k.equal("scope", k.names(backends.DID{Scope: k.flat}, ""), []string{"box"})
		k.equal("Parents", collect(k, k.Catalogue.Parents(k.ctx, k.flatDID("f3"))), []backends.DID{k.flatDID("box")})
		k.must(k.Catalogue.Detach(k.ctx, k.flatDID("box"), k.flatDID("f3")))
		k.equal("box", k.names(k.flatDID("box"), ""), []string{"set"})
		k.equal("scope", k.names(backends.DID{Scope: k.flat}, ""), []string{"box", "f3"})
	}},
}
