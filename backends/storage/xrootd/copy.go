//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

const (
	// copyAgain is after what time two storages that could not exchange a file are asked once more, maxPairs how many are
	// remembered.
	copyAgain = 10 * time.Minute
	maxPairs  = 1 << 10
	// copyLook is how often both servers of a copy are looked at.
	copyLook = time.Second
	// copyQueue is how long a server may let a copy wait for its turn, copyStall how long nothing may arrive: what fetches may
	// gather four times 8 MiB before it writes.
	copyQueue = 10 * time.Minute
	copyStall = 2 * time.Minute
	// copyTime is as long as the library can wait for an answer. What does not get on is given up long before.
	copyTime = (1<<16 - 1) * time.Second
)

// origin is a file at the server that has it.
type origin struct {
	url  string // at that server, with what redirectors added
	size int64
}

// CopyTo lets the server of to fetch a file from that of s (XRootD's third-party copy): it is told from where when the new
// file is opened, and the server of s is told by its own opening who may come with which key; a sync of the new file begins
// the copy, the next one ends with it. As an upload the file has a name in .tarn-uploads until size and checksum are those
// that were wanted.
//
// Each step is a request of ours. The library's own CopyProcess keeps a thread for every copy, looks every 2.5 s only
// whether it has ended, and sets the environment of a process that others read.
//
// With XrdSecGSIDELEGPROXY in the environment, which makes the library hand proxies over, a server that wants one fetches
// with it what s may read. Without, a server that cannot log in to the other one copies nothing.
func (s *Storage) CopyTo(ctx context.Context, src string, to backends.Storage, dst string, size int64, want backends.Checksums, progress func(int64)) (got backends.Checksums, err error) {
	t, ok := to.(*Storage)
	switch {
	case !ok:
		return got, s.edge("copy", src, fmt.Errorf("to another kind of storage: %w", backends.ErrNotSupported))
	case t.o.ReadOnly:
		return got, t.edge("copy", dst, backends.ErrReadOnly)
	}
	err = s.do(ctx, "copy", src, func() error {
		if err := checkPath(dst); err != nil {
			return err
		}
		if want.IsZero() {
			return fmt.Errorf("no checksum to verify with: %w", backends.ErrCorrupt)
		}
		if strings.Contains(s.remote(src), "&") {
			return fmt.Errorf("a copy between servers cannot carry a name with &: %w", backends.ErrNotSupported)
		}
		if s.knownNot(t) {
			return fmt.Errorf("%s could not fetch from here a short time ago: %w", t.end, backends.ErrNotSupported)
		}
		return t.do(ctx, "copy", dst, func() error {
			select {
			case t.copies <- struct{}{}:
				defer func() { <-t.copies }()
			case <-ctx.Done():
				return ctx.Err()
			case <-t.ctx.Done():
				return backends.ErrClosed
			}
			from, err := s.origin(ctx, t, src, size)
			if err != nil {
				return s.edge("copy", src, err)
			}
			got, err = t.fetch(ctx, s, from, dst, want, progress)
			return err
		})
	})
	if err != nil {
		return backends.Checksums{}, err
	}
	return got, nil
}

// knownNot tells whether t lately could not fetch from s.
func (s *Storage) knownNot(t *Storage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.noCopy[t.end.String()]
	return ok && s.o.Now().Sub(at) < copyAgain
}

// cannot remembers that t cannot fetch from s.
func (s *Storage) cannot(t *Storage, format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.noCopy) >= maxPairs {
		clear(s.noCopy)
	}
	s.noCopy[t.end.String()] = s.o.Now()
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), backends.ErrNotSupported)
}

// delegates tells whether the library hands proxies over to servers that ask for them.
func delegates() bool {
	v := os.Getenv("XrdSecGSIDELEGPROXY")
	return v != "" && v != "0"
}

