package vfs

import (
	"context"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"tarn/backends/lake"
	"tarn/cache"
)

type stats struct {
	read, written, sent                   atomic.Int64
	created, registered, uploads, safe    atomic.Int64
	uploadErrors, fetches, recalls, ahead atomic.Int64
	refused, corrupt, forgotten           atomic.Int64
}

// Stats is what the FS counts since it started.
type Stats struct {
	ReadBytes    int64       `json:"read_bytes"`    // through the daemon: passthrough reads are not seen
	WrittenBytes int64       `json:"written_bytes"` //
	SentBytes    int64       `json:"sent_bytes"`    // uploaded
	Created      int64       `json:"created"`
	Uploads      int64       `json:"uploads"` // copies stored
	UploadErrors int64       `json:"upload_errors"`
	Registered   int64       `json:"registered"`
	Safe         int64       `json:"safe"`
	Fetches      int64       `json:"fetches"`       // sources opened to fill the cache
	RecallWaits  int64       `json:"recall_waits"`  // recalls that a reader waited for
	RecallsAhead int64       `json:"recalls_ahead"` // files recalled before they were asked for
	Refused      int64       `json:"refused"`       // opens refused by the recall policy
	Corrupt      int64       `json:"corrupt"`       // contents that failed verification
	Unsent       int         `json:"unsent"`        // files not yet safe
	UnsentBytes  int64       `json:"unsent_bytes"`
	Goroutines   int         `json:"goroutines"`
	Nodes        int         `json:"nodes"`        // held by the kernel or by handles
	NodesLimit   int         `json:"nodes_limit"`  // beyond it the kernel is asked to forget some
	NodesForget  int64       `json:"nodes_forget"` // so many it was asked to forget
	Cache        cache.Stats `json:"cache"`
	Lake         lake.Stats  `json:"lake"`

	RSEs map[string]any `json:"rses,omitempty"` // what the machinery of each counts, as mounts of tapes
}

// Stats counts.
func (v *FS) Stats() Stats {
	s := Stats{
		ReadBytes: v.stats.read.Load(), WrittenBytes: v.stats.written.Load(), SentBytes: v.stats.sent.Load(), Created: v.stats.created.Load(),
		Uploads: v.stats.uploads.Load(), UploadErrors: v.stats.uploadErrors.Load(), Registered: v.stats.registered.Load(), Safe: v.stats.safe.Load(),
		Fetches: v.stats.fetches.Load(), RecallWaits: v.stats.recalls.Load(), RecallsAhead: v.stats.ahead.Load(),
		Refused: v.stats.refused.Load(), Corrupt: v.stats.corrupt.Load(), Cache: v.cache.Stats(), Lake: v.lake.Stats(),
		Goroutines: runtime.NumGoroutine(), NodesLimit: v.opt.Nodes, NodesForget: v.stats.forgotten.Load(),
	}
	for _, r := range v.lake.RSEs() {
		if r.Counters != nil {
			if s.RSEs == nil {
				s.RSEs = map[string]any{}
			}
			s.RSEs[r.Name] = r.Counters()
		}
	}
	v.mu.Lock()
	s.Unsent, s.Nodes = len(v.unsent), len(v.nodes)
	for _, u := range v.unsent {
		s.UnsentBytes += u.entry.Size()
	}
	v.mu.Unlock()
	return s
}

// Space is what statfs shows.
type Space struct {
	Total, Free int64 // bytes
	Files       int64
}

// StatFS gives real numbers from memory: used is what the catalogue holds, free is what
// the storages for new files have left, as last asked in the background. Where there is a quota it is of that.
func (v *FS) StatFS() Space {
	files, used := v.lake.Catalogue().Usage()
	free := v.free.Load()
	if q := v.quota.Load(); q != nil && q.Limit != math.MaxInt64 {
		return Space{Total: q.Limit, Free: max(0, min(free, q.Left-v.waiting())), Files: files}
	}
	return Space{Total: used + free, Free: free, Files: files}
}

// spaces are the storages that new files may go to. Where others make the copies the lake knows storages of a whole grid: then these are
// the ones that write rules name.
func (v *FS) spaces() []*lake.RSE {
	if !v.lake.Served() {
		return v.lake.RSEs()
	}
	var out []*lake.RSE
	for _, w := range v.lake.WriteRules() {
		some, err := v.lake.Matching(w.Expression)
		if err != nil {
			continue // lake.New has parsed it
		}
		for _, r := range some {
			if now, ok := v.lake.RSE(r.Name); ok { // as it is now
				out = append(out, now)
			}
		}
	}
	return out
}

// watchSpace asks the storages how much is free, now and then.
func (v *FS) watchSpace(ctx context.Context) {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		var free int64
		for _, r := range v.spaces() {
			if r.ReadOnly || r.Tape != nil {
				continue
			}
			if _, f, err := r.Storage.Space(ctx); err == nil {
				free = max(free, f)
			}
		}
		v.free.Store(free)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
