package backendstest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/query"
)

// Opened is a catalogue under test and its other faces; what needs a nil one is skipped.
type Opened struct {
	Catalogue backends.Catalogue
	Namespace backends.Namespace
	Versions  backends.Versions
	Rules     backends.Rules
	Importer  backends.Importer
	Places    backends.Places // keeps the paths at the RSE DISK, and at none named ELSEWHERE
	Records   backends.Records
	Side      backends.Side
	Names     backends.Names
	// NewScope makes an empty scope of that layout and gives its name, or "" where there
	// are no such scopes. Nil: by Namespace.
	NewScope func(t *testing.T, l backends.Layout) string
	// Reopen closes the catalogue and opens it again on what is stored; the suite does
	// so after every change. Nil: it stays open.
	Reopen func(t *testing.T) Opened
	// Check, if not nil, looks into what is stored, at the end of each test.
	Check func(t *testing.T)
	// Grace is how long a Past is kept.
	Grace time.Duration
	// Cannot names tests of what this catalogue cannot do, beside what its Traits rule out, and why.
	Cannot map[string]string
}

// Open opens a new, empty catalogue, which the suite closes. It takes its time from
// now, if it can.
type Open func(t *testing.T, now func() time.Time) Opened

// Catalogue runs the contracts of backends.Catalogue, Namespace, Versions, Rules,
// Importer, Places, Records, Side and Names, one subtest a sentence.
func Catalogue(t *testing.T, open Open) {
	for _, group := range [][]catalogueCase{statCases, contentsCases, findCases, addCases, memberCases, replicaCases, placeCases, recordCases, standardCases, sideCases, nameCases, namespaceCases, renameCases, versionCases, historyCases, ruleCases, importCases, lifeCases, flatCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				k := newCatalogueTest(t, open)
				if k.scope == "" && !slices.ContainsFunc(flatCases, func(f catalogueCase) bool { return f.name == c.name }) {
					t.Skip("no scopes of layout lfn")
				}
				if why, ok := k.Cannot[c.name]; ok {
					t.Skip(why)
				}
				c.run(k)
			})
		}
	}
}

type catalogueCase struct {
	name string
	run  func(k *catalogueTest)
}

var statCases = []catalogueCase{
	{"Stat gives what Add was given", func(k *catalogueTest) {
		in := fileInfo(k.did("f"), 7)
		k.must(k.Catalogue.Add(k.ctx, in, nil))
		got := k.stat(in.DID)
		if !k.Catalogue.Traits().Attributes {
			got.Mode, got.UID, got.GID, got.MTime = in.Mode, in.UID, in.GID, in.MTime
		}
		in.Inode, in.CTime, in.Generation = got.Inode, got.CTime, backends.GenerationOf(in.DID, in.Size, in.Checksums)
		k.equal("Stat", got, in)
	}},
	{"Stat of what is not there is ErrNotExist", func(k *catalogueTest) {
		for _, d := range []backends.DID{k.did("x"), k.did("x/y"), {Scope: "nosuch", Name: "/nosuch/x"}} {
			k.missing(d)
		}
		k.missing(k.flatDID("x"))
	}},
	{"Stat is ErrNotDir when an element before the last is a file", func(k *catalogueTest) {
		k.file(k.did("f"), 1)
		for _, d := range []backends.DID{k.did("f/x"), k.did("f/x/y")} {
			_, err := k.Catalogue.Stat(k.ctx, d)
			k.wants(err, backends.ErrNotDir)
		}
	}},
	{"a scope is a collection, with its layout", func(k *catalogueTest) {
		in := k.stat(k.did(""))
		k.equal("type", in.Type, backends.Container)
		k.equal("layout", in.Layout, backends.LayoutLFN)
		in = k.stat(backends.DID{Scope: k.contentsScope()})
		k.equal("layout", in.Layout, backends.LayoutContents)
	}},
	{"names that are none are ErrName, long ones ErrNameTooLong", func(k *catalogueTest) {
		long := strings.Repeat("x", 256)
		for _, name := range []string{"", "/", "/other/x", "/" + k.scope + "/", "/" + k.scope + "//x", "/" + k.scope + "/./x", "/" + k.scope + "/..", "/" + k.scope + "/a\x00b", "/" + k.scope + "x", k.scope + "/x"} {
			d := backends.DID{Scope: k.scope, Name: name}
			_, err := k.Catalogue.Stat(k.ctx, d)
			k.wants(err, backends.ErrName)
			k.wants(k.Catalogue.Add(k.ctx, fileInfo(d, 1), nil), backends.ErrName)
		}
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(k.did(long), 1), nil), backends.ErrNameTooLong)
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(k.did(strings.Repeat("a/", 2100)+"x"), 1), nil), backends.ErrNameTooLong)
		k.wants(k.Catalogue.Add(k.ctx, fileInfo(backends.DID{Scope: k.contentsScope(), Name: "a\x00"}, 1), nil), backends.ErrName)
	}},
	{"names may be any bytes but NUL", func(k *catalogueTest) {
		if !k.Catalogue.Traits().AnyName {
			k.Skip("not this catalogue's")
		}
		names := []string{" ", "-", "...", "a b", "a\nb", "\x01", "\xff\xfe", "ümläut", "a:b", "%2F", "*", strings.Repeat("x", 255)}
		for i, n := range names {
			k.file(k.did(n), i+1)
		}
		slices.Sort(names)
		for i, n := range names {
			names[i] = k.did(n).Name
		}
		k.equal("Contents", k.names(k.did(""), ""), names)
	}},
}

