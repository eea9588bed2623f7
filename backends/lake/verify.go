package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// VerifyResult is what re-reading one replica gave.
type VerifyResult struct {
	RSE      string        `json:"rse"`
	PFN      string        `json:"pfn"`
	OK       bool          `json:"ok"`
	Bad      bool          `json:"bad"`   // it is proved to be no good, and declared BAD
	Err      error         `json:"-"`     // why it is not OK
	Error    string        `json:"error"` // Err in words
	Bytes    int64         `json:"bytes"` // read
	Duration time.Duration `json:"duration"`
}

// Verify reads every AVAILABLE and BAD replica of in again, recalling those on tape, and
// compares its checksum with the catalogue's; each is called once a replica, from this
// goroutine. One that differs or is missing becomes BAD, one that is good AVAILABLE with
// the time of verification. One that could not be read keeps its state. The error is for
// what keeps all from being verified: the catalogue, or the end of ctx. Without a
// generation in in it is the published content that is compared.
func (l *Lake) Verify(ctx context.Context, in backends.Info, each func(VerifyResult)) error {
	if in.Type != backends.File {
		return fmt.Errorf("verify %s: %w", in.DID, backends.ErrIsDir)
	}
	if in.Generation == "" { // what a writer here has not sent yet: no replica is of that
		now, err := l.o.Catalogue.Stat(ctx, in.DID)
		if err != nil {
			return fmt.Errorf("verify %s: %w", in.DID, err)
		}
		in = now
	}
	replicas, err := l.replicasOf(ctx, in)
	if err != nil {
		return fmt.Errorf("verify %s: %w", in.DID, err)
	}
	for _, s := range l.sources(replicas) {
		if s.State != backends.Available && s.State != backends.Bad {
			continue
		}
		begun := l.now()
		res := VerifyResult{RSE: s.RSE, PFN: s.PFN}
		res.Bytes, res.Bad, res.Err = l.verifyOne(ctx, in, s)
		if ctx.Err() != nil {
			return fmt.Errorf("verify %s: %w", in.DID, ctx.Err())
		}
		res.Duration = l.now().Sub(begun)
		var put error
		switch {
		case res.Err == nil:
			res.OK = true
			put = l.putVerified(ctx, in, s.Replica)
			if s.State == backends.Bad && put == nil {
				l.log.Info("replica declared BAD is good again", "did", in.DID, "rse", s.RSE)
			}
		case res.Bad:
			put = l.DeclareReplicaBad(ctx, in, s.Replica, res.Err)
		}
		if put != nil && !errors.Is(put, backends.ErrStale) && !errors.Is(put, backends.ErrNotExist) {
			return fmt.Errorf("verify %s: %w", in.DID, put)
		}
		if res.Err != nil {
			res.Error = res.Err.Error()
		}
		each(res)
	}
	return nil
}

// putVerified notes that a replica is good, if it is still what was read and nobody makes one there, or deletes it.
func (l *Lake) putVerified(ctx context.Context, in backends.Info, r backends.Replica) error {
	release, ok := l.TryClaim(in, r.RSE)
	if !ok {
		return nil
	}
	defer release()
	now, err := l.replicasOf(ctx, in)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(now, func(x backends.Replica) bool { return x.RSE == r.RSE && x.PFN == r.PFN && x.State == r.State }) {
		return nil // its path may be another's
	}
	r.State, r.Error, r.Verified = backends.Available, "", l.now()
	return l.o.Catalogue.PutReplica(ctx, in.DID, in.Generation, r)
}

// verifyOne reads one replica; bad tells that it is proved to be no good.
func (l *Lake) verifyOne(ctx context.Context, in backends.Info, s source) (n int64, bad bool, err error) {
	if s.rse == nil {
		return 0, false, fmt.Errorf("%s: %w", s.why(), backends.ErrUnavailable)
	}
	if s.tape() {
		t := l.recalls.join([]backends.Info{in}, s.RSE, l.o.HoldWindow)[0]
		defer t.Close()
		select {
		case <-t.Done():
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
		if err := t.Err(); err != nil {
			return 0, errors.Is(err, backends.ErrLost), err
		}
	}
	o, err := l.openSource(ctx, in, s)
	if err != nil {
		return 0, errors.Is(err, errBadReplica), err
	}
	defer o.Close()
	if in.Checksums.IsZero() {
		return 0, false, fmt.Errorf("the catalogue has no checksum to compare: %w", backends.ErrNotSupported)
	}
	got, err := checksum.Object(ctx, o, checksum.Known(in.Checksums)...)
	if err != nil {
		return 0, false, fmt.Errorf("read: %w", err)
	}
	if err := in.Checksums.Match(got); err != nil {
		return in.Size, true, err
	}
	return in.Size, false, nil
}
