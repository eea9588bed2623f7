package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/backends/ingest/watch"
)

// enterFolder takes the folder, and what a run needs of it.
func (k *link) enterFolder() error {
	f, err := openFolder(k.d.Dir)
	if err != nil {
		return err
	}
	w, err := watch.New(watch.Options{Root: f.root, Dir: k.d.Dir, Pattern: k.d.Pattern, Complete: k.rule, Rescan: k.d.Rescan, Known: k.known, Log: k.log, Now: k.o.Now})
	if err != nil {
		f.close()
		return err
	}
	k.mu.Lock()
	k.folder, k.watcher = f, w
	k.mu.Unlock()
	return nil
}

// leaveFolder ends what enterFolder began.
func (k *link) leaveFolder() {
	k.folder.close()
	k.mu.Lock()
	k.folder, k.watcher = nil, nil
	k.mu.Unlock()
}

// run works until ctx ends, in which case it is no error. once makes it a single pass, which ends by itself.
func (k *link) run(ctx context.Context, once bool) error {
	if err := k.enterFolder(); err != nil {
		return err
	}
	defer k.leaveFolder()
	if !once { // whoever asks for a pass says which folder it is of
		if err := k.sameFolder(); err != nil {
			return err
		}
	}
	if err := k.resumeRemovals(ctx); err != nil {
		return fmt.Errorf("go on with deletions: %w", err)
	}
	resumed, err := k.resume(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	verified := make(chan *Record, mostRegistered)
	g.Go(func() error { return k.noticer(ctx) })
	g.Go(func() error { return k.sender(ctx, resumed, verified) })
	g.Go(func() error { return k.registrar(ctx, verified) })
	g.Go(func() error { return k.prover(ctx) })
	g.Go(func() error { return k.remover(ctx) })
	g.Go(func() error { k.meters.sampler(ctx); return ctx.Err() })
	if once {
		g.Go(func() error { return k.onePass(ctx) })
	} else {
		g.Go(func() error { return k.watcher.Run(ctx, k.found) })
	}
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// resume takes up the files that were sealed when the last run ended. What each may have written is looked at first.
func (k *link) resume(ctx context.Context) ([]*Record, error) {
	rs, _, err := k.ledger.next(sending, nil, 1<<20) // a run has no more than sealed and mostRegistered of them
	if err != nil {
		return nil, err
	}
	var out []*Record
	for _, r := range rs {
		r.tries = true
		r.held = k.lake.NewHolder()
		if r.PFN == "" || !k.own(ctx, r) { // it gets another place
			if err := k.again(r); err != nil {
				return nil, err
			}
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

// again puts a sealed file back into the queue.
func (k *link) again(r *Record) error {
	k.lake.LetGo(r.held)
	to := *r
	if !r.tries { // nothing was written there
		to.RSE, to.PFN = "", ""
	}
	to.Stage, to.SealedAt, to.TransferredAt, to.VerifiedAt, to.NextTry = Found, time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return k.commitOne(&change{path: r.Path, rev: r.Rev, to: &to, attempts: -1})
}

// errDone ends a single pass.
var errDone = errors.New("all is done")

// onePass looks at the folder and waits until all that was complete there is safe, and deleted.
func (k *link) onePass(ctx context.Context) error {
	for began := time.Now(); ; { // what was written a moment ago may be complete in another one
		incomplete, err := k.watcher.Scan(ctx, k.found)
		if err != nil {
			return err
		}
		if incomplete == 0 || time.Since(began) > k.ripens() {
			break
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return ctx.Err()
		}
	}
	if err := k.settled(ctx); err != nil {
		return err
	}
	for {
		done, err := k.finished()
		if err != nil {
			return err
		}
		if done {
			return errDone
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// ripens is how long a file that nobody writes to any more may be incomplete.
func (k *link) ripens() time.Duration {
	word, arg, _ := strings.Cut(k.rule.String(), ":")
	switch age, err := time.ParseDuration(arg); {
	case word == "age" && err == nil:
		return age + 2*time.Second
	case word == "trigger":
		return time.Second
	}
	return 11 * time.Second // without leases
}

// finished tells whether nothing is left to be done but for files that failed again and again.
func (k *link) finished() (bool, error) {
	queues := []byte{toSend, sending, pending, deleting}
	if k.keep == -1 {
		queues = append(queues, safe)
	}
	for _, q := range append(queues, later) {
		var after []byte
		for {
			rs, last, err := k.ledger.next(q, after, 100)
			if err != nil {
				return false, err
			}
			if last == nil {
				break
			}
			after = last
			for _, r := range rs {
				if r.Attempts < stuckAfter {
					return false, nil
				}
			}
		}
	}
	return k.keep < 0 || k.over() <= 0, nil
}
