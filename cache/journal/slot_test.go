package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
)

func mustSlot(t testing.TB, size int, seq uint64, st stored) []byte {
	t.Helper()
	payload, err := encodePayload(st)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	putSlot(b, seq, payload)
	return b
}

func fullRecord() stored {
	at := time.Date(2026, 11, 26, 1, 2, 3, 4, time.UTC)
	return stored{
		Record: Record{
			ID: "18eb6fdcb3d3ce13cca114c4", Path: []byte("/ctao/\xff\n\"x"), Inode: 1 << 63, State: Uploaded, Size: 1 << 40,
			Sums: map[string]string{"adler32": "0001", "sha256": "ab"}, Mode: 0o644, UID: 1, GID: 2, MTime: at,
			Meta: map[string]any{"a": "b", "l": []any{"x", true, nil}}, Copies: []Copy{{RSE: "A", PFN: "p", State: Verified}},
			Base: "sha256:00:1", Error: "why", Attempts: 3, NextTry: at, Created: at, Sealed: at, Seq: 1 << 62, Recovered: true, Damaged: true,
		},
		Synced: true, SyncedSize: 9, Touched: true, SyncError: "x",
	}
}

// withVersion turns a slot into one of another format with a good sum.
func withVersion(b []byte, v uint32) []byte {
	binary.LittleEndian.PutUint32(b[8:], v)
	n := int(binary.LittleEndian.Uint32(b[12:]))
	binary.LittleEndian.PutUint32(b[32:], slotSum(b, n))
	return b
}

func TestParseRecord(t *testing.T) {
	a := func() []byte { return mustSlot(t, 4096, 1, stored{Record: Record{ID: "a"}}) }
	b := func() []byte { return mustSlot(t, 4096, 2, stored{Record: Record{ID: "b"}}) }
	bad := func(p []byte, at int) []byte { p[at] ^= 1; return p }
	cat := func(p ...[]byte) (out []byte) {
		for _, x := range p {
			out = append(out, x...)
		}
		return out
	}
	big := func(seq uint64, id string) []byte { return mustSlot(t, 8192, seq, stored{Record: Record{ID: id}}) }
	for _, c := range []struct {
		name string
		file []byte
		id   string
		off  int64
		err  error
	}{
		{"second is newer", cat(a(), b()), "b", 4096, nil},
		{"first is newer", cat(b(), a()), "b", 0, nil},
		{"only the first", cat(a(), make([]byte, 4096)), "a", 0, nil},
		{"only the second", cat(make([]byte, 4096), b()), "b", 4096, nil},
		{"newer one torn in the payload", cat(a(), bad(b(), slotHeader+3)), "a", 0, nil},
		{"newer one torn in the sequence", cat(a(), bad(b(), 16)), "a", 0, nil},
		{"newer one torn in the length", cat(a(), bad(b(), 12)), "a", 0, nil},
		{"newer one torn in the size", cat(a(), bad(b(), 25)), "a", 0, nil},
		{"newer one torn in the sum", cat(a(), bad(b(), 32)), "a", 0, nil},
		{"newer one without magic", cat(a(), bad(b(), 0)), "a", 0, nil},
		{"both bad", cat(bad(a(), 0), bad(b(), 50)), "", 0, ErrDamaged},
		{"all zero", make([]byte, 8192), "", 0, ErrDamaged},
		{"empty", nil, "", 0, ErrDamaged},
		{"cut in the second", cat(a(), b()[:50]), "a", 0, nil},
		{"cut in the first", a()[:50], "", 0, ErrDamaged},
		{"grown", cat(a(), b(), make([]byte, 5000)), "b", 4096, nil},
		{"bigger slots", cat(big(5, "a"), big(6, "b")), "b", 8192, nil},
		{"bigger slots, first bad", cat(bad(big(5, "a"), 8), big(6, "b")), "b", 8192, nil},
		{"slot where none belongs", cat(make([]byte, 4096), big(6, "b")), "", 0, ErrDamaged},
		{"later format", cat(a(), withVersion(b(), 2)), "", 0, ErrVersion},
		{"version damaged", cat(a(), bad(b(), 8)), "a", 0, nil},
		{"payload that is no JSON", cat(a(), func() []byte { p := make([]byte, 4096); putSlot(p, 9, []byte("{")); return p }()), "a", 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := parseRecord(c.file)
			if !errors.Is(err, c.err) || s.st.ID != c.id || s.off != c.off {
				t.Fatalf("got %q at %d, %v; want %q at %d, %v", s.st.ID, s.off, err, c.id, c.off, c.err)
			}
		})
	}
}

