//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/credential"
)

// Storage is a folder of a server.
//
// While the server is away, or the folder or the Marker is not there, everything is ErrUnavailable (with ErrTemporary),
// never ErrNotExist; it works again when they are back.
type Storage struct {
	o      Options
	end    endpoint
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	slots  chan struct{} // of requests that are out
	copies chan struct{} // of those that the server fetches from another one
	tasks  sync.WaitGroup

	mu      sync.Mutex // guards the rest; never held across I/O
	fs      *counted   // of fsURL; nil: not made yet, or closed
	fsURL   string
	closed  bool
	folders map[string]struct{}  // known to be there; bounded
	cleaned time.Time            // when left-over uploads were last looked for
	noSums  time.Time            // when the server last showed that it knows no checksums; zero: it knows
	noCopy  map[string]time.Time // when it turned out that another storage cannot fetch from here; bounded
	space   spaceAnswer
}

var (
	_ backends.Storage    = (*Storage)(nil)
	_ backends.ThirdParty = (*Storage)(nil)
)

func open(o Options, end endpoint) (backends.Storage, error) {
	if len(o.Checksums) == 0 {
		o.Checksums = checksum.Default
	}
	for _, a := range o.Checksums {
		if !slices.Contains([]string{"adler32", "md5", "sha256"}, a) {
			return nil, fmt.Errorf("open xrootd storage %s: checksum %q: %w", end, a, backends.ErrNotSupported)
		}
	}
	if o.Capacity <= 0 {
		o.Capacity = 1 << 50
	}
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Requests <= 0 {
		o.Requests = 256
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Storage{o: o, end: end, folders: map[string]struct{}{}, noCopy: map[string]time.Time{}}
	s.slots, s.copies = make(chan struct{}, o.Requests), make(chan struct{}, max(o.Requests/8, 1))
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// remote is the absolute path on the server.
func (s *Storage) remote(p string) string { return path.Join(s.end.prefix, p) }

// at is what errors call a path.
func (s *Storage) at(p string) string {
	return s.end.scheme + "://" + s.end.addr + "/" + s.remote(strings.ToValidUTF8(p, "?"))
}

// url is that of an absolute path for the library, which shares a connection among URLs of one proxy. One that the
// storage has for itself is named whether it is good or not: the library would look for another.
func (s *Storage) url(remote string) string {
	return withQuery(s.end.scheme+"://"+s.end.addr+"/"+remote, s.identity())
}

// identity is what a URL says of who asks. A token goes over TLS alone, which the library sees to.
func (s *Storage) identity() string {
	c := s.o.Credentials
	if c == nil {
		return ""
	}
	var who, by []string
	if own := c.Named(); own != (credential.Files{}) {
		if own.Token != "" {
			who, by = append(who, "xrdcl.intent="+holderOf(c)), append(by, "ztn")
		}
		if own.Proxy != "" {
			who, by = append(who, "xrd.gsiusrpxy="+own.Proxy), append(by, "gsi")
		}
		return strings.Join(append(who, "xrd.wantprot="+strings.Join(by, ",")), "&")
	}
	if t, err := c.Token(); err == nil && t.Secret != "" {
		who = append(who, "xrdcl.intent="+holderOf(c))
	}
	if p, err := c.Proxy(); err == nil && p.Cert != nil && !strings.ContainsAny(p.From, "&?=%# ") {
		who = append(who, "xrd.gsiusrpxy="+p.From)
	}
	return strings.Join(who, "&")
}

// withQuery adds to the query of a URL.
func withQuery(u, query string) string {
	switch {
	case query == "":
		return u
	case strings.Contains(u, "?"):
		return u + "&" + query
	}
	return u + "?" + query
}

// do is what all operations have in common: path and context are checked, and what comes back speaks tarn's errors.
func (s *Storage) do(ctx context.Context, op, p string, f func() error) error {
	err := checkPath(p)
	if err == nil && s.ctx.Err() != nil {
		err = backends.ErrClosed
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = f()
	}
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrStale) {
		// "Not there" is an answer only while the folder itself is.
		if away := s.present(ctx); away != nil {
			err = away
		}
	}
	return s.edge(op, p, err)
}

// present tells whether the folder is there that all paths are below, with its Marker.
func (s *Storage) present(ctx context.Context) error {
	what := s.remote(s.o.Marker)
	i, err := s.lookRemote(ctx, what)
	switch {
	case errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir):
		return &backends.AnsweredError{Err: down("%s is not there", what)}
	case err == nil && s.o.Marker == "" && i.flags&isDir == 0:
		return &backends.AnsweredError{Err: down("%s is no folder", what)}
	}
	return err
}

