package ingest

import (
	"context"
	"iter"

	"tarn/backends"
)

// Set is the ingests of one lake on this machine. All methods may be called in parallel.
type Set struct{ o Options }

// Open reads the definitions. Errors wrap ErrBusy when another process has the folder.
func Open(o Options) (*Set, error) { return &Set{o: o}, nil }

// Run works on all ingests that are not paused, those that are added meanwhile as well, until ctx ends; then it waits for
// all that it started. What it was at goes on when it runs again.
func (s *Set) Run(ctx context.Context) error { return backends.ErrNotSupported }

// Check tells all that is wrong with a definition.
func (s *Set) Check(ctx context.Context, d Definition) error { return backends.ErrNotSupported }

// Add checks the definition, makes its Target, puts its rules there, and begins when Run is under way. ErrExist.
func (s *Set) Add(ctx context.Context, d Definition) error { return backends.ErrNotSupported }

// List gives all ingests by name.
func (s *Set) List() []Status { return nil }

// Status gives one, or ErrNotExist, as all that take a name.
func (s *Set) Status(name string) (Status, error) { return Status{}, backends.ErrNotExist }

// Pause waits until what was under way has stopped.
func (s *Set) Pause(name string) error { return backends.ErrNotExist }

// Resume ends a pause.
func (s *Set) Resume(name string) error { return backends.ErrNotExist }

// Retry makes files that failed go on now: those named, relative to the folder, or all. It tells how many.
func (s *Set) Retry(name string, paths ...string) (int, error) { return 0, backends.ErrNotExist }

// Remove ends an ingest; its ledger is put aside. ErrNotEmpty while files that were found are not safe, unless force. Its
// rules stay.
func (s *Set) Remove(ctx context.Context, name string, force bool) error { return backends.ErrNotExist }

// Files streams the records, by path; with stages given, only those at one of them. Deleted ones are the tombstones.
func (s *Set) Files(ctx context.Context, name string, stages ...Stage) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) { yield(Record{}, backends.ErrNotExist) }
}

// Audit proves every deletion again from its tombstone: the catalogue has the same content, and every rule is fulfilled by
// verified replicas now. With deep the storages are asked for the checksums again.
func (s *Set) Audit(ctx context.Context, name string, deep bool, each func(Audited) error) error {
	return backends.ErrNotExist
}

// Once makes a single pass: until all that was complete in the folder is safe, and deleted if that is asked for. The
// ledger of Definition.Name is used, or one that goes by the folder and the target, so that a pass that was interrupted is
// carried on by the next. progress, which may be nil, hears of it every half second and at the end.
func (s *Set) Once(ctx context.Context, d Definition, progress func(Status)) (Status, error) {
	return Status{}, backends.ErrNotSupported
}

// Samples is the course of an ingest in this process, at most 2,000 moments that lie ever further apart.
func (s *Set) Samples(name string) []Sample { return nil }

// Latencies tells how long files took.
func (s *Set) Latencies(name string) (Latencies, error) { return Latencies{}, backends.ErrNotExist }

// Close closes the ledgers; Run must have ended.
func (s *Set) Close() error { return nil }
