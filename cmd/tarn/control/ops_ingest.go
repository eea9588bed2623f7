package control

import (
	"context"
	"errors"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/ingest"
)

// ingests gives the set, or says why there is none.
func (s *Service) ingests() (*ingest.Set, error) {
	if s.Ingest == nil && s.NoIngest != nil {
		return nil, s.NoIngest
	}
	if s.Ingest == nil {
		return nil, Fail(backends.ErrNotSupported, "", "this lake takes in nothing by itself")
	}
	return s.Ingest, nil
}

// noIngest explains an ErrNotExist of a name.
func (s *Service) noIngest(name string, err error) error {
	if !errors.Is(err, backends.ErrNotExist) || s.Ingest == nil {
		return err
	}
	var names []string
	for _, st := range s.Ingest.List() {
		if st.Name == name {
			return err // of something else
		}
		names = append(names, st.Name)
	}
	hint := "`tarn ingest add` makes one"
	if len(names) > 0 {
		hint = "there are: " + strings.Join(names, ", ")
	}
	return Fail(err, hint, "there is no ingest %q", name)
}

// IngestRequest names an ingest.
type IngestRequest struct {
	Name string `json:"name"`
}

// IngestAddRequest defines one. Lifetimes are those of its rules, by index; 0: for ever.
type IngestAddRequest struct {
	ingest.Definition
	Lifetimes []time.Duration `json:"lifetimes,omitempty"`
	Check     bool            `json:"check,omitempty"` // of ingest/add: tell what is wrong with it, and add nothing
}

// definition turns lifetimes into times.
func (s *Service) definition(req IngestAddRequest) ingest.Definition {
	d := req.Definition
	for i, life := range req.Lifetimes {
		if i < len(d.Rules) && life > 0 {
			d.Rules[i].Expires = s.Now().Add(life)
		}
	}
	return d
}

func (s *Service) ingestAdd(ctx context.Context, req IngestAddRequest, _ *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	d := s.definition(req)
	if err := set.Check(ctx, d); err != nil {
		return nil, wrong(err)
	}
	if req.Check {
		return nil, nil
	}
	if err := set.Add(ctx, d); err != nil {
		return nil, err
	}
	s.changed(ctx, d.Target)
	st, err := set.Status(d.Name)
	return st, err
}

// wrong makes a fault of a definition wrong usage, unless it is that something does not answer.
func wrong(err error) error {
	if backends.IsTemporary(err) || errors.Is(err, backends.ErrExist) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return Fail(ErrUsage, "`tarn ingest add --help` explains the flags, `tarn rse ls` shows the RSEs", "%v", err)
}

// changed tells the tree that something was made at a path by the lake itself.
func (s *Service) changed(ctx context.Context, path string) {
	if s.FS != nil {
		s.FS.Changed(context.WithoutCancel(ctx), path)
	}
}

