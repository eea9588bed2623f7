package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/errgroup"
)

// Key names one immutable content; equal keys mean equal bytes.
type Key string

// Hasher computes the digests named to Options.NewHash over what is written to it.
type Hasher interface {
	io.Writer
	Sums() map[string]string
}

// Quick is a checksum of which the pieces of a content can be computed by themselves, each
// when it arrives and in any order. Its digest is the eight hex digits of the value.
type Quick struct {
	Alg   string
	Piece func(p []byte) uint32
	// Join gives the value of a piece followed by another one of n bytes.
	Join func(a, b uint32, n int64) uint32
}

// Options of a Cache. Zero values mean the defaults named.
type Options struct {
	Dir       string // made with mode 0700 when missing; its parent must exist
	Limit     int64  // hard bound of bytes, 0: only FreeFloor bounds
	FreeFloor int64  // bytes to leave free on the file system of Dir
	Block     int    // unit of residence and checking, default 1 MiB; rounded up to whole pages. See blockOf
	// Head and Tail are kept of every seeded or evicted file: the blocks that hold so
	// many first and last bytes. Default 1 MiB each, -1 none. They count to Limit, and
	// go last.
	Head, Tail int64
	Streams    int   // parallel ranged reads per file: default 4, at least 2 (one is kept for demanded blocks)
	Memory     int64 // bound of the buffers of all fetches and of blocks held in memory, roughly; default 448 MiB
	Strict     bool  // withhold all bytes of a content until the whole is verified
	// NewHash makes a Hasher for the algorithms of Content.Sums; needed when those are given.
	NewHash func(algs ...string) Hasher
	// Quick, of a Content that has it and is longer than a block, is compared alone. The zero
	// value compares all checksums that there are, which costs a pass in order over the bytes.
	Quick Quick
	Log   *slog.Logger     // default slog.Default()
	Now   func() time.Time // default time.Now; for times of use and ends of pins
}

const (
	chunkBytes    = 4 << 20 // one read-ahead request
	demandBytes   = 1 << 20 // one demanded request: small, somebody waits
	maxAhead      = 32      // read-ahead requests in flight over all files, in any memory
	maxDemand     = 256     // demanded requests in flight over all files, in any memory
	defaultMemory = 448 << 20
	syncMin       = 8 << 20 // whole files below it are re-checked after a restart instead of synced
	settleMax     = 1 << 30 // contents up to it are checked once more when they are whole
	maxSources    = 5       // Sources tried without getting on
	manyBlocks    = 1024    // a content of more has larger blocks, up to
	maxGrown      = 1 << 20 // this size
	maxBlocks     = 1 << 26 // of one content: 64 TiB by default
	pageSize      = 4096    // what a file's size is rounded to when it is charged
	highPercent   = 95      // of Limit: background eviction begins
	lowPercent    = 90      // of Limit: background eviction ends
	housekeepTime = 5 * time.Minute
)

// Cache is a hot cache in one directory. All methods may be called in parallel.
type Cache struct {
	o      Options
	log    *slog.Logger
	now    func() time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc
	group  errgroup.Group // every goroutine of the cache
	ops    sync.WaitGroup // calls that may change the disk
	lock   *os.File       // holds the flock
	mem    *lru.Cache[memKey, *memBlock]
	ahead  chan struct{} // tokens of read-ahead requests
	demand chan struct{} // tokens of demanded requests
	looks  chan struct{} // tokens of looks
	kick   chan struct{} // wakes the background eviction
	chunk  int           // bytes of one read-ahead request
	look   lookLimits
	maxFDs int64
	fds    atomic.Int64
	sick   atomic.Bool // the cache's disk failed and this was logged

	memMax     int64        // bytes in mem, roughly, and of all fills' recent blocks
	memUsed    atomic.Int64 // in mem
	recentUsed atomic.Int64

	hits, misses, evictions, corrupt, fetched atomic.Int64

	// mu guards the rest and what entry says it guards. It is never held across I/O, and
	// is taken after entry.mu where both are needed: readers hold their entry's lock when
	// they account a block, while the evictor learns only from here which entry to lock.
	mu       sync.Mutex
	changed  *sync.Cond // on mu: an eviction ended
	closed   bool
	dropped  []string // side files that Open found damaged, until a Scrub tells of them
	limit    int64
	used     int64
	reserved int64
	unsent   int64
	entries  map[Key]*entry
	idle     evictHeap // entries nobody uses, next victim first
	idleSum  int64     // their charges
	pins     map[*entry]struct{}
	age      float64 // GreedyDual: priority of the last victim
	evicting int     // evictions going on
}

