package main

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tarn/cmd/tarn/config"
)

// probe asks a mount for its statfs, on a goroutine of its own, which a dead file system
// may keep for ever. This process may do that: it holds no end of the connection, so the
// daemon's death ends the call.
type probe struct {
	conn    config.Connection
	running atomic.Bool
	dead    atomic.Bool // the last answer was that nobody serves the mount
}

// look tells whether no question is unanswered, and asks the next. An error is an answer.
// What another file system would answer, which is mounted over ours, is not asked for.
func (p *probe) look() bool {
	if p.running.Swap(true) {
		return false
	}
	go func() {
		defer p.running.Store(false)
		if _, seen, err := p.conn.Mounted(); err == nil && !seen {
			p.dead.Store(false)
			return
		}
		var st unix.Statfs_t
		p.dead.Store(unserved(unix.Statfs(p.conn.Point, &st)))
	}()
	return true
}
