package control

import (
	"context"
	"errors"
	"io"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/cache"
	"tarn/cmd/tarn/importer"
)

// ImportRequest asks for a tree of the local disk to be taken in. Source is absolute:
// it is opened by the process that serves the lake.
type ImportRequest struct {
	Source       Text          `json:"source"`
	Target       Text          `json:"target"`
	RSE          string        `json:"rse"`
	RegisterOnly bool          `json:"register_only,omitempty"`
	Replace      bool          `json:"replace,omitempty"`
	Meta         backends.Meta `json:"meta,omitempty"`
	Workers      int           `json:"workers,omitempty"`
}

// ImportResult is what an import did.
type ImportResult struct {
	Added       int64         `json:"added"`
	Files       int64         `json:"files"`
	Directories int64         `json:"directories"`
	Skipped     int64         `json:"skipped"`
	Failed      int64         `json:"failed"`
	Bytes       int64         `json:"bytes"`
	Took        time.Duration `json:"took"`
}

// importTree sends a Failure for each entry that could not be taken in.
func (s *Service) importTree(ctx context.Context, req ImportRequest, out *stream) (any, error) {
	if !s.importing.TryRLock() {
		return nil, Fail(backends.ErrBusy, "import when `tarn replicas repair --delete-dark` has ended", "unknown files are being deleted at the storages")
	}
	defer s.importing.RUnlock()
	began := s.Now()
	res, err := importer.Run(ctx, s.Lake, importer.Options{
		Source: string(req.Source), Target: string(req.Target), RSE: req.RSE,
		RegisterOnly: req.RegisterOnly, Folder: s.Folders[req.RSE], Replace: req.Replace,
		Meta: req.Meta, Workers: req.Workers, Now: s.Now, Log: s.Log, Seed: s.seed,
		Failed: func(source string, err error) {
			// A client that has gone ends ctx, which ends the import.
			_ = out.item(Failure{Path: Text(source), Error: Describe(err)})
		},
		OnTape: s.onTape(req.RSE),
		Progress: func(p importer.Progress) {
			out.progress(Progress{What: "imported", Files: p.Files, TotalFiles: p.TotalFiles, Bytes: p.Bytes, TotalBytes: p.TotalBytes})
		},
	})
	if s.FS != nil && res.Added > 0 {
		s.FS.Changed(context.WithoutCancel(ctx), string(req.Target))
		s.Kick(s.didOf(backends.Info{}, string(req.Target))) // rules may be on it or above it
	}
	if err != nil {
		return nil, err
	}
	if res.Failed == 0 && res.Files == 0 && res.Skipped == 0 && res.Added == 0 {
		return nil, Fail(ErrNothing, "", "%s holds nothing that is not in the lake already", req.Source.Quote())
	}
	return ImportResult{res.Added, res.Files, res.Directories, res.Skipped, res.Failed, res.Bytes, s.Now().Sub(began)}, nil
}

// bufferEvicter is a tape system that can be told to empty its disk buffer.
type bufferEvicter interface {
	EvictBuffer(ctx context.Context, paths ...string) error
}

// onTape gives the function that waits until files are on tape and out of the buffer
// before it, where the tape system can do that: what was imported is NEARLINE.
func (s *Service) onTape(rse string) func(ctx context.Context, pfns []string) error {
	r, ok := s.Lake.RSE(rse)
	if !ok || r.Tape == nil {
		return nil
	}
	b, ok := r.Tape.(bufferEvicter)
	if !ok {
		return nil
	}
	return func(ctx context.Context, pfns []string) error {
		err := b.EvictBuffer(ctx, pfns...)
		if errors.Is(err, backends.ErrBusy) {
			return nil // somebody reads it already, so it stays for a while
		}
		return err
	}
}

// seed keeps head and tail of a file that goes to tape, so that `file` and header
// readers need no recall.
func (s *Service) seed(in backends.Info, r io.ReaderAt) {
	if s.Cache == nil || in.Size == 0 {
		return
	}
	err := s.Cache.Seed(cache.Content{Key: cache.Key(in.Generation), Size: in.Size, Sums: checksum.ToMap(in.Checksums)}, r)
	if err != nil && !errors.Is(err, cache.ErrNoSpace) {
		s.Log.Warn("keep head and tail", "did", in.DID.String(), "err", err)
	}
}
