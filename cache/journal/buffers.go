package journal

import (
	"math/bits"
	"sync"
)

// Buffers are used again: a small file needs five pages of them until it is closed, and what
// thousands of files leave behind the garbage collector would have to find. There is a pool
// for each power of two.
const leastBuffer, mostBuffer = 11, 17 // 2 KiB, and more than any record of the log with its content

var buffers [mostBuffer + 1]sync.Pool

// takeBuffer gives n bytes, whatever is in them.
func takeBuffer(n int) []byte {
	c := bufferClass(n)
	if c > mostBuffer {
		return make([]byte, n)
	}
	if p, ok := buffers[c].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<c)
}

// giveBuffer takes back what takeBuffer gave; nobody may look at it any more.
func giveBuffer(b []byte) {
	if c := bufferClass(cap(b)); c <= mostBuffer && cap(b) == 1<<c {
		buffers[c].Put(&b)
	}
}

func bufferClass(n int) int { return max(leastBuffer, bits.Len(uint(max(n, 1)-1))) }
