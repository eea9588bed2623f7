package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/backends"
	"tarn/backends/lake"
)

// replicasOf lists the copies of a file, with the locality of those on tape.
func (s *Service) replicasOf(ctx context.Context, p string, in backends.Info) ([]ReplicaEntry, error) {
	reps, err := s.Lake.Catalogue().Replicas(ctx, in.DID)
	if errors.Is(err, backends.ErrNotExist) {
		return nil, nil // not registered yet
	}
	if err != nil {
		return nil, fmt.Errorf("replicas of %s: %w", Text(p).Quote(), err)
	}
	out := make([]ReplicaEntry, 0, len(reps))
	for _, r := range reps {
		e := ReplicaEntry{RSE: r.RSE, State: string(r.State), Verified: r.Verified, PFN: Text(r.PFN), Error: r.Error}
		rse, ok := s.Lake.RSE(r.RSE)
		switch {
		case !ok:
			e.Error = "this RSE is not in the lake file"
		case rse.Tape != nil:
			e.Kind = rse.Kind
			locs, err := rse.Tape.Locality(ctx, r.PFN)
			if err != nil {
				e.Locality, e.Error = string(backends.Unavailable), err.Error()
			} else {
				e.Locality = string(locs[0])
			}
		default:
			e.Kind, e.Locality = rse.Kind, string(backends.Online)
		}
		out = append(out, e)
	}
	return out, nil
}

// replicas lists the copies of every file at and below some paths.
func (s *Service) replicas(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	return nil, s.eachFile(ctx, req.Paths, func(p string, in backends.Info) error {
		reps, err := s.replicasOf(ctx, p, in)
		if err != nil {
			return err
		}
		for _, r := range reps {
			r.Path = Text(p)
			if err := out.item(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachFile calls f for every regular file at and below the paths.
func (s *Service) eachFile(ctx context.Context, paths []Text, f func(p string, in backends.Info) error) error {
	for _, p := range paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return err
		}
		root := n.Path()
		n.Forget(1)
		for w, err := range s.FS.Walk(ctx, root) {
			if err != nil {
				return err
			}
			if w.Info.Type != backends.File || w.Info.IsSymlink() {
				continue
			}
			w.Info.DID = s.didOf(w.Info, w.Path)
			if err := f(w.Path, w.Info); err != nil {
				return err
			}
		}
	}
	return nil
}

// rses lists the storages of the lake.
func (s *Service) rses(ctx context.Context, _ struct{}, out *stream) (any, error) {
	for _, r := range s.Lake.RSEs() {
		e := RSEEntry{Name: r.Name, Kind: r.Kind, Attributes: r.Attributes, Naming: r.Naming.String(), ReadOnly: r.ReadOnly, Drain: r.Care.Drain, Distance: r.Distance, LAN: r.LAN, Speed: s.Lake.Speed(r.Name)}
		own, cancel := context.WithTimeout(ctx, 10*time.Second)
		var err error
		if e.Total, e.Free, err = r.Storage.Space(own); err != nil {
			e.Error = err.Error()
		}
		cancel()
		if r.Endpoints != nil {
			e.Endpoints = r.Endpoints() // after the question for space: it may be what failed
		}
		if r.Counters != nil {
			e.Counters = r.Counters()
		}
		if err := out.item(e); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// verifying is how many files are verified at a time: those on tape are recalled together.
const verifying = 64

// verify re-reads every replica at and below some paths.
func (s *Service) verify(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	var (
		mu sync.Mutex // guards c, p and the order on out
		c  Count
		p  = Progress{What: "verified"}
	)
	g, own := errgroup.WithContext(ctx)
	g.SetLimit(verifying)
	err := s.eachFile(own, req.Paths, func(path string, in backends.Info) error {
		g.Go(func() error {
			var results []lake.VerifyResult
			err := s.Lake.Verify(own, in, func(r lake.VerifyResult) { results = append(results, r) })
			mu.Lock()
			defer mu.Unlock()
			var sent error
			for _, r := range results {
				e := VerifyEntry{Path: Text(path), RSE: r.RSE, OK: r.OK, Bad: r.Bad, Bytes: r.Bytes}
				if r.OK {
					c.Done++
				} else {
					c.Failed++
					e.Error = r.Error
				}
				if r.Bad {
					s.Kick(in.DID) // a copy is missing now
				}
				c.Bytes += r.Bytes
				p.Bytes += r.Bytes
				sent = errors.Join(sent, out.item(e))
			}
			if errors.Is(err, backends.ErrNotExist) {
				return nil // unsent, or removed meanwhile
			}
			if err != nil {
				return err
			}
			p.Files++
			out.progress(p)
			return sent
		})
		return nil
	})
	if gerr := g.Wait(); gerr != nil {
		err = gerr // it ended the walk
	}
	return c, err
}