// origin finds the server that has a file.
func (s *Storage) origin(ctx context.Context, t *Storage, p string, size int64) (o origin, err error) {
	i, err := s.look(ctx, p)
	switch {
	case err != nil:
		return o, err
	case i.flags&isDir != 0:
		return o, backends.ErrIsDir
	case i.flags&offline != 0:
		return o, backends.ErrOffline
	}
	file, i, err := s.openFile(ctx, withQuery(s.url(s.remote(p)), "tpc.stage=placement"), reading, s.o.Timeout)
	if err != nil {
		return o, err
	}
	o = origin{file.where(), i.size}
	s.leave(file)
	switch {
	case size >= 0 && o.size != size:
		return o, fmt.Errorf("it has %d bytes, not %d: %w", o.size, size, backends.ErrCorrupt)
	case hostOf(o.url) == "" || strings.Contains(pathOf(o.url), "&"):
		return o, s.cannot(t, "it is not known which server has the file")
	}
	if delegates() {
		return o, nil // it is a reader like others
	}
	copies, _, err := s.speaks(ctx, hostOf(o.url))
	if err == nil && !copies {
		err = s.cannot(t, "the server lets no other one fetch (ofs.tpc)")
	}
	return o, err
}

// speaks asks a server, host:port, whether it takes part in copies, and whether it takes proxies for them.
func (s *Storage) speaks(ctx context.Context, host string) (copies, proxies bool, err error) {
	fs := newFileSystem(withQuery(s.end.scheme+"://"+host+"//", s.identity()))
	defer fs.drop()
	a, err := s.request(ctx, fs, s.o.Timeout, func(f done) { fs.fs(fsConfig, "tpc tpcdlg", "", s.o.Timeout, f) })
	if errors.Is(err, backends.ErrNotSupported) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	// A line for each question, which says the word itself again where the answer is no.
	tpc, dlg, _ := strings.Cut(strings.TrimRight(a.text, "\x00\n"), "\n")
	n, _ := strconv.Atoi(tpc)
	return n > 0, n > 0 && dlg != "" && dlg != "tpcdlg", nil
}

// fetching is a copy on its way.
type fetching struct {
	u        *upload // its file in the place of unfinished uploads
	s        *Storage
	from     origin
	key      string
	progress func(int64)
	seen     int64       // bytes that have arrived
	out      chan answer // of the sync that is under way; nil: none is
}

// fetch copies a file of s to p.
func (t *Storage) fetch(ctx context.Context, s *Storage, from origin, p string, want backends.Checksums, progress func(int64)) (got backends.Checksums, err error) {
	u := &upload{s: t, path: p, size: from.size, ctx: ctx}
	if err := u.prepare(ctx); err != nil {
		return got, err
	}
	c := &fetching{u: u, s: s, from: from, key: rand.Text(), progress: progress}
	defer c.leave()
	proxies, err := c.open(ctx)
	if err != nil {
		return got, err
	}
	if err := c.run(ctx, proxies); err != nil {
		return got, err
	}
	if err := c.store(ctx); err != nil {
		return got, err
	}
	got, at, err := u.arrived(ctx, want)
	if err != nil {
		return got, err
	}
	c.tell(from.size)
	return got, u.publish(ctx, at)
}

// tell says how many bytes have arrived.
func (c *fetching) tell(n int64) {
	if n = min(n, c.from.size); n > c.seen {
		c.seen = n
		if c.progress != nil {
			c.progress(n)
		}
	}
}

// open opens the new file, and tells whether its server fetches with our proxy.
func (c *fetching) open(ctx context.Context) (proxies bool, err error) {
	t := c.u.s
	dlg := "0"
	if delegates() {
		dlg = "1"
	}
	query := fmt.Sprintf("oss.asize=%d&tpc.key=%s&tpc.src=%s&tpc.lfn=%s&tpc.dlg=%[3]s&tpc.spr=%s&tpc.tpr=%s&tpc.dlgon=%s&tpc.stage=copy",
		c.from.size, c.key, hostOf(c.from.url), pathOf(c.from.url), c.s.end.scheme, t.end.scheme, dlg)
	if _, more, _ := strings.Cut(c.from.url, "?"); dlg == "1" && more != "" {
		query += "&tpc.scgi=" + strings.ReplaceAll(foreign(more), "&", "\t")
	}
	err = c.u.begin(ctx, query)
	host := t.end.addr
	if err == nil {
		host = hostOf(c.u.file.where())
	}
	var refused *failure
	if err != nil && (!errors.As(err, &refused) || refused.code != errResponse) {
		return false, err
	}
	copies, proxies, qerr := t.speaks(ctx, host)
	switch {
	case qerr != nil:
		return false, qerr
	case !copies || errors.Is(err, backends.ErrNotSupported):
		return false, c.s.cannot(t, "the server of %s fetches nothing from others (ofs.tpc)", t.end)
	case errors.Is(err, backends.ErrPermission):
		return false, c.s.cannot(t, "the server of %s may not fetch for us: %v", t.end, err)
	case err != nil:
		return false, err
	case delegates() && !proxies:
		if copies, _, err = c.s.speaks(ctx, hostOf(c.from.url)); err == nil && !copies {
			err = c.s.cannot(t, "the server of the file lets no other one fetch (ofs.tpc)")
		}
		return false, err
	}
	return delegates() && proxies, nil
}

