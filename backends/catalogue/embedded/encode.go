package embedded

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"time"

	"tarn/backends"
)

// enc appends the parts of a record; dec reads them back. Records have no field
// names: their order is in docs/catalogue-format.md.
type enc []byte

func (e *enc) byte(b byte)     { *e = append(*e, b) }
func (e *enc) uint(n uint64)   { *e = binary.AppendUvarint(*e, n) }
func (e *enc) int(n int64)     { *e = binary.AppendVarint(*e, n) }
func (e *enc) fixed(n uint64)  { *e = binary.BigEndian.AppendUint64(*e, n) }
func (e *enc) string(s string) { e.uint(uint64(len(s))); *e = append(*e, s...) }
func (e *enc) float(f float64) { e.fixed(math.Float64bits(f)) }

// time keeps seconds and nanoseconds, so that any year fits.
func (e *enc) time(t time.Time) { e.int(t.Unix()); e.uint(uint64(t.Nanosecond())) }

// dec fails once and for all at the first part that is cut off.
type dec struct {
	b   []byte
	bad bool
}

func (d *dec) fail() { d.bad, d.b = true, nil }
func (d *dec) err(what string) error {
	if d.bad {
		return fmt.Errorf("%s is cut off or no such record: %w", what, backends.ErrDamaged)
	}
	return nil
}

func (d *dec) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	b := d.b[0]
	d.b = d.b[1:]
	return b
}

func (d *dec) uint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		return uint64(d.byte())
	}
	n, w := binary.Uvarint(d.b)
	if w <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[w:]
	return n
}

func (d *dec) int() int64 {
	n, w := binary.Varint(d.b)
	if w <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[w:]
	return n
}

func (d *dec) fixed() uint64 {
	b := d.raw(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (d *dec) raw(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail()
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// count reads the number of things that follow, each of one byte at least.
func (d *dec) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *dec) string() string { return string(d.raw(d.count())) }
func (d *dec) float() float64 { return math.Float64frombits(d.fixed()) }

func (d *dec) time() time.Time {
	s := d.int()
	return time.Unix(s, int64(d.uint())).UTC()
}

// Digests and generations take half the room in binary form; what is not the usual
// form is kept as text.
const (
	formNone   = 0
	formHex    = 1 // lower case hexadecimal, stored as bytes
	formText   = 2
	formSHA256 = 3 // of generations: sha256:<the SHA256 digest>:<size>
	formMD5    = 4 // of generations: md5:<the MD5 digest>:<size>
)

func (e *enc) digest(s string) {
	if s == "" {
		e.byte(formNone)
		return
	}
	var buf [64]byte
	if len(s)%2 == 0 && len(s) <= 128 {
		if n, err := hex.Decode(buf[:], []byte(s)); err == nil && hex.EncodeToString(buf[:n]) == s {
			e.byte(formHex)
			e.uint(uint64(n))
			*e = append(*e, buf[:n]...)
			return
		}
	}
	e.byte(formText)
	e.string(s)
}

func (d *dec) digest() string {
	switch d.byte() {
	case formNone:
		return ""
	case formHex:
		return hex.EncodeToString(d.raw(d.count()))
	case formText:
		return d.string()
	}
	d.fail()
	return ""
}

func (e *enc) generation(in *backends.Info) {
	g := in.Generation
	switch {
	case g == "":
		e.byte(formNone)
	case in.Checksums.SHA256 != "" && g == contentGeneration("sha256:", in.Checksums.SHA256, in.Size):
		e.byte(formSHA256)
	case in.Checksums.MD5 != "" && g == contentGeneration("md5:", in.Checksums.MD5, in.Size):
		e.byte(formMD5)
	default:
		e.byte(formText)
		e.string(string(g))
	}
}

func (d *dec) generation(in *backends.Info) {
	switch d.byte() {
	case formNone:
	case formSHA256:
		in.Generation = contentGeneration("sha256:", in.Checksums.SHA256, in.Size)
	case formMD5:
		in.Generation = contentGeneration("md5:", in.Checksums.MD5, in.Size)
	case formText:
		in.Generation = backends.Generation(d.string())
	default:
		d.fail()
	}
}

// contentGeneration is backends.GenerationOf for a cryptographic digest, without its
// formatting, which shows in listings.
func contentGeneration(alg, digest string, size int64) backends.Generation {
	var buf [128]byte
	b := append(buf[:0], alg...)
	b = append(b, digest...)
	b = append(b, ':')
	b = strconv.AppendInt(b, size, 10)
	return backends.Generation(b)
}

// bareGeneration writes a generation by itself, without digests beside it.
func (e *enc) bareGeneration(g backends.Generation) {
	if raw, size, ok := splitSHA256(string(g)); ok {
		e.byte(formSHA256)
		*e = append(*e, raw[:]...)
		e.int(size)
		return
	}
	e.byte(formText)
	e.string(string(g))
}

func (d *dec) bareGeneration() backends.Generation {
	switch d.byte() {
	case formSHA256:
		digest := hex.EncodeToString(d.raw(32))
		return contentGeneration("sha256:", digest, d.int())
	case formText:
		return backends.Generation(d.string())
	}
	d.fail()
	return ""
}

// splitSHA256 takes sha256:<64 digits>:<size> apart, if putting it together again
// gives the same text.
func splitSHA256(g string) (raw [32]byte, size int64, ok bool) {
	const head = len("sha256:")
	if len(g) < head+66 || g[:head] != "sha256:" {
		return raw, 0, false
	}
	digest := g[head : head+64]
	if _, err := hex.Decode(raw[:], []byte(digest)); err != nil {
		return raw, 0, false
	}
	size, err := strconv.ParseInt(g[head+65:], 10, 64)
	return raw, size, err == nil && string(contentGeneration("sha256:", hex.EncodeToString(raw[:]), size)) == g
}
