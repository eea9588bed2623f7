// Package webdav is a storage element behind HTTP with WebDAV: XRootD, nginx and Apache servers,
// dCache, EOS, StoRM and their like.
//
//	st, err := webdav.Open(webdav.Options{URL: "davs://door.example.org:2880/pnfs/rse1", Credentials: src})
//
// reached from the lake's configuration as
//
//	rses:
//	  - {name: SITE-DISK, kind: disk, protocols: [{url: "davs://door.example.org:2880/pnfs/rse1"}]}
//
// The schemes davs and https are one, and dav and http. An upload is a PUT to the hidden folder
// .tarn-uploads at the top of the prefix, compared there with the server's own checksum, and moved to
// its place by Commit. Redirects to data servers are followed; a bearer token goes to the host of the URL
// only, and never over plain HTTP. The prefix itself must be there.
//
// Where one of two servers copies from the other or to it, the bytes do not come by here (CopyTo): it is given the token of
// the other one then, over TLS.
//
// What is sent keeps clear of what servers get wrong: ranges are closed and end within the file, no
// answer is taken for the bytes asked for unless it says so, what is in a listing and not below its
// folder is refused, and connections rest after what XRootD answers late (see lane).
package webdav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/credential"
	"tarn/backends/storage/wire"
)

// Options say where the storage is and how it is spoken to.
type Options struct {
	// URL is the prefix of all paths.
	URL string
	// Credentials are those of requests over TLS; nil shows none and trusts the system's authorities.
	Credentials *credential.Source
	// ReadOnly refuses Create and Remove.
	ReadOnly bool
	// Size is what Space tells of servers that do not know (RFC 4331); default 1 PiB.
	Size int64
	// Connections bounds those to one host; default 64.
	Connections int
	// Connect (10s) bounds DNS, TCP and TLS together.
	Connect time.Duration
	// Stall (60s) is how long a request may wait for the next byte in either direction.
	Stall time.Duration
	// Entries bounds a listing; default 10 million.
	Entries int
	// SpoolDir holds uploads of unknown size, which HTTP servers often refuse; default os.TempDir.
	SpoolDir string

	Log *slog.Logger
	Now func() time.Time
}

// Storage is a folder of a server.
type Storage struct {
	o    Options
	base *url.URL // http or https, without a slash at the end

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	pool  pool         // of all requests but those in
	lanes chan *lane   // that are free, the one that rested longest first
	spare atomic.Int32 // lanes that may yet be made

	server   atomic.Int32
	noDigest atomic.Int64 // when the server last showed that it knows no checksums, in ns; 0: it knows

	mu      sync.Mutex // guards the rest; never held across I/O
	closed  bool
	dirs    map[string]struct{}
	cleaned time.Time
	space   spaceAnswer
	// refusals are the copies with other servers that this one did not make, and when.
	refusals map[string]time.Time
}

var _ backends.Storage = (*Storage)(nil)

// Open gives the storage at o.URL. It fails when the options make no sense, not when the server is
// away: a lake must come up while one of its sites is down.
func Open(o Options) (*Storage, error) {
	base, err := parseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("open webdav storage: %w", err)
	}
	if o.Credentials == nil {
		o.Credentials = credential.None()
	}
	def(&o.Size, 1<<50)
	def(&o.Connections, 64)
	def(&o.Connect, 10*time.Second)
	def(&o.Stall, time.Minute)
	def(&o.Entries, 10_000_000)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Storage{o: o, base: base, dirs: map[string]struct{}{}, refusals: map[string]time.Time{}, lanes: make(chan *lane, maxLanes)}
	for range lanes {
		s.lanes <- &lane{}
	}
	s.spare.Store(maxLanes - lanes)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// parseURL gives the prefix as http or https. Its errors never show what stands for a password.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the URL cannot be parsed: %w", backends.ErrName)
	}
	switch u.Scheme {
	case "dav", "http":
		u.Scheme = "http"
	case "davs", "https":
		u.Scheme = "https"
	default:
		return nil, fmt.Errorf("want a URL of davs, https, dav or http, not of %q: %w", u.Scheme, backends.ErrName)
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("the URL has a user or password in it; use a token or a proxy: %w", backends.ErrName)
	case u.Hostname() == "":
		return nil, fmt.Errorf("the URL has no host: %w", backends.ErrName)
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return nil, fmt.Errorf("the URL has more than a path after the host: %w", backends.ErrName)
	}
	p := strings.Trim(u.Path, "/")
	if err := wire.CheckPath(p, "WebDAV"); err != nil {
		return nil, fmt.Errorf("the path of the URL: %w", err)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix("/"+p, "/")}, nil
}

