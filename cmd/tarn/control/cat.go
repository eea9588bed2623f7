package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"

	"tarn/backends"
	"tarn/fs/vfs"
)

// fileCatalogue are the operations catalogue/..., one for each group of methods of DIRAC's FileCatalogClient.
// docs/dirac.md has the table.
func (s *Service) fileCatalogue() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"paths":            operation(s.catPaths),
		"contents":         operation(s.catContents),
		"size":             operation(s.catSize),
		"mkdir":            operation(s.catMkdir),
		"rm":               operation(s.catRemove),
		"rmdir":            operation(s.catRemoveDir),
		"attributes":       operation(s.catAttributes),
		"access":           operation(s.catAccess),
		"metaset/ls":       operation(s.catMetaSets),
		"metaset/add":      operation(s.catAddMetaSet),
		"metaset/rm":       operation(s.catRemoveMetaSet),
		"status":           operation(s.catStatus),
		"status/set":       operation(s.catSetStatus),
		"guid":             operation(s.catGUID),
		"pfn":              operation(s.catPFN),
		"dump":             operation(s.catDump),
		"counters":         operation(s.catCounters),
		"field/ls":         operation(s.catFields),
		"field/add":        operation(s.catAddField),
		"field/rm":         operation(s.catRemoveField),
		"find":             operation(s.catFind),
		"values":           operation(s.catValues),
		"meta/get":         operation(s.catMeta),
		"meta/set":         operation(s.catSetMeta),
		"dataset/ls":       operation(s.catDatasets),
		"dataset/add":      operation(s.catAddDataset),
		"dataset/files":    operation(s.catDatasetFiles),
		"dataset/check":    operation(s.catCheckDataset),
		"dataset/change":   operation(s.catChangeDataset),
		"ancestors":        operation(s.catKin),
		"ancestors/change": operation(s.catChangeKin),
	}
}

// LFNsRequest names files or directories.
type LFNsRequest struct {
	LFNs []Text `json:"lfns"`
}

