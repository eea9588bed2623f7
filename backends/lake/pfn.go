package lake

import (
	"crypto/md5"
	"encoding/hex"
	"strings"

	"tarn/backends"
)

// Placed is what the path of a copy tells of the file that it is of.
type Placed struct {
	Scope string // as paths have it: safeName of the scope
	Base  string // last element of the name
	hash  string // first four digits of the name's MD5
}

// ParsePFN is what can be had back of NewPFN. False for a path of another form, and where
// the last element was too long to be kept whole.
func ParsePFN(pfn string) (p Placed, ok bool) {
	f := strings.Split(pfn, "/")
	if len(f) != 4 || len(f[1]) != 2 || len(f[2]) != 2 {
		return p, false
	}
	if b, err := hex.DecodeString(f[1] + f[2]); err != nil || len(b) != 2 {
		return p, false
	}
	dot := strings.LastIndexByte(f[3], '.')
	if dot <= 0 {
		return p, false
	}
	enc := f[3][:dot]
	p = Placed{Scope: f[0], Base: unescape(enc), hash: f[1] + f[2]}
	return p, len(enc) < 98 && safeName(p.Base) == enc
}

// Is tells whether the copy can be one of d: always, when it is; by chance for one of
// 65536 names with the same last element.
func (p Placed) Is(d backends.DID) bool {
	h := md5.Sum([]byte(d.Name))
	return p.Scope == safeName(d.Scope) && p.Base == d.Name[strings.LastIndexByte(d.Name, '/')+1:] && p.hash == hex.EncodeToString(h[:2])
}