// at is a path for people.
func (s *Storage) at(p string) string {
	if p == "" {
		return s.base.String()
	}
	return s.base.String() + "/" + p
}

// do runs one operation on a path: what it gets wrong is told with its name and the URL.
func (s *Storage) do(ctx context.Context, op, p string, f func(ctx context.Context) error) error {
	err := wire.CheckPath(p, "WebDAV")
	if err == nil {
		err = s.open(ctx)
	}
	if err == nil {
		err = f(ctx)
	}
	return s.edge(op, p, err)
}

func (s *Storage) open(ctx context.Context) error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return backends.ErrClosed
	}
	return ctx.Err()
}

func (s *Storage) edge(op, p string, err error) error {
	var ours *backends.OpError
	if err == nil || errors.As(err, &ours) {
		return err
	}
	return &backends.OpError{Op: op, At: s.at(p), Err: err}
}

// Stat implements backends.Storage, as the methods after it.
func (s *Storage) Stat(ctx context.Context, p string) (a backends.Attr, err error) {
	err = s.do(ctx, "stat", p, func(ctx context.Context) error {
		a, err = s.stat(ctx, p)
		return err
	})
	return a, err
}

// Open asks for the size; the bytes are had by ReadAt.
func (s *Storage) Open(ctx context.Context, p string) (o backends.Object, err error) {
	err = s.do(ctx, "open", p, func(ctx context.Context) error {
		a, err := s.stat(ctx, p)
		if err != nil {
			return err
		}
		if a.IsDir {
			return backends.ErrIsDir
		}
		o = &object{s: s, path: p, size: a.Size, mtime: a.MTime}
		return nil
	})
	return o, err
}

// Checksum gives the server's adler32 (RFC 3230), ErrNotSupported where it knows none.
func (s *Storage) Checksum(ctx context.Context, p string) (c backends.Checksums, err error) {
	err = s.do(ctx, "checksum", p, func(ctx context.Context) error {
		c, err = s.digest(ctx, p, 0)
		return err
	})
	return c, err
}

// Remove looks first: a DELETE of a folder takes with it what is in it.
func (s *Storage) Remove(ctx context.Context, p string) error {
	return s.do(ctx, "remove", p, func(ctx context.Context) error {
		if s.o.ReadOnly {
			return backends.ErrReadOnly
		}
		if p == "" {
			return fmt.Errorf("the prefix itself: %w", backends.ErrBusy)
		}
		a, err := s.stat(ctx, p)
		if err != nil {
			return err
		}
		if !a.IsDir {
			return s.simple(ctx, "DELETE", s.url(p), nil)
		}
		s.forget(p)
		if err := s.empty(ctx, p); err != nil {
			return err
		}
		err = s.simple(ctx, "DELETE", folderURL(s.url(p)), nil)
		if err != nil && s.empty(ctx, p) != nil { // somebody was quicker
			return s.empty(ctx, p)
		}
		return err
	})
}

// empty is ErrNotEmpty for a folder with something in it.
func (s *Storage) empty(ctx context.Context, dir string) error {
	err := s.entries(ctx, dir, func(backends.Attr) error { return backends.ErrNotEmpty })
	if errors.Is(err, backends.ErrNotExist) {
		return nil
	}
	return err
}