func (s *Storage) lookRemote(ctx context.Context, remote string) (info, error) {
	a, err := s.ask(ctx, s.o.Timeout, fsStat, remote, "")
	if isServer(err, xFSError) && s.throughFile(ctx, remote) { // ENOTDIR has no code of its own
		err = fmt.Errorf("%s goes through a file: %w", remote, backends.ErrNotDir)
	}
	return a.info, err
}

// refresh lets a manager ask its servers for a path again: it remembers for long what they did not have.
func (s *Storage) refresh(ctx context.Context, remote string) error {
	_, err := s.ask(ctx, s.o.Timeout, fsLocate, remote, "")
	return err
}

// throughFile tells whether an element of an absolute path before the last is a file.
func (s *Storage) throughFile(ctx context.Context, remote string) bool {
	for dir := path.Dir(remote); len(dir) > len(s.end.prefix); dir = path.Dir(dir) {
		a, err := s.ask(ctx, s.o.Timeout, fsStat, dir, "")
		if err == nil {
			return a.info.flags&isDir == 0
		}
	}
	return false
}

// look is what a path is. One that goes through a file is not there for whoever looks for something.
func (s *Storage) look(ctx context.Context, p string) (info, error) {
	i, err := s.lookRemote(ctx, s.remote(p))
	if nowhere(err) && s.refresh(ctx, s.remote(p)) == nil {
		i, err = s.lookRemote(ctx, s.remote(p))
	}
	if errors.Is(err, backends.ErrNotDir) {
		err = fmt.Errorf("%v: %w", err, backends.ErrNotExist)
	}
	return i, err
}

func attr(p string, i info) backends.Attr {
	a := backends.Attr{Path: p, Size: i.size, IsDir: i.flags&isDir != 0, MTime: i.mtime}
	if a.IsDir {
		a.Size = 0
	}
	return a
}

// Stat implements backends.Storage, as the methods after it.
func (s *Storage) Stat(ctx context.Context, p string) (a backends.Attr, err error) {
	err = s.do(ctx, "stat", p, func() error {
		i, err := s.look(ctx, p)
		a = attr(p, i)
		return err
	})
	if err != nil {
		a = backends.Attr{}
	}
	return a, err
}

// Checksum lets the server give or compute adler32; ErrNotSupported where it knows none.
func (s *Storage) Checksum(ctx context.Context, p string) (c backends.Checksums, err error) {
	err = s.do(ctx, "checksum", p, func() error {
		i, err := s.look(ctx, p)
		if err != nil {
			return err
		}
		if i.flags&isDir != 0 {
			return backends.ErrIsDir
		}
		c, err = s.sum(ctx, s.remote(p), i.size)
		return err
	})
	return c, err
}

// sumsAgain is after what time a server that knew no checksum is asked once more.
const sumsAgain = 10 * time.Minute

// sumsPause is after what time a server that was too busy for a checksum is asked again, at first and at most.
const sumsPause, maxSumsPause = 250 * time.Millisecond, 5 * time.Second

// sum is the server's adler32 (kXR_Qcksum). A server has few places for those that it computes (3 * xrootd.chksum max in
// XrdXrootdJob), and wants whoever comes to a full house back in half a minute: it is asked again before that, for as long
// as the work itself may take twice.
func (s *Storage) sum(ctx context.Context, remote string, size int64) (none backends.Checksums, err error) {
	d := s.patience(size)
	ask := func() (answer, error) { return s.ask(ctx, d, fsChecksum, remote+"?cks.type=adler32", "") }
	began := time.Now()
	a, err := ask()
	for pause := sumsPause; mustWait(err) && time.Since(began) < 2*d; pause = min(2*pause, maxSumsPause) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return none, ctx.Err()
		case <-s.ctx.Done():
			return none, backends.ErrClosed
		}
		a, err = ask()
	}
	if errors.Is(err, backends.ErrNotSupported) {
		s.mu.Lock()
		s.noSums = s.o.Now()
		s.mu.Unlock()
	}
	if err != nil {
		return none, err
	}
	f := strings.Fields(strings.TrimRight(a.text, "\x00"))
	if len(f) != 2 || f[0] != "adler32" {
		return none, fmt.Errorf("the server gives %q as adler32: %w", printable(a.text), backends.ErrUnavailable)
	}
	v, perr := strconv.ParseUint(f[1], 16, 32)
	if perr != nil {
		return none, fmt.Errorf("the server gives %q as adler32: %w", printable(a.text), backends.ErrUnavailable)
	}
	s.mu.Lock()
	s.noSums = time.Time{}
	s.mu.Unlock()
	return backends.Checksums{Adler32: fmt.Sprintf("%08x", v)}, nil
}

