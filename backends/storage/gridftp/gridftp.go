// Package gridftp is a storage element spoken to by GridFTP: FTP (RFC 959, 2389, 3659) with grid certificates on the control
// channel (RFC 2228, GFD.020, GFD.047), or anonymous FTP.
//
//	st, err := gridftp.Open(gridftp.Options{URL: "gsiftp://se.example.org:2811/data/ctao", Credentials: src})
//
// reached from the lake's configuration as
//
//	rses:
//	  - name: SITE-DISK
//	    protocols: [{url: "gsiftp://se.example.org/data/ctao"}]
//
// Data channels are opened to the server (passive) and are neither encrypted nor authenticated (DCAU N): what they
// bring is compared with checksums by those who know them. Sessions are kept and used again, so that a read costs no
// log-in; reads that follow one another go on in one transfer. Uploads go to the hidden folder .tarn-uploads below the
// prefix and are renamed to their place by Commit.
package gridftp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/credential"
)

// Options say where the storage is and how it behaves; zero fields take the default.
type Options struct {
	// URL is gsiftp://host[:2811]/folder or ftp://[user@]host[:21]/folder. The folder has to be there; see Storage on
	// what happens while it is not.
	URL string
	// Marker names a file that must stand in the folder, or the storage is unavailable. It tells a mounted disk from the
	// empty folder that it is mounted on.
	Marker string
	// Credentials are the proxy and the trusted authorities, for gsiftp; nil has no proxy.
	Credentials *credential.Source
	// ReadOnly refuses Create and Remove.
	ReadOnly bool
	// Capacity is what Space says when the server does not tell, as most do not; 0 is 1 PiB.
	Capacity int64
	// Checksums (checksum.Default) are computed of every upload while it goes.
	Checksums []string
	// Timeout (15 s) is how long the server may be silent: for an answer, and for the next bytes of a transfer.
	Timeout time.Duration
	// Sessions (16) is how many are busy with short work at once. Uploads and reads under way come on top.
	Sessions int
	// Idle (60 s) is how long an unused session is kept.
	Idle time.Duration
	// Streams (4) is over how many connections an upload of many MiB goes, by MODE E where the server knows it, and a copy
	// between servers. With Active reads of many MiB do as well.
	Streams int
	// Active lets the server connect to us for reads over several streams: MODE E wants the sender to connect. Addresses of
	// ours have to be reachable for it.
	Active bool
	// Log gets what no caller can be told; nil is nowhere.
	Log *slog.Logger
	// Now is the clock that left-over uploads are judged by.
	Now func() time.Time

	maxTLS uint16
}

// Storage is a GridFTP server's folder as a storage element.
//
// While the server is away, or the folder or the Marker is not there, everything is ErrUnavailable (with ErrTemporary),
// never ErrNotExist; it works again when they are back.
type Storage struct {
	o    Options
	end  endpoint
	dial func(ctx context.Context, addr string) (net.Conn, error)
	pool pool

	mu      sync.Mutex          // guards the rest; never held across I/O
	folders map[string]struct{} // known to be there; bounded
	cleaned time.Time           // when left-over uploads were last looked for
	noSpace bool                // the server does not tell its space
	ascii   *bool               // the server takes nothing but ASCII; nil: not known yet
}

var _ backends.Storage = (*Storage)(nil)

// Open gives the storage at o.URL. It fails when the options make no sense, not when the server is away.
func Open(o Options) (*Storage, error) {
	end, err := parseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("open gridftp storage: %w", err)
	}
	if len(o.Checksums) == 0 {
		o.Checksums = checksum.Default
	}
	for _, a := range o.Checksums {
		if !slices.Contains(algorithms, a) {
			return nil, fmt.Errorf("open gridftp storage %s: checksum %q: %w", o.URL, a, backends.ErrNotSupported)
		}
	}
	if o.Credentials == nil {
		o.Credentials = credential.None()
	}
	if o.Capacity <= 0 {
		o.Capacity = 1 << 50
	}
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Sessions <= 0 {
		o.Sessions = 16
	}
	if o.Idle <= 0 {
		o.Idle = time.Minute
	}
	if o.Streams <= 0 {
		o.Streams = 4
	}
	o.Streams = min(o.Streams, maxStreams)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.maxTLS == 0 {
		o.maxTLS = tls.VersionTLS13
	}
	d := &net.Dialer{KeepAlive: 30 * time.Second}
	s := &Storage{
		o: o, end: end, folders: map[string]struct{}{},
		dial: func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) },
	}
	s.pool.init(o.Sessions, o.Idle)
	return s, nil
}

