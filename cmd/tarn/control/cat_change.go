package control

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/fs/vfs"
)

// catMkdir makes directories with those above them that are missing, down from a scope (createDirectory). One that is there
// is success.
func (s *Service) catMkdir(ctx context.Context, req LFNsRequest, out *stream) (any, error) {
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) { return true, s.makeDirs(ctx, p) })
}

func (s *Service) makeDirs(ctx context.Context, p string) error {
	clean, err := lake.CleanPath(p)
	if err != nil {
		return err
	}
	var missing []string // deepest first
	var dir *vfs.Node
	for at := clean; ; at = path.Dir(at) {
		if dir, err = s.FS.Resolve(ctx, at); err == nil {
			break
		}
		if !errors.Is(err, backends.ErrNotExist) || path.Dir(at) == "/" {
			if errors.Is(err, backends.ErrNotExist) {
				err = Fail(ErrNoDirectory, "scopes are made by the lake file, or in the root of a mount", "there is no scope %s", Text(at).Quote())
			}
			return err
		}
		missing = append(missing, path.Base(at))
	}
	defer func() { dir.Forget(1) }()
	if !dir.IsDir() {
		return Fail(backends.ErrNotDir, "", "%s is a file", Text(dir.Path()).Quote())
	}
	who := vfs.Caller{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	for i := len(missing) - 1; i >= 0; i-- {
		n, err := s.FS.Mkdir(ctx, dir, missing[i], 0o755, who)
		if errors.Is(err, backends.ErrExist) { // made by somebody else meanwhile
			n, err = s.FS.Lookup(ctx, dir, missing[i])
		}
		if err != nil {
			return err
		}
		dir.Forget(1)
		dir = n
	}
	return nil
}

// catRemove takes files out of the lake (removeFile): the names go at once, the copies after the grace period. What is not
// there is success, as in DIRAC.
func (s *Service) catRemove(ctx context.Context, req LFNsRequest, out *stream) (any, error) {
	return s.eachName(ctx, req.LFNs, out, s.FS.Unlink)
}

// catRemoveDir removes empty directories (removeDirectory). What is not there is success.
func (s *Service) catRemoveDir(ctx context.Context, req LFNsRequest, out *stream) (any, error) {
	return s.eachName(ctx, req.LFNs, out, s.FS.Rmdir)
}

// eachName takes names out of their directories.
func (s *Service) eachName(ctx context.Context, lfns []Text, out *stream, remove func(ctx context.Context, dir *vfs.Node, name string) error) (any, error) {
	return eachLFN(ctx, lfns, out, func(p string) (any, error) {
		clean, err := lake.CleanPath(p)
		if err != nil {
			return nil, err
		}
		dir, err := s.FS.Resolve(ctx, path.Dir(clean))
		if err == nil {
			defer dir.Forget(1)
			err = remove(ctx, dir, path.Base(clean))
		}
		if errors.Is(err, backends.ErrNotExist) {
			err = nil
		}
		return true, err
	})
}

// replicaStatus is DIRAC's word for the state of a replica; Rucio's where DIRAC has none.
func replicaStatus(r backends.Replica) string {
	switch r.State {
	case backends.Available:
		return backends.AprioriGood
	case backends.Bad:
		return "Problematic"
	}
	return string(r.State)
}

// StatusRequest asks about the replicas of files, at one SE or, without SE, at all.
type StatusRequest struct {
	LFNs []Text `json:"lfns"`
	SE   string `json:"se,omitempty"`
}

func (s *Service) catStatus(ctx context.Context, req StatusRequest, out *stream) (any, error) {
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		_, rs, err := s.replicasAt(ctx, p)
		if err != nil {
			return nil, err
		}
		all := map[string]string{}
		for _, r := range rs {
			if r.RSE == req.SE {
				return replicaStatus(r), nil
			}
			all[r.RSE] = replicaStatus(r)
		}
		if req.SE != "" {
			return nil, noReplica(p, req.SE)
		}
		return all, nil
	})
}

func noReplica(p, se string) error {
	return Fail(backends.ErrNotExist, "`tarn replicas PATH` lists those that there are", "%s has no replica at %s", Text(p).Quote(), se)
}

// replicasAt gives a registered file and its replicas.
func (s *Service) replicasAt(ctx context.Context, p string) (backends.Info, []backends.Replica, error) {
	n, err := s.node(ctx, p)
	if err != nil {
		return backends.Info{}, nil, err
	}
	defer n.Forget(1)
	in := n.Info()
	switch {
	case n.IsDir():
		return in, nil, Fail(backends.ErrIsDir, "", "%s is a directory", Text(p).Quote())
	case in.DID.Scope == "":
		return in, nil, Fail(backends.ErrBusy, "`tarn uploads ls` shows how far it is", "%s is not registered yet", Text(p).Quote())
	}
	rs, err := s.Lake.Catalogue().Replicas(ctx, in.DID)
	return in, rs, err
}

// SetStatusRequest changes what is thought of replicas (setReplicaStatus, setReplicaProblematic).
type SetStatusRequest struct {
	LFNs   []Text `json:"lfns"`
	SE     string `json:"se"`
	Status string `json:"status"` // AprioriGood or AVAILABLE; Problematic or BAD
	Reason string `json:"reason,omitempty"`
}

func (s *Service) catSetStatus(ctx context.Context, req SetStatusRequest, out *stream) (any, error) {
	bad := false
	switch strings.ToLower(req.Status) {
	case "apriorigood", "available", "good":
	case "problematic", "bad":
		bad = true
	default:
		return nil, Fail(ErrUsage, "a problematic copy is not read, and rules make another", "status %q: want AprioriGood or Problematic", req.Status)
	}
	reason := errors.New("declared problematic")
	if req.Reason != "" {
		reason = errors.New(req.Reason)
	}
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		in, rs, err := s.replicasAt(ctx, p)
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			switch {
			case r.RSE != req.SE:
				continue
			case bad:
				return true, s.Lake.DeclareBad(ctx, in, r.RSE, reason)
			case r.State == backends.Available:
				return true, nil
			case r.State != backends.Bad:
				return nil, Fail(backends.ErrBusy, "", "the replica of %s at %s is %s", Text(p).Quote(), r.RSE, r.State)
			}
			r.State, r.Error = backends.Available, ""
			return true, s.Lake.Catalogue().PutReplica(ctx, in.DID, in.Generation, r)
		}
		return nil, noReplica(p, req.SE)
	})
}
