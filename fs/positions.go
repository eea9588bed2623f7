package fs

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"

	"tarn/fs/vfs"
)

// positions gives the entries of a directory the offsets that getdents(2) shows: places
// in the order of names, which mean the same to every handle, whatever comes and goes. The
// kernel needs that of a listing that it keeps: one handle fills it, another reads it, and
// goes on here when it was dropped; and so does seekdir(3).
//
// An offset is the number of a prefix and five bytes that follow it. It stands behind all
// names with this prefix whose next five bytes are at most these (a name that ends has
// zeros there). The prefix is as short as tells an entry from the next one, so a thousand
// names in a row share a few; memory grows where neighbours differ late (x.fits and
// x.fits.sum): one prefix a pair, until the kernel forgets the directory.
type positions struct {
	mu       sync.Mutex
	ids      map[string]uint64
	prefixes []string // prefixes[id-1]
}

const (
	codeLen  = 5
	codeBits = 8 * codeLen
	maxID    = 1<<(63-codeBits) - 1 // an off_t has a sign
)

var errTooLarge = errors.New("a directory of millions of names that differ late cannot be listed")

// of gives the offsets of entries in a row; the one behind the last of them is next, or
// there is none.
func (p *positions) of(entries []vfs.Entry, next string) ([]uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]uint64, len(entries))
	var prefix string
	var id uint64
	for i := range entries {
		name, same := entries[i].Name, 0
		switch {
		case i+1 < len(entries):
			same = common(name, entries[i+1].Name)
		case next != "":
			same = common(name, next)
		default:
			same = len(name)
		}
		if head := name[:max(0, same-codeLen+1)]; id == 0 || head != prefix {
			prefix = head
			if id = p.ids[head]; id == 0 {
				if len(p.prefixes) == maxID {
					return nil, errTooLarge
				}
				if p.ids == nil {
					p.ids = map[string]uint64{}
				}
				head = strings.Clone(head)
				p.prefixes = append(p.prefixes, head)
				id = uint64(len(p.prefixes))
				p.ids[head] = id
			}
		}
		var code [8]byte
		copy(code[8-codeLen:], name[len(prefix):])
		out[i] = id<<codeBits | binary.BigEndian.Uint64(code[:])
	}
	return out, nil
}

// after gives the greatest name that the offset stands behind; false for an offset that
// was never given out.
func (p *positions) after(off uint64) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := off >> codeBits
	if id == 0 || id > uint64(len(p.prefixes)) {
		return "", false
	}
	var code [8]byte
	binary.BigEndian.PutUint64(code[:], off)
	tail := strings.TrimRight(string(code[8-codeLen:]), "\x00")
	name := p.prefixes[id-1] + tail
	if len(tail) == codeLen {
		name += strings.Repeat("\xff", max(0, 255-len(name))) // and all longer ones
	}
	return name, true
}

// common is how many bytes a and b begin with together.
func common(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
