package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/credential"
	"tarn/backends/endpoint"
	"tarn/backends/retry"
	"tarn/backends/storage/gridftp"
	"tarn/backends/storage/posix"
	"tarn/backends/storage/s3"
	"tarn/backends/storage/webdav"
	"tarn/backends/storage/xrootd"
	"tarn/cmd/tarn/config"
)

// protocols is an RSE that several ways lead to, for each kind of work the best first. The next one is
// taken where one is unavailable.
type protocols struct {
	read, write, remove []backends.Storage
	copyRead, copyWrite []way // for copies by third party
	all                 []backends.Storage
	doors               []*endpoint.Endpoint // that they go through, each once
}

// way is a protocol as one end of a copy by third party.
type way struct {
	backends.Storage
	family   string
	priority int
}

var (
	_ backends.Storage    = (*protocols)(nil)
	_ backends.ThirdParty = (*protocols)(nil)
)

// openProtocols opens what the lake file names. What cannot be opened is an error or, with skip, told to that and left out.
func openProtocols(r config.RSE, doors *endpoint.Set, cred *credential.Source, algs []string, log *slog.Logger, now func() time.Time, skip func(config.Protocol, error)) (_ *protocols, err error) {
	p := &protocols{}
	var opened []config.Protocol // as p.all
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	for _, c := range r.Protocols {
		st, err := openProtocol(c, r, cred, algs, log, now)
		if err != nil && skip != nil {
			skip(c, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		opened = append(opened, c)
		if door := c.Door(); door != "" {
			e := doors.At(door)
			if !slices.Contains(p.doors, e) {
				p.doors = append(p.doors, e)
			}
			st = e.Storage(st)
		}
		st = again(c, st, log)
		p.all = append(p.all, st)
		if n := c.CopyReadPriority(); n > 0 {
			p.copyRead = append(p.copyRead, way{st, c.Family(), n})
		}
		if n := c.CopyWritePriority(); n > 0 {
			p.copyWrite = append(p.copyWrite, way{st, c.Family(), n})
		}
	}
	order := func(prio func(config.Protocol) *int) (out []backends.Storage) {
		var at []int
		for i, c := range opened {
			if config.Priority(prio(c)) > 0 {
				at = append(at, i)
			}
		}
		slices.SortStableFunc(at, func(a, b int) int {
			return cmp.Compare(config.Priority(prio(opened[a])), config.Priority(prio(opened[b])))
		})
		for _, i := range at {
			out = append(out, p.all[i])
		}
		return out
	}
	p.read = order(func(c config.Protocol) *int { return c.Read })
	p.write = order(func(c config.Protocol) *int { return c.Write })
	p.remove = order(func(c config.Protocol) *int { return c.Delete })
	return p, nil
}

// doorsOf makes the doors of a lake, with the limits that its file gives them.
func doorsOf(cfg *config.Config, cred *credential.Source, log *slog.Logger) *endpoint.Set {
	set := endpoint.NewSet(endpoint.Options{Expired: cred.Expired, Log: log})
	for _, r := range cfg.RSEs {
		for _, p := range r.Protocols {
			set.Limit(p.Door(), endpoint.Limits{Concurrent: p.Limits.Concurrent, Read: int64(p.Limits.Read), Write: int64(p.Limits.Write)})
		}
	}
	return set
}

// states tells how it stands with the doors.
func (p *protocols) states() []backends.EndpointState {
	var out []backends.EndpointState
	for _, e := range p.doors {
		out = append(out, e.State())
	}
	return out
}

// again tries a few times what fails temporarily at a server: the lake has other replicas, and the
// journal comes again by itself.
func again(c config.Protocol, st backends.Storage, log *slog.Logger) backends.Storage {
	if c.Door() == "" {
		return st
	}
	return retry.NewStorage(st, retry.Options{Attempts: 3, Total: 15 * time.Second, Budget: 100, Log: log})
}

// openProtocol is the way from a scheme to what speaks it.
func openProtocol(p config.Protocol, r config.RSE, cred *credential.Source, algs []string, log *slog.Logger, now func() time.Time) (backends.Storage, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, fmt.Errorf("the URL cannot be parsed: %w", backends.ErrName)
	}
	cred = cred.Of(filesOf(p))
	switch u.Scheme {
	case "davs", "https", "dav", "http":
		return madeOrNil(webdav.Open(webdav.Options{URL: p.URL, Credentials: cred, ReadOnly: r.ReadOnly, Size: int64(r.Size), Log: log, Now: now}))
	case "gsiftp", "ftp":
		return madeOrNil(gridftp.Open(gridftp.Options{
			URL: p.URL, Credentials: cred, Marker: r.Marker, ReadOnly: r.ReadOnly, Capacity: int64(r.Size), Checksums: algs, Log: log, Now: now,
		}))
	case "root", "roots":
		return madeOrNil(xrootd.Open(xrootd.Options{
			URL: p.URL, Credentials: cred, Marker: r.Marker, ReadOnly: r.ReadOnly, Capacity: int64(r.Size), Checksums: algs, Log: log, Now: now,
		}))
	case "s3s", "s3":
		return madeOrNil(s3.Open(s3.Options{
			URL: p.URL, Credentials: cred, KeyFile: p.Keys, Style: p.Style, Region: p.Region, ReadOnly: r.ReadOnly, Size: int64(r.Size), Log: log, Now: now,
		}))
	case "file":
		return madeOrNil(posix.Open(posix.Options{Dir: u.Path, Marker: r.Marker, Checksums: algs, FreeFloor: int64(r.FreeFloor), ReadOnly: r.ReadOnly, Log: log, Now: now}))
	}
	return nil, fmt.Errorf("scheme %q: %w", u.Scheme, backends.ErrNotSupported)
}

// filesOf are the credentials that a protocol has for itself.
func filesOf(p config.Protocol) credential.Files {
	return credential.Files{Proxy: p.Proxy, Token: p.Token}
}

// madeOrNil leaves out what a constructor gave with its error: a nil of its own type is no nil here.
func madeOrNil[T backends.Storage](st T, err error) (backends.Storage, error) {
	if err != nil {
		return nil, err
	}
	return st, nil
}

// first does it by the first way that is available. The error is that of the first.
func first[T any](ctx context.Context, by []backends.Storage, f func(backends.Storage) (T, error)) (T, error) {
	var zero T
	err := fmt.Errorf("no protocol of the RSE does this: %w", backends.ErrNotSupported)
	for i, st := range by {
		v, e := f(st)
		if e == nil {
			return v, nil
		}
		if i == 0 || !errors.Is(e, backends.ErrUnavailable) {
			err = e
		}
		if !errors.Is(e, backends.ErrUnavailable) || ctx.Err() != nil {
			break
		}
	}
	return zero, err
}

// Stat implements backends.Storage, as the methods after it.
func (p *protocols) Stat(ctx context.Context, path string) (backends.Attr, error) {
	return first(ctx, p.read, func(s backends.Storage) (backends.Attr, error) { return s.Stat(ctx, path) })
}

// List goes on with the next way only as long as nothing was given.
func (p *protocols) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		given, stopped := false, false
		_, err := first(ctx, p.read, func(s backends.Storage) (struct{}, error) {
			for a, err := range s.List(ctx, dir) {
				if err != nil && given {
					stopped = true
					yield(a, err)
					return struct{}{}, nil
				}
				if err != nil {
					return struct{}{}, err
				}
				given = true
				if !yield(a, nil) {
					stopped = true
					return struct{}{}, nil
				}
			}
			return struct{}{}, nil
		})
		if err != nil && !stopped {
			yield(backends.Attr{}, err)
		}
	}
}