var contentsCases = []catalogueCase{
	{"Contents is in byte order of the names", func(k *catalogueTest) {
		k.dir(k.did("d"))
		var want []string
		for _, n := range []string{"b", "a", "a.x", "a0", "B", "ab"} {
			k.file(k.did("d/"+n), 1)
			want = append(want, k.did("d/"+n).Name)
		}
		k.dir(k.did("d/aa"))
		k.file(k.did("d/aa/inner"), 1)
		want = append(want, k.did("d/aa").Name)
		slices.Sort(want)
		k.equal("Contents", k.names(k.did("d"), ""), want)
		k.equal("Contents of an empty collection", k.names(k.dir(k.did("e")).DID, ""), []string(nil))
	}},
	{"Contents gives what Stat gives", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.file(k.did("f"), 3)
		for _, in := range collect(k, k.Catalogue.Contents(k.ctx, k.did(""), "")) {
			k.equal("Info", in, k.stat(in.DID))
		}
	}},
	{"Contents begins after the name", func(k *catalogueTest) {
		for _, n := range []string{"a", "b", "b0", "c"} {
			k.file(k.did(n), 1)
		}
		for after, n := range map[string]int{"": 4, "a": 3, "aa": 3, "b": 2, "b00": 1, "c": 0, "z": 0, "A": 4} {
			k.equal("number after "+after, len(k.names(k.did(""), after)), n)
		}
	}},
	{"Contents of what is not there or no collection", func(k *catalogueTest) {
		k.file(k.did("f"), 1)
		k.wants(failure(k, k.Catalogue.Contents(k.ctx, k.did("x"), "")), backends.ErrNotExist)
		k.wants(failure(k, k.Catalogue.Contents(k.ctx, k.did("f"), "")), backends.ErrNotDir)
	}},
	{"Contents of many entries gives each once, while others come and go", func(k *catalogueTest) {
		if k.Importer == nil {
			k.Skip("no Importer to make them")
		}
		k.dir(k.did("d"))
		const n = 3000
		_, err := k.Importer.Import(k.ctx, func(yield func(backends.Entry, error) bool) {
			for i := range n {
				if !yield(backends.Entry{Info: fileInfo(k.did(fmt.Sprintf("d/%05d", i)), i+1)}, nil) {
					return
				}
			}
		})
		k.must(err)
		i := 0
		for in, err := range k.Catalogue.Contents(k.ctx, k.did("d"), "") {
			if err != nil {
				k.Fatal(err)
			}
			if strings.HasSuffix(in.DID.Name, "x") {
				continue
			}
			if want := k.did(fmt.Sprintf("d/%05d", i)); in.DID != want {
				k.Fatalf("entry %d is %v, want %v", i, in.DID, want)
			}
			if i%500 == 0 {
				d := k.did(fmt.Sprintf("d/%05dx", (i+1500)%n))
				if err := k.Catalogue.Add(k.ctx, fileInfo(d, 1), nil); err != nil {
					k.Fatal(err)
				}
				if k.Namespace != nil {
					if err := k.Namespace.Remove(k.ctx, d); err != nil {
						k.Fatal(err)
					}
				}
			}
			i++
		}
		k.equal("number of entries", i, n)
	}},
	{"a sequence can be left, and read again", func(k *catalogueTest) {
		for _, n := range []string{"a", "b", "c"} {
			k.file(k.did(n), 1)
		}
		seq := k.Catalogue.Contents(k.ctx, k.did(""), "")
		for range seq {
			break
		}
		k.equal("number of entries", len(collect(k, seq)), 3)
		k.equal("number of entries", len(collect(k, seq)), 3)
	}},
	{"Parents streams the collections that a DID is attached to", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.dir(k.did("e"))
		k.file(k.did("d/f"), 1)
		parents := func(d backends.DID) []backends.DID { return collect(k, k.Catalogue.Parents(k.ctx, d)) }
		k.equal("Parents", parents(k.did("d/f")), []backends.DID{k.did("d")})
		k.must(k.Catalogue.Attach(k.ctx, k.did("e"), k.did("d/f")))
		k.equal("Parents", parents(k.did("d/f")), []backends.DID{k.did("d"), k.did("e")})
		k.equal("Parents of a scope", parents(k.did("")), []backends.DID(nil))
		k.wants(failure(k, k.Catalogue.Parents(k.ctx, k.did("x"))), backends.ErrNotExist)
	}},
}

