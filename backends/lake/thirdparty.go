package lake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tarn/backends"
)

// apartFor is how long two RSEs whose servers failed to copy between themselves are not asked to again: the bytes are
// carried meanwhile.
const apartFor = 5 * time.Minute

// pair is two RSEs, the source of a copy and its destination.
type pair struct{ from, to string }

// CopyByServers lets the servers of the best online disk replica that can, and of the RSE, copy the content to pfn: the bytes
// do not come by here. What has arrived is proved as by Store, and nothing is registered. done is false where they cannot or
// have failed; then nothing is at pfn, and the bytes have to be carried. An error is one that carrying them would not mend.
// The caller has the Claim, and pfn is on record. What from does not allow is no source.
//
// A replica that its own server proves to have another content is declared BAD, and the next one is taken; what
// the servers do not prove shows when the bytes are carried.
func (l *Lake) CopyByServers(ctx context.Context, in backends.Info, to *RSE, pfn string, allow From, progress func(int64)) (r backends.Replica, done bool, err error) {
	if in.Size == 0 || in.Size < l.o.ThirdParty || in.Checksums.IsZero() || to.ReadOnly {
		return r, false, nil
	}
	from, err := l.senders(ctx, in, to, allow)
	if err != nil || len(from) == 0 {
		return r, err != nil, err
	}
	whole := func() (backends.Replica, bool, error) {
		if progress != nil {
			progress(in.Size)
		}
		return backends.Replica{RSE: to.Name, PFN: pfn, State: backends.Available, Verified: l.now()}, true, nil
	}
	if l.stored(ctx, to, pfn, in.Size, in.Checksums) {
		return whole()
	}
	for _, s := range from {
		fail := func(err error) (backends.Replica, bool, error) {
			return r, true, fmt.Errorf("copy by third party from %s: %w", s.RSE, err)
		}
		got, err := l.between(ctx, in, s, to, pfn, progress)
		switch {
		case err != nil:
		case comparable(in.Checksums, got):
			err = in.Checksums.Match(got)
		default: // the server that received it has proved nothing yet
			if err = l.prove(ctx, to, pfn, in.Checksums); err != nil && !errors.Is(err, backends.ErrCorrupt) {
				return fail(err)
			}
		}
		switch {
		case err == nil:
			return whole()
		case ctx.Err() != nil:
			return fail(err)
		case errors.Is(err, backends.ErrNotSupported):
			continue
		case to.Elsewhere(err):
			return r, false, nil // who carries the bytes finds the same, and another path
		}
		// An answer may have been lost on its way.
		if l.stored(ctx, to, pfn, in.Size, in.Checksums) {
			return whole()
		}
		if left := l.clear(ctx, to, pfn); left != nil {
			return fail(errors.Join(err, left))
		}
		if errors.Is(err, backends.ErrNoSpace) || errors.Is(err, backends.ErrQuota) {
			return fail(err)
		}
		l.log.Warn("two storages do not copy between themselves, the bytes are carried", "did", in.DID, "from", s.RSE, "to", to.Name, "err", err)
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrCorrupt) {
			if l.blames(ctx, in, s) {
				continue
			}
		}
		l.setApart(s.RSE, to.Name)
		return r, false, nil
	}
	return r, false, nil
}

// senders are the replicas that a copy by third party may be of, the best first.
func (l *Lake) senders(ctx context.Context, in backends.Info, to *RSE, allow From) (out []source, err error) {
	replicas, err := l.replicasOf(ctx, in)
	if err != nil {
		return nil, err
	}
	for _, s := range l.sources(replicas) {
		if !s.good() || s.tape() || s.RSE == to.Name || !allow.allows(s) || l.isApart(s.RSE, to.Name) {
			continue
		}
		if _, ok := s.rse.Storage.(backends.ThirdParty); ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// between makes the copy, which others can hear of meanwhile.
func (l *Lake) between(ctx context.Context, in backends.Info, s source, to *RSE, pfn string, progress func(int64)) (backends.Checksums, error) {
	c := claimOf(in, to.Name)
	l.mu.Lock()
	l.sending[c] = s.RSE
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.sending, c)
		l.mu.Unlock()
	}()
	return s.rse.Storage.(backends.ThirdParty).CopyTo(ctx, s.PFN, to.Storage, pfn, in.Size, in.Checksums, progress)
}

// Sending tells from which RSE a copy to another is being made by third party, "" for none.
func (l *Lake) Sending(in backends.Info, to string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sending[claimOf(in, to)]
}

// clear makes sure that nothing is at pfn.
func (l *Lake) clear(ctx context.Context, rse *RSE, pfn string) error {
	_, err := rse.Storage.Stat(ctx, pfn)
	if err == nil {
		err = rse.Storage.Remove(ctx, pfn)
	}
	if err != nil && !errors.Is(err, backends.ErrNotExist) {
		return fmt.Errorf("it is not certain what was left: %w", err)
	}
	return nil
}

// blames tells whether a replica is proved to be no good by what its storage says of it: then it is declared BAD.
func (l *Lake) blames(ctx context.Context, in backends.Info, s source) bool {
	h, err := l.openSource(ctx, in, s)
	if err != nil {
		return errors.Is(err, errBadReplica)
	}
	h.Close()
	if len(s.rse.Storage.Traits().Checksums) == 0 {
		return false
	}
	got, err := s.rse.Storage.Checksum(ctx, s.PFN)
	if err != nil || !comparable(in.Checksums, got) {
		return false
	}
	if err = in.Checksums.Match(got); err == nil {
		return false
	}
	if bad := l.DeclareReplicaBad(ctx, in, s.Replica, err); bad != nil {
		l.log.Error("bad replica not noted", "did", in.DID, "rse", s.RSE, "err", bad)
		return false
	}
	return true
}

func (l *Lake) setApart(from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apart[pair{from, to}] = l.now()
}

func (l *Lake) isApart(from, to string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.apart[pair{from, to}]
	if ok && l.now().Sub(at) >= apartFor {
		delete(l.apart, pair{from, to})
		ok = false
	}
	return ok
}
