package control

import (
	"context"
	"fmt"
	"path"
	"strings"

	"tarn/backends"
	"tarn/backends/filecat"
	"tarn/fs/vfs"
)

// ListRequest asks for the entries of a directory, or for a file itself.
type ListRequest struct {
	Path      Text `json:"path"`
	Recursive bool `json:"recursive,omitempty"`
	Self      bool `json:"self,omitempty"` // the directory itself and not what it holds
	Locality  bool `json:"locality,omitempty"`
}

func (s *Service) list(ctx context.Context, req ListRequest, out *stream) (any, error) {
	n, err := s.node(ctx, string(req.Path))
	if err != nil {
		return nil, err
	}
	defer n.Forget(1)
	b := s.batch(out, req.Locality)
	p := n.Path()
	switch {
	case !n.IsDir() || req.Self:
		err = b.add(ctx, p, n.Info())
	case req.Recursive:
		for w, werr := range s.FS.Walk(ctx, p) {
			if werr != nil {
				return nil, werr
			}
			if w.Path == p {
				continue
			}
			if err = b.add(ctx, w.Path, w.Info); err != nil {
				break
			}
		}
	default:
		err = s.eachEntry(ctx, n, func(e vfs.Entry) error { return b.add(ctx, path.Join(p, e.Name), e.Info) })
	}
	if err == nil {
		err = b.flush(ctx)
	}
	return nil, err
}

