package lake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"tarn/backends"
)

// Object is an open file of the lake, read from its best online replica and, when that
// fails, from the next. It is a backends.Object.
type Object struct {
	l  *Lake
	in backends.Info

	mu      sync.Mutex    // guards the rest; never held across I/O
	next    []source      // not tried yet
	cur     *opened       // nil: none is open
	opening chan struct{} // non-nil while one goroutine opens the next replica
	reasons []string      // why those before failed
	offline bool          // a good one is on tape
	doubt   bool          // one failed in a way that may pass
	crowded bool          // one could not be asked for want of descriptors
	served  []string      // RSEs that gave bytes, in order
	closed  bool

	patience
	waiting bool // it is being opened, which may take patience
	probing bool // a replica is open when it has given a byte

	racing bool // another replica races the present one
	inVain int  // races that did not help
}

type opened struct {
	source
	backends.Object

	users int  // reads under way; guarded by Object.mu, as gone
	gone  bool // closed when the last of them ends

	ctx  context.Context // ends the reads
	lost context.CancelFunc
}

var _ backends.Object = (*Object)(nil)

// Open opens the content that in describes. A replica that does not exist or has
// another size is declared BAD on the way. When nothing can be read, the error is
// ErrOffline if a good copy is on tape and not staged (Recall brings it), else
// ErrUnavailable with ErrTemporary if any copy may be had later, else ErrLost; ErrTooManyFiles
// comes with ErrUnavailable where descriptors are wanting. It is
// never ErrNotExist, unless the DID itself is gone, and never a recall. ErrIsDir for a
// collection, ErrStale for a content that was replaced and purged. An empty file needs
// no replica.
//
// With Options.Patience, Open waits so long before it says ErrUnavailable; reads do not wait.
func (l *Lake) Open(ctx context.Context, in backends.Info) (*Object, error) {
	return l.openFrom(ctx, in, "", nil, l.o.Patience)
}

// Reopen opens in anew after the reads of an Object of it failed. It waits as Open does, but only what is left of
// Options.Patience since the first of them began, and for a replica that gives bytes, not only one that can be opened.
func (l *Lake) Reopen(ctx context.Context, in backends.Info, last *Object) (*Object, error) {
	last.mu.Lock()
	p, reasons := last.patience, last.reasons
	waits := len(last.next) == 0 && len(p.passing) > 0 && !last.offline && !last.crowded
	last.mu.Unlock()
	if p.limit == 0 || !waits {
		return l.Open(ctx, in)
	}
	o := &Object{l: l, in: in, patience: p, reasons: reasons, doubt: true, waiting: true, probing: true}
	if err := o.first(ctx); err != nil {
		return nil, err
	}
	return o, nil
}

// openFrom is Open without the replica at one RSE, and of those that from allows.
func (l *Lake) openFrom(ctx context.Context, in backends.Info, without string, from From, patience time.Duration) (*Object, error) {
	if in.Type != backends.File || in.IsSymlink() {
		err := backends.ErrIsDir
		if in.IsSymlink() {
			err = backends.ErrNotSupported
		}
		return nil, fmt.Errorf("open %s: %w", in.DID, err)
	}
	o := &Object{l: l, in: in, waiting: true}
	o.limit, o.without, o.from, o.since = patience, without, from, l.now()
	if in.Size == 0 {
		return o, nil
	}
	var err error
	if o.next, err = o.candidates(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", in.DID, err)
	}
	if err := o.first(ctx); err != nil {
		return nil, err
	}
	return o, nil
}

// first opens the replica that is read first.
func (o *Object) first(ctx context.Context) error {
	h, err := o.handle(ctx)
	if err != nil {
		return err
	}
	o.release(h)
	o.waiting, o.probing = false, false // nobody else has it yet
	o.ready()
	return nil
}

// candidates are the replicas as they are now, in the order in which they are to be tried.
func (o *Object) candidates(ctx context.Context) ([]source, error) {
	replicas, err := o.l.replicasOf(ctx, o.in)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(o.l.sources(replicas), func(s source) bool { return s.RSE == o.without || !o.from.allows(s) }), nil
}

// Size is the size that the catalogue tells.
func (o *Object) Size() int64 { return o.in.Size }

// RSE names the replica that is read now, "" for none.
func (o *Object) RSE() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cur == nil {
		return ""
	}
	return o.cur.RSE
}

// Served names the RSEs that gave bytes so far, in order. If there is one and the whole
// fails verification, its replica is the bad one.
func (o *Object) Served() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.served)
}

