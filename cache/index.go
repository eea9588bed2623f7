package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarn/cache/ranges"
)

// Layout of a side file, version 1, described in docs/cache-format.md.
const (
	sideMagic   = "TARNHOT\n"
	sideVersion = 1

	flagWhole  = 1 << 0
	flagSynced = 1 << 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blockSum is the checksum that guards a block: CRC32C, which the processor computes.
func blockSum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// side is what the side file of a content says.
type side struct {
	key    Key
	lay    ranges.Layout
	sums   map[string]string
	whole  bool // have is full, and the whole agreed with sums
	synced bool // the data was synced while it had this stamp, all blocks checked
	cost   time.Duration
	pinned time.Time
	used   time.Time
	prio   float64
	head   int64 // kept head and tail when it was written
	tail   int64
	st     stamp
	have   ranges.Set
	known  ranges.Set
	crc    []uint32
}

// sideSize is the length of the side file of a content.
func sideSize(k Key, lay ranges.Layout, sums map[string]string) int64 {
	n := len(sideMagic) + 4 + 4 + 4 + len(k) + 8 + 4 + 1 + 5*8 + 8 + 5*8 + 4
	for a, s := range sums {
		n += 2 + len(a) + 2 + len(s)
	}
	blocks := int64(lay.Count())
	return int64(n) + 2*8*((blocks+63)/64) + 4*blocks
}

// encode gives the bytes of the side file; the last four are the CRC32C of all before.
func (s *side) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, sideSize(s.key, s.lay, s.sums))
	b = append(b, sideMagic...)
	b = le.AppendUint32(b, sideVersion)
	var flags uint32
	if s.whole {
		flags |= flagWhole
	}
	if s.synced {
		flags |= flagSynced
	}
	b = le.AppendUint32(b, flags)
	b = le.AppendUint32(b, uint32(len(s.key)))
	b = append(b, s.key...)
	b = le.AppendUint64(b, uint64(s.lay.Size))
	b = le.AppendUint32(b, uint32(s.lay.Block))
	b = append(b, byte(len(s.sums)))
	algs := make([]string, 0, len(s.sums))
	for a := range s.sums {
		algs = append(algs, a)
	}
	slices.Sort(algs)
	for _, a := range algs {
		for _, v := range []string{a, s.sums[a]} {
			b = le.AppendUint16(b, uint16(len(v)))
			b = append(b, v...)
		}
	}
	for _, v := range []int64{int64(s.cost), unixNano(s.pinned), unixNano(s.used), s.head, s.tail} {
		b = le.AppendUint64(b, uint64(v))
	}
	b = le.AppendUint64(b, math.Float64bits(s.prio))
	for _, v := range []uint64{s.st.Dev, s.st.Ino, uint64(s.st.Size), uint64(s.st.MTime), uint64(s.st.CTime)} {
		b = le.AppendUint64(b, v)
	}
	for _, set := range []*ranges.Set{&s.have, &s.known} {
		for _, w := range set.Words() {
			b = le.AppendUint64(b, w)
		}
	}
	for _, v := range s.crc {
		b = le.AppendUint32(b, v)
	}
	return le.AppendUint32(b, blockSum(b))
}

var errSide = errors.New("damaged side file")

// decodeSide is the inverse of encode. It takes any bytes and allocates no more than a
// small multiple of their number.
func decodeSide(b []byte) (s *side, err error) {
	le := binary.LittleEndian
	if len(b) < len(sideMagic)+8 || string(b[:len(sideMagic)]) != sideMagic {
		return nil, fmt.Errorf("%w: not a side file", errSide)
	}
	if v := le.Uint32(b[len(sideMagic):]); v != sideVersion {
		return nil, fmt.Errorf("%w: version %d", errSide, v)
	}
	body := b[:len(b)-4]
	if blockSum(body) != le.Uint32(b[len(body):]) {
		return nil, fmt.Errorf("%w: checksum", errSide)
	}
	r := reader{b: body[len(sideMagic)+4:]}
	s = &side{}
	flags := r.u32()
	s.whole, s.synced = flags&flagWhole != 0, flags&flagSynced != 0
	s.key = Key(r.bytes(int64(r.u32())))
	s.lay.Size, s.lay.Block = int64(r.u64()), int(r.u32())
	s.sums = map[string]string{}
	for range r.u8() {
		a := string(r.bytes(int64(r.u16())))
		s.sums[a] = string(r.bytes(int64(r.u16())))
	}
	s.cost, s.pinned, s.used = time.Duration(r.u64()), fromNano(r.u64()), fromNano(r.u64())
	s.head, s.tail = int64(r.u64()), int64(r.u64())
	s.prio = math.Float64frombits(r.u64())
	s.st = stamp{r.u64(), r.u64(), int64(r.u64()), int64(r.u64()), int64(r.u64())}
	if s.lay.Size < 0 || s.lay.Block <= 0 || math.IsNaN(s.prio) {
		return nil, fmt.Errorf("%w: impossible size", errSide)
	}
	n := int64(s.lay.Count())
	if r.short || n > int64(len(r.b)) || int64(len(r.b)) != 2*8*((n+63)/64)+4*n {
		return nil, fmt.Errorf("%w: length", errSide)
	}
	for _, set := range []*ranges.Set{&s.have, &s.known} {
		words := make([]uint64, (n+63)/64)
		for i := range words {
			words[i] = r.u64()
		}
		if *set, err = ranges.FromWords(int(n), words); err != nil {
			return nil, fmt.Errorf("%w: %w", errSide, err)
		}
	}
	s.crc = make([]uint32, n)
	for i := range s.crc {
		s.crc[i] = r.u32()
	}
	if s.whole && !(s.have.Full() && s.known.Full()) {
		return nil, fmt.Errorf("%w: whole but incomplete", errSide)
	}
	return s, nil
}

// reader takes little-endian numbers off a slice; after its end it gives zeros.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) bytes(n int64) []byte {
	if n > int64(len(r.b)) {
		r.short, r.b = true, nil
		return make([]byte, min(n, 8))
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() byte    { return r.bytes(1)[0] }
func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.bytes(2)) }
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.bytes(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }

// unixNano has 0 for no time; what lies beyond its range is its end, so that a pin "for
// ever" stays one.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	if t.Year() > 2261 {
		return math.MaxInt64
	}
	return t.UnixNano()
}

func fromNano(v uint64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(v))
}

// writeSide replaces a side file as a whole. A crash leaves the old or the new one; a
// power cut may leave a torn one, which its checksum tells, unless it was to be durable.
func writeSide(path string, b []byte, durable bool) error {
	tmp := path + tempSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && durable {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	if durable {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
