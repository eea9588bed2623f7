// Package filecat is what DIRAC's file catalogue has and a catalogue of DIDs has not: declared
// metadata fields, queries that know their types, datasets that are defined by queries, ancestors,
// and look-ups by GUID and PFN. It stands on the contracts of package backends alone, so that
// every catalogue with side records gets all of it:
//
//	fc := filecat.New(filecat.Options{Catalogue: cat, Side: cat, Names: cat, Records: cat})
//	err := fc.AddField(ctx, filecat.Field{Name: "thetaP", Type: query.Float, For: filecat.Directory})
//	q, err := fc.Query(ctx, "MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0")
//	ds, err := fc.AddDataset(ctx, "/ctao/PROD5b_gamma", "", q)
//
// The words and the meaning are those of DIRAC (DataManagementSystem/DB/FileCatalogComponents);
// docs/dirac.md has each of its methods beside the command of tarn.
package filecat

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"tarn/backends"
)

// Options is what a Catalogue stands on. Catalogue and Side are needed.
type Options struct {
	Catalogue backends.Catalogue
	Side      backends.Side
	Names     backends.Names   // nil: DIDs are never renamed
	Records   backends.Records // nil: there are no look-ups by PFN, no dumps of an SE, and fewer counters
	Tree      Tree             // nil: the first element of a path is the scope, and names below it are paths

	// UserID and GroupID find the number of a name for queries about User and Group; nil: no name is known.
	UserID, GroupID func(name string) (uint32, bool)
	Now             func() time.Time // default time.Now
}

// Tree tells where DIDs stand. A *lake.Lake is one.
type Tree interface {
	// Resolve gives what stands at a lake path. ErrNotExist.
	Resolve(ctx context.Context, path string) (backends.Info, error)
	// IsPath tells whether the name of a DID is its path.
	IsPath(d backends.DID) bool
}

// byName is the Tree of catalogues whose names are paths below their scopes.
type byName struct{}

// Resolve gives the DID alone.
func (byName) Resolve(_ context.Context, path string) (backends.Info, error) {
	rest, ok := strings.CutPrefix(path, "/")
	scope, _, _ := strings.Cut(rest, "/")
	if !ok || scope == "" {
		return backends.Info{}, fmt.Errorf("%q is no path below a scope: %w", path, backends.ErrName)
	}
	return backends.Info{DID: backends.DID{Scope: scope, Name: path}}, nil
}

// IsPath tells whether it is below its scope.
func (byName) IsPath(d backends.DID) bool {
	rest, ok := strings.CutPrefix(d.Name, "/"+d.Scope)
	return ok && (rest == "" || rest[0] == '/')
}

// Catalogue is a file catalogue. All methods may be called in parallel.
type Catalogue struct {
	o Options

	// mu makes one of what reads side records, decides and writes. One process at a time has a lake, so that no other
	// writes them. It is held across calls of Side, and of Catalogue where cycles are looked for.
	mu      sync.Mutex
	writing map[string]bool // lists of datasets
}

// The tables of side records.
const (
	tableField      = "dirac.field"      // name -> Field
	tableSet        = "dirac.set"        // name -> Meta
	tableDataset    = "dirac.dataset"    // name -> dataset
	tableFile       = "dirac.file"       // list of a dataset, id -> listed
	tableAncestor   = "dirac.ancestor"   // child, ancestor -> kin
	tableDescendant = "dirac.descendant" // ancestor, child -> kin
)

// New gives the file catalogue over what o has.
func New(o Options) *Catalogue {
	if o.Now == nil {
		o.Now = time.Now
	}
	unknown := func(string) (uint32, bool) { return 0, false }
	if o.UserID == nil {
		o.UserID = unknown
	}
	if o.GroupID == nil {
		o.GroupID = unknown
	}
	if o.Tree == nil {
		o.Tree = byName{}
	}
	return &Catalogue{o: o, writing: map[string]bool{}}
}

// id is the number that a file keeps: its inode where names may change, and else one that follows from the name.
func (c *Catalogue) id(in backends.Info) uint64 {
	if c.o.Names != nil {
		return in.Inode
	}
	sum := sha256.Sum256([]byte(in.DID.Scope + "\x00" + in.DID.Name))
	return binary.BigEndian.Uint64(sum[:])
}

// get reads the record at a key into v.
func (c *Catalogue) get(ctx context.Context, table, key string, v any) error {
	b, err := c.o.Side.SideRecord(ctx, table, key)
	if err != nil {
		return err
	}
	return decode(table, key, b, v)
}

func decode(table, key string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("record %q of %s: %w: %w", key, table, backends.ErrDamaged, err)
	}
	return nil
}

// put stores the JSON of v at a key; nil deletes it.
func (c *Catalogue) put(ctx context.Context, table, key string, v any) error {
	r, err := record(table, key, v)
	if err != nil {
		return err
	}
	return c.o.Side.PutSide(ctx, r)
}

func record(table, key string, v any) (r backends.SideRecord, err error) {
	r = backends.SideRecord{Table: table, Key: key}
	if v != nil {
		r.Value, err = json.Marshal(v)
	}
	return r, err
}

// records streams a table, decoded.
func records[T any](ctx context.Context, c *Catalogue, table, prefix string) iter.Seq2[string, func(*T) error] {
	return func(yield func(string, func(*T) error) bool) {
		for r, err := range c.o.Side.SideRecords(ctx, table, prefix, "") {
			if !yield(r.Key, func(v *T) error {
				if err != nil {
					return err
				}
				return decode(table, r.Key, r.Value, v)
			}) || err != nil {
				return
			}
		}
	}
}

// drop deletes all records of a table with the prefix.
func (c *Catalogue) drop(ctx context.Context, table, prefix string) error {
	_, err := c.o.Side.LoadSide(ctx, func(yield func(backends.SideRecord, error) bool) {
		for r, err := range c.o.Side.SideRecords(ctx, table, prefix, "") {
			if !yield(backends.SideRecord{Table: table, Key: r.Key}, err) || err != nil {
				return
			}
		}
	})
	return err
}

func isNotExist(err error) bool { return errors.Is(err, backends.ErrNotExist) }
