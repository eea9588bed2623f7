package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"tarn/backends"
)

// checkRecords tests what must be true of the records among one another.
func checkRecords(t *testing.T, c *Catalogue) {
	t.Helper()
	err := c.read(context.Background(), func(v *view) error {
		pasts := map[uint64]uint64{} // by inode
		err := v.scan([]byte{prefixPast}, nil, func(key, val []byte) (bool, error) {
			var p past
			err := p.decode(val)
			pasts[p.entry.Inode]++
			return true, err
		})
		if err != nil {
			return err
		}
		if err := checkPlaces(t, v); err != nil {
			return err
		}
		return v.scan(nil, nil, func(key, val []byte) (bool, error) {
			switch key[0] {
			case prefixEntry, prefixScope:
				var e entry
				if err := e.decode(val); err != nil {
					return false, err
				}
				p, err := v.placeOf(e.Inode)
				if err != nil || p == nil || p.state != live || string(entryKey(p.parent, p.name)) != string(key) {
					t.Errorf("entry %q of inode %d has place %+v, %v", key, e.Inode, p, err)
				}
				if m, err := v.get(metaKey(e.Inode)); err != nil || (m != nil) != e.hasMeta {
					t.Errorf("entry %q says metadata %v, there is %q, %v", key, e.hasMeta, m, err)
				}
				n := 0
				if err := v.scan(beKey(prefixMember, e.Inode), nil, func(_, _ []byte) (bool, error) { n++; return true, nil }); err != nil {
					return false, err
				}
				in, err := v.attachedTo(e.Inode)
				if err != nil || n != int(e.members) || len(in) != int(e.attached) {
					t.Errorf("entry %q counts %d members, attached %d; there are %d and %d, %v", key, e.members, e.attached, n, len(in), err)
				}
			case prefixPlace:
				var p place
				if err := p.decode(val); err != nil {
					return false, err
				}
				ino := keyInode(key, 0)
				if p.pasts != pasts[ino] {
					t.Errorf("inode %d counts %d pasts, there are %d", ino, p.pasts, pasts[ino])
				}
				if p.state == tomb {
					if has, err := v.hasPasts(ino); err != nil || !has {
						t.Errorf("tomb of inode %d is kept for nothing, %v", ino, err)
					}
				}
				if p.state == live {
					if _, _, err := v.entryOf(ino); err != nil {
						t.Errorf("place of inode %d: %v", ino, err)
					}
				} else if p.state == gone && p.pasts == 0 {
					t.Errorf("inode %d is gone, but kept without a past", ino)
				}
			case prefixMember:
				e, err := v.member(val)
				if err != nil {
					t.Errorf("member %q: %v", key, err)
					break
				}
				if has, err := v.any(parentKey(e.Inode, keyInode(key, 0))); err != nil || !has {
					t.Errorf("member %q has no parent record, %v", key, err)
				}
			case prefixReplicas, prefixMeta:
				p, err := v.placeOf(keyInode(key, 0))
				if err != nil || p == nil || p.state == gone {
					t.Errorf("record %q of an inode that is %+v, %v", key, p, err)
				}
			case prefixPast:
				var p past
				if err := p.decode(val); err != nil {
					return false, err
				}
				if has, err := v.has(pastNameKey(p.parent, p.name, handle{keyInode(key, 0), keyInode(key, 1)})); err != nil || !has {
					t.Errorf("past %q is not known by name, %v", key, err)
				}
				if _, err := v.didOf(p.parent); err != nil {
					t.Errorf("past %q: %v", key, err)
				}
			case prefixRule:
				var r rule
				if err := r.decode(val); err != nil {
					return false, err
				}
				id := backends.RuleID(key[1:])
				p, err := v.placeOf(r.inode)
				of, err2 := v.has(ruleOfKey(r.inode, id))
				in, err3 := v.has(ruleInKey(r.State, id))
				if p == nil || p.state == tomb || !of || !in || err != nil || err2 != nil || err3 != nil {
					t.Errorf("rule %s is on %+v, indexed %v %v, %v %v %v", id, p, of, in, err, err2, err3)
				}
			}
			return true, nil
		})
	})
	if err != nil && !errors.Is(err, backends.ErrClosed) {
		t.Error(err)
	}
}

