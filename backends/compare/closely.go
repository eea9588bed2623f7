package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
)

// good counts a replica that is there.
func (c *check) good(r row) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Past {
		return
	}
	c.sum.Replicas++
	c.sum.Good++
	if c.Good != nil {
		c.Good(r.DID, r.RSE)
	}
}

// current is a replica as it is on record now.
type current struct {
	in  backends.Info
	rep backends.Replica
}

// lookup gives what is on record of r now; false when it is not what it was, in which case somebody is at it.
func (c *check) lookup(ctx context.Context, r row) (cur current, ok bool, err error) {
	cur.in, err = c.Lake.Catalogue().Stat(ctx, r.DID)
	var reps []backends.Replica
	if err == nil {
		reps, err = c.Lake.Catalogue().Replicas(ctx, r.DID)
	}
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) || errors.Is(err, backends.ErrIsDir) {
		return cur, false, nil
	}
	if err != nil {
		return cur, false, err
	}
	i := slices.IndexFunc(reps, func(x backends.Replica) bool {
		return x.RSE == r.RSE && path.Clean(x.PFN) == r.PFN && x.State == r.State
	})
	if i < 0 {
		return cur, false, nil
	}
	cur.rep = reps[i]
	return cur, true, nil
}

// same tells whether what was looked up is still so.
func (c *check) same(ctx context.Context, r row, cur current) (bool, error) {
	now, ok, err := c.lookup(ctx, r)
	return ok && now.in.Inode == cur.in.Inode && now.in.Generation == cur.in.Generation, err
}

// closely asks catalogue and storage about one replica that seems to be no good, or whose checksum is to be compared.
func (c *check) closely(ctx context.Context, r row) error {
	switch {
	case r.Past:
		return nil // may be reaped at any time
	case r.State == backends.Bad:
		return c.again(ctx, r)
	case r.State != backends.Available:
		return c.putPoor(r) // somebody makes it, or deletes it
	}
	rse, known := c.Lake.RSE(r.RSE)
	cur, ok, err := c.lookup(ctx, r)
	if err != nil || !ok {
		return err
	}
	what, why, proved := Lost, "the lake file has no such RSE", error(nil)
	if known {
		what, why, proved = c.look(ctx, rse, cur, c.Deep)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if still, err := c.same(ctx, r, cur); err != nil || !still {
		return err
	}
	switch what {
	case "":
		c.good(r)
		if c.Deep && c.Repair && proved == nil {
			return c.put(ctx, r, cur, backends.Available)
		}
		return nil
	case Unread:
		c.good(r) // as far as can be told
		return c.say(Finding{What: Unread, RSE: r.RSE, PFN: r.PFN, DID: r.DID, Size: cur.in.Size, Note: errors.Is(proved, backends.ErrOffline), Detail: why})
	case Unavailable:
		c.good(r)
		return c.say(Finding{What: Unavailable, RSE: r.RSE, PFN: r.PFN, DID: r.DID, Size: cur.in.Size, Detail: why})
	}
	f := Finding{What: what, RSE: r.RSE, PFN: r.PFN, DID: r.DID, Size: cur.in.Size, Detail: why}
	if c.Repair {
		done, err := c.declare(ctx, r, cur, why)
		if err != nil {
			return err
		}
		if f.Repaired = done; done {
			f.Detail += "; declared BAD"
		}
	}
	c.mu.Lock()
	c.sum.Replicas++
	c.mu.Unlock()
	if err := c.putPoor(r); err != nil {
		return err
	}
	return c.say(f)
}

// look asks the storage: what is "" for a good one. proved is why no checksum was compared.
func (c *check) look(ctx context.Context, rse *lake.RSE, cur current, deep bool) (what, why string, proved error) {
	a, err := rse.Storage.Stat(ctx, cur.rep.PFN)
	switch {
	case errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir):
		return Lost, "it is not there", nil
	case err != nil:
		return Unavailable, err.Error(), err
	case a.IsDir:
		return Lost, "a folder is there", nil
	case a.Size != cur.in.Size:
		return Lost, fmt.Sprintf("%d bytes, and it should have %d", a.Size, cur.in.Size), nil
	case !deep:
		return "", "", backends.ErrNotSupported
	}
	switch err := Sums(ctx, rse, cur.rep.PFN, cur.in.Checksums, true); {
	case errors.Is(err, backends.ErrCorrupt):
		return Bad, err.Error(), nil
	case errors.Is(err, backends.ErrNotExist):
		return Lost, "it is not there", nil
	case err != nil:
		return Unread, err.Error(), err
	}
	return "", "", nil
}

// Sums compares the checksums of a file with those wanted; ErrCorrupt when they differ. With ask it takes what a storage
// elsewhere tells of them, if it tells any. Else the bytes are read, if that needs no recall (ErrOffline).
func Sums(ctx context.Context, rse *lake.RSE, pfn string, want backends.Checksums, ask bool) error {
	if want.IsZero() {
		return fmt.Errorf("the catalogue has no checksum to compare: %w", backends.ErrNotSupported)
	}
	traits := rse.Storage.Traits()
	common := slices.ContainsFunc(checksum.Known(want), func(alg string) bool { return slices.Contains(traits.Checksums, alg) })
	if ask && !traits.Local && common {
		got, err := rse.Storage.Checksum(ctx, pfn)
		if !errors.Is(err, backends.ErrNotSupported) {
			if err != nil {
				return err
			}
			return want.Match(got)
		}
	}
	o, err := rse.Storage.Open(ctx, pfn)
	if err != nil {
		return err
	}
	defer o.Close()
	got, err := checksum.Object(ctx, o, checksum.Known(want)...)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return want.Match(got)
}

