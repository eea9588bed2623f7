package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

func (l badgerLog) debug(level, f string, a []any) {
	if l.log.Enabled(context.Background(), -4) {
		l.log.Debug("badger: "+fmt.Sprintf(f, a...), "level", level)
	}
}

// maintain is the loop of what is done beside calls: verifying what Open did not,
// deleting what removed collections left, noting how long the MANIFEST is, and
// giving space in the value log back. It ends with ctx.
func (c *Catalogue) maintain(ctx context.Context, verified int64) {
	if c.dir != "" && (verified < 0 || c.tableBytes(ctx) > verified) {
		c.report(c.verifyTables(ctx))
	}
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		if c.dir != "" {
			if err := c.durable.manifest(c.dir); err != nil {
				c.log.Warn("the length of the catalogue's MANIFEST was not noted", "dir", c.dir, "error", err)
			}
		}
		c.sweepAll(ctx)
		if n%60 == 0 && c.dir != "" {
			c.collect(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tableBytes is 0 while the lake is out of service.
func (c *Catalogue) tableBytes(ctx context.Context) int64 {
	if c.enter(ctx) != nil {
		return 0
	}
	defer c.gate.leave()
	lsm, _ := c.db.Size()
	return lsm
}

// report ends service when what is stored is damaged.
func (c *Catalogue) report(err error) {
	if errors.Is(err, backends.ErrDamaged) {
		c.breakWith(fmt.Errorf("catalogue %q: %w", c.dir, err))
	}
}

func (c *Catalogue) sweepAll(ctx context.Context) {
	for {
		more, err := c.sweep(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, backends.ErrNoSpace) && !errors.Is(err, backends.ErrClosed) {
			c.log.Warn("history of removed collections was not deleted", "dir", c.dir, "error", err)
		}
		if err != nil || !more {
			return
		}
	}
}

// collect rewrites value log files of which half or more is dead.
func (c *Catalogue) collect(ctx context.Context) {
	for ctx.Err() == nil {
		err := func() (err error) {
			if err := c.enter(ctx); err != nil {
				return err
			}
			defer c.gate.leave()
			defer recovered(&err)
			return c.db.RunValueLogGC(0.5)
		}()
		if errors.Is(err, badger.ErrNoRewrite) || errors.Is(err, badger.ErrRejected) || errors.Is(err, backends.ErrClosed) || errors.Is(err, errReopen) {
			return
		}
		if err != nil {
			c.log.Warn("the value log was not collected", "dir", c.dir, "error", err)
			return
		}
	}
}
