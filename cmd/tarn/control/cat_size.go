package control

import (
	"context"
	"errors"
	"fmt"

	"tarn/backends"
	"tarn/fs/vfs"
)

// AttributesRequest changes mode, owner and group (changePathMode, changePathOwner, changePathGroup); nil stays as it is.
type AttributesRequest struct {
	LFNs []Text  `json:"lfns"`
	Mode *uint32 `json:"mode,omitempty"`
	UID  *uint32 `json:"uid,omitempty"`
	GID  *uint32 `json:"gid,omitempty"`
	// Recursive also changes what is below; execute bits of Mode are then for directories, and for files that have one.
	Recursive bool `json:"recursive,omitempty"`
}

func (s *Service) catAttributes(ctx context.Context, req AttributesRequest, out *stream) (any, error) {
	if req.Mode != nil && *req.Mode > 0o7777 {
		return nil, Fail(ErrUsage, "", "mode %o: want 0 to 7777", *req.Mode)
	}
	one := func(p string) error {
		n, err := s.node(ctx, p)
		if err != nil {
			return err
		}
		defer n.Forget(1)
		ch := backends.Change{Mode: req.Mode, UID: req.UID, GID: req.GID}
		if in := n.Info(); req.Mode != nil && req.Recursive && !in.IsDir() && in.Mode&0o111 == 0 {
			plain := *req.Mode &^ 0o111
			ch.Mode = &plain
		}
		return s.FS.SetAttr(ctx, n, vfs.SetAttr{Change: ch})
	}
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		if err := one(p); err != nil || !req.Recursive {
			return true, err
		}
		for w, err := range s.FS.Walk(ctx, p) {
			if err == nil && w.Path != p && !w.Info.IsSymlink() {
				err = one(w.Path)
			}
			if err != nil {
				return nil, err
			}
		}
		return true, nil
	})
}

// AccessRequest asks whether a user may read or write (hasAccess). The daemon, or the command, has the right of its own
// user to all of the lake; this is what the modes of the lake say.
type AccessRequest struct {
	LFNs  []Text   `json:"lfns"`
	Write bool     `json:"write,omitempty"`
	UID   uint32   `json:"uid"`
	GIDs  []uint32 `json:"gids,omitempty"`
}

func (s *Service) catAccess(ctx context.Context, req AccessRequest, out *stream) (any, error) {
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		n, err := s.node(ctx, p)
		if err != nil {
			return nil, err
		}
		defer n.Forget(1)
		return mayAccess(n.Info(), req), nil
	})
}

// mayAccess judges the permission bits as POSIX does: those of the first class that the user is in count.
func mayAccess(in backends.Info, req AccessRequest) bool {
	bit := uint32(0o4)
	if req.Write {
		bit = 0o2
	}
	switch {
	case req.UID == 0:
		return true
	case req.UID == in.UID:
		return in.Mode&(bit<<6) != 0
	}
	for _, g := range req.GIDs {
		if g == in.GID {
			return in.Mode&(bit<<3) != 0
		}
	}
	return in.Mode&bit != 0
}

// dirSize sums up a directory in the words of getDirectorySize.
type dirSize struct {
	Size        int64               `json:"LogicalSize"`
	Files       int64               `json:"LogicalFiles"`
	Directories int64               `json:"LogicalDirectories"`
	Physical    map[string]physical `json:"PhysicalSize,omitempty"`
}

type physical struct {
	Files int64 `json:"Files"`
	Size  int64 `json:"Size"`
}

// SizeRequest asks how much is in directories; with Long also how much of it each SE has.
type SizeRequest struct {
	LFNs []Text `json:"lfns"`
	Long bool   `json:"long,omitempty"`
}

func (s *Service) catSize(ctx context.Context, req SizeRequest, out *stream) (any, error) {
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		n, err := s.node(ctx, p)
		if err != nil {
			return nil, err
		}
		top, isDir := n.Path(), n.IsDir()
		n.Forget(1)
		if !isDir {
			return nil, Fail(backends.ErrNotDir, "", "%s is not a directory", Text(p).Quote())
		}
		var d dirSize
		if req.Long {
			d.Physical = map[string]physical{}
		}
		for w, err := range s.FS.Walk(ctx, top) {
			switch {
			case err != nil:
				return nil, err
			case w.Path == top:
			case w.Info.IsDir():
				d.Directories++
			default:
				d.Files++
				d.Size += w.Info.Size
				if !req.Long {
					continue
				}
				places, err := s.placesOf(ctx, w.Info)
				if err != nil && !errors.Is(err, backends.ErrNotExist) {
					return nil, fmt.Errorf("replicas of %s: %w", Text(w.Path).Quote(), err)
				}
				for se := range places {
					x := d.Physical[se]
					d.Physical[se] = physical{x.Files + 1, x.Size + w.Info.Size}
				}
			}
		}
		return d, nil
	})
}
