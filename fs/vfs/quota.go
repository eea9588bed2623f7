package vfs

import (
	"context"
	"fmt"
	"math"
	"time"

	"tarn/backends"
	"tarn/cache/journal"
)

// Quota is how many bytes whoever owns new files may have, and how many of these are left.
type Quota struct{ Limit, Left int64 }

// NoQuota is that of who may have as much as there is room for.
var NoQuota = Quota{math.MaxInt64, math.MaxInt64}

const (
	quotaEvery = time.Minute     // how often it is asked for
	quotaSoon  = 5 * time.Second // and how often at most
)

// watchQuota asks for it, now and then, and when askQuota wants it.
func (v *FS) watchQuota(ctx context.Context) {
	for {
		ruled := v.ruled()
		q, err := v.opt.Quota(ctx)
		if err == nil {
			for _, u := range ruled {
				u.count()
			}
			v.quota.Store(&q)
		} else if ctx.Err() == nil {
			v.log.Debug("the quota is not known", "err", err)
		}
		soon := time.After(quotaSoon)
		select {
		case <-ctx.Done():
			return
		case <-time.After(quotaEvery):
			continue
		case <-v.asks:
		}
		select {
		case <-ctx.Done():
			return
		case <-soon:
		}
	}
}

// ruled are the contents that have their rules and wait for their other copies: whoever is asked for the quota from now on has them as used.
func (v *FS) ruled() (out []*unsent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, u := range v.unsent {
		u.mu.Lock()
		if u.state == journal.Ruled && u.counted == 0 {
			out = append(out, u)
		}
		u.mu.Unlock()
	}
	return out
}

// count notes that u is part of what the quota has as used.
func (u *unsent) count() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fs.counted.Add(u.reserved - u.counted)
	u.counted = u.reserved
}

// waiting is how many bytes are here that the quota does not know of.
func (v *FS) waiting() int64 { return max(0, v.cache.Stats().Unsent-v.counted.Load()) }

func (v *FS) askQuota() {
	select {
	case v.asks <- struct{}{}:
	default:
	}
}

// withinQuota tells whether contents may grow by n bytes in all, with those that wait here and that nobody else counts: backends.ErrQuota.
func (v *FS) withinQuota(n int64) error {
	q := v.quota.Load()
	if q == nil || q.Left == math.MaxInt64 {
		return nil
	}
	waiting := v.waiting()
	if waiting+n <= q.Left {
		return nil
	}
	v.askQuota() // it may be more by now
	return fmt.Errorf("%d bytes more, where %d of %d are left and %d wait here: %w", n, q.Left, q.Limit, waiting, backends.ErrQuota)
}
