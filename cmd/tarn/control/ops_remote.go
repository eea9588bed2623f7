package control

import (
	"context"
	"errors"
	"path"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/fs/vfs"
)

// Remote is a catalogue that a server keeps, as the commands need it.
type Remote interface {
	// Who names the server's kind for people, as "Rucio".
	Who() string
	// RSEUsage tells what is at the RSE, of all accounts and of the user's own, "" for each.
	RSEUsage(ctx context.Context, rse string, each func(RSEUsage) error) error
	// WhyStuck tells what the server says of the transfers that a STUCK rule waits for, some of them at most.
	WhyStuck(ctx context.Context, rule backends.RuleID, most int) ([]StuckTransfer, error)
}

// StuckTransfer is one that the server has given up for now.
type StuckTransfer struct {
	DID      Text      `json:"did"`
	RSE      string    `json:"rse"` // to which
	From     string    `json:"from,omitempty"`
	Attempts int64     `json:"attempts"`
	Error    string    `json:"error,omitempty"`
	Last     time.Time `json:"last,omitzero"`
}

// elsewhere refuses what the server of a catalogue does by itself; nil for a catalogue of this machine.
func (s *Service) elsewhere(what, hint string) error {
	if s.Remote == nil {
		return nil
	}
	return Fail(backends.ErrNotSupported, hint, "%s are %s's business here", what, s.Remote.Who())
}

// refresh forgets what is known of paths, so that the server is asked again.
func (s *Service) refresh(ctx context.Context, req PathsRequest, _ *stream) (any, error) {
	var c Count
	for _, p := range req.Paths {
		switch asks, err := s.FS.Refresh(ctx, string(p)); {
		case err != nil:
			return nil, err
		case !asks:
			return nil, Fail(ErrNothing, "", "the catalogue of this lake is this machine's: what is shown is never out of date")
		}
		c.Done++
	}
	return c, nil
}

// MkdirRequest makes directories.
type MkdirRequest struct {
	Paths   []Text `json:"paths"`
	Dataset bool   `json:"dataset,omitempty"` // of files only: a dataset, not a container
	Parents bool   `json:"parents,omitempty"` // those that are missing above, too; one that is there is no error
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
}

func (s *Service) mkdir(ctx context.Context, req MkdirRequest, _ *stream) (any, error) {
	var c Count
	for _, p := range req.Paths {
		clean, err := lake.CleanPath(string(p))
		if err != nil {
			return nil, err
		}
		if clean == "/" {
			return nil, Fail(backends.ErrExist, "", "/ is there")
		}
		made, err := s.mkdirOne(ctx, clean, req)
		if err != nil {
			return nil, err
		}
		if made {
			c.Done++
		}
	}
	return c, nil
}

// mkdirOne makes one directory, and with Parents those above it.
func (s *Service) mkdirOne(ctx context.Context, p string, req MkdirRequest) (made bool, err error) {
	if n, err := s.FS.Resolve(ctx, p); err == nil {
		defer n.Forget(1)
		switch {
		case !req.Parents || !n.IsDir():
			return false, Fail(backends.ErrExist, "", "%s is there already", Text(p).Quote())
		case req.Dataset && n.Info().Type != backends.Dataset:
			return false, Fail(backends.ErrExist, "", "%s is there already, and is no dataset", Text(p).Quote())
		}
		return false, nil
	} else if !errors.Is(err, backends.ErrNotExist) {
		return false, err
	}
	up := path.Dir(p)
	if req.Parents && up != "/" {
		above := req
		above.Dataset = false
		if _, err := s.mkdirOne(ctx, up, above); err != nil {
			return false, err
		}
	}
	dir, err := s.node(ctx, up)
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, ErrNoDirectory) {
		return false, Fail(ErrNoDirectory, "-p makes what is missing above, too", "%v", err)
	}
	if err != nil {
		return false, err
	}
	defer dir.Forget(1)
	typ := backends.Container
	if req.Dataset {
		typ = backends.Dataset
	}
	n, err := s.FS.MkdirAs(ctx, dir, path.Base(p), 0o755, vfs.Caller{UID: req.UID, GID: req.GID}, typ)
	if err != nil {
		return false, err
	}
	n.Forget(1)
	return true, nil
}

// remoteUsage is rseUsage of a server's catalogue, which counts by itself.
func (s *Service) remoteUsage(ctx context.Context, req RSERequest, out *stream) error {
	if req.Name != "" {
		if _, err := s.rse(req.Name); err != nil {
			return err
		}
	}
	return s.Remote.RSEUsage(ctx, req.Name, func(u RSEUsage) error { return out.item(u) })
}