// checkPlaces compares what is on record of the paths with all replicas that there are.
func checkPlaces(t *testing.T, v *view) error {
	t.Helper()
	for _, rse := range v.c.o.Places {
		want, got := map[string]uint64{}, map[string]uint64{}
		count := func(rs []backends.Replica) {
			for _, r := range rs {
				if r.RSE == rse {
					want[string(pathKey(rse, r.PFN))]++
				}
			}
		}
		err := v.scan([]byte{prefixReplicas}, nil, func(_, val []byte) (bool, error) {
			rs, err := decodeReplicas(val)
			count(rs)
			return true, err
		})
		if err != nil {
			return err
		}
		err = v.scan([]byte{prefixPast}, nil, func(_, val []byte) (bool, error) {
			var p past
			err := p.decode(val)
			count(p.replicas)
			return true, err
		})
		if err != nil {
			return err
		}
		err = v.scan(placesPrefix(rse), nil, func(key, val []byte) (bool, error) {
			n, err := countOf(val)
			got[string(key)] = n
			return true, err
		})
		if err != nil {
			return err
		}
		if !maps.Equal(got, want) {
			t.Errorf("of the paths at %s %d are on record, and %d in use: %v, want %v", rse, len(got), len(want), got, want)
		}
	}
	return nil
}

func TestEntriesAreReadAsTheyWereWritten(t *testing.T) {
	sha, md := strings.Repeat("0af1", 16), strings.Repeat("09", 16)
	for _, in := range []backends.Info{
		{Type: backends.Container, Mode: 0o7777, UID: math.MaxUint32, GID: 1, Inode: math.MaxUint64, Layout: backends.LayoutContents},
		{Type: backends.File, Size: 1 << 60, Checksums: backends.Checksums{SHA256: sha, Adler32: "00000001"}, Generation: backends.Generation("sha256:" + sha + ":1152921504606846976")},
		{Type: backends.File, Size: 5, Checksums: backends.Checksums{SHA256: sha, MD5: md}, Generation: backends.Generation("md5:" + md + ":5")},
		{Type: backends.File, Size: 5, Checksums: backends.Checksums{SHA256: sha}, Generation: "sha256:odd"},
		{Type: backends.File, Size: 5, Checksums: backends.Checksums{MD5: md}, Generation: backends.Generation("md5:" + md + ":5")},
		{Type: backends.File, Checksums: backends.Checksums{SHA256: strings.ToUpper(sha), MD5: "xyz", Adler32: "1"}, Generation: "did:a:b"},
		{Type: backends.File, Target: "a\xff\n"},
		{Type: backends.Dataset, MTime: time.Date(9999, 1, 1, 0, 0, 0, 999999999, time.UTC), CTime: time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if in.MTime.IsZero() {
			in.MTime, in.CTime = time.Unix(0, 0).UTC(), time.Unix(-1, 5).UTC()
		}
		e := entry{Info: in, hasMeta: in.Size > 0, attached: 3}
		var got entry
		if err := got.decode(e.encode()); err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%+v is read as %+v, %v", e, got, err)
		}
	}
}

func TestMetadataIsReadAsItWasWritten(t *testing.T) {
	m := backends.Meta{"bytes": "\xff\x00", "f": 1.5, "n": json.Number("12345678901234567890"), "t": true, "no": false, "null": []any{nil},
		"deep": map[string]any{"l": []any{map[string]any{"x": ""}}}}
	b, err := encodeMeta(m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeMeta(b); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%v is read as %v, %v", m, got, err)
	}
	b, err = encodeMeta(backends.Meta{"i": 7, "u": uint8(3), "at": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "s": []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	want := backends.Meta{"i": json.Number("7"), "u": json.Number("3"), "at": "2026-01-02T03:04:05Z", "s": []any{"a"}}
	if got, err := decodeMeta(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("other types are read as %#v, %v", got, err)
	}
	deep := any("x")
	for range 200 {
		deep = []any{deep}
	}
	for _, bad := range []any{deep, func() {}, strings.Repeat("x", maxMeta+1)} {
		if _, err := encodeMeta(backends.Meta{"k": bad}); err == nil {
			t.Errorf("%.20T was taken", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	e := entry{Info: benchFile(3), attached: 1, members: 2}
	f.Add(e.encode())
	m, err := encodeMeta(backends.Meta{"a": []any{1.0, map[string]any{"b": "c"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m)
	p := past{entry: e, replicas: []backends.Replica{{RSE: "A", PFN: "b"}}, meta: m, name: "x", attached: []uint64{5}}
	f.Add(p.encode())
	pl := place{state: tomb, name: "x"}
	f.Add(pl.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		var e entry
		if e.decode(b) == nil {
			var again entry
			if err := again.decode(e.encode()); err != nil || !reflect.DeepEqual(again, e) {
				t.Fatalf("%+v is read as %+v, %v", e, again, err)
			}
		}
		if m, err := decodeMeta(b); err == nil {
			if _, err := encodeMeta(m); err != nil && len(b) < maxMeta/4 && !strings.Contains(err.Error(), "levels") {
				t.Fatal(err)
			}
		}
		var p past
		_ = p.decode(b)
		var pl place
		_ = pl.decode(b)
		var r rule
		_ = r.decode(b)
		var c counters
		_ = c.decode(b)
		_, _ = decodeReplicas(b)
		_, _ = decodeEvent(ref{}, b)
	})
}
