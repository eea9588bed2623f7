package control

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/fs/vfs"
)

// job is a stage that goes on after its command has ended.
type job struct {
	ID      string            `json:"id"`
	Paths   []Text            `json:"paths"`
	Started time.Time         `json:"started"`
	Ended   time.Time         `json:"ended,omitzero"`
	State   vfs.StageProgress `json:"state"`
	Error   string            `json:"error,omitempty"`

	cancel context.CancelFunc
}

// maxJobs is how many ended jobs are remembered.
const maxJobs = 100

// jobs holds what runs behind the commands; its end is Close's.
type jobs struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex // guards the rest
	next int
	list []*job // oldest first
}

func newJobs() *jobs {
	ctx, cancel := context.WithCancel(context.Background())
	return &jobs{ctx: ctx, cancel: cancel}
}

func (j *jobs) close() {
	j.cancel()
	j.wg.Wait()
}

// start runs f as a job.
func (j *jobs) start(paths []Text, now func() time.Time, f func(ctx context.Context, tell func(vfs.StageProgress)) error) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.next++
	ctx, cancel := context.WithCancel(j.ctx)
	x := &job{ID: fmt.Sprintf("stage-%d", j.next), Paths: paths, Started: now(), cancel: cancel}
	j.list = append(j.list, x)
	for i := 0; len(j.list) > maxJobs && i < len(j.list); {
		if j.list[i].Ended.IsZero() {
			i++
			continue
		}
		j.list = append(j.list[:i], j.list[i+1:]...)
	}
	j.wg.Add(1)
	go func() {
		defer j.wg.Done()
		defer cancel()
		err := f(ctx, func(p vfs.StageProgress) {
			j.mu.Lock()
			x.State = p
			j.mu.Unlock()
		})
		j.mu.Lock()
		defer j.mu.Unlock()
		x.Ended = now()
		if err != nil {
			x.Error = err.Error()
		}
	}()
	return x.ID
}

// snapshot copies the jobs.
func (j *jobs) snapshot() []job {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]job, len(j.list))
	for i, x := range j.list {
		out[i] = *x
	}
	return out
}

// stop cancels a job; false when it is not there or has ended.
func (j *jobs) stop(id string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, x := range j.list {
		if x.ID == id && x.Ended.IsZero() {
			x.cancel()
			return true
		}
	}
	return false
}

// StageRequest brings files online, and into the hot cache. Without Wait it is accepted
// and goes on in the daemon.
type StageRequest struct {
	Paths  []Text        `json:"paths"`
	Wait   bool          `json:"wait,omitempty"`
	Pin    time.Duration `json:"pin,omitempty"`
	Window int64         `json:"window,omitempty"` // bytes on their way at a time
}

// StageReply is the end of a stage, or its acceptance.
type StageReply struct {
	Job    string            `json:"job,omitempty"`
	Plan   vfs.StagePlan     `json:"plan"`
	Result vfs.StageProgress `json:"result"`
	Took   time.Duration     `json:"took,omitempty"`
}

func (s *Service) checked(ctx context.Context, paths []Text) ([]string, error) {
	out := make([]string, len(paths))
	for i, p := range paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return nil, err
		}
		out[i] = n.Path()
		n.Forget(1)
	}
	return out, nil
}

func (s *Service) plan(ctx context.Context, req PathsRequest, _ *stream) (any, error) {
	paths, err := s.checked(ctx, req.Paths)
	if err != nil {
		return nil, err
	}
	return s.FS.Plan(ctx, paths...)
}

func (s *Service) stage(ctx context.Context, req StageRequest, out *stream) (any, error) {
	paths, err := s.checked(ctx, req.Paths)
	if err != nil {
		return nil, err
	}
	var reply StageReply
	if reply.Plan, err = s.FS.Plan(ctx, paths...); err != nil {
		return nil, err
	}
	o := vfs.StageOptions{Pin: req.Pin, Window: req.Window}
	if !req.Wait && s.Daemon.PID != 0 {
		if reply.Plan.Recall == 0 && req.Pin == 0 {
			return reply, nil
		}
		reply.Job = s.jobs.start(req.Paths, s.Now, func(ctx context.Context, tell func(vfs.StageProgress)) error {
			_, err := s.FS.Stage(ctx, paths, o, tell)
			return err
		})
		return reply, nil
	}
	began := s.Now()
	reply.Result, err = s.FS.Stage(ctx, paths, o, func(p vfs.StageProgress) {
		out.progress(Progress{
			What: "staged", Files: int64(p.Done + p.Failed), TotalFiles: int64(reply.Plan.Recall),
			Bytes: p.DoneBytes, TotalBytes: reply.Plan.Moved, Note: s.queueNote(),
		})
	})
	reply.Took = s.Now().Sub(began)
	return reply, err
}

