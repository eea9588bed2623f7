package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"iter"
)

// A log segment begins with two copies of its header, then come records, each at a
// multiple of logUnit. docs/journal-format.md has the picture; all numbers are little endian.
const (
	segMagic   = "\x89TRNSEG\n"
	logMagic   = "\x89TRNLOG\n"
	logVersion = 1
	segHead    = 44
	segCopy    = 4096 // where the second copy of the header is: another sector of any disk
	segStart   = 2 * segCopy
	logHead    = 96
	logUnit    = 4096     // no sector of a disk has bytes of two records
	logContent = 64 << 10 // more than this is not worth writing twice
)

// logKind is what a log record says of its entry.
type logKind uint32

const (
	logSeal  logKind = 1 // record and content
	logState logKind = 2 // record
	logGone  logKind = 3 // the entry was removed
)

// segmentHead is the header of a log segment. Only records that repeat gen and salt belong to
// it. The salt is a secret, so that no user's content can pass for a record.
type segmentHead struct {
	gen, salt uint64
	size      int64
}

func (h segmentHead) encode() []byte {
	b := make([]byte, segHead)
	copy(b, segMagic)
	binary.LittleEndian.PutUint32(b[8:], logVersion)
	binary.LittleEndian.PutUint64(b[16:], h.gen)
	binary.LittleEndian.PutUint64(b[24:], h.salt)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.size))
	binary.LittleEndian.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
	return b
}

// parseSegmentHead takes the newer of the two copies. The error is ErrDamaged when neither
// is good, ErrVersion when a later program wrote one.
func parseSegmentHead(b []byte) (h segmentHead, err error) {
	for _, off := range []int{0, segCopy} {
		if len(b) < off+segHead {
			continue
		}
		c := b[off:]
		if string(c[:8]) != segMagic || crc32.Checksum(c[:40], castagnoli) != binary.LittleEndian.Uint32(c[40:]) {
			continue
		}
		if v := binary.LittleEndian.Uint32(c[8:]); v != logVersion {
			return segmentHead{}, fmt.Errorf("log of format %d: %w", v, ErrVersion)
		}
		if gen := binary.LittleEndian.Uint64(c[16:]); gen > h.gen {
			h = segmentHead{gen, binary.LittleEndian.Uint64(c[24:]), int64(binary.LittleEndian.Uint64(c[32:]))}
		}
	}
	if h.gen == 0 {
		return h, fmt.Errorf("log segment without a header: %w", ErrDamaged)
	}
	return h, nil
}

// logged is one record of the log.
type logged struct {
	kind     logKind
	id       string
	seq      uint64   // of the slot that it stands for
	st       stored   // zero for a removal
	good     bool     // of a logSeal: the content is neither torn nor rotten
	sum      uint32   // CRC32C of what it was
	seg      *segment // where it is: too many to be kept in memory
	at, size int64
	end      int64 // of the record
}

// encodeLogged gives a record, padded to whole units. Where it goes to is written into it
// by placeLogged. It is a buffer to be given back.
func encodeLogged(kind logKind, id string, seq uint64, payload, content []byte) []byte {
	n := logHead + len(payload) + len(content)
	b := takeBuffer((n + logUnit - 1) / logUnit * logUnit)
	clear(b[:logHead])
	clear(b[n:])
	copy(b, logMagic)
	binary.LittleEndian.PutUint32(b[8:], logVersion)
	binary.LittleEndian.PutUint32(b[12:], uint32(kind))
	binary.LittleEndian.PutUint64(b[40:], seq)
	copy(b[48:72], id)
	binary.LittleEndian.PutUint32(b[72:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[76:], uint32(len(content)))
	binary.LittleEndian.PutUint32(b[80:], crc32.Checksum(content, castagnoli))
	copy(b[logHead:], payload)
	copy(b[logHead+len(payload):], content)
	return b
}

// placeLogged completes a record for its place in a segment.
func placeLogged(b []byte, h segmentHead, off int64) {
	binary.LittleEndian.PutUint64(b[16:], h.gen)
	binary.LittleEndian.PutUint64(b[24:], h.salt)
	binary.LittleEndian.PutUint64(b[32:], uint64(off))
	n := int(binary.LittleEndian.Uint32(b[72:]))
	binary.LittleEndian.PutUint32(b[84:], loggedSum(b, n))
}

// loggedSum covers the header before the sum and the payload; the content has its own sum
// in the header, so that rot there does not cost the record.
func loggedSum(b []byte, payload int) uint32 {
	return crc32.Update(crc32.Checksum(b[:84], castagnoli), castagnoli, b[logHead:logHead+payload])
}

// parseLogged reads the record at the start of b, of which n bytes are taken. ok is false
// when it is none of this segment and place.
func parseLogged(b []byte, h segmentHead, off int64) (r logged, n int, ok bool) {
	if len(b) < logHead || string(b[:8]) != logMagic || binary.LittleEndian.Uint32(b[8:]) != logVersion ||
		binary.LittleEndian.Uint64(b[16:]) != h.gen || binary.LittleEndian.Uint64(b[24:]) != h.salt ||
		binary.LittleEndian.Uint64(b[32:]) != uint64(off) {
		return logged{}, 0, false
	}
	payload, content := int64(binary.LittleEndian.Uint32(b[72:])), int64(binary.LittleEndian.Uint32(b[76:]))
	if logHead+payload+content > int64(len(b)) || loggedSum(b, int(payload)) != binary.LittleEndian.Uint32(b[84:]) {
		return logged{}, 0, false
	}
	r = logged{kind: logKind(binary.LittleEndian.Uint32(b[12:])), id: string(b[48:72]), seq: binary.LittleEndian.Uint64(b[40:])}
	if !isID(r.id) || r.kind < logSeal || r.kind > logGone {
		return logged{}, 0, false
	}
	n = int(logHead+payload+content+logUnit-1) / logUnit * logUnit
	if r.kind == logGone {
		return r, n, true
	}
	d := json.NewDecoder(bytes.NewReader(b[logHead : logHead+payload]))
	d.UseNumber()
	if err := d.Decode(&r.st); err != nil || r.st.ID != r.id {
		return logged{}, 0, false
	}
	c := b[logHead+payload : logHead+payload+content]
	r.sum, r.at, r.size = binary.LittleEndian.Uint32(b[80:]), off+logHead+payload, content
	r.good = r.kind == logSeal && content == r.st.Size && crc32.Checksum(c, castagnoli) == r.sum
	return r, n, true
}

// allLogged gives the records of a segment in their order. One that is torn or has rotted
// is skipped: each stands for itself.
func allLogged(b []byte, h segmentHead) iter.Seq[logged] {
	return func(yield func(logged) bool) {
		for off := segStart; off+logUnit <= len(b); {
			r, n, ok := parseLogged(b[off:], h, int64(off))
			if !ok {
				off += logUnit
				continue
			}
			off += n
			r.end = int64(off)
			if !yield(r) {
				return
			}
		}
	}
}