func TestRecordRoundTrip(t *testing.T) {
	want := fullRecord()
	s, err := parseRecord(append(mustSlot(t, 4096, 7, want), make([]byte, 4096)...))
	if err != nil {
		t.Fatal(err)
	}
	s.st.Name = ""
	if !reflect.DeepEqual(s.st, want) || s.seq != 7 || s.size != 4096 {
		t.Fatalf("got  %+v\nwant %+v", s.st, want)
	}
}

// A copy that a caller gets or gives must share nothing with the entry.
func TestRecordClone(t *testing.T) {
	r := fullRecord().Record
	r.Meta["deep"] = map[string]any{"x": []any{1}}
	c := r.clone()
	c.Path[0], c.Sums["adler32"], c.Copies[0].PFN = 'x', "", ""
	c.Meta["deep"].(map[string]any)["x"].([]any)[0] = 2
	if r.Path[0] != '/' || r.Sums["adler32"] == "" || r.Copies[0].PFN == "" || r.Meta["deep"].(map[string]any)["x"].([]any)[0] != 1 {
		t.Fatalf("shared: %+v", r)
	}
}

func TestRecordTooBig(t *testing.T) {
	_, err := encodePayload(stored{Record: Record{Base: string(make([]byte, maxSlot))}})
	if !errors.Is(err, ErrTooBig) {
		t.Fatal(err)
	}
}

func FuzzParseRecord(f *testing.F) {
	a, b := mustSlot(f, 4096, 1, fullRecord()), mustSlot(f, 4096, 2, stored{})
	f.Add(append(a, b...))
	f.Add(append(b, a...))
	f.Add(a[:60])
	f.Add(withVersion(mustSlot(f, 8192, 1<<63, stored{}), 7))
	f.Add(make([]byte, 8192))
	f.Fuzz(func(t *testing.T, file []byte) {
		s, err := parseRecord(file)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		// What was accepted is a whole slot with a good sum, and can be written again.
		n := int(binary.LittleEndian.Uint32(file[s.off+12:]))
		sum := crc32.Checksum(append(append([]byte{}, file[s.off:s.off+32]...), file[int(s.off)+slotHeader:int(s.off)+slotHeader+n]...), castagnoli)
		if sum != binary.LittleEndian.Uint32(file[s.off+32:]) {
			t.Fatal("accepted with a bad sum")
		}
		payload, err := encodePayload(s.st)
		if err != nil {
			t.Skip(err)
		}
		size := slotFor(len(payload))
		out := make([]byte, 2*size)
		putSlot(out[size:], s.seq, payload)
		again, err := parseRecord(out)
		if err != nil || again.seq != s.seq || again.st.ID != s.st.ID || !maps.Equal(again.st.Sums, s.st.Sums) {
			t.Fatalf("written again it is %+v, %v", again, err)
		}
	})
}

func FuzzParseIntent(f *testing.F) {
	f.Add([]byte(intentMagic))
	f.Add([]byte("\x89TRNINT\n\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseIntent(b)
		if err == nil && len(v) != len(b)-intentHead {
			t.Fatalf("%d bytes of %d", len(v), len(b))
		}
	})
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", ".", "..", "a/b", "~x", "\x00", "%41", "ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := escape(s)
		back, err := unescape(e)
		if err != nil || back != s {
			t.Fatalf("%q -> %q -> %q, %v", s, e, back, err)
		}
		for _, c := range []byte(e) {
			if c == '/' || c == 0 || c == '~' {
				t.Fatalf("%q in %q", c, e)
			}
		}
		if e == "." || e == ".." {
			t.Fatal(e)
		}
	})
}

func FuzzParseLogged(f *testing.F) {
	h := segmentHead{gen: 3, salt: 7, size: 64 << 10}
	for _, r := range [][]byte{
		encodeLogged(logGone, strings.Repeat("0", 24), 1, nil, nil),
		encodeLogged(logSeal, strings.Repeat("a", 24), 2, []byte(`{"id":"`+strings.Repeat("a", 24)+`","state":"SEALED","size":3,"uid":0,"gid":0}`), []byte("abc")),
		encodeLogged(logState, strings.Repeat("a", 24), 3, []byte(`{"id":"`+strings.Repeat("a", 24)+`","state":"SAFE"}`), nil),
	} {
		placeLogged(r, h, segStart)
		f.Add(append(h.encode(), r...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		head, err := parseSegmentHead(b)
		if err != nil {
			head = h
		}
		if r, n, ok := parseLogged(b, head, segStart); ok {
			if n <= 0 || n%logUnit != 0 || !isID(r.id) || (r.kind != logGone && r.st.ID != r.id) || r.good && (r.size != r.st.Size || r.at+r.size > int64(segStart+len(b))) {
				t.Fatalf("%d %+v", n, r)
			}
		}
		for r := range allLogged(b, head) {
			if r.kind == 0 {
				t.Fatal(r)
			}
		}
	})
}
