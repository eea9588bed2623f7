package backendstest

import (
	"errors"
	"fmt"
	"strings"

	"tarn/backends"
)

func (k *catalogueTest) needSide() {
	k.Helper()
	if k.Side == nil {
		k.Skip("it keeps no side records")
	}
}

func rec(table, key, value string) backends.SideRecord {
	return backends.SideRecord{Table: table, Key: key, Value: []byte(value)}
}

// side lists a table as key=value.
func (k *catalogueTest) side(table, prefix, after string) (out []string) {
	k.Helper()
	for _, r := range collect(k, k.Side.SideRecords(k.ctx, table, prefix, after)) {
		out = append(out, r.Key+"="+string(r.Value))
		k.equal("table", r.Table, table)
	}
	return out
}

var sideCases = []catalogueCase{
	{"a side record is what was put last, and gone when its value is nil", func(k *catalogueTest) {
		k.needSide()
		_, err := k.Side.SideRecord(k.ctx, "t", "k")
		k.wants(err, backends.ErrNotExist)
		k.must(k.Side.PutSide(k.ctx, rec("t", "k", "1"), rec("t", "", "empty key"), rec("t", "e", "")))
		k.must(k.Side.PutSide(k.ctx, rec("t", "k", "2")))
		for key, want := range map[string]string{"k": "2", "": "empty key", "e": ""} {
			v, err := k.Side.SideRecord(k.ctx, "t", key)
			k.must(err)
			k.equal("record "+key, string(v), want)
		}
		k.must(k.Side.PutSide(k.ctx, backends.SideRecord{Table: "t", Key: "k"}, backends.SideRecord{Table: "t", Key: "never"}))
		_, err = k.Side.SideRecord(k.ctx, "t", "k")
		k.wants(err, backends.ErrNotExist)
	}},
	{"SideRecords streams a table in the order of its keys, from a prefix and after a key", func(k *catalogueTest) {
		k.needSide()
		k.equal("an empty table", len(k.side("t", "", "")), 0)
		k.must(k.Side.PutSide(k.ctx, rec("t", "b", "2"), rec("t", "a", "1"), rec("t", "b\xff\x00", "3"), rec("t", "c", "4"), rec("t2", "b", "x"), rec("s", "b", "y")))
		k.equal("all", k.side("t", "", ""), []string{"a=1", "b=2", "b\xff\x00=3", "c=4"})
		k.equal("below b", k.side("t", "b", ""), []string{"b=2", "b\xff\x00=3"})
		k.equal("after b", k.side("t", "", "b"), []string{"b\xff\x00=3", "c=4"})
		k.equal("below b after b", k.side("t", "b", "b"), []string{"b\xff\x00=3"})
		k.equal("below b after c", len(k.side("t", "b", "c")), 0)
		k.equal("below b after a", k.side("t", "b", "a"), []string{"b=2", "b\xff\x00=3"})
	}},
	{"PutSide is all or nothing", func(k *catalogueTest) {
		k.needSide()
		for err, bad := range map[error]backends.SideRecord{
			backends.ErrName:        rec("", "k", "v"),
			backends.ErrNameTooLong: rec("t", strings.Repeat("k", backends.MaxSideKey+1), "v"),
			backends.ErrQuota:       rec("t", "k", strings.Repeat("v", backends.MaxSideValue+1)),
		} {
			k.wants(k.Side.PutSide(k.ctx, rec("t", "good", "v"), bad), err)
		}
		k.wants(k.Side.PutSide(k.ctx, rec("t\x00", "k", "v")), backends.ErrName)
		k.wants(k.Side.PutSide(k.ctx, rec(strings.Repeat("t", 65), "k", "v")), backends.ErrNameTooLong)
		k.equal("table", len(k.side("t", "", "")), 0)
		k.must(k.Side.PutSide(k.ctx, rec(strings.Repeat("t", 64), strings.Repeat("k", backends.MaxSideKey), strings.Repeat("v", backends.MaxSideValue))))
	}},
	{"PutSide takes MaxSideBatch records of 16 KiB in all", func(k *catalogueTest) {
		k.needSide()
		var rs []backends.SideRecord
		for i := range backends.MaxSideBatch {
			rs = append(rs, rec("t", fmt.Sprint(i), strings.Repeat("v", 16<<10/backends.MaxSideBatch)))
		}
		k.must(k.Side.PutSide(k.ctx, rs...))
		k.equal("records", len(k.side("t", "", "")), len(rs))
	}},
	{"LoadSide stores and deletes any number, up to an error of the sequence", func(k *catalogueTest) {
		k.needSide()
		const n = 3000
		want := errors.New("no more")
		load := func(value []byte, end error) (int64, error) {
			return k.Side.LoadSide(k.ctx, func(yield func(backends.SideRecord, error) bool) {
				for i := range n {
					if !yield(backends.SideRecord{Table: "t", Key: fmt.Sprintf("%05d", i), Value: value}, nil) {
						return
					}
				}
				if end != nil {
					yield(backends.SideRecord{}, end)
				}
			})
		}
		got, err := load([]byte(strings.Repeat("v", 200)), nil)
		k.must(err)
		k.equal("stored", got, n)
		k.equal("records", len(k.side("t", "", "")), n)
		k.equal("the last", k.side("t", "", "02998")[0][:7], "02999=v")
		_, err = load([]byte("w"), want)
		k.wants(err, want)
		k.equal("the first", k.side("t", "", "")[0], "00000=w")
		_, err = load(nil, nil)
		k.must(err)
		k.equal("records", len(k.side("t", "", "")), 0)
	}},
	{"side records have nothing to do with the DIDs", func(k *catalogueTest) {
		k.needSide()
		k.must(k.Side.PutSide(k.ctx, rec("t", k.did("f").String(), "v")))
		k.missing(k.did("f"))
		k.file(k.did("f"), 1)
		k.equal("table", len(k.side("t", "", "")), 1)
	}},
}