// run begins the copy, lets the other server know of it unless it comes with our proxy, and waits for its end.
func (c *fetching) run(ctx context.Context, proxies bool) error {
	s, t := c.s, c.u.s
	if err := c.sync(ctx, nil, copyQueue); err != nil {
		return err
	}
	var src *counted
	if !proxies {
		host, err := nameOf(ctx, hostOf(c.u.file.where()), t.o.Timeout)
		if err != nil {
			return err
		}
		u, more, _ := strings.Cut(c.from.url, "?")
		u = withQuery(withQuery(u, foreign(more)), s.identity())
		src, _, err = s.openFile(ctx, withQuery(u, "tpc.key="+c.key+"&tpc.dst="+host+"&tpc.stage=copy"), reading, s.o.Timeout)
		if errors.Is(err, backends.ErrPermission) || errors.Is(err, backends.ErrNotSupported) {
			return s.cannot(t, "the server of the file lets that of %s not fetch: %v", t.end, err)
		}
		if err != nil {
			return s.edge("copy", s.end.String(), err)
		}
		defer s.leave(src)
	}
	return c.sync(ctx, src, copyStall)
}

// sync waits for an answer of the new file's server, and looks at both servers meanwhile: one that is gone never gives it.
// A copy that does not get on for a time is given up, unless its server does not show how it gets on: then it has as much
// time as work on the whole file.
func (c *fetching) sync(ctx context.Context, src *counted, patience time.Duration) error {
	s, t, file := c.s, c.u.s, c.u.file
	got := make(chan answer, 1)
	err := t.start(ctx, file, func(f done) { file.sync(copyTime, f) }, func(a answer) { got <- a })
	if err != nil {
		return err
	}
	c.out = got
	look := time.NewTicker(copyLook)
	defer look.Stop()
	began := time.Now()
	for moved := began; ; {
		select {
		case a := <-got:
			c.out = nil
			return c.ended(ctx, src, t.failed(a))
		case <-ctx.Done():
			return ctx.Err()
		case <-t.ctx.Done():
			return backends.ErrClosed
		case <-s.ctx.Done():
			return backends.ErrClosed
		case <-look.C:
		}
		a, err := t.request(ctx, file, t.o.Timeout, func(f done) { file.statNow(t.o.Timeout, f) })
		if err != nil {
			return err
		}
		if src != nil {
			if err := c.alive(ctx, src); err != nil {
				return err
			}
		}
		if a.info.size > c.seen {
			moved = time.Now()
			c.tell(a.info.size)
		}
		if time.Since(moved) > patience && time.Since(began) > t.patience(c.from.size) {
			return down("nothing has arrived for %v", time.Since(moved).Round(time.Second))
		}
	}
}

// alive tells whether the server of the file still has it open for us.
func (c *fetching) alive(ctx context.Context, src *counted) error {
	d := c.s.o.Timeout
	_, err := c.s.request(ctx, src, d, func(f done) { src.statNow(d, f) })
	return c.s.edge("copy", c.s.end.String(), err)
}

// ended makes sense of what the new file's server said at the end. It has but one word for all that may have gone wrong: when
// nothing has come though the file is there for us, it cannot get it.
func (c *fetching) ended(ctx context.Context, src *counted, err error) error {
	t := c.u.s
	var f *failure
	if !errors.As(err, &f) || f.code != errResponse {
		return err
	}
	if src != nil {
		if err := c.alive(ctx, src); err != nil {
			return err
		}
		a, lerr := t.request(ctx, c.u.file, t.o.Timeout, func(f done) { c.u.file.statNow(t.o.Timeout, f) })
		if lerr == nil && a.info.size == 0 && c.seen == 0 {
			return c.s.cannot(t, "the server of %s could not fetch: %v", t.end, err)
		}
	}
	return fmt.Errorf("the copy failed: %v: %w", err, passing[xServerError][0])
}

