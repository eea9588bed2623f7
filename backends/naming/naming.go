// Package naming holds the algorithms by which a path at a storage follows from a DID
// alone, Rucio's lfn2pfn of deterministic RSEs: whoever knows scope and name knows where
// the file lies, without asking anybody. An RSE has one with
//
//	rses:
//	  - {name: SITE-DISK, path: rse/SITE-DISK, naming: hash}
//
// Without one every copy gets a path of its own (lake.NewPFN), and only the catalogue
// knows it. A further algorithm is one more entry of the table below.
package naming

import (
	"crypto/md5"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"tarn/backends"
)

// Unique is the word for no algorithm: each copy has a path of its own.
const Unique = "unique"

// Algorithm makes paths of DIDs, and DIDs of paths.
type Algorithm struct {
	word string
	// path of d; name is that of d without the slash that it may begin with.
	path func(d backends.DID, name string) string
	// name is what of a path is the name, for DIDs of that scope.
	name func(scope, pfn string) (name string, ok bool)
}

// all are the algorithms of Rucio (lib/rucio/rse/translation.py) and of its communities that need nothing
// but scope and name, whatever the names look like.
var all = []Algorithm{
	{"hash",
		func(d backends.DID, name string) string {
			sum := md5.Sum([]byte(d.String()))
			h := hex.EncodeToString(sum[:2])
			return folderOf(d.Scope) + "/" + h[:2] + "/" + h[2:] + "/" + name
		},
		func(scope, pfn string) (string, bool) {
			rest, ok := strings.CutPrefix(pfn, folderOf(scope)+"/")
			if !ok || len(rest) < 7 || rest[2] != '/' || rest[5] != '/' {
				return "", false
			}
			return rest[6:], true
		}},
	{"identity",
		func(d backends.DID, name string) string { return folderOf(d.Scope) + "/" + name },
		func(scope, pfn string) (string, bool) { return strings.CutPrefix(pfn, folderOf(scope)+"/") }},
	{"belleii", nameOf, isName},
	// That of CTAO's policy package (bdms_rucio_policy, lfn2pfn.py).
	{"ctao_bdms", nameOf, isName},
}

// nameOf is the path that is the name itself, and isName the way back.
func nameOf(_ backends.DID, name string) string   { return name }
func isName(_, pfn string) (name string, ok bool) { return pfn, true }

// folderOf is a scope as a path: those of users and groups are spread over folders.
func folderOf(scope string) string {
	if strings.HasPrefix(scope, "user") || strings.HasPrefix(scope, "group") {
		return strings.ReplaceAll(scope, ".", "/")
	}
	return scope
}

// Words lists what ByName knows, Unique first.
func Words() []string {
	words := []string{Unique}
	for _, a := range all {
		words = append(words, a.word)
	}
	return words
}

// ByName gives the algorithm of that name; nil for Unique and "", false for a word that
// is none.
func ByName(word string) (a *Algorithm, ok bool) {
	if word == "" || word == Unique {
		return nil, true
	}
	for i := range all {
		if all[i].word == word {
			return &all[i], true
		}
	}
	return nil, false
}

// String is the word for a; nil is Unique.
func (a *Algorithm) String() string {
	if a == nil {
		return Unique
	}
	return a.word
}

// Path is where a copy of d belongs. A slash that the name begins with is not doubled, as
// storages fold it. False where no path can say it: the empty, "." or ".." as an element,
// one that begins with ".tarn" (where uploads are kept) or is longer than 255 bytes, more
// than 1000 bytes in all, control characters, and what is no UTF-8.
func (a *Algorithm) Path(d backends.DID) (string, bool) {
	if d.Scope == "" {
		return "", false
	}
	p := a.path(d, strings.TrimPrefix(d.Name, "/"))
	return p, sayable(p)
}

func sayable(p string) bool {
	if len(p) > 1000 || !utf8.ValidString(p) {
		return false
	}
	for _, e := range strings.Split(p, "/") {
		if e == "" || e == "." || e == ".." || len(e) > 255 || strings.HasPrefix(e, ".tarn") {
			return false
		}
	}
	return !strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
}

// DIDs lists the DIDs of that scope whose copies belong at the path: none, or one with
// and one without the slash at the beginning of its name.
func (a *Algorithm) DIDs(scope, pfn string) []backends.DID {
	rest, ok := a.name(scope, pfn)
	if !ok {
		return nil
	}
	var out []backends.DID
	for _, name := range []string{"/" + rest, rest} {
		d := backends.DID{Scope: scope, Name: name}
		if p, ok := a.Path(d); ok && p == pfn {
			out = append(out, d)
		}
	}
	return out
}

// Asked is an algorithm that somebody else computes: ask gives the path of a copy of d, "" when it is not to be had. It gives no DIDs of paths.
func Asked(word string, ask func(d backends.DID) string) *Algorithm {
	return &Algorithm{word: word, path: func(d backends.DID, _ string) string { return ask(d) }, name: func(string, string) (string, bool) { return "", false }}
}
