package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/compare"
	"tarn/backends/filecat"
	"tarn/backends/index"
	"tarn/backends/ingest"
	"tarn/backends/lake"
	"tarn/backends/replication"
	"tarn/cache"
	"tarn/cmd/tarn/config"
	"tarn/fs/vfs"
)

// Service is one open lake as the commands see it.
type Service struct {
	FS    *vfs.FS
	Lake  *lake.Lake
	Cache *cache.Cache
	Files *filecat.Catalogue // fields, datasets, ancestors; nil where the catalogue keeps no side records

	Index    *index.Index                                 // of metadata
	Name     string                                       // of the lake
	Folders  map[string]string                            // of the RSEs that are plain folders, for imports that register what lies there
	Ingest   *ingest.Set                                  // folders that are taken in; may be nil
	NoIngest error                                        // why Ingest is nil
	Engine   *replication.Engine                          // makes copies; nil where none does
	Kick     func(...backends.DID)                        // makes the replication look at the rules on these, or at all; may be nil
	Leave    func()                                       // tells the daemon to leave unsent files in the journal when it ends; nil where there is none
	Daemon   Daemon                                       // zero where there is none
	Backup   func(ctx context.Context, w io.Writer) error // of the catalogue; may be nil
	Remote   Remote                                       // the catalogue is a server's; nil: it is this machine's

	// SetRSE writes settings of an RSE into a file, whose name it gives, and puts them in force, but for what later tells
	// of; may be nil.
	SetRSE  func(name string, set map[string]string) (file, later string, err error)
	Scratch string                 // a folder for what is sorted; "": the system's
	Copies  func() []compare.Place // copies that are made by others than the journal and are on no record yet, as by ingests; may be nil

	Log *slog.Logger
	Now func() time.Time // default time.Now

	jobs *jobs

	// importing is read-locked by imports and locked by whoever deletes what nobody knows: a file that is imported where it
	// lies, or was stored a while ago, is known when its batch is registered. Neither waits for the other.
	importing sync.RWMutex
}

// Handler answers the control API. It is called once; Close ends what it started.
func (s *Service) Handler() http.Handler {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Kick == nil {
		s.Kick = func(...backends.DID) {}
	}
	if s.jobs == nil {
		s.jobs = newJobs()
	}
	m := http.NewServeMux()
	for op, h := range map[string]http.HandlerFunc{
		"ls":                 operation(s.list),
		"stat":               operation(s.stat),
		"find":               operation(s.find),
		"du":                 operation(s.usage),
		"replicas":           operation(s.replicas),
		"meta/get":           operation(s.metaGet),
		"meta/set":           operation(s.metaSet),
		"verify":             operation(s.verify),
		"import":             operation(s.importTree),
		"transfers":          operation(s.transfers),
		"ingest/add":         operation(s.ingestAdd),
		"ingest/ls":          operation(s.ingestList),
		"ingest/show":        operation(s.ingestShow),
		"ingest/report":      operation(s.ingestReport),
		"ingest/files":       operation(s.ingestFiles),
		"ingest/pause":       operation(s.ingestPause),
		"ingest/resume":      operation(s.ingestResume),
		"ingest/retry":       operation(s.ingestRetry),
		"ingest/rm":          operation(s.ingestRemove),
		"ingest/audit":       operation(s.ingestAudit),
		"ingest/once":        operation(s.ingestOnce),
		"transfers/retry":    operation(s.transfersRetry),
		"transfers/cancel":   operation(s.transfersCancel),
		"transfers/priority": operation(s.transfersPriority),
		"rule/explain":       operation(s.ruleExplain),
		"rule/simulate":      operation(s.ruleSimulate),
		"rse/ls":             operation(s.rses),
		"rule/ls":            operation(s.rules),
		"rule/add":           operation(s.ruleAdd),
		"rule/rm":            operation(s.ruleRemove),
		"status":             operation(s.status),
		"explain":            operation(s.explain),
		"plan":               operation(s.plan),
		"stage":              operation(s.stage),
		"evict":              operation(s.evict),
		"unpin":              operation(s.unpin),
		"uploads/ls":         operation(s.uploads),
		"uploads/retry":      operation(s.uploadsRetry),
		"uploads/cancel":     operation(s.uploadsCancel),
		"drain":              operation(s.drain),
		"recalls/ls":         operation(s.recalls),
		"recalls/retry":      operation(s.recallsRetry),
		"recalls/cancel":     operation(s.recallsCancel),
		"recalls/allow":      operation(s.recallsAllow),
		"cache/ls":           operation(s.cacheList),
		"cache/scrub":        operation(s.cacheScrub),
		"cache/limit":        operation(s.cacheLimit),
		"pasts":              operation(s.pasts),
		"undelete":           operation(s.undelete),
		"leave":              operation(s.leave),
		"content":            s.content,
		"put":                s.put,
		"replicas/check":     operation(s.check),
		"rse/usage":          operation(s.rseUsage),
		"rse/set":            operation(s.rseSet),
		"rse/drain":          operation(s.rseDrain),
		"refresh":            operation(s.refresh),
		"index/make":         operation(s.indexMake),
		"index/ls":           operation(s.indexList),
		"index/rm":           operation(s.indexDrop),
		"mkdir":              operation(s.mkdir),

		"catalogue/backup": s.backup,
	} {
		m.HandleFunc("POST /v1/"+op, h)
	}
	for op, h := range s.fileCatalogue() {
		m.HandleFunc("POST /v1/catalogue/"+op, h)
	}
	return m
}

