// Package rucio is the catalogue of a lake that a Rucio server keeps: the same tree, commands and promises as the
// embedded one, over Rucio's REST.
//
//	cat, err := rucio.Open(rucio.Options{Client: client, Layout: backends.LayoutContents})
//
// What is seen is Rucio's: DIDs are (scope, name), the bytes of a name never change, rules, transfers and
// deletions are the server's. Three things are tarn's own conventions, which other clients see as what they are:
//
//   - Files that lie loose in a container are attached to a dataset <container>/__files__ below it, since Rucio's
//     containers hold no files; the tree shows them in the container.
//   - Who removes a name detaches it and sets its column "hidden", so that a look-up by name does not find
//     it on any node; Rucio has no deletion of a name.
//   - Rules on single files become rules on the dataset that they are in, never one a file.
//
// Everything that changes the server can be repeated: what is so already is success, after a comparison.
package rucio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// Options describe the lake; zero values of the numbers take the default.
type Options struct {
	// Client is the connection, which Close closes.
	Client *rest.Client
	// Layout of all scopes.
	Layout backends.Layout
	// ScopeOf gives the scope of a path in layout lfn; see ScopeAlgorithm.
	ScopeOf func(path string) string
	// Roots are the paths that stand at the root of the tree in layout lfn, /ctao; at least one is needed there.
	Roots []string
	// Scopes are those that are shown in layout contents; nil: all.
	Scopes []string

	// TTL (1 min) is how long what the server said is taken for true, and NegativeTTL (5 s) that a name is not there.
	TTL, NegativeTTL time.Duration
	// Stale (1 day) is how long it is shown while the server cannot be reached, with its date (AsOf).
	Stale time.Duration
	// Entries (300,000) bounds the entries of listings in memory, some 500 bytes each.
	Entries int

	// Lifetime of rules that say nothing of an end; 0: for ever, which Rucio may reserve to administrators.
	Lifetime time.Duration
	// Activity and Comment of rules that have none.
	Activity, Comment string
	// Expire lets Rucio delete a file that was removed from its last collection; else it stays, without one.
	Expire bool

	// UID, GID own all entries.
	UID, GID uint32

	Log *slog.Logger
	Now func() time.Time
}

// Catalogue is backends.Catalogue, Namespace, Rules, Importer, Places and Served on a Rucio server. All methods may be called in parallel.
type Catalogue struct {
	o    Options
	c    *rest.Client
	log  *slog.Logger
	now  func() time.Time
	stop context.CancelFunc
	ctx  context.Context // ends with Close
	wg   sync.WaitGroup
	life sync.Mutex // of Close against run

	attrs    *lru.Cache[backends.DID, attr]
	replicas *lru.Cache[backends.DID, copies]
	bad      *lru.Cache[at, badness] // replicas found bad that the server may not have noted, and why
	ruled    *lru.Cache[string, rule]
	met      *lru.Cache[backends.DID, meeting]   // where a query that walked the tree met DIDs
	joined   *lru.Cache[backends.DID, time.Time] // since when datasets of loose files are known to be attached to their containers
	within   *lru.Cache[edgeOf, time.Time]       // since when collections are known to be in others, in layout contents
	inodes   *lru.Cache[backends.DID, uint64]    // that Add was given, as long as the process lives
	marks    *lru.Cache[backends.DID, uint64]    // when something of a DID was last changed here, by changes
	changes  atomic.Uint64
	listings listings
	batch    batch

	mu     sync.Mutex         // guards the rest
	rses   map[string]element // that were asked for
	names  []string           // of all RSEs; nil: not asked for
	named  time.Time
	scopes []string
	scoped time.Time
	awayAt time.Time // when the server could not be asked; zero: it answers
	usage  struct{ files, bytes int64 }
}

// at is a replica.
type at struct {
	did backends.DID
	rse string
}

// edgeOf is a collection in another one.
type edgeOf struct{ parent, child backends.DID }

var (
	_ backends.Catalogue = (*Catalogue)(nil)
	_ backends.Served    = (*Catalogue)(nil)
	_ backends.Namespace = (*Catalogue)(nil)
	_ backends.Rules     = (*Catalogue)(nil)
	_ backends.Importer  = (*Catalogue)(nil)
	_ backends.Places    = (*Catalogue)(nil)
)

