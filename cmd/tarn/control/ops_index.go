package control

import (
	"context"
	"fmt"
	"time"

	"tarn/backends"
)

// IndexEntry is one path that is indexed.
type IndexEntry struct {
	Path  Text      `json:"path"`
	DIDs  int64     `json:"dids"`
	AsOf  time.Time `json:"as_of"`
	Bytes int64     `json:"bytes,omitempty"` // on disk, of the whole index
	Stale string    `json:"stale,omitempty"` // why it answers no more
	Took  float64   `json:"took,omitempty"`  // seconds, of one that was made now
}

// IndexSize is what the whole index takes.
type IndexSize struct {
	Bytes int64 `json:"bytes"`
}

// indexMake makes the index of each path.
func (s *Service) indexMake(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	for _, p := range req.Paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return nil, err
		}
		in, path := n.Info(), n.Path()
		n.Forget(1)
		var d backends.DID
		if path != "/" {
			d = s.didOf(in, path)
		}
		begun, told := s.Now(), time.Time{}
		c, err := s.Index.Build(ctx, d, path, func(dids int64) {
			if now := s.Now(); now.Sub(told) >= pushEvery {
				told = now
				out.progress(Progress{What: "indexed", Files: dids})
			}
		})
		if err != nil {
			return nil, err
		}
		if err := out.item(IndexEntry{Path: Text(path), DIDs: c.DIDs, AsOf: c.AsOf, Took: s.Now().Sub(begun).Seconds()}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Service) indexList(ctx context.Context, _ struct{}, out *stream) (any, error) {
	list, bytes, err := s.Index.Covers(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if err := out.item(IndexEntry{Path: Text(c.Path), DIDs: c.DIDs, AsOf: c.AsOf, Bytes: bytes, Stale: c.Stale}); err != nil {
			return nil, err
		}
	}
	return IndexSize{bytes}, nil
}

// indexDrop forgets what is indexed at and below the paths.
func (s *Service) indexDrop(ctx context.Context, req PathsRequest, _ *stream) (any, error) {
	var c Count
	for _, p := range req.Paths {
		var d backends.DID
		if p != "/" {
			var err error
			if d, err = s.indexed(ctx, p); err != nil {
				return nil, err
			}
		}
		n, err := s.Index.Drop(ctx, d)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, Fail(ErrNothing, "`tarn index ls` shows what is", "nothing is indexed at and below %s", p.Quote())
		}
		c.Done += int64(n)
	}
	return c, nil
}

// indexed is the DID of a path that may be gone: what was indexed there can be forgotten all the same.
func (s *Service) indexed(ctx context.Context, p Text) (backends.DID, error) {
	list, _, err := s.Index.Covers(ctx)
	if err != nil {
		return backends.DID{}, err
	}
	for _, c := range list {
		if Text(c.Path) == p {
			return c.Root, nil
		}
	}
	n, err := s.node(ctx, string(p))
	if err != nil {
		return backends.DID{}, err
	}
	defer n.Forget(1)
	return s.didOf(n.Info(), n.Path()), nil
}

// FindReply says where an answer is from.
type FindReply struct {
	AsOf  time.Time `json:"as_of,omitzero"`      // of the index that it is from; zero: it is from the catalogue
	NoIdx string    `json:"not_index,omitempty"` // why an index that there is was not asked
}

// withIndex lets what follows be answered from the index, unless that is not wanted.
func withIndex(ctx context.Context, no bool) (context.Context, func() FindReply) {
	i := &backends.Indexed{}
	if !no {
		ctx = backends.WithIndex(ctx, i)
	}
	return ctx, func() FindReply { return FindReply{i.AsOf, i.Why} }
}

// Note is what a user is told of it; "" for nothing.
func (r FindReply) Note() string {
	switch {
	case !r.AsOf.IsZero():
		return fmt.Sprintf("from the index as of %s; --no-index asks the catalogue itself", r.AsOf.Local().Format(time.DateTime))
	case r.NoIdx != "":
		return fmt.Sprintf("the index was not asked: %s; `tarn index` makes it anew", r.NoIdx)
	}
	return ""
}
