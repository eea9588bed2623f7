package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// row is a replica on record.
type row struct {
	DID   backends.DID          `json:"d"`
	RSE   string                `json:"r"`
	PFN   string                `json:"p"`
	State backends.ReplicaState `json:"s"`
	Size  int64                 `json:"z"`
	Past  bool                  `json:"o,omitempty"`
}

func rowOf(in backends.Info, r backends.Replica, past bool) row {
	return row{DID: in.DID, RSE: r.RSE, PFN: path.Clean(r.PFN), State: r.State, Size: in.Size, Past: past}
}

// thing is a file at a storage.
type thing struct {
	Size  int64     `json:"z"`
	MTime time.Time `json:"t"`
}

// The kinds of what is sorted. Those of one path come in this order.
const (
	before = 'a' // on record before the listing
	after  = 'b' // and after it
	listed = 'l'
)

// doubtful is how many replicas must be missing, while none is there, to take it for a disk that is not mounted.
const doubtful = 5

// listError is a storage that does not answer.
type listError struct{ error }

func (e listError) Unwrap() error { return e.error }

// storage compares one RSE.
//
// Whoever makes a copy has its place on record, in the journal or in the catalogue, before there is a file. So a file
// that was listed is known to the journal or the catalogue at that moment, or it is dark. What the journal knows may
// come to the catalogue, and a rename or an undelete may move it there while it is read; therefore both are read before
// and after the listing, and a file is dark only that none of them knew.
func (c *check) storage(ctx context.Context, rse *lake.RSE) error {
	s := newSorter(c.Scratch)
	defer s.close()
	known := map[string]bool{}
	learn := func() {
		for _, p := range c.unsent().Places {
			if p.RSE == rse.Name {
				known[p.PFN] = true
			}
		}
	}
	learn()
	if err := c.records(ctx, s, rse.Name, before); err != nil {
		return err
	}
	learn()
	if err := c.list(ctx, s, rse); err != nil {
		var down listError
		if errors.As(err, &down) && ctx.Err() == nil {
			return c.say(Finding{What: Unavailable, RSE: rse.Name, Detail: down.Error()})
		}
		return err
	}
	learn()
	if err := c.records(ctx, s, rse.Name, after); err != nil {
		return err
	}
	learn()

	there, missing := 0, 0
	err := c.groups(s, func(g group) error {
		if r := g.now; r != nil && !r.Past && r.State == backends.Available {
			if g.at != nil {
				there++
			} else {
				missing++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if there == 0 && missing >= doubtful && !c.Force {
		return c.say(Finding{What: Unavailable, RSE: rse.Name, Detail: fmt.Sprintf("not one of %d replicas is there: is it the right folder, and its disk mounted?", missing)})
	}

	own, wait := c.workers(ctx)
	err = c.groups(s, func(g group) error {
		if own.Err() != nil {
			return own.Err()
		}
		switch {
		case g.now == nil && g.at == nil:
			return nil // was removed meanwhile
		case g.now == nil:
			if !g.was && !known[g.pfn] {
				c.g.Go(func() error { return c.dark(own, rse, g.pfn, *g.at) })
			}
			return nil
		}
		r := *g.now
		if r.State == backends.Available && !c.Deep && g.at != nil && g.at.Size == r.Size {
			c.good(r)
			return nil
		}
		c.g.Go(func() error { return c.closely(own, r) })
		return nil
	})
	return wait(err)
}

// records adds what the catalogue has at the RSE.
func (c *check) records(ctx context.Context, s *sorter, rse string, kind byte) error {
	put := func(x row) error {
		b, err := json.Marshal(x)
		if err == nil {
			err = s.add(append([]byte(x.PFN), 0, kind), b)
		}
		return err
	}
	add := func(in backends.Info, reps []backends.Replica, past bool) error {
		for _, r := range reps {
			if r.RSE != rse {
				continue
			}
			if err := put(rowOf(in, r, past)); err != nil {
				return err
			}
			if lake.Replaceable(r) { // a copy in its place may be under way, or what a crash left of one
				for _, pfn := range lake.Replacements(in, r.PFN) {
					r.PFN = pfn
					if err := put(rowOf(in, r, true)); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	for e, err := range c.Lake.Records().Records(ctx, rse) {
		if err == nil {
			err = add(e.Info, e.Replicas, false)
		}
		if err != nil {
			return fmt.Errorf("read which replicas are at %s: %w", rse, err)
		}
	}
	if c.Lake.Versions() == nil {
		return nil
	}
	for p, err := range c.Lake.Versions().Pasts(ctx, backends.DID{}) {
		if err == nil {
			err = add(p.Info, p.Replicas, true)
		}
		if err != nil {
			return fmt.Errorf("read what can be undeleted: %w", err)
		}
	}
	return nil
}

// uploads is the folder of what is not yet in its place.
const uploads = ".tarn-uploads"

// list adds what lies at the storage.
func (c *check) list(ctx context.Context, s *sorter, rse *lake.RSE) error {
	var n int64
	return Walk(ctx, rse, func(a backends.Attr) error {
		b, err := json.Marshal(thing{a.Size, a.MTime})
		if err == nil {
			err = s.add(append([]byte(a.Path), 0, listed), b)
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sum.Files++
		c.sum.Bytes += a.Size
		if n++; n%1000 == 0 && c.Progress != nil {
			c.Progress(rse.Name, n)
		}
		return nil
	})
}

// Walk calls f for every file at a storage, with its path as path.Clean gives it, but for uploads that did not end and
// what is the storage's own. A folder that goes meanwhile is no failure; a storage without its top folder is one.
func Walk(ctx context.Context, rse *lake.RSE, f func(backends.Attr) error) error {
	dirs := []string{""}
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		for a, err := range rse.Storage.List(ctx, dir) {
			if dir != "" && (errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir)) {
				break
			}
			if err != nil {
				return listError{err}
			}
			a.Path = path.Clean(a.Path)
			switch {
			case path.Base(a.Path) == uploads || strings.Contains("/"+a.Path, "/"+uploads+"/") || slices.Contains(rse.Own, a.Path):
			case a.IsDir:
				dirs = append(dirs, a.Path)
			default:
				if err := f(a); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// group is all that is known of one path.
type group struct {
	pfn string
	was bool // it was on record before the listing
	now *row // and after it; of several, a file's that is there
	at  *thing
}

// groups calls f for every path, in their order.
func (c *check) groups(s *sorter, f func(group) error) error {
	var g group
	any := false
	err := s.each(func(key, val []byte) error {
		pfn, kind := string(key[:len(key)-2]), key[len(key)-1]
		if any && pfn != g.pfn {
			if err := f(g); err != nil {
				return err
			}
			g = group{}
		}
		any, g.pfn = true, pfn
		switch kind {
		case before:
			g.was = true
		case after:
			r := &row{}
			if err := json.Unmarshal(val, r); err != nil {
				return err
			}
			if g.now == nil || g.now.Past {
				g.now = r
			}
		case listed:
			g.at = &thing{}
			return json.Unmarshal(val, g.at)
		}
		return nil
	})
	if err == nil && any {
		err = f(g)
	}
	return err
}
