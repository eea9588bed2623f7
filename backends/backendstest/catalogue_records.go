package backendstest

import (
	"errors"
	"fmt"
	"slices"

	"tarn/backends"
)

// records lists the files with a replica at the RSE, as name:number of replicas.
func (k *catalogueTest) records(rse string) (out []string) {
	k.Helper()
	for _, e := range collect(k, k.Records.Records(k.ctx, rse)) {
		out = append(out, fmt.Sprintf("%s:%d", e.Info.DID.Name[len(k.scope)+2:], len(e.Replicas)))
	}
	slices.Sort(out)
	return out
}

func (k *catalogueTest) needRecords() {
	k.Helper()
	if k.Records == nil {
		k.Skip("it does not stream what is on record")
	}
}

var recordCases = []catalogueCase{
	{"Records streams the files with a replica at the RSE, in any state, with all of them", func(k *catalogueTest) {
		k.needRecords()
		k.equal("of an empty catalogue", len(k.records("")), 0)
		k.file(k.did("a"), 1)
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("b"), 2), nil, replica("DISK"), replica("TAPE")))
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("c"), 3), nil))
		bad := replica("OTHER")
		bad.State = backends.Bad
		k.must(k.Catalogue.PutReplica(k.ctx, k.did("a"), "", bad))
		k.equal("at DISK", k.records("DISK"), []string{"a:2", "b:2"})
		k.equal("at TAPE", k.records("TAPE"), []string{"b:2"})
		k.equal("at OTHER", k.records("OTHER"), []string{"a:2"})
		k.equal("anywhere", k.records(""), []string{"a:2", "b:2"})
		k.must(k.Catalogue.DropReplica(k.ctx, k.did("b"), "TAPE", ""))
		k.equal("at TAPE after the drop", len(k.records("TAPE")), 0)
		for _, e := range collect(k, k.Records.Records(k.ctx, "OTHER")) {
			k.equal("the Info", e.Info, k.stat(k.did("a")))
		}
	}},
	{"Records has no Pasts", func(k *catalogueTest) {
		k.needRecords()
		if k.Namespace == nil || k.Versions == nil {
			k.Skip("no names are removed, or no versions kept")
		}
		k.file(k.did("a"), 1)
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("a"), 2), nil))
		k.file(k.did("b"), 1)
		k.must(k.Namespace.Remove(k.ctx, k.did("b")))
		k.equal("at DISK", len(k.records("DISK")), 0)
	}},
	{"Records sees a file once that is renamed while it runs", func(k *catalogueTest) {
		k.needRecords()
		if k.Namespace == nil || k.Importer == nil {
			k.Skip("nothing is renamed, or no Import")
		}
		const n = 1200 // some pages
		k.dir(k.did("to"))
		name := func(i int) string { return fmt.Sprintf("f%04d", i) }
		_, err := k.Importer.Import(k.ctx, func(yield func(backends.Entry, error) bool) {
			for i := range n {
				if !yield(backends.Entry{Info: fileInfo(k.did(name(i)), 1), Replicas: []backends.Replica{replica("DISK")}}, nil) {
					return
				}
			}
		})
		k.must(err)
		seen := map[uint64]int{}
		for e, err := range k.Records.Records(k.ctx, "DISK") {
			if err != nil {
				k.Fatal(err)
			}
			if i := len(seen); i%20 == 0 { // one that was read, and one that is still to be read
				for _, j := range []int{i / 2, n - 1 - i/2} {
					err := k.Namespace.Rename(k.ctx, k.did(name(j)), k.did("to/"+name(j)))
					if err != nil && !errors.Is(err, backends.ErrNotExist) {
						k.Fatal(err)
					}
				}
			}
			seen[e.Info.Inode]++
		}
		k.equal("files", len(seen), n)
		for ino, times := range seen {
			if times != 1 {
				k.Fatalf("inode %d comes %d times", ino, times)
			}
		}
	}},
}