// patience is for work that reads or writes the whole file: 10 MB/s are expected at least.
func (s *Storage) patience(size int64) time.Duration {
	return s.o.Timeout + time.Duration(max(size, 0)/10_000)*time.Millisecond
}

// Traits has checksums as long as the server has not shown that it knows none.
func (s *Storage) Traits() backends.StorageTraits {
	t := backends.StorageTraits{Checksums: []string{"adler32"}, Folders: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.noSums.IsZero() && s.o.Now().Sub(s.noSums) < sumsAgain {
		t.Checksums = nil
	}
	return t
}

// Remove deletes a file or an empty folder.
func (s *Storage) Remove(ctx context.Context, p string) error {
	if s.o.ReadOnly {
		return s.edge("remove", p, backends.ErrReadOnly)
	}
	return s.do(ctx, "remove", p, func() error {
		if p == "" {
			return fmt.Errorf("the prefix itself: %w", backends.ErrBusy)
		}
		i, err := s.look(ctx, p)
		if err != nil {
			return err
		}
		if i.flags&isDir == 0 {
			_, err = s.ask(ctx, s.o.Timeout, fsRm, s.remote(p), "")
			return err
		}
		s.forget(p)
		_, err = s.ask(ctx, s.o.Timeout, fsRmdir, s.remote(p), "")
		var f *failure
		if errors.As(err, &f) && f.code == errResponse && !errors.Is(err, backends.ErrPermission) {
			// ENOTEMPTY has no code of its own.
			if found, lerr := s.entries(ctx, s.remote(p)); lerr == nil && len(found) > 0 {
				return backends.ErrNotEmpty
			}
		}
		return err
	})
}

// spaceAnswer is what Space last heard.
type spaceAnswer struct {
	at          time.Time
	total, free int64
}

// spaceFor is how long an answer is good.
const spaceFor = 10 * time.Second

// Space asks the server (kXR_Qspace). Where it does not tell, Options.Capacity is all and free. A prefix that is not
// there is unavailable.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	err = s.do(ctx, "space", "", func() error {
		s.mu.Lock()
		a := s.space
		s.mu.Unlock()
		if d := s.o.Now().Sub(a.at); !a.at.IsZero() && d >= 0 && d < spaceFor {
			total, free = a.total, a.free
			return nil
		}
		if err := s.present(ctx); err != nil {
			return err
		}
		r, err := s.ask(ctx, s.o.Timeout, fsSpace, s.end.prefix, "")
		var ok bool
		switch {
		case err == nil:
			total, free, ok = parseSpace(r.text)
		case !errors.Is(err, backends.ErrNotSupported):
			return err
		}
		if !ok {
			total, free = s.o.Capacity, s.o.Capacity
		}
		s.mu.Lock()
		s.space = spaceAnswer{at: s.o.Now(), total: total, free: free}
		s.mu.Unlock()
		return nil
	})
	return total, free, err
}

// parseSpace reads "oss.cgroup=public&oss.space=2&oss.free=1&oss.quota=-1...", a quota being less than the space when it
// is not -1.
func parseSpace(text string) (total, free int64, ok bool) {
	v, err := url.ParseQuery(strings.TrimRight(text, "\x00"))
	if err != nil {
		return 0, 0, false
	}
	number := func(key string) int64 {
		n, err := strconv.ParseInt(v.Get(key), 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	total, free = number("oss.space"), number("oss.free")
	if total <= 0 || free < 0 {
		return 0, 0, false
	}
	if quota := number("oss.quota"); quota >= 0 {
		total, free = min(total, quota), min(free, max(quota-max(number("oss.used"), 0), 0))
	}
	return max(total, 1), min(free, total), true
}

// Close ends the waiting of all that is under way. Objects may be closed later, which then waits for the server.
func (s *Storage) Close() error {
	s.mu.Lock()
	fs := s.fs
	s.fs, s.closed = nil, true
	s.mu.Unlock()
	s.cancel()
	if fs != nil {
		fs.drop()
	}
	s.tasks.Wait() // closeTime bounds it
	return nil
}
