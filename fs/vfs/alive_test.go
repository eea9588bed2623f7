package vfs

import (
	"testing"
	"time"

	"tarn/backends"
)

// What holds one of the tree's locks for good is seen, and its release too.
func TestRespondsOnlyWithFreeLocks(t *testing.T) {
	v := &FS{}
	v.root = newNode(v, backends.Info{})
	for name, lock := range map[string]struct{ take, give func() }{
		"tree": {v.tree.Lock, v.tree.Unlock}, "dir": {v.root.dir.Lock, v.root.dir.Unlock},
		"node": {v.root.mu.Lock, v.root.mu.Unlock}, "maps": {v.mu.Lock, v.mu.Unlock},
	} {
		lock.take()
		done := make(chan struct{})
		go func() { v.passLocks(); close(done) }()
		select {
		case <-done:
			t.Errorf("%s: it responds while the lock is held", name)
		case <-time.After(50 * time.Millisecond):
		}
		lock.give()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: no response after the lock was given back", name)
		}
	}
}