// do is what all operations have in common: path and context are checked, f gets a session, and what comes back speaks
// tarn's errors. When a session of the pool turns out to be dead before it gave a sign, f is run once more on a new one;
// again tells it so.
func (s *Storage) do(ctx context.Context, op, path string, f func(ss *session, again bool) error) error {
	if err := checkPath(path); err != nil {
		return s.opError(op, path, err)
	}
	for again := false; ; again = true {
		ss, err := s.acquire(ctx, again)
		if err != nil {
			return s.opError(op, path, err)
		}
		stop := ss.watch(ctx)
		if err = s.carries(ctx, ss, path); err == nil {
			err = f(ss, again)
		}
		if !ss.bad && (errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrStale)) {
			// "Not there" is an answer only while the folder itself is.
			if away := s.present(ctx, ss); away != nil {
				err = away
			}
		}
		stop()
		old := ss.reused && !ss.heard
		s.release(ss)
		if ctx.Err() == nil && !again && old && broken(err) {
			s.pool.drain() // its neighbours are as old
			continue
		}
		return s.opError(op, path, err)
	}
}

// carries refuses names that the server would understand as others: the one of Globus drops all bytes above 127 from a
// control channel in clear, so that "run1ä" would be run1. It is asked once for a name of nothing else.
func (s *Storage) carries(ctx context.Context, ss *session, path string) error {
	above := func(c rune) bool { return c > 127 }
	if ss.sec != nil || strings.IndexFunc(s.remote(path), above) < 0 {
		return nil
	}
	s.mu.Lock()
	ascii := s.ascii
	s.mu.Unlock()
	if ascii == nil {
		const probe = "/\u00e4\u00f6"
		f, err := s.lookRemote(ctx, ss, probe)
		var r *replyError
		if err != nil && !errors.As(err, &r) {
			return err
		}
		is := err == nil && f.name != probe
		ascii = &is
		s.mu.Lock()
		s.ascii = ascii
		s.mu.Unlock()
	}
	if *ascii {
		return fmt.Errorf("path %q: without gsiftp this server takes names of ASCII only: %w", path, backends.ErrName)
	}
	return nil
}

// look is MLST: what a path is.
func (s *Storage) look(ctx context.Context, ss *session, path string) (facts, error) {
	return s.lookRemote(ctx, ss, s.remote(path))
}

func (s *Storage) lookRemote(ctx context.Context, ss *session, remote string) (facts, error) {
	rep, err := ss.ask(ctx, s.o.Timeout, "MLST "+remote)
	if err != nil {
		return facts{}, err
	}
	f, err := parseMLST(rep)
	if err != nil {
		ss.bad = true
		return facts{}, network("MLST", err)
	}
	return f, nil
}

// present tells whether the folder is there that all paths are below, with its Marker.
func (s *Storage) present(ctx context.Context, ss *session) error {
	what := s.remote(s.o.Marker)
	f, err := s.lookRemote(ctx, ss, what)
	var r *replyError
	switch {
	case errors.As(err, &r) && !broken(err):
		return &backends.AnsweredError{Err: fmt.Errorf("%s cannot be seen (%v): %w", what, err, errTrouble)}
	case err == nil && s.o.Marker == "" && !f.isDir():
		return &backends.AnsweredError{Err: fmt.Errorf("%s is no folder: %w", what, errTrouble)}
	}
	return err
}

// absent turns "an element before the last is a file" into "not there", which it is for whoever looks for something.
func absent(err error) error {
	if errors.Is(err, backends.ErrNotDir) {
		return fmt.Errorf("%v: %w", err, backends.ErrNotExist)
	}
	return err
}

// Stat follows symbolic links of the server.
func (s *Storage) Stat(ctx context.Context, path string) (a backends.Attr, err error) {
	err = s.do(ctx, "stat", path, func(ss *session, _ bool) error {
		f, err := s.look(ctx, ss, path)
		if err != nil {
			return absent(err)
		}
		a = attr(path, f)
		return nil
	})
	return a, err
}

func isPrefix(path string) bool { return path == "" || path == "." }

func attr(path string, f facts) backends.Attr {
	return backends.Attr{Path: path, Size: max(f.size, 0), IsDir: f.isDir(), MTime: f.mtime}
}

// algorithms are those that tarn knows; servers call them the same in capitals.
var algorithms = []string{"adler32", "md5", "sha256"}