// Open begins to use a server, which need not be up.
func Open(o Options) (*Catalogue, error) {
	if o.Client == nil {
		return nil, errors.New("open Rucio catalogue: no client")
	}
	switch o.Layout {
	case backends.LayoutContents:
	case backends.LayoutLFN:
		if o.ScopeOf == nil || len(o.Roots) == 0 {
			return nil, errors.New("open Rucio catalogue: layout lfn needs a scope algorithm and roots")
		}
	default:
		return nil, fmt.Errorf("open Rucio catalogue: layout %q", o.Layout)
	}
	defaults := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	defaults(&o.TTL, time.Minute)
	defaults(&o.NegativeTTL, 5*time.Second)
	defaults(&o.Stale, 24*time.Hour)
	if o.Entries <= 0 {
		o.Entries = 300_000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Catalogue{o: o, c: o.Client, log: o.Log, now: o.Now}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.attrs, _ = lru.New[backends.DID, attr](o.Entries / 4)
	c.replicas, _ = lru.New[backends.DID, copies](10_000)
	c.bad, _ = lru.New[at, badness](10_000)
	c.ruled, _ = lru.New[string, rule](1000)
	c.met, _ = lru.New[backends.DID, meeting](10_000)
	c.joined, _ = lru.New[backends.DID, time.Time](10_000)
	c.within, _ = lru.New[edgeOf, time.Time](10_000)
	c.inodes, _ = lru.New[backends.DID, uint64](100_000)
	c.marks, _ = lru.New[backends.DID, uint64](10_000)
	c.listings.init(o.Entries)
	c.wg.Go(c.watch)
	return c, nil
}

// watch keeps the usage up to date.
func (c *Catalogue) watch() {
	for {
		wait := 5 * time.Minute
		if err := c.measure(c.ctx); err != nil {
			c.log.Debug("usage of the lake not known", "err", err)
			wait = time.Minute
		}
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
			return
		}
	}
}

// measure asks how much the account has.
func (c *Catalogue) measure(ctx context.Context) error {
	account, _ := c.c.Account()
	all, err := c.c.AccountUsage(ctx, account)
	if err != nil {
		return err
	}
	var files, bytes int64
	for _, u := range all {
		files += max(int64(u.Files), 0)
		bytes += max(int64(u.Bytes), 0)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.usage.files, c.usage.bytes = files, bytes
	return nil
}

// Close ends what runs in the background, and gives the connections back.
func (c *Catalogue) Close() error {
	c.life.Lock()
	c.stop()
	c.life.Unlock()
	c.wg.Wait()
	c.c.Close()
	return nil
}

// run starts f, for whose end Close waits; not once it is closed.
func (c *Catalogue) run(f func()) {
	c.life.Lock()
	defer c.life.Unlock()
	if c.ctx.Err() == nil {
		c.wg.Go(f)
	}
}

// Traits: names never get another content, nor another name; who owns what and when it changed is Rucio's.
func (c *Catalogue) Traits() backends.CatalogueTraits { return backends.CatalogueTraits{} }

// Usage gives what the account has under rules, as of a few minutes ago.
func (c *Catalogue) Usage() (files, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.usage.files, c.usage.bytes
}

// edge adds what was done to an error.
func edge(op string, d backends.DID, err error) error {
	if err == nil {
		return nil
	}
	return &backends.OpError{Op: op, DID: d, Err: err}
}

// ScopeAlgorithm gives the function of that name by which the scope of an LFN is found (lib/rucio/common/utils.py,
// extract_scope_*, and CTAO's policy package). False: there is none.
//
//	dirac      the second element of the path, the first one where there is no second
//	ctao_bdms  the same, and "root" for / and /VO
//	belleii    "user.NAME" below /belle/user/NAME, "group.NAME" below /belle/group/NAME, "mc", "data" and so on by the element after /belle, else "other"
func ScopeAlgorithm(name string) (f func(path string) string, ok bool) {
	elems := func(p string) []string { return strings.Split(strings.Trim(p, "/"), "/") }
	switch name {
	case "dirac":
		return func(p string) string {
			e := elems(p)
			return e[min(1, len(e)-1)]
		}, true
	case "ctao_bdms":
		return func(p string) string {
			if e := elems(p); len(e) > 1 {
				return e[1]
			}
			return "root"
		}, true
	case "belleii":
		return func(p string) string {
			e := elems(p)
			if len(e) < 2 || e[0] != "belle" {
				return "other"
			}
			switch strings.ToLower(e[1]) {
			case "user", "group":
				if len(e) > 2 {
					return strings.ToLower(e[1]) + "." + e[2]
				}
				return strings.ToLower(e[1])
			case "mc":
				return "mc"
			case "data", "raw":
				return strings.ToLower(e[1])
			}
			return "other"
		}, true
	}
	return nil, false
}

// isLFN tells whether the tree is made of names.
func (c *Catalogue) isLFN() bool { return c.o.Layout == backends.LayoutLFN }

// isRoot tells whether d is one of the paths at the root of the tree.
func (c *Catalogue) isRoot(d backends.DID) bool {
	return c.isLFN() && slices.Contains(c.o.Roots, d.Name)
}
