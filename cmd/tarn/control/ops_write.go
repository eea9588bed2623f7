package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/ingest"
	"tarn/backends/replication"
	"tarn/cache/journal"
	"tarn/fs/vfs"
)

// source is what content reads from.
type source struct {
	h *vfs.Handle
}

func (s *Service) open(ctx context.Context, p string) (*source, error) {
	n, err := s.followed(ctx, p)
	if err != nil {
		return nil, err
	}
	defer n.Forget(1)
	if n.IsDir() {
		return nil, Fail(backends.ErrIsDir, "`tarn get -r` copies directories", "%s is a directory", Text(p).Quote())
	}
	h, err := s.FS.Open(ctx, n, os.O_RDONLY, vfs.Caller{})
	if err != nil {
		return nil, err
	}
	return &source{h}, nil
}

func (s *source) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return s.h.ReadAt(ctx, p, off, vfs.Caller{})
}

func (s *source) Close() { s.h.Release() }

// PutRequest goes before the bytes of a new file, in the header Tarn-Request.
type PutRequest struct {
	Path    Text      `json:"path"` // of the file, or of the directory it goes into
	Name    Text      `json:"name"` // in that directory
	Size    int64     `json:"size"` // -1: not known
	Mode    uint32    `json:"mode"`
	MTime   time.Time `json:"mtime,omitzero"`
	Replace bool      `json:"replace,omitempty"`
}

// PutReply is where the file is now.
type PutReply struct {
	Path Text  `json:"path"`
	Size int64 `json:"size"`
}

const requestHeader = "Tarn-Request"

// put stores the body as a file. It appears under its name when it is whole, or never.
func (s *Service) put(w http.ResponseWriter, r *http.Request) {
	operationOn(w, func(out *stream) (any, error) {
		var req PutRequest
		if err := json.Unmarshal([]byte(r.Header.Get(requestHeader)), &req); err != nil {
			return nil, Fail(ErrUsage, "", "decode request: %v", err)
		}
		return s.putFile(r.Context(), req, r.Body)
	})
}

