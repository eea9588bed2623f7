package embedded

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"tarn/backends"
)

// entry is a DID as its home keeps it; Info.DID is not part of the record, since the
// key and the chain of parents are the name.
type entry struct {
	backends.Info
	hasMeta  bool   // a record m exists
	attached uint64 // to how many collections beside its home
	members  uint64 // how many DIDs are attached to it, for a collection
}

const (
	flagMeta = 1 << iota
	flagTarget
	flagCounts
	flagContents
	flagLFN
)

func (e *entry) encode() []byte {
	b := make(enc, 0, 128)
	var flags byte
	if e.hasMeta {
		flags |= flagMeta
	}
	if e.Target != "" {
		flags |= flagTarget
	}
	if e.attached|e.members != 0 {
		flags |= flagCounts
	}
	switch e.Layout {
	case backends.LayoutContents:
		flags |= flagContents
	case backends.LayoutLFN:
		flags |= flagLFN
	}
	b.byte(flags)
	b.byte(byte(e.Type))
	b.uint(e.Inode)
	b.uint(uint64(e.Mode))
	b.uint(uint64(e.UID))
	b.uint(uint64(e.GID))
	b.time(e.MTime)
	b.time(e.CTime)
	if e.Type == backends.File {
		b.int(e.Size)
		b.digest(e.Checksums.SHA256)
		b.digest(e.Checksums.MD5)
		b.digest(e.Checksums.Adler32)
		b.generation(&e.Info)
	}
	if flags&flagTarget != 0 {
		b.string(e.Target)
	}
	if flags&flagCounts != 0 {
		b.uint(e.attached)
		b.uint(e.members)
	}
	return b
}

func (e *entry) decode(v []byte) error {
	d := dec{b: v}
	flags := d.byte()
	e.hasMeta = flags&flagMeta != 0
	e.Type = backends.Type(d.byte())
	e.Inode = d.uint()
	e.Mode = uint32(d.uint())
	e.UID = uint32(d.uint())
	e.GID = uint32(d.uint())
	e.MTime = d.time()
	e.CTime = d.time()
	if e.Type == backends.File {
		e.Size = d.int()
		d.contents(&e.Info)
	}
	if flags&flagTarget != 0 {
		e.Target = d.string()
	}
	if flags&flagCounts != 0 {
		e.attached = d.uint()
		e.members = d.uint()
	}
	switch {
	case flags&flagContents != 0:
		e.Layout = backends.LayoutContents
	case flags&flagLFN != 0:
		e.Layout = backends.LayoutLFN
	}
	if e.Type < backends.File || e.Type > backends.Container {
		d.fail()
	}
	return d.err("entry")
}

// contents reads digests and generation. In the usual case, a SHA-256 and the
// generation made of it, both share one string: listings are made of these.
func (d *dec) contents(in *backends.Info) {
	if len(d.b) > 34 && d.b[0] == formHex && d.b[1] == 32 {
		raw := d.b[2:34]
		var buf [128]byte
		b := append(buf[:0], "sha256:"...)
		b = hex.AppendEncode(b, raw)
		b = append(b, ':')
		b = strconv.AppendInt(b, in.Size, 10)
		gen := string(b)
		in.Checksums.SHA256 = gen[7 : 7+64]
		d.b = d.b[34:]
		in.Checksums.MD5 = d.digest()
		in.Checksums.Adler32 = d.digest()
		if len(d.b) > 0 && d.b[0] == formSHA256 {
			in.Generation = backends.Generation(gen)
			d.b = d.b[1:]
			return
		}
		d.generation(in)
		return
	}
	in.Checksums.SHA256 = d.digest()
	in.Checksums.MD5 = d.digest()
	in.Checksums.Adler32 = d.digest()
	d.generation(in)
}

// The states of a place.
const (
	live byte = iota // the DID stands at parent and name
	gone             // only Pasts of the inode are left
	tomb             // a removed collection that Pasts lie below
)

// place is where the DID of an inode is, or was last.
type place struct {
	state   byte
	parent  uint64
	pasts   uint64 // how many Pasts have this inode
	removed uint64 // of a tomb: the number in its key
	name    string
	flat    bool // of a scope: its layout is contents
}

// flatPlace is the bit of the state byte that holds place.flat.
const flatPlace = 0x80

