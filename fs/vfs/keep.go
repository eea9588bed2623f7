package vfs

import (
	"context"
	"time"

	"tarn/backends"
)

// linger is how long a fetch goes on after the death of a reader that waited for it. The
// kernel asks once for pages that many readers wait for, in the name of the first; when
// that one dies the others ask again, and shall find the recall still in its place.
const linger = time.Second

// keeper is the interest of a file's waiting readers, together, in its fetch.
type keeper struct {
	gen     backends.Generation
	cancel  context.CancelFunc
	waiting int         // reads
	timer   *time.Timer // ends it, after the last reader died; nil: none runs
}

// keep counts a read that may wait long as interest in n's content. The function that it
// returns ends the count; died tells that the reader is no more.
func (v *FS) keep(n *Node) (end func(died bool)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	in := n.infoLocked()
	k := n.keeper
	if k == nil || k.gen != in.Generation {
		ctx, cancel := context.WithCancel(v.ctx)
		k = &keeper{gen: in.Generation, cancel: cancel}
		n.keeper = k
		v.goDo(func(context.Context) {
			defer cancel()
			if f, err := v.openCached(n, in); err == nil {
				f.Stay(ctx)
				f.Close()
			}
		})
	}
	k.waiting++
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
	return func(died bool) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if k.waiting--; k.waiting > 0 {
			return
		}
		if !died {
			n.dropKeeper(k)
			return
		}
		k.timer = time.AfterFunc(linger, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			if k.waiting == 0 {
				n.dropKeeper(k)
			}
		})
	}
}

// dropKeeper needs n.mu.
func (n *Node) dropKeeper(k *keeper) {
	k.cancel()
	if n.keeper == k {
		n.keeper = nil
	}
}