// queueNote says how far the next recall is from its turn.
func (s *Service) queueNote() string {
	for _, r := range s.Lake.Recalls() {
		if r.Phase == backends.RecallSubmitted && r.Position > 0 {
			return fmt.Sprintf("position %d in the queue of %s", r.Position, r.RSE)
		}
	}
	return ""
}

// evict drops the local copies of every file at and below some paths.
func (s *Service) evict(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	var c Count
	if err := s.Lake.Settle(ctx); err != nil {
		return c, err // or what was read a moment ago would be held still
	}
	p := Progress{What: "evicted"}
	err := s.eachFile(ctx, req.Paths, func(path string, in backends.Info) error {
		freed, err := s.FS.Evict(ctx, in)
		switch {
		case err != nil && ctx.Err() != nil:
			return err
		case err != nil:
			c.Failed++
			return out.item(Failure{Path: Text(path), Error: Describe(err)})
		case freed == 0:
			c.Skipped++
		default:
			c.Done++
		}
		c.Bytes += freed
		p.Files, p.Bytes = p.Files+1, c.Bytes
		if p.Files%100 == 0 {
			out.progress(p)
		}
		return nil
	})
	return c, err
}

// unpin drops the pins of every file at and below some paths.
func (s *Service) unpin(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	var c Count
	err := s.eachFile(ctx, req.Paths, func(path string, in backends.Info) error {
		st, ok := s.FS.Cached(in)
		if !ok || st.Pinned.IsZero() {
			c.Skipped++
			return nil
		}
		if err := s.FS.Unpin(in); err != nil {
			c.Failed++
			return out.item(Failure{Path: Text(path), Error: Describe(err)})
		}
		c.Done++
		return nil
	})
	return c, err
}

// RecallEntry is a recall, a stage job, or a process that the policy holds back.
type RecallEntry struct {
	Kind   string           `json:"kind"` // recall, job, held
	Recall *lake.RecallInfo `json:"recall,omitempty"`
	Path   Text             `json:"path,omitempty"`
	Job    *job             `json:"job,omitempty"`
	Held   *vfs.Held        `json:"held,omitempty"`
}

