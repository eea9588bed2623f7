package backends

import (
	"strings"

	"tarn/backends/query"
)

// Builtin tells whether a key of queries is not metadata: tarn's own lower-case ones, and DIRAC's standard names
// (FILE_STANDARD_METAKEYS of MetaQuery.py, without LastAccessDate, which is not kept).
func Builtin(key string) bool {
	switch key {
	case "name", "scope", "did", "type", "size", "mtime", "checksum", "adler32", "md5", "sha256",
		"Name", "FileName", "Path", "Size", "CheckSum", "CreationDate", "ModificationDate", "UID", "GID", "SE", "Status", "GUID":
		return true
	}
	return false
}

// Subject is a DID as a query sees it.
type Subject struct {
	Info *Info
	// Meta is its metadata, with that of the collections above it.
	Meta Meta
	// Flat: its scope has layout contents, where a name is no path.
	Flat bool
	// Replicas is asked for SE and Status only; nil: it has none.
	Replicas func() []Replica
}

// Value is what a key of a query stands for; it goes to query.Expr's Match.
func (s Subject) Value(key string) (any, bool) {
	in := s.Info
	switch key {
	case "name", "Name", "FileName":
		return query.Text(s.leaf()), true
	case "scope":
		return query.Text(in.DID.Scope), true
	case "did":
		return query.Text(in.DID.String()), true
	case "type":
		return query.Text(in.Type.String()), true
	case "size", "Size":
		return in.Size, true
	case "mtime", "CreationDate":
		return in.MTime, true
	case "ModificationDate":
		return in.CTime, true
	case "UID":
		return uint64(in.UID), true
	case "GID":
		return uint64(in.GID), true
	case "Path":
		return paths(in.DID), true
	case "checksum", "CheckSum":
		return digests(in.Checksums)
	case "adler32":
		return query.Text(in.Checksums.Adler32), in.Checksums.Adler32 != ""
	case "md5":
		return query.Text(in.Checksums.MD5), in.Checksums.MD5 != ""
	case "sha256":
		return query.Text(in.Checksums.SHA256), in.Checksums.SHA256 != ""
	case "GUID":
		return s.guid()
	case "SE", "Status":
		return s.places(key)
	}
	v, ok := s.Meta[key]
	return v, ok
}

// leaf is the last element of a path, and the whole of a name that is none.
func (s Subject) leaf() string {
	name := s.Info.DID.Name
	if s.Flat {
		return name
	}
	return name[strings.LastIndexByte(name, '/')+1:]
}

// paths are a DID's own and those above it, so that Path = /ctao/dl0 holds for all below that.
func paths(d DID) []any {
	all := []any{query.Text(d.Name)}
	if strings.HasPrefix(d.Name, "/") {
		for p := d.Name; ; {
			i := strings.LastIndexByte(p, '/')
			if i <= 0 {
				return append(all, query.Text("/"))
			}
			p = p[:i]
			all = append(all, query.Text(p))
		}
	}
	return all
}

func digests(c Checksums) (any, bool) {
	var all []any
	for _, p := range []struct{ alg, hex string }{{"sha256", c.SHA256}, {"md5", c.MD5}, {"adler32", c.Adler32}} {
		if p.hex != "" {
			all = append(all, query.Text(p.hex), query.Text(p.alg+":"+p.hex))
		}
	}
	return all, len(all) > 0
}

// MetaGUID are the keys under which a GUID is kept: Rucio's and DIRAC's.
var MetaGUID = []string{"guid", "GUID"}

func (s Subject) guid() (any, bool) {
	for _, k := range MetaGUID {
		if v, ok := s.Meta[k].(string); ok {
			return query.Text(v), true
		}
	}
	return nil, false
}

// AprioriGood is DIRAC's status of a file that may be used; here of one with a replica that is AVAILABLE.
const AprioriGood = "AprioriGood"

// places gives the RSEs of the replicas, but for those that are BAD or being deleted; or their states.
func (s Subject) places(key string) (any, bool) {
	if s.Replicas == nil || s.Info.Type != File {
		return nil, false
	}
	var all []any
	good := false
	for _, r := range s.Replicas() {
		switch {
		case key == "Status":
			all = append(all, query.Text(r.State))
			good = good || r.State == Available
		case r.State != Bad && r.State != BeingDeleted:
			all = append(all, query.Text(r.RSE))
		}
	}
	if good {
		all = append(all, query.Text(AprioriGood))
	}
	return all, len(all) > 0
}