func (k *catalogueTest) find(root backends.DID, q string) (out []string) {
	k.Helper()
	var e query.Expr
	if q != "" {
		var err error
		if e, err = query.Parse(q); err != nil {
			k.Fatal(err)
		}
	}
	for _, in := range collect(k, k.Catalogue.Find(k.ctx, root, e)) {
		out = append(out, in.DID.String())
	}
	slices.Sort(out)
	return out
}

var findCases = []catalogueCase{
	{"Find refers to metadata and to that of the collections above, nearest wins", func(k *catalogueTest) {
		k.must(k.Catalogue.SetMeta(k.ctx, k.did(""), backends.Meta{"site": "LP", "run": 0}))
		for _, d := range []string{"d", "d/e"} {
			k.dir(k.did(d))
		}
		for i, f := range []string{"f", "d/f", "d/e/f", "d/e/g"} {
			k.file(k.did(f), i+1)
		}
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("d"), backends.Meta{"run": 5, "tel": []any{"LST-1", "LST-2"}}))
		k.must(k.Catalogue.SetMeta(k.ctx, k.did("d/e/g"), backends.Meta{"run": 6}))
		for q, want := range map[string][]string{
			"run = 5":                              {"d", "d/e", "d/e/f", "d/f"},
			"run = 6":                              {"d/e/g"},
			"run = 0":                              {"", "f"},
			"site = LP type = file":                {"d/e/f", "d/e/g", "d/f", "f"},
			"tel = LST-2 type != file":             {"d", "d/e"},
			"tel != LST-2":                         {"", "f"},
			"name = f":                             {"d/e/f", "d/f", "f"},
			"name like '\\\\?' or name like g*":    {"d/e/g"},
			"name like '?' size > 3":               {"d/e/g"},
			"size > 2":                             {"d/e/f", "d/e/g"},
			"sha256 = " + sha(1).SHA256:            {"f"},
			"checksum = adler32:" + sha(2).Adler32: {"d/f"},
			"mtime = 2020-01-02 size = 1":          {"f"},
			"scope = " + k.scope + " name = g":     {"d/e/g"},
			"did = " + k.did("d/f").String():       {"d/f"},
			"md5 = 1":                              nil,
		} {
			if (strings.HasPrefix(q, "mtime") || strings.HasPrefix(q, "sha256")) && !k.Catalogue.Traits().Attributes {
				continue // kept by nobody
			}
			var dids []string
			for _, w := range want {
				dids = append(dids, k.did(w).String())
			}
			k.equal(q, k.find(backends.DID{}, q), dids)
		}
	}},
	{"Find streams what is at or below root", func(k *catalogueTest) {
		for _, d := range []string{"d", "d/e", "dd"} {
			k.dir(k.did(d))
		}
		for i, f := range []string{"d/f", "d/e/f", "dd/f"} {
			k.file(k.did(f), i+1)
		}
		k.equal("below d", k.find(k.did("d"), ""), []backends.DID{k.did("d"), k.did("d/e"), k.did("d/e/f"), k.did("d/f")})
		k.equal("below a file", k.find(k.did("d/f"), "size = 1"), []backends.DID{k.did("d/f")})
		k.wants(failure(k, k.Catalogue.Find(k.ctx, k.did("x"), nil)), backends.ErrNotExist)
	}},
	{"Find gives what is attached several times once", func(k *catalogueTest) {
		for _, d := range []string{"a", "b", "b/c"} {
			k.dir(k.did(d))
		}
		k.file(k.did("b/f"), 1)
		k.file(k.did("b/c/g"), 2)
		k.must(k.Catalogue.Attach(k.ctx, k.did("a"), k.did("b/c"), k.did("b/f"), k.did("b/c/g")))
		k.equal("below a", k.find(k.did("a"), ""), []backends.DID{k.did("a"), k.did("b/c"), k.did("b/c/g"), k.did("b/f")})
		k.equal("files", k.find(backends.DID{}, "type = file"), []backends.DID{k.did("b/c/g"), k.did("b/f")})
	}},
}
