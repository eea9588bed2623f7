package vfs

import (
	"context"
	"slices"
	"time"
)

// The kernel keeps what it was shown until it needs the memory itself, which on a large
// machine is never: after a walk over 10^6 files it knows 10^6 of them, and so would we.
// Therefore it is asked to forget what nobody uses, the longest unused first, when there
// are more nodes than Options.Nodes. Nothing is lost with such a node: it is made anew,
// of the catalogue and the journal, when its name is looked up again.

// NodeBytes is about what a file's node takes in memory, with what it points to and its
// places in the maps.
const NodeBytes = 800

const (
	// forgetBatch is how many nodes are looked at under the lock at a time.
	forgetBatch = 512
	// forgetAgain is when those that the kernel kept are asked for again.
	forgetAgain = 2 * time.Second
)

// Idle is a node that nobody has open, for Notifier.Idle.
type Idle struct {
	Inode, Parent uint64
	Name          string
	IsDir         bool
}

// ages is the order in which nodes were last looked up or opened; guarded by FS.mu.
type ages struct {
	oldest, newest *Node
	ended          int // nodes that are no more
}

// push makes n, which is not in the list, the newest.
func (a *ages) push(n *Node) {
	n.older, n.newer = a.newest, nil
	if a.newest != nil {
		a.newest.newer = n
	} else {
		a.oldest = n
	}
	a.newest = n
}

func (a *ages) remove(n *Node) {
	if n.older != nil {
		n.older.newer = n.newer
	} else if a.oldest == n {
		a.oldest = n.newer
	}
	if n.newer != nil {
		n.newer.older = n.older
	} else if a.newest == n {
		a.newest = n.older
	}
	n.older, n.newer = nil, nil
}

// end takes out a node that is no more.
func (a *ages) end(n *Node) {
	a.remove(n)
	a.ended++
}

// renew makes n the newest.
func (a *ages) renew(n *Node) {
	if a.newest != n {
		a.remove(n)
		a.push(n)
	}
}

// bornLocked puts a new node into the maps; needs v.mu.
func (v *FS) bornLocked(n *Node) {
	v.nodes[n.ino] = n
	v.ages.push(n)
	if len(v.nodes) > v.opt.Nodes {
		select {
		case v.crowd <- struct{}{}:
		default: // it is known
		}
	}
}

// forgets keeps the number of nodes below Options.Nodes, by asking the kernel.
func (v *FS) forgets(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.crowd:
		}
		if v.thin(ctx) {
			continue
		}
		select { // all there are were asked for, and too many are in use
		case <-ctx.Done():
			return
		case <-time.After(forgetAgain):
		}
	}
}

// thin asks the kernel to forget the oldest nodes until an eighth less than the limit is
// left; false when it has asked for all.
func (v *FS) thin(ctx context.Context) bool {
	goal := v.opt.Nodes - v.opt.Nodes/8
	n, ended := v.nodeCount()
	for kept := 0; n > goal && ctx.Err() == nil; {
		if kept >= n {
			return false
		}
		var idle []Idle
		looked := 0
		for want := n - goal; looked < want; {
			some, seen := v.oldest(min(forgetBatch, want-looked))
			idle, looked = append(idle, some...), looked+seen
			if seen == 0 {
				break
			}
		}
		if len(idle) > 0 {
			v.stats.forgotten.Add(int64(len(idle)))
			v.notifyIdle(idle)
			v.awaitEnds(ended + len(idle))
		}
		before := ended
		n, ended = v.nodeCount()
		kept = max(0, kept+looked-(ended-before))
	}
	return true
}

// Forget gives back count references to the node of an inode, as Node.Forget does, soon:
// the kernel forgets thousands at a time, and whoever lists meanwhile shall not have to
// wait for a lock between any two of them.
func (v *FS) Forget(inode uint64, count int64) {
	v.forgotten.Lock()
	v.forgotten.refs = append(v.forgotten.refs, refs{inode, count})
	v.forgotten.Unlock()
	select {
	case v.forgotten.some <- struct{}{}:
	default: // it is known
	}
}

// refs are references to a node that somebody gave back.
type refs struct {
	inode uint64
	count int64
}

// giveBack does what Forget puts off.
func (v *FS) giveBack(ctx context.Context) {
	var all []refs
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.forgotten.some:
		}
		v.forgotten.Lock()
		all, v.forgotten.refs = v.forgotten.refs, all[:0]
		v.forgotten.Unlock()
		for some := range slices.Chunk(all, forgetBatch) {
			v.mu.Lock()
			for _, f := range some {
				if n := v.nodes[f.inode]; n != nil {
					n.forgetLocked(f.count)
				}
			}
			v.mu.Unlock()
		}
	}
}

// awaitEnds waits a moment for so many nodes to have ended: the kernel tells only afterwards
// what it forgot.
func (v *FS) awaitEnds(ended int) {
	for range 10 {
		if _, now := v.nodeCount(); now >= ended {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// nodeCount gives how many nodes there are, and how many there were.
func (v *FS) nodeCount() (n, ended int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.nodes), v.ages.ended
}

// oldest takes the n oldest nodes, which become the newest, and gives those that nobody
// uses, and how many it looked at.
func (v *FS) oldest(n int) (idle []Idle, looked int) {
	nodes := make([]*Node, 0, n)
	v.mu.Lock()
	for range n {
		o := v.ages.oldest
		if o == nil {
			break
		}
		v.ages.renew(o)
		looked++
		if o.parent == nil || len(o.children) > 0 || o.isDir && len(v.names[o.path]) > 0 {
			continue // no name, or names below it that the kernel or the journal has
		}
		nodes = append(nodes, o)
		idle = append(idle, Idle{o.ino, o.parent.ino, o.name, o.isDir})
	}
	v.mu.Unlock()
	kept := idle[:0]
	for i, o := range nodes { // Node.mu comes before FS.mu
		o.mu.Lock()
		if o.handles == 0 && o.work == nil {
			kept = append(kept, idle[i])
		}
		o.mu.Unlock()
	}
	return kept, looked
}