// ReadAt reads from the current replica. On an error, a short read, or no answer within
// Options.ReadTimeout it goes on with the next one; after the last the error is as
// that of Open, and stays, without waiting: see Reopen.
func (o *Object) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s at %d: negative offset", o.in.DID, off)
	}
	want := min(int64(len(p)), o.in.Size-off)
	if want <= 0 {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	for {
		h, err := o.handle(ctx)
		if err != nil {
			return 0, err
		}
		began := o.l.now()
		n, by, err := o.read(ctx, h, p[:want], off)
		o.release(h)
		if int64(n) == want && (err == nil || err == io.EOF) {
			o.gave(by)
			if want < int64(len(p)) {
				return n, io.EOF
			}
			return n, nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("read %s: %w", o.in.DID, ctx.Err())
		}
		if err == nil || err == io.EOF {
			err = fmt.Errorf("%d of %d bytes at offset %d: %w", n, want, off, io.ErrUnexpectedEOF)
		}
		o.failed(h, err, began)
	}
}

// gave notes that h has given bytes.
func (o *Object) gave(h *opened) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rounds, o.since, o.spent = 0, time.Time{}, 0
	o.passing, o.reasons, o.offline, o.crowded = nil, nil, false, false // what is said later is of later
	if len(o.served) == 0 || !slices.Contains(o.served, h.RSE) {
		o.served = append(o.served, h.RSE)
	}
}

// failed takes h out of use after a read that began then.
func (o *Object) failed(h *opened, err error, began time.Time) {
	o.mu.Lock()
	idle := false
	defer func() {
		o.mu.Unlock()
		if idle {
			o.close(h)
		}
	}()
	if o.cur == h {
		idle = o.leaveLocked()
		o.beginLocked(began)
		o.noteLocked(h.source, err)
		o.l.noteDown(h.RSE, err)
		o.l.log.Warn("read failed, trying the next replica", "did", o.in.DID, "rse", h.RSE, "pfn", h.PFN, "err", err)
		o.reasons = append(o.reasons, h.RSE+": "+err.Error())
		o.doubt = true
		o.crowded = o.crowded || errors.Is(err, backends.ErrTooManyFiles)
	}
}

// leaveLocked takes the present replica out of use, and tells whether it is to be closed now. Reads that are
// under way in it end as they do, the last one closing it.
func (o *Object) leaveLocked() (idle bool) {
	h := o.cur
	o.cur, h.gone = nil, true
	return h.users == 0
}

// release ends the use of what handle gave.
func (o *Object) release(h *opened) {
	o.mu.Lock()
	h.users--
	last := h.gone && h.users == 0
	o.mu.Unlock()
	if last {
		o.close(h)
	}
}

func (o *Object) close(h *opened) {
	h.lost()
	if err := h.Close(); err != nil {
		o.l.log.Debug("close replica", "did", o.in.DID, "rse", h.RSE, "err", err)
	}
}

// handle gives the open replica, opening the next one if there is none. One goroutine
// opens, the others wait for it. Whoever gets it calls release.
func (o *Object) handle(ctx context.Context) (*opened, error) {
	for {
		o.mu.Lock()
		switch {
		case o.closed:
			o.mu.Unlock()
			return nil, fmt.Errorf("read %s: %w", o.in.DID, backends.ErrClosed)
		case o.cur != nil:
			defer o.mu.Unlock()
			o.cur.users++
			return o.cur, nil
		case o.opening != nil:
			wait := o.opening
			o.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("open %s: %w", o.in.DID, ctx.Err())
			}
		case len(o.next) == 0 && !(o.waiting && o.waitsLocked()):
			defer o.mu.Unlock()
			return nil, o.verdictLocked()
		case len(o.next) == 0:
			if err := o.roundLocked(ctx); err != nil {
				return nil, err
			}
			continue
		}
		s := o.next[0]
		done := make(chan struct{})
		o.opening = done
		o.mu.Unlock()

		h, reason, err := o.try(ctx, s)

		o.mu.Lock()
		o.opening = nil
		close(done)
		switch {
		case h == nil && ctx.Err() != nil: // says nothing of the replica
			o.mu.Unlock()
			return nil, fmt.Errorf("open %s: %w", o.in.DID, ctx.Err())
		case h == nil:
			o.next = o.next[1:]
			o.reasons = append(o.reasons, s.RSE+": "+reason)
			o.offline = o.offline || errors.Is(err, backends.ErrOffline)
			o.doubt = o.doubt || errors.Is(err, backends.ErrUnavailable)
			o.crowded = o.crowded || errors.Is(err, backends.ErrTooManyFiles)
			o.noteLocked(s, err)
		case o.closed:
			o.mu.Unlock()
			h.Close()
			continue
		default:
			o.next = o.next[1:]
			o.cur = h
		}
		o.mu.Unlock()
	}
}

