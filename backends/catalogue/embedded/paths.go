package embedded

import (
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"tarn/backends"
)

// ref is a collection that was found by a path.
type ref struct {
	ino  uint64
	did  backends.DID
	flat bool // its scope has layout contents
}

// paths remembers which collection a path leads to, so that a look-up costs one
// access to the database and not one an element. A rename or removal of a collection
// empties it: it is suspended from before the commit until after it, and an epoch
// keeps readers of the state before from storing or using what they found.
type paths struct {
	cache *lru.Cache[string, ref]

	mu    sync.Mutex // guards epoch
	epoch uint64     // odd while suspended
}

func newPaths(n int) *paths {
	cache, err := lru.New[string, ref](max(n, 16))
	if err != nil {
		panic(err) // the size is positive
	}
	return &paths{cache: cache}
}

// begin is called before a view is opened; what it gives goes with get and put.
func (p *paths) begin() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

func (p *paths) get(epoch uint64, path string) (ref, bool) {
	p.mu.Lock()
	ok := epoch == p.epoch && epoch%2 == 0
	p.mu.Unlock()
	if !ok {
		return ref{}, false
	}
	return p.cache.Get(path)
}

func (p *paths) put(epoch uint64, path string, r ref) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch == p.epoch && epoch%2 == 0 {
		p.cache.Add(path, r)
	}
}

func (p *paths) suspend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
	p.cache.Purge()
}

func (p *paths) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
}
