package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"
)

// A record file is two slots of the same size, written in turn, so that a torn write
// leaves the other one. docs/journal-format.md has the picture; all numbers are little
// endian.
const (
	slotMagic   = "\x89TRNREC\n" // not text, so that no payload contains it
	slotVersion = 1
	slotHeader  = 40
	slotUnit    = 4096    // slots are multiples of it
	slotSlack   = 1024    // left free when a slot size is chosen, for what Seal adds
	maxSlot     = 1 << 20 // a record that needs more is refused
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// slot is one decoded slot.
type slot struct {
	seq  uint64
	size int64 // of the slot
	off  int64 // in the file
	st   stored
}

// encodePayload gives the JSON of st.
func encodePayload(st stored) ([]byte, error) {
	st.Name = strconv.QuoteToASCII(string(st.Path))
	b, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if slotHeader+len(b)+slotSlack > maxSlot {
		return nil, fmt.Errorf("encode record of %d bytes: %w", len(b), ErrTooBig)
	}
	return b, nil
}

// slotFor is the slot size that holds a payload of n bytes with slack.
func slotFor(n int) int64 {
	return int64(slotHeader+n+slotSlack+slotUnit-1) / slotUnit * slotUnit
}

// putSlot fills b, a whole slot, with a payload.
func putSlot(b []byte, seq uint64, payload []byte) {
	clear(b)
	copy(b, slotMagic)
	binary.LittleEndian.PutUint32(b[8:], slotVersion)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(b[16:], seq)
	binary.LittleEndian.PutUint64(b[24:], uint64(len(b)))
	copy(b[slotHeader:], payload)
	binary.LittleEndian.PutUint32(b[32:], slotSum(b, len(payload)))
}

// slotSum covers the header before the sum and the payload.
func slotSum(b []byte, n int) uint32 {
	return crc32.Update(crc32.Checksum(b[:32], castagnoli), castagnoli, b[slotHeader:slotHeader+n])
}

// parseRecord finds the newest good slot of a record file. The error is ErrDamaged when
// there is none, ErrVersion when a good one was written by a later format. A file that
// was cut short or has grown is still read: a slot tells its own size, and where slot B
// stands follows from it.
func parseRecord(b []byte) (slot, error) {
	var best slot
	for off := 0; off+slotHeader <= len(b); off += slotUnit {
		s, version, payload := parseSlot(b[off:])
		if payload == nil || (off != 0 && int64(off) != s.size) {
			continue
		}
		if version != slotVersion {
			return slot{}, fmt.Errorf("record of format %d: %w", version, ErrVersion)
		}
		if best.size != 0 && best.seq >= s.seq {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(payload))
		d.UseNumber()
		if err := d.Decode(&s.st); err != nil {
			continue
		}
		s.off = int64(off)
		best = s
	}
	if best.size == 0 {
		return slot{}, fmt.Errorf("neither slot is good: %w", ErrDamaged)
	}
	return best, nil
}

// parseSlot checks the slot at the start of b; a nil payload means that it is not one.
func parseSlot(b []byte) (s slot, version uint32, payload []byte) {
	if len(b) < slotHeader || string(b[:8]) != slotMagic {
		return slot{}, 0, nil
	}
	version = binary.LittleEndian.Uint32(b[8:])
	n := binary.LittleEndian.Uint32(b[12:])
	s.seq = binary.LittleEndian.Uint64(b[16:])
	size := binary.LittleEndian.Uint64(b[24:])
	if size == 0 || size > maxSlot || size%slotUnit != 0 || uint64(n)+slotHeader > size || uint64(n)+slotHeader > uint64(len(b)) {
		return slot{}, 0, nil
	}
	if slotSum(b, int(n)) != binary.LittleEndian.Uint32(b[32:]) {
		return slot{}, 0, nil
	}
	s.size = int64(size)
	return s, version, b[slotHeader : slotHeader+n]
}
