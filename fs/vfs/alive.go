package vfs

import "sync"

// Responds takes every lock that calls of the whole tree need, one after another, and
// returns once it had them all. It never does when one of them is held for good; that
// somebody waits for tape or for a storage does not delay it, since no lock is held then.
func (v *FS) Responds() {
	v.passLocks()
	_ = v.Stats() // those of the cache and the lake
}

func (v *FS) passLocks() {
	v.tree.RLock()
	pass(v.root.dir.RLocker())
	v.tree.RUnlock()
	pass(&v.root.mu)
	pass(&v.mu)
}

// pass waits until l is free.
func pass(l sync.Locker) {
	l.Lock()
	defer l.Unlock()
}
