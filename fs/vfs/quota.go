package vfs

import (
	"context"
	"fmt"
	"math"
	"time"

	"tarn/backends"
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
		q, err := v.opt.Quota(ctx)
		if err == nil {
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

func (v *FS) askQuota() {
	select {
	case v.asks <- struct{}{}:
	default:
	}
}

// withinQuota tells whether contents may grow by n bytes in all, with those that wait here: backends.ErrQuota.
func (v *FS) withinQuota(n int64) error {
	q := v.quota.Load()
	if q == nil || q.Left == math.MaxInt64 {
		return nil
	}
	unsent := v.cache.Stats().Unsent
	if unsent+n <= q.Left {
		return nil
	}
	v.askQuota() // it may be more by now
	return fmt.Errorf("%d bytes more, where %d of %d are left and %d wait here: %w", n, q.Left, q.Limit, unsent, backends.ErrQuota)
}
