package replication

import (
	"context"
	"time"

	"tarn/backends/lake"
)

// spaceFor is how long what a storage said of its space is taken for true: it is wanted for each file.
const spaceFor = 2 * time.Second

type room struct {
	at          time.Time
	total, free int64
	err         error
}

// space tells how much there is at an RSE beside what the copies to it that are wanted will take.
func (e *Engine) space(ctx context.Context, rse *lake.RSE) (total, free int64, err error) {
	e.mu.Lock()
	r, ok := e.rooms[rse.Name]
	e.mu.Unlock()
	if !ok || time.Since(r.at) >= spaceFor {
		r.total, r.free, r.err = e.l.Space(ctx, rse)
		r.at = time.Now()
		if ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
		e.mu.Lock()
		e.rooms[rse.Name] = r
		e.mu.Unlock()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	taken := int64(0)
	if d := e.dests[rse.Name]; d != nil {
		taken = d.bytes
		for m := range d.active {
			taken -= min(m.done.Load(), m.in.Size)
		}
	}
	return r.total, max(r.free-taken, 0), r.err
}
