package index

import (
	"bytes"
	"slices"

	"tarn/backends"
	"tarn/backends/query"
)

// textKeys are the keys of queries, other than metadata, that have postings and are compared as text, with what they are called here.
var textKeys = map[string]string{
	"name": "\x00name", "Name": "\x00name", "FileName": "\x00name",
	"adler32": "\x00adler32", "md5": "\x00md5", "sha256": "\x00sha256",
	"type": "\x00type",
}

// otherKeys are those that are compared by what they look like.
var otherKeys = map[string]string{
	"size": "\x00size", "Size": "\x00size", "mtime": "\x00mtime", "CreationDate": "\x00mtime",
}

// listKey is where the elements of lists have their postings: one may hold for one term, and another for the next.
func listKey(key string) string { return "\x01" + key }

// postings gives the keys under which r is found, without its id, each once. They follow from the record alone, so that
// those of a record that is replaced can be taken away.
func (e epoch) postings(r *record) [][]byte {
	var keys [][]byte
	add := func(key string, v any) {
		for _, p := range query.Places(v) {
			keys = append(keys, e.posting(key, p))
		}
	}
	s := backends.Subject{Info: &r.info, Flat: r.flat}
	if r.info.DID.Name == "" {
		return nil // a scope is nothing that is found
	}
	for _, k := range []string{"name", "adler32", "md5", "sha256"} {
		if v, ok := s.Value(k); ok {
			add(textKeys[k], v)
		}
	}
	if r.info.IsDir() {
		v, _ := s.Value("type") // most are files: there one goes through all
		add(textKeys["type"], v)
	}
	add(otherKeys["size"], r.info.Size)
	add(otherKeys["mtime"], r.info.MTime)
	for k, v := range r.meta {
		switch v.(type) {
		case []any, []string:
			k = listKey(k)
		}
		add(k, v)
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal)
}
