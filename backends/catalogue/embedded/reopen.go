package embedded

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"tarn/backends"
)

// errReopen marks that the lake is out of service until it was opened again, which the
// writer's goroutine does by itself.
var errReopen = errors.New("the lake is opened again after an error")

// reopening is when the writer's goroutine tries to open the lake again.
type reopening struct {
	wait time.Duration
	at   <-chan time.Time
}

const (
	reopenMin = 100 * time.Millisecond
	reopenMax = 10 * time.Second
)

// due fires when it is time for a try; never while the lake serves, or is damaged.
func (r *reopening) due(c *Catalogue) <-chan time.Time {
	if e := c.broken.Load(); e == nil || !errors.Is(*e, errReopen) || c.dir == "" {
		r.wait, r.at = 0, nil
		return nil
	}
	if r.at == nil {
		r.wait = min(max(2*r.wait, reopenMin), reopenMax)
		r.at = time.After(r.wait)
	}
	return r.at
}

// try opens the lake again if nobody is inside. Whoever comes meanwhile hears that it is
// out of service.
func (r *reopening) try(c *Catalogue) {
	r.at = nil
	why := c.broken.Load()
	if !c.gate.idle() {
		r.wait = 0
		return
	}
	err := c.reopen()
	switch {
	case err == nil:
		c.broken.CompareAndSwap(why, nil) // unless damage was found meanwhile
		c.log.Info("the catalogue serves again", "dir", c.dir)
	case errors.Is(err, backends.ErrDamaged):
		err = fmt.Errorf("catalogue %q: %w", c.dir, err)
		c.broken.Store(&err)
		c.log.Error("the catalogue is out of service", "dir", c.dir, "error", err)
	default:
		c.log.Warn("the catalogue cannot be opened again yet", "dir", c.dir, "error", err)
	}
}

// reopen closes the database and opens it as Open does, with the lock kept.
func (c *Catalogue) reopen() (err error) {
	if err := c.space.check().allow(true); err != nil {
		return err // closing flushes what is in memory, and opening replays logs
	}
	if db := c.db; db != nil {
		c.db = nil
		if err := closeBadger(db); err != nil {
			c.log.Warn("the catalogue's database did not close well", "dir", c.dir, "error", err)
		}
	}
	db := filepath.Join(c.dir, "db")
	if err := c.verifyStored(c.o, db); err != nil {
		return err
	}
	if c.db, err = openBadger(c.o.badger(db)); err != nil {
		return err
	}
	clear(c.writerPaths)
	c.paths.suspend() // forgets all
	c.paths.resume()
	if err := c.load(false); err != nil {
		return err
	}
	return c.complete()
}