func (o *Object) verdictLocked() error {
	switch {
	case o.crowded: // before a recall: there may be a copy on disk
		return fmt.Errorf("%w: %w", unavailable("open", o.in.DID, o.reasons), backends.ErrTooManyFiles)
	case o.offline:
		return fmt.Errorf("open %s: %s: %w", o.in.DID, words(o.reasons), backends.ErrOffline)
	case o.doubt:
		return unavailable("open", o.in.DID, o.reasons)
	}
	return fmt.Errorf("open %s: %s: %w", o.in.DID, words(o.reasons), backends.ErrLost)
}

// try opens one replica. If it cannot, the reason is in words, and the error wraps
// ErrOffline, ErrUnavailable, or neither when this copy is no good at all.
func (o *Object) try(ctx context.Context, s source) (*opened, string, error) {
	if why := s.why(); why != "" {
		if s.State == backends.Available || s.State == backends.Copying {
			return nil, why, backends.ErrUnavailable
		}
		return nil, why, errors.New(why)
	}
	own, cancel := o.attemptContext(ctx)
	defer cancel()
	h, err := o.l.openSource(own, o.in, s)
	if err == nil && o.probing {
		err = o.probe(own, s, h)
	}
	if err == nil {
		return newOpened(s, h), "", nil
	}
	if !errors.Is(err, backends.ErrOffline) && ctx.Err() == nil {
		o.l.log.Warn("replica cannot be opened, trying the next", "did", o.in.DID, "rse", s.RSE, "pfn", s.PFN, "err", err)
	}
	return nil, err.Error(), err
}

// errBadReplica marks what openSource has declared BAD.
var errBadReplica = errors.New("declared BAD")

// openSource opens one good replica and checks its size. Errors wrap ErrOffline,
// errBadReplica or ErrUnavailable.
func (l *Lake) openSource(ctx context.Context, in backends.Info, s source) (backends.Object, error) {
	bad := func(why error) error {
		if err := l.DeclareReplicaBad(ctx, in, s.Replica, why); err != nil {
			l.log.Error("bad replica not noted", "did", in.DID, "rse", s.RSE, "err", err)
		}
		return fmt.Errorf("%w: %w", errBadReplica, why)
	}
	if s.tape() {
		found, err := l.tapeLocalities(ctx, s.rse, []string{s.PFN})
		switch {
		case err != nil:
			l.noteDown(s.RSE, err)
			return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
		case found[0] == backends.Nearline:
			return nil, fmt.Errorf("%s %w", s.PFN, backends.ErrOffline)
		case found[0] == backends.Lost || found[0] == backends.NoLocality:
			return nil, bad(fmt.Errorf("the tape system says %s", found[0]))
		case !found[0].IsOnline():
			return nil, fmt.Errorf("the tape system says %s: %w", found[0], backends.ErrUnavailable)
		}
	}
	var h backends.Object
	err := l.attempt(ctx, func(ctx context.Context) (err error) {
		h, err = s.rse.Storage.Open(ctx, s.PFN)
		return err
	})
	switch {
	case errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrIsDir):
		// A disk that is not mounted looks empty; then it has no space to tell of.
		if _, _, down := s.rse.Storage.Space(ctx); down != nil {
			l.noteDown(s.RSE, down)
			return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, down)
		}
		return nil, bad(err)
	case errors.Is(err, backends.ErrOffline): // evicted since the tape system was asked
		return nil, err
	case err != nil:
		if ctx.Err() == nil {
			l.noteDown(s.RSE, err)
		}
		return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	case h.Size() != in.Size:
		size := h.Size()
		h.Close()
		return nil, bad(fmt.Errorf("size is %d bytes, want %d", size, in.Size))
	}
	return h, nil
}

// Close ends the reads, and closes the replica.
func (o *Object) Close() error {
	o.mu.Lock()
	h := o.cur
	o.cur, o.closed = nil, true
	o.mu.Unlock()
	if h == nil {
		return nil
	}
	h.lost()
	return h.Close()
}