func (s *Service) ingestList(_ context.Context, _ struct{}, out *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	for _, st := range set.List() {
		if err := out.item(st); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// IngestReport is all that a report tells of one ingest.
type IngestReport struct {
	Status    ingest.Status    `json:"status"`
	Samples   []ingest.Sample  `json:"samples"`
	Latencies ingest.Latencies `json:"latencies"`
}

func (s *Service) ingestShow(_ context.Context, req IngestRequest, _ *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	st, err := set.Status(req.Name)
	return st, s.noIngest(req.Name, err)
}

func (s *Service) ingestReport(_ context.Context, req IngestRequest, _ *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	var r IngestReport
	if r.Status, err = set.Status(req.Name); err != nil {
		return nil, s.noIngest(req.Name, err)
	}
	r.Samples = set.Samples(req.Name)
	r.Latencies, err = set.Latencies(req.Name)
	return r, err
}

// IngestFilesRequest asks for the files of an ingest; Stages, when given, are the only ones wanted.
type IngestFilesRequest struct {
	Name   string         `json:"name"`
	Stages []ingest.Stage `json:"stages,omitempty"`
}

// IngestFile is one of them. Path may be any bytes.
type IngestFile struct {
	ingest.Record
	Path Text `json:"path"`
}

func (s *Service) ingestFiles(ctx context.Context, req IngestFilesRequest, out *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	for r, err := range set.Files(ctx, req.Name, req.Stages...) {
		if err != nil {
			return nil, s.noIngest(req.Name, err)
		}
		if err := out.item(IngestFile{r, Text(r.Path)}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Service) ingestPause(_ context.Context, req IngestRequest, _ *stream) (any, error) {
	return s.ingestDo(req, (*ingest.Set).Pause)
}

func (s *Service) ingestResume(_ context.Context, req IngestRequest, _ *stream) (any, error) {
	return s.ingestDo(req, (*ingest.Set).Resume)
}

func (s *Service) ingestDo(req IngestRequest, do func(*ingest.Set, string) error) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	if err := do(set, req.Name); err != nil {
		return nil, s.noIngest(req.Name, err)
	}
	st, err := set.Status(req.Name)
	return st, err
}

// IngestRetryRequest names files relative to the folder; none: all that failed.
type IngestRetryRequest struct {
	Name  string `json:"name"`
	Paths []Text `json:"paths,omitempty"`
}

func (s *Service) ingestRetry(_ context.Context, req IngestRetryRequest, _ *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, p := range req.Paths {
		paths = append(paths, string(p))
	}
	n, err := set.Retry(req.Name, paths...)
	return Count{Done: int64(n)}, s.noIngest(req.Name, err)
}

// IngestRemoveRequest ends an ingest, with Force also while files are not safe.
type IngestRemoveRequest struct {
	Name  string `json:"name"`
	Force bool   `json:"force,omitempty"`
}

func (s *Service) ingestRemove(ctx context.Context, req IngestRemoveRequest, _ *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	err = set.Remove(ctx, req.Name, req.Force)
	if errors.Is(err, backends.ErrNotEmpty) {
		return nil, Fail(err, "`tarn ingest show "+req.Name+" --files` lists them; --force ends it all the same, and leaves them where they are", "%v", err)
	}
	return nil, s.noIngest(req.Name, err)
}

// IngestAuditRequest asks for every deletion to be proved again; Deep asks the storages for checksums.
type IngestAuditRequest struct {
	Name string `json:"name"`
	Deep bool   `json:"deep,omitempty"`
}

// IngestAudited is one deletion.
type IngestAudited struct {
	ingest.Audited
	Path Text `json:"path"`
}

func (s *Service) ingestAudit(ctx context.Context, req IngestAuditRequest, out *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	var c Count
	p := Progress{What: "proved"}
	err = set.Audit(ctx, req.Name, req.Deep, func(a ingest.Audited) error {
		if a.OK {
			c.Done++
		} else {
			c.Failed++
		}
		c.Bytes += a.Size
		p.Files, p.Bytes = p.Files+1, c.Bytes
		out.progress(p)
		return out.item(IngestAudited{a, Text(a.Path)})
	})
	return c, s.noIngest(req.Name, err)
}

// IngestOnceResult is what a single pass did.
type IngestOnceResult struct {
	IngestReport
	Took time.Duration `json:"took"` // in nanoseconds
}

// ingestOnce makes a single pass; its items are the Status as it goes.
func (s *Service) ingestOnce(ctx context.Context, req IngestAddRequest, out *stream) (any, error) {
	set, err := s.ingests()
	if err != nil {
		return nil, err
	}
	d := s.definition(req)
	began := s.Now()
	st, err := set.Once(ctx, d, func(st ingest.Status) { _ = out.item(st) }) // a client that has gone ends ctx
	s.changed(ctx, d.Target)
	switch {
	case err != nil && st.Name == "": // nothing was begun
		return nil, wrong(err)
	case err != nil && !errors.Is(err, ingest.ErrStuck): // these are in the status
		return nil, err
	}
	r := IngestOnceResult{IngestReport: IngestReport{Status: st, Samples: set.Samples(st.Name)}, Took: s.Now().Sub(began)}
	if l, err := set.Latencies(st.Name); err == nil {
		r.Latencies = l
	}
	return r, nil
}