func (p *place) encode() []byte {
	b := make(enc, 0, 32+len(p.name))
	state := p.state
	if p.flat {
		state |= flatPlace
	}
	b.byte(state)
	b.uint(p.parent)
	b.uint(p.pasts)
	if p.state == tomb {
		b.fixed(p.removed)
	}
	return append(b, p.name...)
}

func (p *place) decode(v []byte) error {
	d := dec{b: v}
	state := d.byte()
	p.state, p.flat = state&^flatPlace, state&flatPlace != 0
	p.parent = d.uint()
	p.pasts = d.uint()
	if p.state == tomb {
		p.removed = d.fixed()
	}
	p.name = string(d.b)
	return d.err("place")
}

// counters is what is true of the whole lake. It is part of every transaction, so
// sequence tells how many there were.
type counters struct {
	sequence  uint64
	nextInode uint64 // no inode from here on was allotted by this catalogue
	maxGiven  uint64 // the highest inode that a caller chose
	files     int64
	bytes     int64
}

func (c *counters) encode() []byte {
	b := make(enc, 0, 48)
	b.uint(c.sequence)
	b.uint(c.nextInode)
	b.uint(c.maxGiven)
	b.int(c.files)
	b.int(c.bytes)
	return b
}

func (c *counters) decode(v []byte) error {
	d := dec{b: v}
	*c = counters{sequence: d.uint(), nextInode: d.uint(), maxGiven: d.uint(), files: d.int(), bytes: d.int()}
	return d.err("counters")
}

func encodeReplicas(rs []backends.Replica) []byte {
	b := make(enc, 0, 64*len(rs)+1)
	b.replicas(rs)
	return b
}

func (e *enc) replicas(rs []backends.Replica) {
	e.uint(uint64(len(rs)))
	for _, r := range rs {
		e.string(r.RSE)
		e.string(r.PFN)
		e.string(string(r.State))
		e.time(r.Verified)
		e.string(r.Error)
	}
}

func (d *dec) replicas() []backends.Replica {
	n := d.count()
	if n == 0 {
		return nil
	}
	rs := make([]backends.Replica, n)
	for i := range rs {
		rs[i] = backends.Replica{RSE: d.string(), PFN: d.string(), State: backends.ReplicaState(d.string()), Verified: d.time(), Error: d.string()}
	}
	return rs
}

func decodeReplicas(v []byte) ([]backends.Replica, error) {
	d := dec{b: v}
	rs := d.replicas()
	return rs, d.err("replicas")
}

// handle names a Past: when it was made, and a number that no other has.
type handle struct{ removed, seq uint64 }

func (h handle) String() string { return fmt.Sprintf("%016x%016x", h.removed, h.seq) }

func parseHandle(s string) (handle, error) {
	var h handle
	if len(s) != 32 {
		return h, fmt.Errorf("handle %q of a past: %w", s, backends.ErrNotExist)
	}
	var err1, err2 error
	h.removed, err1 = strconv.ParseUint(s[:16], 16, 64)
	h.seq, err2 = strconv.ParseUint(s[16:], 16, 64)
	if err1 != nil || err2 != nil {
		return h, fmt.Errorf("handle %q of a past: %w", s, backends.ErrNotExist)
	}
	return h, nil
}

// past is a content that lost its name.
type past struct {
	entry    entry
	replicas []backends.Replica
	meta     []byte // the record m, or nil
	parent   uint64
	name     string
	until    time.Time
	replaced bool
	attached []uint64 // the collections it was attached to beside its home
}

func (p *past) encode() []byte {
	b := make(enc, 0, 256+len(p.meta))
	b.string(string(p.entry.encode()))
	b.replicas(p.replicas)
	b.string(string(p.meta))
	b.fixed(p.parent)
	b.string(p.name)
	b.time(p.until)
	if p.replaced {
		b.byte(1)
	} else {
		b.byte(0)
	}
	b.uint(uint64(len(p.attached)))
	for _, ino := range p.attached {
		b.uint(ino)
	}
	return b
}

func (p *past) decode(v []byte) error {
	d := dec{b: v}
	in := d.raw(d.count())
	p.replicas = d.replicas()
	if m := d.raw(d.count()); len(m) > 0 {
		p.meta = append([]byte(nil), m...)
	}
	p.parent = d.fixed()
	p.name = d.string()
	p.until = d.time()
	p.replaced = d.byte() == 1
	for n := d.count(); n > 0; n-- {
		p.attached = append(p.attached, d.uint())
	}
	if err := d.err("past"); err != nil {
		return err
	}
	return p.entry.decode(in)
}