// node finds what stands at a lake path. Its error tells which part of the path is
// missing and what has a similar name.
func (s *Service) node(ctx context.Context, p string) (*vfs.Node, error) {
	if !strings.HasPrefix(p, "/") {
		return nil, Fail(ErrUsage, "lake paths are absolute: /SCOPE/...", "%s is not a lake path", Text(p).Quote())
	}
	n, err := s.FS.Resolve(ctx, p)
	if errors.Is(err, backends.ErrNotExist) {
		return nil, s.missing(ctx, p, err)
	}
	return n, err
}

// missing explains an ErrNotExist: the deepest directory that exists, the name that it
// lacks, and near ones that it has.
func (s *Service) missing(ctx context.Context, p string, err error) error {
	clean, cerr := lake.CleanPath(p)
	if cerr != nil {
		return cerr
	}
	dir, name := path.Dir(clean), path.Base(clean)
	for {
		n, rerr := s.FS.Resolve(ctx, dir)
		if rerr == nil {
			defer n.Forget(1)
			cause := err
			if dir != path.Dir(clean) {
				cause = ErrNoDirectory
			}
			hint := ""
			if like := s.similar(ctx, n, name); like != "" {
				hint = "is it " + Text(path.Join(dir, like)).Quote() + "?"
			}
			return Fail(cause, hint, "%s: there is no %s in %s", Text(clean).Quote(), Text(name).Quote(), Text(dir).Quote())
		}
		if dir == "/" || !errors.Is(rerr, backends.ErrNotExist) {
			return err
		}
		dir, name = path.Dir(dir), path.Base(dir)
	}
}

// similar finds a name in n that is one or two letters away, among the first few.
func (s *Service) similar(ctx context.Context, n *vfs.Node, name string) string {
	if !n.IsDir() {
		return ""
	}
	entries, err := s.FS.List(ctx, n, "")
	if err != nil {
		return ""
	}
	best, dist := "", 3
	for _, e := range entries {
		if d := config.Distance(name, e.Name); d < dist {
			best, dist = e.Name, d
		}
	}
	return best
}

// followed is node, with symbolic links followed that stay within the lake.
func (s *Service) followed(ctx context.Context, p string) (*vfs.Node, error) {
	for range 40 { // as Linux
		n, err := s.node(ctx, p)
		if err != nil || !n.IsSymlink() {
			return n, err
		}
		target := n.Info().Target
		at := n.Path()
		n.Forget(1)
		if path.IsAbs(target) {
			return nil, Fail(backends.ErrNotExist, "it can be followed in a mount", "%s is a symbolic link out of the lake, to %s", Text(p).Quote(), Text(target).Quote())
		}
		p = path.Join(path.Dir(at), target)
	}
	return nil, fmt.Errorf("%s: too many symbolic links: %w", Text(p).Quote(), backends.ErrLoop)
}

// didOf is the DID of what stands at a lake path; that of an unregistered file is what
// it will be.
func (s *Service) didOf(in backends.Info, p string) backends.DID {
	if in.DID.Scope == "" && p != "/" {
		return s.Lake.PathDID(p)
	}
	return in.DID
}

// entryOf is what a listing shows.
func (s *Service) entryOf(p string, in backends.Info) Entry {
	e := Entry{
		Path: Text(p), Type: in.Type.String(), Size: in.Size, Mode: in.Mode, UID: in.UID, GID: in.GID, MTime: in.MTime, CTime: in.CTime,
		Inode: in.Inode, Checksums: in.Checksums, Generation: Text(in.Generation), Target: Text(in.Target), Layout: in.Layout,
	}
	if in.IsSymlink() {
		e.Type = "symlink"
	}
	if d := s.didOf(in, p); !d.IsZero() {
		e.DID = Text(d.String())
	}
	return e
}

// batch collects entries whose localities are asked for together.
type batch struct {
	s       *Service
	out     *stream
	ask     bool
	states  map[string]string
	infos   []backends.Info
	entries []Entry
}

// bulk is how many files one question about localities is for.
const bulk = 512

func (s *Service) batch(out *stream, locality bool) *batch {
	b := &batch{s: s, out: out, ask: locality}
	if locality {
		b.states = map[string]string{}
		for _, u := range s.FS.Uploads() {
			b.states[u.Path] = string(u.State)
		}
	}
	return b
}

func (b *batch) add(ctx context.Context, p string, in backends.Info) error {
	if !b.ask {
		return b.out.item(b.s.entryOf(p, in))
	}
	e := b.s.entryOf(p, in)
	e.State = b.states[p]
	in.DID = b.s.didOf(in, p)
	b.infos, b.entries = append(b.infos, in), append(b.entries, e)
	if len(b.infos) < bulk {
		return nil
	}
	return b.flush(ctx)
}

func (b *batch) flush(ctx context.Context) error {
	if len(b.infos) == 0 {
		return nil
	}
	locs, err := b.s.FS.Localities(ctx, b.infos)
	if err != nil {
		return fmt.Errorf("ask for localities: %w", err)
	}
	for i, e := range b.entries {
		if locs[i] != backends.NoLocality {
			e.Locality = string(locs[i])
		}
		if err := b.out.item(e); err != nil {
			return err
		}
	}
	b.infos, b.entries = b.infos[:0], b.entries[:0]
	return nil
}