// Open locks the directory and takes up what an earlier process left there; damaged
// entries are dropped and logged. ErrLocked names the process that has it.
func Open(o Options) (*Cache, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	c := &Cache{
		o: o, log: o.Log, now: o.Now, lock: lock, limit: o.Limit,
		kick:    make(chan struct{}, 1),
		entries: map[Key]*entry{}, pins: map[*entry]struct{}{},
		maxFDs: descriptorBudget(), chunk: chunkBytes, look: defaultLooks,
	}
	c.changed = sync.NewCond(&c.mu)
	// Of the memory two sevenths are for reading ahead, three for demands, one for what came
	// last, one for blocks of contents that are read past the cache. No holder of a token
	// waits for another.
	part := o.Memory / 7
	c.ahead = make(chan struct{}, tokens(2*part, max(chunkBytes, o.Block), maxAhead))
	c.demand = make(chan struct{}, tokens(3*part, max(demandBytes, o.Block), maxDemand))
	c.looks = make(chan struct{}, looksInAll)
	c.memMax = part
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	if c.mem, err = lru.NewWithEvict(tokens(part, o.Block, 1<<20), func(_ memKey, m *memBlock) { c.memUsed.Add(-int64(len(m.data))) }); err != nil {
		panic(err) // only for a size that is not positive
	}
	if err := c.load(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("open cache: %w", err)
	}
	c.group.Go(c.housekeep)
	c.wakeEvictor()
	return c, nil
}

// tokens is how many buffers of a size fit into the memory, at least one and at most most.
func tokens(memory int64, size, most int) int {
	return int(max(1, min(memory/int64(size), int64(most))))
}

// blockOf is the block of a content: of one that is large for small blocks it is a multiple of
// Block, up to 1 MiB, because what is done for each block adds up.
func (o *Options) blockOf(size int64) int {
	b := o.Block
	for b <= maxGrown/2 && size/int64(b) > manyBlocks {
		b *= 2
	}
	return b
}

func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("no directory given")
	}
	if o.Limit < 0 || o.FreeFloor < 0 || o.Block < 0 || o.Streams < 0 || o.Memory < 0 {
		return errors.New("limit, free floor, block, streams and memory cannot be negative")
	}
	if o.Limit == 0 {
		o.Limit = maxLimit
	}
	for _, end := range []*int64{&o.Head, &o.Tail} {
		if *end == 0 {
			*end = 1 << 20
		}
	}
	if o.Block == 0 {
		o.Block = 1 << 20
	}
	o.Block = int(pages(int64(o.Block)))
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	if o.Streams == 0 {
		o.Streams = 4
	}
	o.Streams = max(o.Streams, 2)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Close cancels all fetches, waits for every goroutine and call of the cache, writes down times
// of use and releases the directory. Files still open answer ErrClosed. Idempotent.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	all := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		all = append(all, e)
	}
	c.mu.Unlock()
	c.cancel(ErrClosed)
	c.ops.Wait()
	err := c.group.Wait()
	for _, e := range all {
		e.failWaiters(ErrClosed)
	}
	c.persistTouched(all)
	for _, e := range all {
		e.closeFiles(false)
	}
	return errors.Join(err, c.lock.Close())
}

// begin says that a call may change the disk from now on: Close waits until it is done.
func (c *Cache) begin() (done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	c.ops.Add(1)
	return c.ops.Done, nil
}

// spawn runs f on the cache's group, unless the cache is closing.
func (c *Cache) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.group.Go(func() error { f(); return nil })
	return true
}

// Stats are figures since Open, and the sizes of now.
type Stats struct {
	Limit    int64
	Used     int64 // bytes of resident blocks, in whole pages, and of the side files
	Reserved int64 // promised to fetches that are going on
	Unsent   int64 // ReserveUnsent
	Pinned   int64 // of Used
	Files    int   // contents of which something is resident

	Hits, Misses int64 // reads served at once, and reads that had to wait
	Evictions    int64
	Corrupt      int64 // blocks or contents found not to match their checksum
	FetchedBytes int64
}

// Stats never waits for I/O.
func (c *Cache) Stats() Stats {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{
		Limit: c.limit, Used: c.used, Reserved: c.reserved, Unsent: c.unsent,
		Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.evictions.Load(),
		Corrupt: c.corrupt.Load(), FetchedBytes: c.fetched.Load(),
	}
	for e := range c.pins {
		if e.pinned.After(now) {
			s.Pinned += e.charge
		}
	}
	for _, e := range c.entries {
		if e.charge > 0 {
			s.Files++
		}
	}
	return s
}

// housekeep evicts in the background and writes down times of use now and then.
func (c *Cache) housekeep() error {
	t := time.NewTicker(housekeepTime)
	defer t.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return nil
		case <-c.kick:
			c.evictToWatermark()
		case <-t.C:
			c.evictToWatermark()
			c.persistTouched(c.touched())
		}
	}
}
