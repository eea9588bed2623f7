package library

import (
	"context"
	"errors"

	"tarn/backends"
)

// EvictBuffer takes files out of the disk buffer, so that they are NEARLINE; it waits until
// they are on tape. Without paths it takes all that nothing holds. ErrNotExist;
// ErrBusy when a stage request or an open Object holds one.
func (l *Library) EvictBuffer(ctx context.Context, paths ...string) error {
	if len(paths) == 0 {
		if err := l.Flush(ctx); err != nil {
			return err
		}
		l.mu.Lock()
		for l.lru.Len() > 0 {
			l.drop(l.lru.Front().Value.(*copied))
		}
		l.unlock()
		return nil
	}
	var errs []error
	for _, p := range paths {
		err := l.await(ctx, func() (bool, error) {
			if err := l.begin(ctx, "evict", p); err != nil {
				return false, err
			}
			defer l.unlock()
			f, _ := l.find(p)
			switch {
			case f == nil:
				return false, backends.ErrNotExist
			case f.buf == nil:
				return true, nil
			case f.buf.holds > 0 || f.buf.refs > 0 && f.cart >= 0:
				return false, backends.ErrBusy
			case f.cart < 0 && f.bad:
				return false, backends.ErrCorrupt
			case f.cart < 0:
				return false, nil
			}
			l.drop(f.buf)
			return true, nil
		})
		if err != nil {
			errs = append(errs, l.fail("evict", p, err))
		}
	}
	return errors.Join(errs...)
}

// Flush waits until all that was committed is on tape. ErrNoSpace when something fits on no cartridge.
func (l *Library) Flush(ctx context.Context) error {
	err := l.await(ctx, func() (bool, error) {
		if err := l.begin(ctx, "flush", ""); err != nil {
			return false, err
		}
		defer l.unlock()
		if len(l.homeless) > 0 && l.unwritten == 0 {
			return false, l.fail("flush", "", backends.ErrNoSpace)
		}
		return l.unwritten == 0, nil
	})
	return err
}

// Fail makes every recall of path end in FAILED with err as its reason, until it is called with nil.
func (l *Library) Fail(path string, err error) {
	l.mu.Lock()
	defer l.unlock()
	if err == nil {
		delete(l.failing, path)
		return
	}
	l.failing[path] = err
}