// eachEntry calls f for every entry of the directory n.
func (s *Service) eachEntry(ctx context.Context, n *vfs.Node, f func(vfs.Entry) error) error {
	for after := ""; ; {
		entries, err := s.FS.List(ctx, n, after)
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, e := range entries {
			if err := f(e); err != nil {
				return err
			}
		}
		after = entries[len(entries)-1].Name
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// PathsRequest names what an operation works on.
type PathsRequest struct {
	Paths []Text `json:"paths"`
}

// stat gives one entry a path, with replicas, metadata and rules.
func (s *Service) stat(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	for _, p := range req.Paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return nil, err
		}
		e, err := s.statNode(ctx, n)
		n.Forget(1)
		if err != nil {
			return nil, err
		}
		if err := out.item(e); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Service) statNode(ctx context.Context, n *vfs.Node) (Entry, error) {
	in, p := n.Info(), n.Path()
	e := s.entryOf(p, in)
	if p == "/" {
		return e, nil
	}
	var err error
	if e.Meta, err = s.FS.Meta(ctx, n); err != nil {
		return e, fmt.Errorf("metadata of %s: %w", e.Path.Quote(), err)
	}
	if in.Type == backends.File && !in.IsSymlink() {
		state, err := s.FS.GetXattr(ctx, n, "user.tarn.state")
		if err != nil {
			return e, fmt.Errorf("state of %s: %w", e.Path.Quote(), err)
		}
		e.State = string(state)
		in.DID = s.didOf(in, p)
		locs, err := s.FS.Localities(ctx, []backends.Info{in})
		if err != nil {
			return e, fmt.Errorf("locality of %s: %w", e.Path.Quote(), err)
		}
		e.Locality = string(locs[0])
		if e.Replicas, err = s.replicasOf(ctx, p, in); err != nil {
			return e, err
		}
	}
	if r := s.Lake.Rules(); r != nil && n.Info().DID.Scope != "" {
		for st, err := range r.RulesOf(ctx, in.DID) {
			if err != nil {
				return e, fmt.Errorf("rules of %s: %w", e.Path.Quote(), err)
			}
			e.Rules = append(e.Rules, st)
		}
	}
	return e, nil
}

// FindRequest asks for what matches a query at or below a path.
type FindRequest struct {
	Path     Text   `json:"path"`
	Query    string `json:"query"`
	Locality bool   `json:"locality,omitempty"`
	NoIndex  bool   `json:"no_index,omitempty"` // ask the catalogue itself
}

func (s *Service) find(ctx context.Context, req FindRequest, out *stream) (any, error) {
	q, err := s.FS.Query(ctx, req.Query)
	if err != nil {
		return nil, err
	}
	n, err := s.node(ctx, string(req.Path))
	if err != nil {
		return nil, err
	}
	p := n.Path()
	n.Forget(1)
	b := s.batch(out, req.Locality)
	p, q, ok := filecat.Narrow(p, q)
	if !ok {
		return FindReply{}, nil
	}
	within, reply := withIndex(ctx, req.NoIndex)
	for w, err := range s.FS.Find(within, p, q) {
		if err != nil {
			return nil, err
		}
		if err := b.add(ctx, w.Path, w.Info); err != nil {
			return nil, err
		}
	}
	return reply(), b.flush(ctx)
}

// UsageRequest asks how much stands at and below some paths. Depth is how far below
// them directories are listed too; 0: only the paths.
type UsageRequest struct {
	Paths    []Text `json:"paths"`
	Depth    int    `json:"depth,omitempty"`
	Locality bool   `json:"locality,omitempty"`
}

func (s *Service) usage(ctx context.Context, req UsageRequest, out *stream) (any, error) {
	for _, p := range req.Paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return nil, err
		}
		root := n.Path()
		n.Forget(1)
		if err := s.usageBelow(ctx, root, req, out); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// usageBelow sums up on the way back: the open directories down to Depth are a stack.
func (s *Service) usageBelow(ctx context.Context, root string, req UsageRequest, out *stream) error {
	var open []*UsageEntry
	closeTo := func(n int) error {
		for len(open) > n {
			u := open[len(open)-1]
			open = open[:len(open)-1]
			if len(open) > 0 {
				up := open[len(open)-1]
				up.Files, up.Directories, up.Bytes, up.Nearline = up.Files+u.Files, up.Directories+u.Directories, up.Bytes+u.Bytes, up.Nearline+u.Nearline
			}
			if err := out.item(u); err != nil {
				return err
			}
		}
		return nil
	}
	type asked struct {
		in backends.Info
		u  *UsageEntry
	}
	var ask []asked
	flush := func() error {
		infos := make([]backends.Info, len(ask))
		for i, a := range ask {
			infos[i] = a.in
		}
		locs, err := s.FS.Localities(ctx, infos)
		if err != nil {
			return fmt.Errorf("ask for localities: %w", err)
		}
		for i, l := range locs {
			if l == backends.Nearline {
				ask[i].u.Nearline += ask[i].in.Size
			}
		}
		ask = ask[:0]
		return nil
	}
	depthOf := func(p string) int { return strings.Count(strings.TrimSuffix(p, "/"), "/") }
	base := depthOf(root)
	seen := map[uint64]bool{} // of collections and files that can stand in several: layout contents
	for w, err := range s.FS.Walk(ctx, root) {
		if err != nil {
			return err
		}
		depth := depthOf(w.Path) - base
		if !strings.HasPrefix(w.Info.DID.Name, "/") && w.Info.Inode != 0 && w.Path != root {
			if seen[w.Info.Inode] {
				continue // one DID under several datasets is counted once
			}
			seen[w.Info.Inode] = true
		}
		if len(open) > depth {
			if err := flush(); err != nil { // before its directory is closed
				return err
			}
			if err := closeTo(max(depth, 0)); err != nil {
				return err
			}
		}
		if depth == 0 || w.Info.IsDir() && depth <= req.Depth {
			open = append(open, &UsageEntry{Path: Text(w.Path)})
		}
		u := open[len(open)-1]
		if w.Info.IsDir() {
			u.Directories++
			continue
		}
		u.Files++
		u.Bytes += w.Info.Size
		if req.Locality && w.Info.Type == backends.File && !w.Info.IsSymlink() {
			w.Info.DID = s.didOf(w.Info, w.Path)
			if ask = append(ask, asked{w.Info, u}); len(ask) == bulk {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return closeTo(0)
}

// MetaSetRequest merges metadata; null deletes a key.
type MetaSetRequest struct {
	Paths []Text        `json:"paths"`
	Meta  backends.Meta `json:"meta"`
}

// MetaEntry is the metadata of one path.
type MetaEntry struct {
	Path Text          `json:"path"`
	Meta backends.Meta `json:"meta"`
}

func (s *Service) metaGet(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	for _, p := range req.Paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return nil, err
		}
		m, err := s.FS.Meta(ctx, n)
		e := MetaEntry{Text(n.Path()), m}
		n.Forget(1)
		if err != nil {
			return nil, fmt.Errorf("metadata of %s: %w", p.Quote(), err)
		}
		if e.Meta == nil {
			e.Meta = backends.Meta{}
		}
		if err := out.item(e); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Service) metaSet(ctx context.Context, req MetaSetRequest, _ *stream) (any, error) {
	var c Count
	for _, p := range req.Paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return nil, err
		}
		err = s.FS.SetMeta(ctx, n, req.Meta)
		n.Forget(1)
		if err != nil {
			return nil, fmt.Errorf("set metadata of %s: %w", p.Quote(), err)
		}
		c.Done++
	}
	return c, nil
}
