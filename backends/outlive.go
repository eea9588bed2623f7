package backends

import (
	"context"
	"time"
)

// Outlive gives a context that ends when cancel is called, or by d after ctx has: for a last step that is
// not to be left half done.
func Outlive(ctx context.Context, d time.Duration) (_ context.Context, cancel context.CancelFunc) {
	c, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(d, end)
		context.AfterFunc(c, func() { t.Stop() })
	})
	return c, func() { stop(); end() }
}
