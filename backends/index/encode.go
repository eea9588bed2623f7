package index

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"tarn/backends"
)

// record is what is known of a DID.
type record struct {
	info backends.Info
	meta backends.Meta // with that of the collections above, nearest wins
	flat bool          // its name is no path
}

var errShort = errors.New("record cut short")

// Bits of a record's first byte.
const (
	isFlat = 1 << iota
	hasOwnGeneration
	hasTarget
	hasLayout
)

// encode writes r. A generation that follows from the rest is left out.
func (r *record) encode() ([]byte, error) {
	in := &r.info
	var bits byte
	if r.flat {
		bits |= isFlat
	}
	own := in.Type == backends.File && in.Generation != backends.GenerationOf(in.DID, in.Size, in.Checksums) || in.Type != backends.File && in.Generation != ""
	if own {
		bits |= hasOwnGeneration
	}
	if in.Target != "" {
		bits |= hasTarget
	}
	if in.Layout != "" {
		bits |= hasLayout
	}
	b := make([]byte, 0, 256)
	b = append(b, bits, byte(in.Type))
	b = appendText(b, in.DID.Scope)
	b = appendText(b, in.DID.Name)
	b = binary.AppendVarint(b, in.Size)
	b = binary.AppendUvarint(b, uint64(in.Mode))
	b = binary.AppendUvarint(b, uint64(in.UID))
	b = binary.AppendUvarint(b, uint64(in.GID))
	b = appendTime(b, in.MTime)
	b = appendTime(b, in.CTime)
	b = binary.AppendUvarint(b, in.Inode)
	b = appendText(b, in.Checksums.Adler32)
	b = appendText(b, in.Checksums.MD5)
	b = appendText(b, in.Checksums.SHA256)
	if own {
		b = appendText(b, string(in.Generation))
	}
	if in.Target != "" {
		b = appendText(b, in.Target)
	}
	if in.Layout != "" {
		b = appendText(b, string(in.Layout))
	}
	return appendMeta(b, r.meta)
}

func decodeRecord(b []byte) (r record, err error) {
	d := &decoder{b: b}
	bits := d.byte()
	in := &r.info
	in.Type = backends.Type(d.byte())
	in.DID.Scope, in.DID.Name = d.text(), d.text()
	in.Size = d.varint()
	in.Mode, in.UID, in.GID = uint32(d.uvarint()), uint32(d.uvarint()), uint32(d.uvarint())
	in.MTime, in.CTime = d.time(), d.time()
	in.Inode = d.uvarint()
	in.Checksums = backends.Checksums{Adler32: d.text(), MD5: d.text(), SHA256: d.text()}
	switch {
	case bits&hasOwnGeneration != 0:
		in.Generation = backends.Generation(d.text())
	case in.Type == backends.File:
		in.Generation = backends.GenerationOf(in.DID, in.Size, in.Checksums)
	}
	if bits&hasTarget != 0 {
		in.Target = d.text()
	}
	if bits&hasLayout != 0 {
		in.Layout = backends.Layout(d.text())
	}
	r.flat = bits&isFlat != 0
	r.meta = d.meta()
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes behind a record", len(d.b))
	}
	return r, d.err
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendUvarints(b []byte, all ...uint64) []byte {
	for _, n := range all {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// appendTime writes seconds and nanoseconds; the zero time is a byte of zero.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	b = binary.AppendVarint(append(b, 1), t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

func appendMeta(b []byte, m backends.Meta) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(m)))
	var err error
	for k, v := range m {
		b = appendText(b, k)
		if b, err = appendValue(b, v); err != nil {
			return nil, fmt.Errorf("metadata %q: %w", k, err)
		}
	}
	return b, nil
}

// appendValue keeps the very type of a value: a number's text, by which a query may compare, depends on it.
func appendValue(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, 'z'), nil
	case bool:
		if v {
			return append(b, 'y'), nil
		}
		return append(b, 'n'), nil
	case string:
		return appendText(append(b, 's'), v), nil
	case json.Number:
		return appendText(append(b, '#'), string(v)), nil
	case float64:
		return binary.LittleEndian.AppendUint64(append(b, 'f'), math.Float64bits(v)), nil
	case int:
		return binary.AppendVarint(append(b, 'i'), int64(v)), nil
	case int64:
		return binary.AppendVarint(append(b, 'i'), v), nil
	case []string:
		l := make([]any, len(v))
		for i, s := range v {
			l[i] = s
		}
		return appendValue(b, l)
	case []any:
		b = binary.AppendUvarint(append(b, 'l'), uint64(len(v)))
		var err error
		for _, e := range v {
			if b, err = appendValue(b, e); err != nil {
				return nil, err
			}
		}
		return b, nil
	case map[string]any:
		return appendMeta(append(b, 'm'), v)
	}
	return nil, fmt.Errorf("a value of type %T: %w", v, backends.ErrNotSupported)
}

// decoder reads what the functions above wrote; after an error it gives zeros.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() { d.b, d.err = nil, errors.Join(errShort, backends.ErrDamaged) }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) text() string { return string(d.take(d.uvarint())) }

func (d *decoder) time() time.Time {
	if d.byte() == 0 {
		return time.Time{}
	}
	sec := d.varint()
	return time.Unix(sec, int64(d.uvarint())).UTC()
}

func (d *decoder) meta() backends.Meta {
	n := d.uvarint()
	if n == 0 || n > uint64(len(d.b)) {
		if n > 0 {
			d.fail()
		}
		return nil
	}
	m := make(backends.Meta, n)
	for range n {
		k := d.text()
		m[k] = d.value()
	}
	return m
}

func (d *decoder) value() any {
	switch c := d.byte(); c {
	case 'z':
		return nil
	case 'y', 'n':
		return c == 'y'
	case 's':
		return d.text()
	case '#':
		return json.Number(d.text())
	case 'f':
		if p := d.take(8); p != nil {
			return math.Float64frombits(binary.LittleEndian.Uint64(p))
		}
	case 'i':
		return d.varint()
	case 'l':
		n := d.uvarint()
		if n > uint64(len(d.b)) {
			d.fail()
			return nil
		}
		l := make([]any, n)
		for i := range l {
			l[i] = d.value()
		}
		return l
	case 'm':
		m := d.meta()
		if m == nil {
			m = backends.Meta{}
		}
		return map[string]any(m)
	default:
		d.fail()
	}
	return nil
}