func (s *Service) recalls(_ context.Context, _ struct{}, out *stream) (any, error) {
	for _, r := range s.Lake.Recalls() {
		if err := out.item(RecallEntry{Kind: "recall", Recall: &r, Path: Text(r.DID.Name)}); err != nil {
			return nil, err
		}
	}
	for _, j := range s.jobs.snapshot() {
		if err := out.item(RecallEntry{Kind: "job", Job: &j}); err != nil {
			return nil, err
		}
	}
	for _, h := range s.FS.Held() {
		if err := out.item(RecallEntry{Kind: "held", Held: &h}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// each does f for every id, sends a Failure for those that could not be done, and
// counts. The failure of a single one is the error.
func each(req IDsRequest, out *stream, f func(id string) error) (Count, error) {
	var c Count
	for _, id := range req.IDs {
		if err := f(id); err != nil {
			if len(req.IDs) == 1 {
				return c, err
			}
			c.Failed++
			if err := out.item(Failure{Path: Text(id), Error: Describe(err)}); err != nil {
				return c, err
			}
			continue
		}
		c.Done++
	}
	return c, nil
}

func (s *Service) recallsRetry(_ context.Context, req IDsRequest, out *stream) (any, error) {
	return each(req, out, s.Lake.RetryRecall)
}

func (s *Service) recallsCancel(_ context.Context, req IDsRequest, out *stream) (any, error) {
	return each(req, out, func(id string) error {
		if s.jobs.stop(id) {
			return nil
		}
		return s.Lake.CancelRecall(id)
	})
}

func (s *Service) recallsAllow(_ context.Context, req IDsRequest, out *stream) (any, error) {
	return each(req, out, func(id string) error {
		pid, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return Fail(ErrUsage, "", "%q is not a process id", id)
		}
		if !s.FS.AllowRecalls(uint32(pid)) {
			return fmt.Errorf("process %d: %w", pid, backends.ErrNotExist)
		}
		return nil
	})
}

// CacheEntry is what the hot cache holds of one content.
type CacheEntry struct {
	Path     Text      `json:"path,omitempty"` // where a path was asked for
	Key      Text      `json:"key"`
	Size     int64     `json:"size"`
	Resident int64     `json:"resident"`
	Whole    bool      `json:"whole"`
	Open     int       `json:"open,omitempty"`
	Pinned   time.Time `json:"pinned_until,omitzero"`
	Used     time.Time `json:"used,omitzero"`
}

// cacheList lists the contents in the cache, or those of the files below some paths.
func (s *Service) cacheList(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	if len(req.Paths) == 0 {
		for _, st := range s.Cache.List() {
			e := CacheEntry{Key: Text(st.Key), Size: st.Size, Resident: st.Resident, Whole: st.Whole, Open: st.Open, Pinned: st.Pinned, Used: st.Used}
			if err := out.item(e); err != nil {
				return nil, err
			}
		}
		return s.Cache.Stats(), nil
	}
	err := s.eachFile(ctx, req.Paths, func(p string, in backends.Info) error {
		st, ok := s.FS.Cached(in)
		if !ok {
			return nil
		}
		return out.item(CacheEntry{Path: Text(p), Key: Text(st.Key), Size: st.Size, Resident: st.Resident, Whole: st.Whole, Open: st.Open, Pinned: st.Pinned, Used: st.Used})
	})
	return s.Cache.Stats(), err
}

// ScrubReply is what a scrub found.
type ScrubReply struct {
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"`
	Damaged []Text `json:"damaged,omitempty"` // keys; they were dropped
	Index   []Text `json:"index,omitempty"`   // damaged index files: written anew, or dropped when the cache was opened
}

func (s *Service) cacheScrub(ctx context.Context, _ struct{}, out *stream) (any, error) {
	r, err := s.Cache.Scrub(ctx, func(done, total int64) {
		out.progress(Progress{What: "scrubbed", Bytes: done, TotalBytes: total})
	})
	reply := ScrubReply{Files: r.Files, Bytes: r.Bytes}
	for _, k := range r.Damaged {
		reply.Damaged = append(reply.Damaged, Text(k))
	}
	for _, p := range r.Index {
		reply.Index = append(reply.Index, Text(p))
	}
	return reply, err
}

// LimitRequest changes the limit of the hot cache until the daemon ends.
type LimitRequest struct {
	Bytes int64 `json:"bytes"`
}

func (s *Service) cacheLimit(_ context.Context, req LimitRequest, _ *stream) (any, error) {
	if req.Bytes <= 0 {
		return nil, Fail(ErrUsage, "", "want a limit above 0, not %d", req.Bytes)
	}
	if err := s.Cache.SetLimit(req.Bytes); err != nil {
		return nil, fmt.Errorf("set the limit of the hot cache: %w", err)
	}
	return s.Cache.Stats(), nil
}

func (s *Service) explain(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	for _, p := range req.Paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return nil, err
		}
		e, err := s.FS.Explain(ctx, n)
		n.Forget(1)
		if err != nil {
			return nil, fmt.Errorf("explain %s: %w", p.Quote(), err)
		}
		if err := out.item(ExplainEntry{Path: Text(e.Path), Explanation: e, Text: Text(e.Text())}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// ExplainEntry is an explanation with its words.
type ExplainEntry struct {
	Path        Text            `json:"path"`
	Explanation vfs.Explanation `json:"explanation"`
	Text        Text            `json:"text"`
}

// leave makes the end of the mount not wait for uploads.
func (s *Service) leave(_ context.Context, _ struct{}, _ *stream) (any, error) {
	if s.Leave == nil {
		return nil, ErrNoDaemon
	}
	s.Leave()
	return nil, nil
}

// Close ends the jobs and waits for them.
func (s *Service) Close() error {
	if s.jobs == nil {
		return errors.New("close control service: it was never served")
	}
	s.jobs.close()
	return nil
}