// store closes the new file and makes it durable, which ends with the copy only where the server sees to it.
func (c *fetching) store(ctx context.Context) error {
	t, u := c.u.s, c.u
	d := t.patience(c.from.size)
	if _, err := t.request(ctx, u.file, d, func(f done) { u.file.close(d, f) }); err != nil {
		return err
	}
	file, _, err := t.openFile(ctx, t.url(u.tmp), updating, t.o.Timeout)
	var f *failure
	switch {
	case errors.As(err, &f) && f.code == errResponse:
		return nil // one that lets nobody change a file
	case err != nil:
		return err
	}
	t.leave(u.file)
	u.file = file
	if _, err := t.request(ctx, file, d, func(f done) { file.sync(d, f) }); err != nil {
		return err
	}
	_, err = t.request(ctx, file, d, func(f done) { file.close(d, f) })
	return err
}

// leave ends a copy that is still on its way, and removes what there is of it. What fetches has to be gone before: it would
// make the file anew.
func (c *fetching) leave() {
	u, t := c.u, c.u.s
	if u.tmp != "" && u.file != nil {
		d := min(cleanupTime, t.o.Timeout)
		ctx, cancel := context.WithTimeout(context.Background(), d)
		if c.out != nil {
			c.cancel(ctx, d)
		}
		t.request(ctx, u.file, d, func(f done) { u.file.close(d, f) })
		cancel()
	}
	if err := u.Abort(); err != nil {
		t.o.Log.Warn("an unfinished copy", "at", t.at(u.path), "err", err)
	}
}

// cancel lets the server end the copy, also when nothing else is asked of it any more. The library closes no file that has
// requests under way.
func (c *fetching) cancel(ctx context.Context, d time.Duration) {
	file, heard := c.u.file, make(chan answer, 1)
	file.take()
	file.control("ofs.tpc cancel", d, func(a answer) {
		heard <- a
		file.answered()
	})
	for _, got := range []chan answer{heard, c.out} {
		select {
		case <-got:
		case <-ctx.Done():
		}
	}
}

// arrived compares size and checksum of what the server has with what was wanted. Where the server cannot give a checksum
// that is wanted, the file is read.
func (u *upload) arrived(ctx context.Context, want backends.Checksums) (got backends.Checksums, at info, err error) {
	if at, err = u.s.lookRemote(ctx, u.tmp); err != nil {
		return got, at, err
	}
	if at.size != u.size {
		return got, at, fmt.Errorf("%d bytes of %d have arrived: %w", at.size, u.size, backends.ErrCorrupt)
	}
	if want.Adler32 != "" {
		got, err = u.s.sum(ctx, u.tmp, at.size)
	}
	if want.Adler32 == "" || errors.Is(err, backends.ErrNotSupported) {
		got, err = u.readBack(ctx, at, checksum.Known(want))
	}
	if err == nil {
		err = want.Match(got)
	}
	return got, at, err
}

// hostOf is host:port of a URL of the library, "" when there is none.
func hostOf(u string) string {
	_, rest, _ := strings.Cut(u, "://")
	host, _, ok := strings.Cut(rest, "/")
	if !ok {
		return ""
	}
	return host[strings.LastIndexByte(host, '@')+1:]
}

// pathOf is the absolute path of a URL of the library.
func pathOf(u string) string {
	_, rest, _ := strings.Cut(u, "://")
	rest, _, _ = strings.Cut(rest, "?")
	_, p, _ := strings.Cut(rest, "/")
	return "/" + strings.TrimLeft(p, "/")
}

// foreign is what of a query redirectors added: not ours about who asks, and about the copy.
func foreign(query string) string {
	var out []string
	for part := range strings.SplitSeq(query, "&") {
		if part != "" && !strings.HasPrefix(part, "tpc.") && !strings.HasPrefix(part, "xrd.") && !strings.HasPrefix(part, "xrdcl.") {
			out = append(out, part)
		}
	}
	return strings.Join(out, "&")
}

// nameOf is what servers call the one at host:port: the name that its address has, or the address.
func nameOf(ctx context.Context, host string, d time.Duration) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d, silent(d))
	defer cancel()
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		return "", down("%q is no host and port", host)
	}
	if addrs, err := net.DefaultResolver.LookupHost(ctx, name); err == nil && len(addrs) > 0 {
		if names, err := net.DefaultResolver.LookupAddr(ctx, addrs[0]); err == nil && len(names) > 0 {
			name = strings.TrimSuffix(names[0], ".")
		}
	}
	return name, nil
}