var nameCases = []catalogueCase{
	{"NameOf follows renames, of the DID and of what it lies in", func(k *catalogueTest) {
		if k.Names == nil {
			k.Skip("it finds no names by inodes")
		}
		k.dir(k.did("d"))
		in := k.file(k.did("d/f"), 1)
		name := func() backends.DID {
			d, err := k.Names.NameOf(k.ctx, in.Inode)
			k.must(err)
			return d
		}
		k.equal("name", name(), k.did("d/f"))
		if k.Namespace != nil && k.Catalogue.Traits().Rename {
			k.must(k.Namespace.Rename(k.ctx, k.did("d"), k.did("e")))
			k.must(k.Namespace.Rename(k.ctx, k.did("e/f"), k.did("e/g")))
			k.equal("name", name(), k.did("e/g"))
			k.must(k.Namespace.Remove(k.ctx, k.did("e/g")))
			_, err := k.Names.NameOf(k.ctx, in.Inode)
			k.wants(err, backends.ErrNotExist)
		}
		_, err := k.Names.NameOf(k.ctx, 1<<40)
		k.wants(err, backends.ErrNotExist)
	}},
}

// standardCases are about DIRAC's standard names in queries.
var standardCases = []catalogueCase{
	{"Find knows DIRAC's standard names", func(k *catalogueTest) {
		k.dir(k.did("d"))
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("d/f"), 1), backends.Meta{"guid": "0001"}, replica("DISK"), replica("TAPE")))
		k.file(k.did("d/g"), 2)
		bad := replica("OTHER")
		bad.State = backends.Bad
		k.must(k.Catalogue.PutReplica(k.ctx, k.did("d/g"), "", bad))
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("h"), 3), nil))
		for q, want := range map[string][]string{
			"SE = TAPE":                            {"d/f"},
			"SE = DISK":                            {"d/f", "d/g"},
			"SE = OTHER":                           nil, // it is BAD there
			"SE = OTHER,TAPE":                      {"d/f"},
			"SE = Missing type = file":             {"h"},
			"SE != TAPE type = file":               {"d/g", "h"},
			"Status = BAD":                         {"d/g"},
			"Status = AprioriGood":                 {"d/f", "d/g"},
			"Path = " + k.did("d").Name:            {"d", "d/f", "d/g"},
			"Path = " + k.did("d/f").Name:          {"d/f"},
			"Path = / Size >= 3":                   {"h"},
			"Name = f":                             {"d/f"},
			"FileName = g,h":                       {"d/g", "h"},
			"CheckSum = " + sha(2).Adler32:         {"d/g"},
			"GUID = 0001":                          {"d/f"},
			"GUID = 1":                             nil, // as text
			"GUID = Any":                           {"d/f"},
			"Size > 1 Size < 3":                    {"d/g"},
			"CreationDate = 2020-01-02 FileName=f": {"d/f"},
		} {
			var dids []string
			for _, w := range want {
				dids = append(dids, k.did(w).String())
			}
			k.equal(q, k.find(backends.DID{}, q), dids)
		}
		if k.Catalogue.Traits().Attributes {
			k.equal("UID", len(k.find(backends.DID{}, "UID = 1 GID = 2")), 3)
			k.equal("ModificationDate", len(k.find(k.did("d"), "ModificationDate > 2020-01-03 type = file")), 2)
		}
	}},
}