// Traits has checksums as long as the server has not shown that it knows none.
func (s *Storage) Traits() backends.StorageTraits {
	t := backends.StorageTraits{Checksums: []string{"adler32"}, Folders: true}
	if at := s.noDigest.Load(); at != 0 && s.o.Now().Sub(time.Unix(0, at)) < digestAgain {
		t.Checksums = nil
	}
	return t
}

// Close ends what is running.
func (s *Storage) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.tasks.Wait()
	s.pool.close()
	for range maxLanes - s.spare.Swap(0) {
		l := <-s.lanes
		l.close()
		s.lanes <- l
	}
	return nil
}

// digestAgain is after what time a server that knew no checksum is asked once more.
const digestAgain = 10 * time.Minute

// digestRate is how many bytes a second a server reads at least that computes a checksum.
const digestRate = 32 << 20

// digest asks for the server's own checksum. It may have to read a file that has just come, of this size.
func (s *Storage) digest(ctx context.Context, p string, size int64) (backends.Checksums, error) {
	none := backends.Checksums{}
	resp, f, err := s.send(ctx, request{
		method: "HEAD", url: s.url(p), header: http.Header{"Want-Digest": {"adler32"}}, racy: true,
		work: time.Duration(size/digestRate) * time.Second,
	})
	if err != nil {
		return none, s.absent(ctx, p, err)
	}
	f.End(resp)
	if c := parseDigest(resp.Header.Values("Digest")); !c.IsZero() {
		s.noDigest.Store(0)
		return c, nil
	}
	a, err := s.stat(ctx, p)
	if err != nil {
		return none, err
	}
	if a.IsDir {
		return none, backends.ErrIsDir
	}
	s.noDigest.Store(s.o.Now().UnixNano())
	return none, fmt.Errorf("checksums: %w", backends.ErrNotSupported)
}

// spaceAnswer is what Space last heard.
type spaceAnswer struct {
	at          time.Time
	total, free int64
}

// spaceFor is how long an answer is good.
const spaceFor = 10 * time.Second

// Space asks for quotas (RFC 4331). Where the server does not tell, Options.Size is all and free. A
// prefix that is not there is unavailable.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	err = s.do(ctx, "space", "", func(ctx context.Context) error {
		s.mu.Lock()
		a := s.space
		s.mu.Unlock()
		if d := s.o.Now().Sub(a.at); a.at.IsZero() || d < 0 || d > spaceFor {
			used, avail := int64(-1), int64(-1)
			if _, err := s.propfind(ctx, "", "0", func(e entry) error {
				used, avail = e.used, e.available
				return nil
			}); err != nil {
				return s.missing(err)
			}
			a = spaceAnswer{at: s.o.Now(), total: s.o.Size, free: s.o.Size}
			if avail >= 0 {
				a.free, a.total = avail, max(used, 0)+avail
			}
			a.total = max(a.total, 1)
			s.mu.Lock()
			s.space = a
			s.mu.Unlock()
		}
		total, free = a.total, a.free
		return nil
	})
	return total, free, err
}

// missing is what it means when the prefix is not there.
func (s *Storage) missing(err error) error {
	if errors.Is(err, backends.ErrNotExist) {
		return fmt.Errorf("the folder of the URL is not there; make it, or correct the URL: %w", backends.ErrUnavailable)
	}
	return err
}

// readBack computes digests of a file by reading it.
func (s *Storage) readBack(ctx context.Context, p string, algs []string) (backends.Checksums, error) {
	o, err := s.Open(ctx, p)
	if err != nil {
		return backends.Checksums{}, err
	}
	defer o.Close()
	c, err := checksum.Object(ctx, o, algs...)
	if err == io.ErrUnexpectedEOF {
		err = backends.ErrStale
	}
	return c, err
}