// LFNResult is what came of one of them: a value, or an error. Where a value is of something in a directory, Path and Kind
// (file, directory, link) tell of what.
type LFNResult struct {
	LFN   Text            `json:"lfn"`
	Path  Text            `json:"path,omitempty"`
	Kind  string          `json:"kind,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
	Error *Error          `json:"error,omitempty"`
}

func (out *stream) value(r LFNResult, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	r.Value = b
	return out.item(r)
}

// eachLFN calls f for each LFN and sends what it gives. What fails for one does not end it, unless ctx ends.
func eachLFN(ctx context.Context, lfns []Text, out *stream, f func(p string) (any, error)) (c Count, err error) {
	for _, p := range lfns {
		v, err := f(string(p))
		if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		if err != nil {
			c.Failed++
			err = out.item(LFNResult{LFN: p, Error: Describe(err)})
		} else {
			c.Done++
			err = out.value(LFNResult{LFN: p}, v)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// PathsAbout asks one question about each path.
type PathsAbout struct {
	LFNs  []Text `json:"lfns"`
	About string `json:"about"` // exists, isfile, isdir, islink, readlink, size, stat, replicas
}

func (s *Service) catPaths(ctx context.Context, req PathsAbout, out *stream) (any, error) {
	answer := map[string]func(*vfs.Node) (any, error){
		"islink":   func(n *vfs.Node) (any, error) { return n.IsSymlink(), nil },
		"readlink": func(n *vfs.Node) (any, error) { return linkTarget(n) },
		"exists":   func(*vfs.Node) (any, error) { return true, nil },
		"isfile":   func(n *vfs.Node) (any, error) { return !n.IsDir() && !n.IsSymlink(), nil },
		"isdir":    func(n *vfs.Node) (any, error) { return n.IsDir(), nil },
		"size":     func(n *vfs.Node) (any, error) { return fileSize(n) },
		"stat":     func(n *vfs.Node) (any, error) { return s.catMetadata(ctx, n) },
		"replicas": func(n *vfs.Node) (any, error) { return s.catReplicas(ctx, n) },
	}[req.About]
	if answer == nil {
		return nil, Fail(ErrUsage, "", "%q is no question about paths", req.About)
	}
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		n, err := s.node(ctx, p)
		if (errors.Is(err, backends.ErrNotExist) || errors.Is(err, ErrNoDirectory) || errors.Is(err, backends.ErrNotDir)) && (req.About == "exists" || req.About[:2] == "is") {
			return false, nil
		}
		if err != nil {
			return nil, err
		}
		defer n.Forget(1)
		return answer(n)
	})
}

func linkTarget(n *vfs.Node) (any, error) {
	if !n.IsSymlink() {
		return nil, Fail(ErrUsage, "", "%s is no symbolic link", Text(n.Path()).Quote())
	}
	return Text(n.Info().Target), nil
}

func fileSize(n *vfs.Node) (any, error) {
	if n.IsDir() {
		return nil, Fail(backends.ErrIsDir, "`tarn catalogue du` tells how much is in it", "%s is a directory", Text(n.Path()).Quote())
	}
	return n.Info().Size, nil
}

// CatMetadata is a file or directory in the words of getFileMetadata and getDirectoryMetadata.
type CatMetadata struct {
	Type             string `json:"Type"` // File, Directory, Link
	Size             int64  `json:"Size"`
	Checksum         string `json:"Checksum"`
	ChecksumType     string `json:"ChecksumType"`
	GUID             string `json:"GUID"`
	CreationDate     string `json:"CreationDate"`
	ModificationDate string `json:"ModificationDate"`
	Mode             uint32 `json:"Mode"`
	UID              uint32 `json:"UID"`
	GID              uint32 `json:"GID"`
	Status           string `json:"Status,omitempty"`
	SubPaths         *int64 `json:"NumberOfSubPaths,omitempty"` // of a directory that was asked for
	Target           string `json:"Target,omitempty"`           // of a link
}

// metadataOf is that of an Info; the rest of it takes calls to the catalogue.
func metadataOf(in backends.Info) CatMetadata {
	const dirac = "2006-01-02 15:04:05"
	m := CatMetadata{
		Type: "File", Size: in.Size, CreationDate: in.MTime.UTC().Format(dirac), ModificationDate: in.CTime.UTC().Format(dirac),
		Mode: in.Mode & 0o7777, UID: in.UID, GID: in.GID, Target: in.Target,
	}
	switch {
	case in.IsDir():
		m.Type = "Directory"
	case in.IsSymlink():
		m.Type = "Link"
	case in.Checksums.Adler32 != "": // DIRAC compares this one
		m.Checksum, m.ChecksumType = in.Checksums.Adler32, "Adler32"
	default:
		m.ChecksumType, m.Checksum = in.Checksums.Best()
	}
	return m
}

func (s *Service) catMetadata(ctx context.Context, n *vfs.Node) (CatMetadata, error) {
	in := n.Info()
	m := metadataOf(in)
	if n.IsDir() {
		var sub int64
		err := s.eachEntry(ctx, n, func(vfs.Entry) error { sub++; return nil })
		m.SubPaths = &sub
		return m, err
	}
	meta, err := s.FS.Meta(ctx, n)
	if err != nil {
		return m, err
	}
	if g, ok := (backends.Subject{Info: &in, Meta: meta}).Value("GUID"); ok {
		m.GUID = fmt.Sprint(g)
	}
	if m.Type == "File" {
		m.Status, err = s.fileStatus(ctx, n)
	}
	return m, err
}

// fileStatus is DIRAC's AprioriGood for a file that may be used, and else says what is wrong.
func (s *Service) fileStatus(ctx context.Context, n *vfs.Node) (string, error) {
	in := n.Info()
	if in.DID.Scope == "" {
		return "Unregistered", nil // it waits in the journal
	}
	rs, err := s.Lake.Catalogue().Replicas(ctx, in.DID)
	if err != nil {
		return "", err
	}
	status := "NoReplicas"
	for _, r := range rs {
		if r.State == backends.Available {
			return backends.AprioriGood, nil
		}
		status = replicaStatus(r)
	}
	return status, nil
}

// catReplicas are the places of a file, by SE; copies that are BAD or being deleted are none (getReplicas).
func (s *Service) catReplicas(ctx context.Context, n *vfs.Node) (map[string]Text, error) {
	if n.IsDir() {
		return nil, Fail(backends.ErrIsDir, "`tarn catalogue ls --replicas` shows those of all files in it", "%s is a directory", Text(n.Path()).Quote())
	}
	return s.placesOf(ctx, n.Info())
}

func (s *Service) placesOf(ctx context.Context, in backends.Info) (map[string]Text, error) {
	out := map[string]Text{}
	if in.DID.Scope == "" || in.IsSymlink() {
		return out, nil
	}
	rs, err := s.Lake.Catalogue().Replicas(ctx, in.DID)
	for _, r := range rs {
		if r.State != backends.Bad && r.State != backends.BeingDeleted {
			out[r.RSE] = Text(r.PFN)
		}
	}
	return out, err
}

// ContentsRequest asks what is in directories, or with Recursive at and below them (getDirectoryDump), each file with
// its replicas (getDirectoryReplicas) instead of its attributes.
type ContentsRequest struct {
	LFNs      []Text `json:"lfns"`
	Recursive bool   `json:"recursive,omitempty"`
	Replicas  bool   `json:"replicas,omitempty"`
}

func (s *Service) catContents(ctx context.Context, req ContentsRequest, out *stream) (any, error) {
	var c Count
	for _, lfn := range req.LFNs {
		sent, err := s.contentsOf(ctx, string(lfn), req, out)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			c.Failed++
			if err := out.item(LFNResult{LFN: lfn, Error: Describe(err)}); err != nil {
				return nil, err
			}
			continue
		}
		c.Done++
		if sent == 0 { // it is empty, and not missing
			if err := out.item(LFNResult{LFN: lfn}); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func (s *Service) contentsOf(ctx context.Context, lfn string, req ContentsRequest, out *stream) (sent int64, err error) {
	n, err := s.node(ctx, lfn)
	if err != nil {
		return 0, err
	}
	defer n.Forget(1)
	if !n.IsDir() {
		return 0, Fail(backends.ErrNotDir, "", "%s is not a directory", Text(lfn).Quote())
	}
	top := n.Path()
	one := func(p string, in backends.Info) error {
		sent++
		r := LFNResult{LFN: Text(lfn), Path: Text(p), Kind: "file"}
		switch {
		case in.IsDir():
			r.Kind = "directory"
		case in.IsSymlink():
			r.Kind = "link"
		case req.Replicas:
			places, err := s.placesOf(ctx, in)
			if err != nil && !errors.Is(err, backends.ErrNotExist) {
				return err
			}
			return out.value(r, places)
		}
		return out.value(r, metadataOf(in))
	}
	if !req.Recursive {
		err = s.eachEntry(ctx, n, func(e vfs.Entry) error { return one(path.Join(top, e.Name), e.Info) })
		return sent, err
	}
	for w, err := range s.FS.Walk(ctx, top) {
		if err == nil && w.Path != top {
			err = one(w.Path, w.Info)
		}
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}
