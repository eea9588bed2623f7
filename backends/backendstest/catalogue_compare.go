package backendstest

import (
	"fmt"
	"sort"
	"strings"

	"tarn/backends"
)

// compare looks at everything.
func (m *model) compare() {
	m.Helper()
	var files, bytes int64
	inodes := map[uint64]string{}
	m.root.walk(func(n *node) {
		d := m.did(n.path())
		in := m.stat(d)
		if n.parent != nil {
			if other, twice := inodes[in.Inode]; twice {
				m.Errorf("%s and %s have inode %d", other, n.path(), in.Inode)
			}
			inodes[in.Inode] = n.path()
			m.equal("inode of "+n.path(), in.Inode, n.inode)
		}
		meta := backends.Meta{}
		if n.meta != "" {
			meta["k"] = n.meta
		}
		m.equal("metadata of "+n.path(), m.meta(d), meta)
		if !n.dir {
			files++
			bytes += int64(n.size)
			m.compareFile(n, in)
			return
		}
		var want []string
		for name, c := range n.children {
			want = append(want, name+" "+c.path())
		}
		for name, c := range n.members {
			want = append(want, name+" "+c.path())
		}
		sort.Strings(want)
		var got []string
		for _, in := range collect(m.catalogueTest, m.Catalogue.Contents(m.ctx, d, "")) {
			path := strings.TrimPrefix(in.DID.Name, "/"+m.scope+"/")
			got = append(got, path[strings.LastIndexByte(path, '/')+1:]+" "+path)
		}
		m.equal("contents of "+n.path(), got, want)
	})
	f, b := m.Catalogue.Usage()
	m.equal("usage", []int64{f, b}, []int64{files, bytes})
	var found int64
	for range collect(m.catalogueTest, m.Catalogue.Find(m.ctx, backends.DID{}, nil)) {
		found++
	}
	m.equal("number of DIDs found", found, len(inodes)+1)
	m.comparePasts()
}

func (m *model) compareFile(n *node, in backends.Info) {
	m.Helper()
	m.equal("size of "+n.path(), in.Size, n.size)
	rs, err := m.Catalogue.Replicas(m.ctx, in.DID)
	if err != nil {
		m.Fatal(err)
	}
	have := map[string]bool{}
	for _, r := range rs {
		have[r.RSE] = true
	}
	m.equal("replicas of "+n.path(), have, n.replicas)
}

func (m *model) comparePasts() {
	m.Helper()
	var want, got []string
	for _, p := range m.pasts {
		want = append(want, fmt.Sprintf("%d %s %s %d", p.size, strings.TrimPrefix(p.of.path()+"/"+p.name, "/"), p.meta, len(p.replicas)))
	}
	for _, p := range collect(m.catalogueTest, m.Versions.Pasts(m.ctx, backends.DID{})) {
		meta, _ := p.Meta["k"].(string)
		got = append(got, fmt.Sprintf("%d %s %s %d", p.Info.Size, strings.TrimPrefix(p.Info.DID.Name, "/"+m.scope+"/"), meta, len(p.Replicas)))
	}
	sort.Strings(want)
	sort.Strings(got)
	m.equal("pasts", got, want)
}