func (s *Service) putFile(ctx context.Context, req PutRequest, body io.Reader) (PutReply, error) {
	dir, name, err := s.putTarget(ctx, req)
	if err != nil {
		return PutReply{}, err
	}
	defer dir.Forget(1)
	full := path.Join(dir.Path(), name)
	if old, err := s.FS.Lookup(ctx, dir, name); err == nil {
		isDir := old.IsDir()
		old.Forget(1)
		switch {
		case isDir:
			return PutReply{}, fmt.Errorf("put %s: %w", Text(full).Quote(), backends.ErrIsDir)
		case !req.Replace:
			return PutReply{}, Fail(backends.ErrExist, "--replace makes it a new generation; the old one can be undeleted for a while", "%s exists already", Text(full).Quote())
		}
	} else if !errors.Is(err, backends.ErrNotExist) {
		return PutReply{}, err
	}
	tmp := ".tarn-put-" + rand.Text()[:12]
	who := vfs.Caller{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	n, h, err := s.FS.Create(ctx, dir, tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, req.Mode&0o7777, who)
	if err != nil {
		return PutReply{}, fmt.Errorf("put %s: %w", Text(full).Quote(), err)
	}
	defer n.Forget(1)
	size, err := fillHandle(ctx, h, body, req.Size)
	if err == nil && !req.MTime.IsZero() {
		err = s.FS.SetAttr(ctx, n, vfs.SetAttr{Change: backends.Change{MTime: &req.MTime}})
	}
	if err == nil {
		err = h.Flush(ctx, who)
	}
	h.Release()
	if err == nil {
		// Only what is durable takes the name, and what had it before.
		err = s.FS.Rename(ctx, dir, tmp, dir, name, 0)
	}
	if err != nil {
		// It may have ended with ctx; the other name has to go all the same.
		if uerr := s.FS.Unlink(context.WithoutCancel(ctx), dir, tmp); uerr != nil && !errors.Is(uerr, backends.ErrNotExist) {
			err = errors.Join(err, uerr)
		}
		return PutReply{}, fmt.Errorf("put %s: %w", Text(full).Quote(), err)
	}
	return PutReply{Text(full), size}, nil
}

// putTarget finds the directory and the name of a new file.
func (s *Service) putTarget(ctx context.Context, req PutRequest) (*vfs.Node, string, error) {
	p := string(req.Path)
	n, err := s.FS.Resolve(ctx, p)
	if err == nil && n.IsDir() {
		return n, string(req.Name), nil
	}
	if err == nil {
		n.Forget(1)
	} else if !errors.Is(err, backends.ErrNotExist) {
		return nil, "", err
	}
	if strings.HasSuffix(p, "/") {
		return nil, "", Fail(ErrNoDirectory, "", "%s is not a directory of the lake", req.Path.Quote())
	}
	dir, err := s.node(ctx, path.Dir(path.Clean(p)))
	if errors.Is(err, backends.ErrNotExist) {
		e := Describe(err)
		return nil, "", Fail(ErrNoDirectory, e.Hint, "%s", e.Message)
	}
	if err != nil {
		return nil, "", err
	}
	return dir, path.Base(path.Clean(p)), nil
}

func fillHandle(ctx context.Context, h *vfs.Handle, body io.Reader, want int64) (int64, error) {
	buf := make([]byte, 1<<20)
	off := int64(0)
	for {
		n, err := io.ReadFull(body, buf)
		if n > 0 {
			if _, werr := h.WriteAt(ctx, buf[:n], off); werr != nil {
				return off, werr
			}
			off += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return off, fmt.Errorf("receive: %w", err)
		}
	}
	if want >= 0 && off != want {
		return off, fmt.Errorf("%d bytes came, %d were announced: %w", off, want, ErrCutShort)
	}
	return off, nil
}

// UploadEntry is one file that is not yet safe.
type UploadEntry struct {
	ID       string         `json:"id"`
	Path     Text           `json:"path"`
	State    journal.State  `json:"state"`
	Size     int64          `json:"size"`
	Copies   []journal.Copy `json:"copies,omitempty"`
	Attempts int            `json:"attempts,omitempty"`
	Error    string         `json:"error,omitempty"`
	Since    time.Time      `json:"since"`
	Running  bool           `json:"running,omitempty"`
}

func (s *Service) uploads(_ context.Context, _ struct{}, out *stream) (any, error) {
	for _, u := range s.FS.Uploads() {
		e := UploadEntry{u.ID, Text(u.Path), u.State, u.Size, u.Copies, u.Attempts, u.Error, u.Since, u.Running}
		if err := out.item(e); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Service) uploadsRetry(ctx context.Context, req IDsRequest, out *stream) (any, error) {
	return each(req, out, func(id string) error { return s.FS.RetryUpload(ctx, id) })
}

func (s *Service) uploadsCancel(ctx context.Context, req IDsRequest, out *stream) (any, error) {
	return each(req, out, func(id string) error { return s.FS.CancelUpload(ctx, id) })
}

// DrainReply is what is still unsent.
type DrainReply struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// drain waits until nothing is unsent that can be sent.
func (s *Service) drain(ctx context.Context, _ struct{}, out *stream) (any, error) {
	err := s.FS.Drain(ctx, func(left int) {
		st := s.FS.Stats()
		out.progress(Progress{What: "uploading", Note: fmt.Sprintf("%d files left, %d MiB", left, st.UnsentBytes>>20)})
	})
	st := s.FS.Stats()
	return DrainReply{st.Unsent, st.UnsentBytes}, err
}

// PastsRequest asks for what was replaced or removed at a path, and below it.
type PastsRequest struct {
	Path Text `json:"path"`
}

// PastEntry is a content that can be undeleted.
type PastEntry struct {
	Path     Text      `json:"path"`
	Size     int64     `json:"size"`
	Removed  time.Time `json:"removed"`
	Until    time.Time `json:"until"`
	Replaced bool      `json:"replaced"` // by a newer one, else it was removed
	Handle   string    `json:"handle"`
}

func (s *Service) versions() (backends.Versions, error) {
	if v := s.Lake.Versions(); v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("old contents: %w", backends.ErrNotSupported)
}

func (s *Service) pasts(ctx context.Context, req PastsRequest, out *stream) (any, error) {
	v, err := s.versions()
	if err != nil {
		return nil, err
	}
	p := path.Clean(string(req.Path))
	below := strings.TrimSuffix(p, "/") + "/"
	for past, err := range v.Pasts(ctx, backends.DID{}) {
		if err != nil {
			return nil, err
		}
		name := past.Info.DID.Name
		if name != p && !strings.HasPrefix(name, below) {
			continue
		}
		if err := out.item(pastEntry(past)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func pastEntry(p backends.Past) PastEntry {
	return PastEntry{Text(p.Info.DID.Name), p.Info.Size, p.Removed, p.Until, p.Replaced, p.Handle}
}

// UndeleteRequest brings a content back; without a Handle the one that went last.
type UndeleteRequest struct {
	Path   Text   `json:"path"`
	Handle string `json:"handle,omitempty"`
}

func (s *Service) undelete(ctx context.Context, req UndeleteRequest, _ *stream) (any, error) {
	v, err := s.versions()
	if err != nil {
		return nil, err
	}
	p := path.Clean(string(req.Path))
	for past, err := range v.Pasts(ctx, s.didOf(backends.Info{}, p)) {
		if err != nil {
			return nil, err
		}
		if req.Handle != "" && past.Handle != req.Handle {
			continue
		}
		if err := s.FS.Undelete(ctx, p, past.Handle); err != nil {
			return nil, fmt.Errorf("undelete %s: %w", req.Path.Quote(), err)
		}
		return pastEntry(past), nil
	}
	return nil, Fail(backends.ErrNotExist, "`tarn undelete --list DIR` shows what can be brought back", "nothing of %s can be undeleted", req.Path.Quote())
}

// StatusReply is what a lake is doing.
type StatusReply struct {
	Name   string    `json:"name"`
	Daemon Daemon    `json:"daemon,omitzero"`
	Files  int64     `json:"files"`
	Bytes  int64     `json:"bytes"`
	FS     vfs.Stats `json:"fs"`
	Recall any       `json:"recall"`
	Jobs   int       `json:"jobs"`
	Held   int       `json:"held"`
	// Care is what was done for RSEs that are drained or have marks.
	Care []replication.CareStatus `json:"care,omitempty"`
	// Endpoints are the doors of servers, each once.
	Endpoints []backends.EndpointState `json:"endpoints,omitempty"`
	Ingests   []ingest.Status          `json:"ingests,omitempty"`
}

func (s *Service) status(_ context.Context, _ struct{}, _ *stream) (any, error) {
	r := StatusReply{Name: s.Name, Daemon: s.Daemon, FS: s.FS.Stats(), Recall: s.Lake.Stats(), Held: len(s.FS.Held())}
	r.Files, r.Bytes = s.Lake.Catalogue().Usage()
	if s.Engine != nil {
		r.Care = s.Engine.Care()
	}
	seen := map[string]bool{}
	for _, rse := range s.Lake.RSEs() {
		if rse.Endpoints == nil {
			continue
		}
		for _, e := range rse.Endpoints() {
			if !seen[e.Endpoint] {
				seen[e.Endpoint] = true
				r.Endpoints = append(r.Endpoints, e)
			}
		}
	}
	if s.Ingest != nil {
		r.Ingests = s.Ingest.List()
	}
	for _, j := range s.jobs.snapshot() {
		if j.Ended.IsZero() {
			r.Jobs++
		}
	}
	return r, nil
}