// Checksum lets the server read the file. It gives adler32, which all servers have.
func (s *Storage) Checksum(ctx context.Context, path string) (c backends.Checksums, err error) {
	err = s.do(ctx, "checksum", path, func(ss *session, _ bool) error {
		f, err := s.look(ctx, ss, path)
		if err != nil {
			return absent(err)
		}
		if f.isDir() {
			return backends.ErrIsDir
		}
		c, err = s.sum(ctx, ss, s.remote(path), f.size, "adler32")
		return err
	})
	return c, err
}

// sum is CKSM.
func (s *Storage) sum(ctx context.Context, ss *session, remote string, size int64, algs ...string) (backends.Checksums, error) {
	sums := map[string]string{}
	for _, a := range algs {
		rep, err := ss.ask(ctx, s.patience(size), fmt.Sprintf("CKSM %s 0 -1 %s", strings.ToUpper(a), remote))
		if err != nil {
			return backends.Checksums{}, err
		}
		hex := strings.ToLower(strings.TrimSpace(rep.last()))
		if a == "adler32" && len(hex) < 8 {
			hex = strings.Repeat("0", 8-len(hex)) + hex // some print a number
		}
		if len(hex) != map[string]int{"adler32": 8, "md5": 32, "sha256": 64}[a] || strings.Trim(hex, "0123456789abcdef") != "" {
			return backends.Checksums{}, fmt.Errorf("the server gives %q as %s: %w", printable(hex), a, backends.ErrUnavailable)
		}
		sums[a] = hex
	}
	return checksum.FromMap(sums), nil
}

// patience is for work that reads or writes the whole file: 10 MB/s are expected at least.
func (s *Storage) patience(size int64) time.Duration {
	return s.o.Timeout + time.Duration(max(size, 0)/10_000)*time.Millisecond
}

// Remove deletes a file or an empty folder.
func (s *Storage) Remove(ctx context.Context, path string) error {
	if s.o.ReadOnly {
		return s.opError("remove", path, backends.ErrReadOnly)
	}
	return s.do(ctx, "remove", path, func(ss *session, again bool) error {
		if isPrefix(path) {
			return fmt.Errorf("the prefix itself: %w", backends.ErrBusy)
		}
		f, err := s.look(ctx, ss, path)
		if err == nil && f.isDir() {
			s.forget(path)
			_, err = ss.ask(ctx, s.o.Timeout, "RMD "+s.remote(path))
		} else if err == nil {
			_, err = ss.ask(ctx, s.o.Timeout, "DELE "+s.remote(path))
		}
		return absent(err)
	})
}

// Space asks the server, or gives Capacity when it does not tell but lives.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	err = s.do(ctx, "space", "", func(ss *session, _ bool) error {
		if err := s.present(ctx, ss); err != nil {
			return err
		}
		s.mu.Lock()
		never := s.noSpace
		s.mu.Unlock()
		if !never {
			rep, err := ss.command(ctx, s.o.Timeout, "SITE USAGE "+s.end.prefix)
			if err != nil {
				return err
			}
			var ok bool
			if total, free, ok = parseUsage(strings.Join(rep.lines, " ")); rep.class() == 2 && ok {
				return nil
			}
			s.mu.Lock()
			s.noSpace = true
			s.mu.Unlock()
		}
		total, free = s.o.Capacity, s.o.Capacity
		return nil
	})
	return total, free, err
}

// parseUsage reads "USAGE 1 FREE 2 TOTAL 3", the answer of DPM and dCache to SITE USAGE.
func parseUsage(text string) (total, free int64, ok bool) {
	words := map[string]int64{}
	f := strings.Fields(text)
	for i := 0; i+1 < len(f); i++ {
		if n, err := strconv.ParseInt(f[i+1], 10, 64); err == nil && n >= 0 {
			words[strings.ToUpper(f[i])] = n
		}
	}
	total, okTotal := words["TOTAL"]
	free, okFree := words["FREE"]
	if !okTotal || !okFree || total <= 0 || total > math.MaxInt64/2 {
		return 0, 0, false
	}
	return total, min(free, total), true
}

// Traits of GridFTP.
func (s *Storage) Traits() backends.StorageTraits {
	return backends.StorageTraits{Checksums: []string{"adler32"}, Folders: true}
}

// Close ends the sessions that nobody uses; the others end when their users are done.
func (s *Storage) Close() error {
	s.pool.close()
	return nil
}
