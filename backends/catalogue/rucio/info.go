package rucio

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// filesName is what the dataset with the loose files of a container is called below it.
const filesName = "__files__"

// loose names the dataset that holds the files of a container.
func loose(container backends.DID) backends.DID {
	return backends.DID{Scope: container.Scope, Name: strings.TrimRight(container.Name, "/") + "/" + filesName}
}

// isLoose tells whether d is such a dataset.
func isLoose(d backends.DID) bool { return path.Base(d.Name) == filesName }

// inode is that of a DID, for its life: Rucio has none.
func inode(d backends.DID) uint64 {
	sum := sha256.Sum256([]byte(d.String()))
	n := binary.BigEndian.Uint64(sum[:8]) >> 1
	return n | 1<<20 // above those that have a meaning
}

// info makes an Info of a row.
func (c *Catalogue) info(m rest.Meta) backends.Info {
	ino, ok := c.inodes.Get(m.DID())
	if !ok {
		ino = inode(m.DID())
	}
	in := backends.Info{DID: m.DID(), Mode: 0o755, UID: c.o.UID, GID: c.o.GID, MTime: m.Updated.Time, CTime: m.Updated.Time, Inode: ino}
	switch m.Type {
	case rest.TypeContainer:
		in.Type = backends.Container
		if c.isRoot(in.DID) {
			in.Layout = backends.LayoutLFN
		}
	case rest.TypeDataset:
		in.Type = backends.Dataset
	default:
		in.Type, in.Mode = backends.File, 0o644
		in.MTime = m.Created.Time // its bytes are those of that time
		in.Size = max(int64(m.Bytes), 0)
		in.Checksums = backends.Checksums{Adler32: m.Adler32, MD5: m.MD5}
		in.Generation = backends.GenerationOf(in.DID, in.Size, in.Checksums)
	}
	return in
}

// attr is what is known of a DID.
type attr struct {
	info   backends.Info
	length int64 // children of a dataset that is closed, else -1
	none   bool  // there is no such DID
	hidden bool  // it was removed: there only where it is attached again
	asked  time.Time
}

func (c *Catalogue) attr(m rest.Meta, asked time.Time) attr {
	return attr{info: c.info(m), length: int64(m.Length), hidden: m.Hidden != nil && *m.Hidden, asked: asked}
}

// fresh tells whether what was asked then is taken for true.
func (c *Catalogue) fresh(a attr) bool {
	ttl := c.o.TTL
	if a.none {
		ttl = c.o.NegativeTTL
	}
	return c.now().Sub(a.asked) < ttl
}

// checkName refuses what no DID of the layout can be called (schema/generic.py; a policy may be stricter).
func (c *Catalogue) checkName(d backends.DID) error {
	if err := backends.CheckScope(d.Scope); err != nil {
		return err
	}
	switch {
	case len(d.Name) > 250:
		return fmt.Errorf("%q: Rucio's names have at most 250 characters: %w", d.Name, backends.ErrNameTooLong)
	case d.Name == "" || strings.ContainsAny(d.Name, "\x00"):
		return fmt.Errorf("%q: %w", d.Name, backends.ErrName)
	}
	if !c.isLFN() {
		return nil
	}
	if d.Name[0] != '/' || path.Clean(d.Name) != d.Name || d.Name == "/" {
		return fmt.Errorf("%q is no path: %w", d.Name, backends.ErrName)
	}
	for e := range strings.SplitSeq(d.Name[1:], "/") {
		if len(e) > 255 {
			return fmt.Errorf("%q: %w", e, backends.ErrNameTooLong)
		}
	}
	if want := c.o.ScopeOf(d.Name); want != d.Scope {
		return fmt.Errorf("%s: a DID of this name is in scope %s: %w", d, want, backends.ErrName)
	}
	return nil
}

// newName refuses beside that what Rucio's schema does not take, and the name of tarn's own dataset.
func (c *Catalogue) newName(d backends.DID) error {
	if err := c.checkName(d); err != nil {
		return err
	}
	for i, r := range d.Name {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '/' || i > 0 && (r == '.' || r == '-' || r == '_')
		if !ok {
			return fmt.Errorf("%q: Rucio takes letters, digits and / . - _ in names: %w", d.Name, backends.ErrName)
		}
	}
	if isLoose(d) {
		return fmt.Errorf("%q: %s is the name of the dataset of a container's files: %w", d.Name, filesName, backends.ErrName)
	}
	return nil
}

// home is the collection that a DID of layout lfn belongs into by its name.
func (c *Catalogue) home(d backends.DID) backends.DID {
	p := path.Dir(d.Name)
	return backends.DID{Scope: c.o.ScopeOf(p), Name: p}
}

// into is the collection that an entry becomes part of; the zero DID: none.
func (c *Catalogue) into(e backends.Entry) backends.DID {
	switch {
	case !c.isLFN():
		if e.Into.Name == "" { // the scope's collection has what nobody else has
			return backends.DID{}
		}
		return e.Into
	case c.isRoot(e.Info.DID):
		return backends.DID{}
	}
	return c.home(e.Info.DID)
}

// key is what orders the children of a collection.
func (c *Catalogue) key(d backends.DID) string {
	if c.isLFN() {
		return path.Base(d.Name)
	}
	return d.String()
}
