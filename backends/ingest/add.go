package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// Check tells all that is wrong with a definition, also in the face of the other ingests.
func (s *Set) Check(ctx context.Context, d Definition) error {
	err := errors.Join(s.o.check(ctx, d), s.overlaps(d))
	if err != nil {
		return fmt.Errorf("ingest %s: %w", d.Name, err)
	}
	return nil
}

// overlaps wants the folder of no other ingest, nor one in or around it.
func (s *Set) overlaps(d Definition) error {
	s.mu.Lock()
	var others []Definition
	for name, e := range s.links {
		if name != d.Name && (!e.link.d.Single || e.stop != nil) {
			others = append(others, e.link.d)
		}
	}
	s.mu.Unlock()
	for _, o := range others {
		if nested(d.Dir, o.Dir) {
			return fmt.Errorf("folder %s: %s is that of ingest %s: %w", d.Dir, o.Dir, o.Name, backends.ErrBusy)
		}
	}
	return nil
}

// Add checks the definition, makes its Target, puts its rules there, and begins when Run is under way. ErrExist.
func (s *Set) Add(ctx context.Context, d Definition) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if _, err := s.entry(d.Name); err == nil {
		return fmt.Errorf("ingest %s: %w", d.Name, backends.ErrExist)
	}
	d.Single = false
	e, err := s.add(ctx, d)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.startLocked(e)
	s.mu.Unlock()
	return nil
}

// add makes what an ingest needs; Set.changing is held.
func (s *Set) add(ctx context.Context, d Definition) (*entry, error) {
	if err := s.Check(ctx, d); err != nil {
		return nil, err
	}
	if err := s.own(); err != nil {
		return nil, fmt.Errorf("ingest %s: %w", d.Name, err)
	}
	d.Created = s.o.Now()
	if err := s.o.prepare(ctx, d); err != nil {
		return nil, fmt.Errorf("ingest %s: %w", d.Name, err)
	}
	k, err := s.openLink(d)
	if err != nil {
		return nil, fmt.Errorf("ingest %s: %w", d.Name, err)
	}
	if err := s.save(d); err != nil {
		k.ledger.close()
		return nil, fmt.Errorf("ingest %s: %w", d.Name, err)
	}
	e := &entry{link: k, paused: d.Paused}
	s.mu.Lock()
	s.links[d.Name] = e
	s.mu.Unlock()
	return e, nil
}

// prepare makes the target and puts the rules on it.
func (o Options) prepare(ctx context.Context, d Definition) error {
	target, err := lake.CleanPath(d.Target)
	if err != nil {
		return err
	}
	kind := backends.Dataset
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			kind = backends.Container
		}
	}
	if _, served := o.Lake.Catalogue().(backends.Served); served {
		return o.prepareServed(ctx, target, kind == backends.Dataset && d.Single)
	}
	scope, below, _ := strings.Cut(target[1:], "/")
	p := "/" + scope
	for e := range strings.SplitSeq(below, "/") {
		if e == "" {
			break
		}
		p += "/" + e
		if in, err := o.Lake.Resolve(ctx, p); err == nil && in.IsDir() {
			continue
		}
		in := backends.Info{DID: o.Lake.PathDID(p), Type: backends.Container, Mode: 0o755,
			UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MTime: o.Now(), CTime: o.Now()}
		if p == target {
			in.Type = kind
		}
		if err := o.Lake.Catalogue().Add(ctx, in, nil); err != nil && !errors.Is(err, backends.ErrExist) {
			return fmt.Errorf("make %s: %w", p, err)
		}
	}
	for _, r := range d.Rules {
		r.DID = o.Lake.PathDID(target)
		if _, err := o.Lake.Rules().AddRule(ctx, r); err != nil {
			return fmt.Errorf("rule for %d copies on %q: %w", r.Copies, r.Expression, err)
		}
	}
	return nil
}

// ErrStuck is the error of Once when files failed again and again.
var ErrStuck = errors.New("files are not safe")

// Once makes a single pass: until all that was complete in the folder is safe, and deleted if that is asked for. The
// ledger of Definition.Name is used, or one that goes by the folder and the target, so that a pass that was interrupted is
// carried on by the next. progress, which may be nil, hears of it every half second and at the end. What failed again and
// again is not waited for: the error is ErrStuck then. Files that are not complete are left alone: Status.Incomplete.
func (s *Set) Once(ctx context.Context, d Definition, progress func(Status)) (Status, error) {
	if d.Name == "" {
		sum := sha256.Sum256([]byte(real(d.Dir) + "\x00" + d.Target))
		d.Name = "once-" + hex.EncodeToString(sum[:6])
	}
	d.Single, d.Paused = true, false
	e, err := s.beginOnce(ctx, d)
	if err != nil {
		return Status{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.link.run(ctx, true) }()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err = <-ended:
			running = false
		case <-tick.C:
			if progress != nil {
				progress(s.status(e))
			}
		}
	}
	s.mu.Lock()
	e.stop, e.state = nil, ""
	s.mu.Unlock()
	st := s.status(e)
	if progress != nil {
		progress(st)
	}
	switch {
	case errors.Is(err, errDone) && st.StuckAll > 0:
		err = fmt.Errorf("%w: %d failed", ErrStuck, st.StuckAll)
	case errors.Is(err, errDone):
		err = nil
	case err == nil:
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("ingest %s: %w", d.Dir, err)
	}
	return st, err
}

// beginOnce finds or makes the ingest of a pass, and claims it.
func (s *Set) beginOnce(ctx context.Context, d Definition) (*entry, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	e, err := s.entry(d.Name)
	switch {
	case errors.Is(err, backends.ErrNotExist):
		if e, err = s.add(ctx, d); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !e.link.d.Single:
		return nil, fmt.Errorf("ingest %s is there, and no single pass: %w", d.Name, backends.ErrExist)
	default:
		if err := s.Check(ctx, d); err != nil {
			return nil, err
		}
		s.mu.Lock()
		busy := e.stop != nil
		s.mu.Unlock()
		if busy {
			return nil, fmt.Errorf("ingest %s: a pass is under way: %w", d.Name, backends.ErrBusy)
		}
		if d.Dir != e.link.d.Dir || d.Target != e.link.d.Target {
			return nil, fmt.Errorf("ingest %s is of %s to %s: %w", d.Name, e.link.d.Dir, e.link.d.Target, backends.ErrExist)
		}
		d.Created = e.link.d.Created
		if err := s.o.prepare(ctx, d); err != nil {
			return nil, fmt.Errorf("ingest %s: %w", d.Name, err)
		}
		k, err := newLink(s.o, d, e.link.ledger) // what is asked for may be another thing than last time
		if err == nil {
			err = s.save(d)
		}
		if err != nil {
			return nil, fmt.Errorf("ingest %s: %w", d.Name, err)
		}
		e = &entry{link: k}
		s.mu.Lock()
		s.links[d.Name] = e
		s.mu.Unlock()
	}
	s.mu.Lock()
	e.stop, e.state = func() {}, Running
	s.mu.Unlock()
	return e, nil
}
