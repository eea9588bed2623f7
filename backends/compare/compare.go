// Package compare compares what lies at storages with what the catalogue has on record of them. It finds replicas that
// are lost (not there, or of another size) or bad (of another checksum), and files that nobody knows (dark), and sets
// right what can be: lost and bad replicas are declared BAD, so that rules make others, and one that was declared BAD
// and is good is AVAILABLE again.
//
//	sum, err := compare.Storages(ctx, compare.Options{Lake: l, Scratch: "/srv/lake/run", Unsent: journal}, rses, func(f compare.Finding) error {
//		fmt.Println(f.What, f.RSE, f.PFN)
//		return nil
//	})
//
// The lake may be in use. A storage is listed between two looks at the catalogue, and what does not fit together is
// asked for once more, replica by replica, before anything is said or done. Memory is bounded: what is compared is
// sorted on disk.
package compare

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/backends"
	"tarn/backends/lake"
)

// What a Finding tells.
const (
	Lost        = "lost"        // the catalogue says AVAILABLE; the storage has none, or one of another size
	Bad         = "bad"         // its checksum differs
	Dark        = "dark"        // a file that nobody knows
	Back        = "back"        // declared BAD, and good
	Unread      = "unread"      // its checksum was to be compared, and could not be had
	Unavailable = "unavailable" // the storage does not answer, or not one of its replicas is there: nothing is said of them
	Gone        = "gone"        // a file of which no good copy is left
)

// Options says what is compared, and what is done about it.
type Options struct {
	Lake    *lake.Lake // with Records, for Storages
	Scratch string     // a folder for what is sorted; "": the system's

	Deep   bool // compare checksums, as the storage tells them or of the bytes read; those on tape that are not staged are left out
	Repair bool // declare lost and bad ones BAD, and those that are good again AVAILABLE
	// DeleteDark deletes what nobody knows. Not at RSEs that are shared or read-only.
	DeleteDark bool
	// Force believes a storage that has not one of its replicas.
	Force bool
	// Grace is the least age of a file that is called dark, by the storage's clock; 1 h.
	Grace time.Duration
	// Workers is how many replicas are looked at closely at a time; 8.
	Workers int

	// Unsent gives where copies lie or will lie that are on no record of the catalogue yet, and the files that they are
	// of: those of the journal, and of ingests. It is asked several times. Nil: none.
	Unsent func() Unsent
	// Good, if not nil, hears of each replica of a present content that is there as it should be. From any goroutine, one
	// call at a time.
	Good func(d backends.DID, rse string)
	// Progress, if not nil, hears how many files of a storage have been listed; as Good.
	Progress func(rse string, files int64)

	Log *slog.Logger
	Now func() time.Time
}

// Place is where a copy lies; PFN as path.Clean gives it.
type Place struct{ RSE, PFN string }

// Unsent is what is not on record yet.
type Unsent struct {
	Places []Place
	Files  []backends.DID
}

// Finding is one thing that is not as it should be.
type Finding struct {
	What     string
	RSE      string
	PFN      string
	DID      backends.DID // zero where nobody knows
	Size     int64
	MTime    time.Time // of a dark one
	Detail   string
	Note     bool // no fault of the lake: an unknown file at a shared RSE, one on tape that is not read
	Repaired bool
}

// Summary counts what was looked at.
type Summary struct {
	Files    int64 // at storages
	Bytes    int64
	Replicas int64 // on record, of those RSEs, that should be there
	Good     int64 // of them
}

// check is one run.
type check struct {
	Options
	tell func(Finding) error
	g    *errgroup.Group

	mu   sync.Mutex // guards the rest; one call of tell, Good and Progress at a time
	sum  Summary
	poor *sorter // replicas that are no good, by DID
}

func newCheck(o Options, tell func(Finding) error) *check {
	if o.Grace <= 0 {
		o.Grace = time.Hour
	}
	if o.Workers <= 0 {
		o.Workers = 8
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &check{Options: o, tell: tell, poor: newSorter(o.Scratch)}
}

// workers makes the group of what looks closely; wait ends it, and with stop it ends soon.
func (c *check) workers(ctx context.Context) (own context.Context, wait func(err error) error) {
	own, stop := context.WithCancel(ctx)
	c.g, own = errgroup.WithContext(own)
	c.g.SetLimit(c.Workers)
	return own, func(err error) error {
		if err != nil {
			stop()
		}
		gerr := c.g.Wait()
		stop()
		if gerr != nil && (err == nil || errors.Is(err, context.Canceled)) {
			err = gerr
		}
		return err
	}
}

func (c *check) say(f Finding) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tell(f)
}

func (c *check) unsent() Unsent {
	if c.Unsent == nil {
		return Unsent{}
	}
	return c.Unsent()
}

// Files looks at the replicas of single files at the RSEs for which of says so, and asks the storages for each of them.
// What is dark is not looked for.
func Files(ctx context.Context, o Options, files func(each func(backends.Info) error) error, of func(rse string) bool, tell func(Finding) error) (Summary, error) {
	c := newCheck(o, tell)
	defer c.poor.close()
	own, wait := c.workers(ctx)
	err := files(func(in backends.Info) error {
		if own.Err() != nil {
			return own.Err()
		}
		reps, err := c.Lake.Catalogue().Replicas(own, in.DID)
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
			return nil // not registered, or removed meanwhile
		}
		if err != nil {
			return err
		}
		for _, r := range reps {
			if of(r.RSE) {
				row := rowOf(in, r, false)
				c.g.Go(func() error { return c.closely(own, row) })
			}
		}
		return nil
	})
	if err = wait(err); err == nil {
		err = c.gone(ctx)
	}
	return c.sum, err
}

// Storages lists whole storages.
func Storages(ctx context.Context, o Options, rses []*lake.RSE, tell func(Finding) error) (Summary, error) {
	c := newCheck(o, tell)
	defer c.poor.close()
	if c.Lake.Records() == nil {
		return c.sum, fmt.Errorf("compare storages with this catalogue: %w", backends.ErrNotSupported)
	}
	for _, rse := range rses {
		err := c.storage(ctx, rse)
		if ctx.Err() != nil {
			return c.sum, context.Cause(ctx)
		}
		if err != nil {
			return c.sum, err
		}
	}
	return c.sum, c.gone(ctx)
}