func (p *protocols) Open(ctx context.Context, path string) (backends.Object, error) {
	return first(ctx, p.read, func(s backends.Storage) (backends.Object, error) { return s.Open(ctx, path) })
}

func (p *protocols) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	return first(ctx, p.write, func(s backends.Storage) (backends.Upload, error) { return s.Create(ctx, path, size) })
}

func (p *protocols) Checksum(ctx context.Context, path string) (backends.Checksums, error) {
	return first(ctx, p.read, func(s backends.Storage) (backends.Checksums, error) { return s.Checksum(ctx, path) })
}

func (p *protocols) Remove(ctx context.Context, path string) error {
	_, err := first(ctx, p.remove, func(s backends.Storage) (struct{}, error) { return struct{}{}, s.Remove(ctx, path) })
	return err
}

func (p *protocols) Space(ctx context.Context) (total, free int64, err error) {
	type answer struct{ total, free int64 }
	a, err := first(ctx, p.read, func(s backends.Storage) (a answer, err error) {
		a.total, a.free, err = s.Space(ctx)
		return a, err
	})
	return a.total, a.free, err
}

// pairs are the protocols that may copy from p to q, those first whose priorities are the best together.
func (p *protocols) pairs(q *protocols) (out [][2]way) {
	for _, from := range p.copyRead {
		for _, to := range q.copyWrite {
			if from.family == to.family {
				out = append(out, [2]way{from, to})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b [2]way) int {
		return cmp.Or(cmp.Compare(a[0].priority+a[1].priority, b[0].priority+b[1].priority), cmp.Compare(a[1].priority, b[1].priority))
	})
	return out
}

// CopyTo takes the next pair of protocols where one cannot, or is unavailable: nothing is there then.
func (p *protocols) CopyTo(ctx context.Context, src string, to backends.Storage, dst string, size int64, want backends.Checksums, progress func(int64)) (none backends.Checksums, err error) {
	cannot := fmt.Errorf("copy %s: no protocol of both does this: %w", src, backends.ErrNotSupported)
	q, ok := to.(*protocols)
	if !ok {
		return none, cannot
	}
	for _, pair := range p.pairs(q) {
		tp, ok := pair[0].Storage.(backends.ThirdParty)
		if !ok {
			continue
		}
		got, e := tp.CopyTo(ctx, src, pair[1].Storage, dst, size, want, progress)
		switch {
		case e == nil:
			return got, nil
		case errors.Is(e, backends.ErrNotSupported):
			continue
		case err == nil:
			err = e
		}
		if !errors.Is(e, backends.ErrUnavailable) || ctx.Err() != nil {
			return none, e
		}
	}
	return none, cmp.Or(err, cannot)
}

// Traits are those of the best way to read.
func (p *protocols) Traits() backends.StorageTraits { return p.read[0].Traits() }

// Close closes all.
func (p *protocols) Close() error {
	var errs []error
	for _, s := range p.all {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
