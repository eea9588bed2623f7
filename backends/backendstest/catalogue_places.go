package backendstest

import (
	"tarn/backends"
)

// holders fails the test unless so many replicas have the path at DISK.
func (k *catalogueTest) holders(pfn string, want int) {
	k.Helper()
	n, err := k.Places.Holders(k.ctx, "DISK", pfn)
	k.must(err)
	k.equal("holders of "+pfn, n, want)
}

// at is a replica at DISK.
func at(pfn string) backends.Replica {
	return backends.Replica{RSE: "DISK", PFN: pfn, State: backends.Available}
}

func (k *catalogueTest) needPlaces() {
	k.Helper()
	if k.Places == nil {
		k.Skip("it keeps no paths")
	}
}

var placeCases = []catalogueCase{
	{"Holders counts the replicas that have a path, in all states", func(k *catalogueTest) {
		k.needPlaces()
		k.holders("a", 0)
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 1), nil, at("a"), backends.Replica{RSE: "TAPE", PFN: "t"}))
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("g"), 2), nil))
		k.holders("a", 1)
		k.holders("t", 0)
		for i, s := range []backends.ReplicaState{backends.Copying, backends.Available, backends.Bad, backends.BeingDeleted} {
			r := at("a")
			r.State = s
			k.must(k.Catalogue.PutReplica(k.ctx, k.did("g"), "", r))
			k.holders("a", 2)
			if i == 0 {
				k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("g"), 2), nil, at("other"))) // it has one there
				k.holders("other", 0)
			}
		}
		k.must(k.Catalogue.PutReplica(k.ctx, k.did("g"), "", at("b")))
		k.holders("a", 1)
		k.holders("b", 1)
		k.must(k.Catalogue.DropReplica(k.ctx, k.did("g"), "DISK", ""))
		k.holders("b", 0)
		k.must(k.Catalogue.DropReplica(k.ctx, k.did("f"), "TAPE", ""))
		k.holders("a", 1)
	}},
	{"Holders counts those of Pasts, until Purge, and after Undelete and Rename", func(k *catalogueTest) {
		k.needPlaces()
		if k.Namespace == nil || k.Versions == nil {
			k.Skip("no names are removed, or no versions kept")
		}
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 1), nil, at("a")))
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("f"), 2), nil, at("b")))
		k.holders("a", 1)
		k.holders("b", 1)
		k.must(k.Namespace.Rename(k.ctx, k.did("f"), k.did("g")))
		k.holders("b", 1)
		k.must(k.Namespace.Remove(k.ctx, k.did("g")))
		k.holders("b", 1)
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("g"), 3), nil, at("c")))
		k.must(k.Versions.Undelete(k.ctx, k.pasts(k.did("g"))[0].Handle))
		k.holders("b", 1)
		k.holders("c", 1)
		k.must(k.Versions.Purge(k.ctx, k.pasts(k.did("g"))[0].Handle))
		k.holders("b", 1)
		k.holders("c", 0)
		k.must(k.Versions.Purge(k.ctx, k.pasts(k.did("f"))[0].Handle))
		k.holders("a", 0)
	}},
	{"Holders of an RSE whose paths are not kept is ErrNotSupported", func(k *catalogueTest) {
		k.needPlaces()
		_, err := k.Places.Holders(k.ctx, "ELSEWHERE", "a")
		k.wants(err, backends.ErrNotSupported)
	}},
	{"Import counts paths", func(k *catalogueTest) {
		k.needPlaces()
		if k.Importer == nil {
			k.Skip("no Import")
		}
		_, err := k.Importer.Import(k.ctx, func(yield func(backends.Entry, error) bool) {
			for _, name := range []string{"f", "g"} {
				if !yield(backends.Entry{Info: fileInfo(k.did(name), 1), Replicas: []backends.Replica{at("a")}}, nil) {
					return
				}
			}
		})
		k.must(err)
		k.holders("a", 2)
	}},
}
