package ingest

import (
	"context"
	"errors"
	"time"

	"tarn/backends"
)

// retry makes files that failed go on now, or all of them.
func (k *link) retry(paths []string) (n int, err error) {
	one := func(r *Record) error {
		to := *r
		to.Attempts, to.Error, to.NextTry = 0, "", time.Time{}
		c := &change{path: r.Path, rev: r.Rev, to: &to}
		switch r.Stage {
		case Found, Safe:
		case Registered: // what the catalogue lacks is given to it again
			c = r.restart()
		default:
			return nil // it is being worked on
		}
		err := k.commitOne(c)
		if errors.Is(err, backends.ErrStale) {
			return nil // it went on meanwhile
		}
		if err == nil {
			n++
		}
		return err
	}
	defer func() { // what it waits for may be over
		k.mu.Lock()
		clear(k.gates)
		clear(k.choices)
		k.mu.Unlock()
		k.rules.Store(true) // one of them may have been deleted
		k.kick(wakeSender)
		k.kick(wakeProver)
		k.kick(wakeRemover)
	}()
	for _, p := range paths {
		r, err := k.ledger.get(p)
		if err != nil {
			return n, err
		}
		if r.Attempts > 0 || r.Error != "" {
			if err := one(r); err != nil {
				return n, err
			}
		}
	}
	if len(paths) > 0 {
		return n, nil
	}
	for r, err := range k.ledger.all(context.Background(), false) {
		if err != nil {
			return n, err
		}
		if r.Attempts > 0 {
			if err := one(r); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}