// again looks whether a replica that was declared BAD is good.
func (c *check) again(ctx context.Context, r row) error {
	if err := c.putPoor(r); err != nil {
		return err
	}
	rse, known := c.Lake.RSE(r.RSE)
	if !known || !c.Deep && !c.Repair {
		return nil
	}
	cur, ok, err := c.lookup(ctx, r)
	if err != nil || !ok {
		return err
	}
	if what, _, proved := c.look(ctx, rse, cur, true); what != "" || proved != nil {
		return ctx.Err()
	}
	f := Finding{What: Back, RSE: r.RSE, PFN: r.PFN, DID: r.DID, Size: cur.in.Size, Detail: "declared BAD (" + cur.rep.Error + "), and it is good"}
	if c.Repair {
		if err := c.put(ctx, r, cur, backends.Available); err != nil {
			return err
		}
		f.Repaired = true
	}
	return c.say(f)
}

// put notes a replica as verified now, unless it is not any more what was verified.
func (c *check) put(ctx context.Context, r row, cur current, state backends.ReplicaState) error {
	release, err := c.Lake.Claim(ctx, cur.in, r.RSE)
	if err != nil {
		return err
	}
	defer release()
	if still, err := c.same(ctx, r, cur); err != nil || !still {
		return err
	}
	rep := cur.rep
	rep.State, rep.Error, rep.Verified = state, "", c.Now()
	err = c.Lake.Catalogue().PutReplica(ctx, cur.in.DID, cur.in.Generation, rep)
	if errors.Is(err, backends.ErrStale) || errors.Is(err, backends.ErrNotExist) {
		return nil
	}
	return err
}

// declare declares a replica BAD, if it is still what was looked at.
func (c *check) declare(ctx context.Context, r row, cur current, why string) (done bool, err error) {
	release, err := c.Lake.Claim(ctx, cur.in, r.RSE)
	if err != nil {
		return false, err
	}
	defer release()
	if still, err := c.same(ctx, r, cur); err != nil || !still {
		return false, err
	}
	return true, c.Lake.DeclareBad(ctx, cur.in, r.RSE, errors.New(why))
}

// dark tells of a file that nobody knew, if it is old enough, and deletes it.
func (c *check) dark(ctx context.Context, rse *lake.RSE, pfn string, at thing) error {
	if age := c.Now().Sub(at.MTime); age < c.Grace || c.Lake.Held(rse.Name, pfn) {
		return nil
	}
	f := Finding{What: Dark, RSE: rse.Name, PFN: pfn, Size: at.Size, MTime: at.MTime, Note: rse.Care.Shared}
	if rse.Care.Shared {
		f.Detail = "others keep files here, too"
	}
	if c.DeleteDark && !rse.Care.Shared && !rse.ReadOnly {
		switch gone, err := c.remove(ctx, rse, pfn, at); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			f.Detail = "not deleted: " + err.Error()
		case !gone:
			return nil
		default:
			f.Repaired, f.Detail = true, "deleted"
			c.Log.Info("unknown file deleted", "rse", rse.Name, "pfn", pfn, "bytes", at.Size, "mtime", at.MTime)
		}
	}
	return c.say(f)
}

// remove deletes what nobody knows. False when somebody has it by now, or it is another file.
func (c *check) remove(ctx context.Context, rse *lake.RSE, pfn string, at thing) (bool, error) {
	h := c.Lake.NewHolder()
	defer c.Lake.LetGo(h)
	if err := c.Lake.Hold(h, rse.Name, pfn); err != nil {
		return false, nil
	}
	if others, err := c.Lake.Others(ctx, rse.Name, pfn, 0); err != nil || others {
		return false, err
	}
	a, err := rse.Storage.Stat(ctx, pfn)
	if errors.Is(err, backends.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if a.IsDir || a.Size != at.Size || c.Now().Sub(a.MTime) < c.Grace {
		return false, nil
	}
	if err := rse.Storage.Remove(ctx, pfn); err != nil && !errors.Is(err, backends.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// putPoor keeps a replica that is no good, for gone.
func (c *check) putPoor(r row) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.poor.add([]byte(r.DID.String()), b)
}

// gone tells of the files of which no good copy is left: what was found is all that they have, and nothing of them
// waits to be sent.
func (c *check) gone(ctx context.Context) error {
	waits := map[backends.DID]bool{}
	for _, d := range c.unsent().Files {
		waits[d] = true
	}
	var rows []row
	judge := func() error {
		if len(rows) == 0 || waits[rows[0].DID] {
			return nil
		}
		d := rows[0].DID
		in, err := c.Lake.Catalogue().Stat(ctx, d)
		var reps []backends.Replica
		if err == nil {
			reps, err = c.Lake.Catalogue().Replicas(ctx, d)
		}
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) || errors.Is(err, backends.ErrIsDir) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, r := range reps {
			poor := slices.ContainsFunc(rows, func(x row) bool { return x.RSE == r.RSE && x.PFN == path.Clean(r.PFN) })
			if r.State == backends.Available && (!poor || c.Repair) || r.State == backends.Copying {
				return nil // with Repair what is no good is not AVAILABLE any more
			}
		}
		return c.say(Finding{What: Gone, DID: d, Size: in.Size, Detail: "no good copy is left"})
	}
	err := c.poor.each(func(_, val []byte) error {
		var r row
		if err := json.Unmarshal(val, &r); err != nil {
			return err
		}
		if len(rows) > 0 && rows[0].DID != r.DID {
			if err := judge(); err != nil {
				return err
			}
			rows = rows[:0]
		}
		rows = append(rows, r)
		return nil
	})
	if err == nil {
		err = judge()
	}
	return err
}
