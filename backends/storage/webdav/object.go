package webdav

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

// object is an open file: its size, and what tells it from a later one of the same name.
type object struct {
	s     *Storage
	path  string
	size  int64
	mtime time.Time
	etag  atomic.Pointer[string]
}

func (o *object) Size() int64  { return o.size }
func (o *object) Close() error { return nil }

// ReadAt is one request for exactly the bytes wanted: a closed range within the file. What follows of an
// error is that the bytes before it are good.
func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = o.s.do(ctx, "read", o.path, func(ctx context.Context) error {
		if off < 0 {
			return fmt.Errorf("offset %d: %w", off, backends.ErrNotSupported)
		}
		want := int(max(min(int64(len(p)), o.size-off), 0))
		if want > 0 {
			n, err = o.read(ctx, p[:want], off)
		}
		return err
	})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (o *object) read(ctx context.Context, p []byte, off int64) (int, error) {
	h := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1)}}
	resp, f, err := o.s.send(ctx, request{method: "GET", url: o.s.url(o.path), header: h})
	if err != nil {
		if status(err) == http.StatusRequestedRangeNotSatisfiable {
			return 0, fmt.Errorf("the file is shorter than its %d bytes: %w", o.size, backends.ErrStale)
		}
		return 0, o.s.absent(ctx, o.path, err)
	}
	ended := false
	defer func() {
		if ended {
			f.End(resp)
		} else { // there may be much more of it
			resp.Body.Close()
			f.End(nil)
		}
	}()
	if err := o.check(resp, off, int64(len(p))); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		k, err := resp.Body.Read(p[n:])
		n += k
		f.Progress()
		if err == io.EOF && n == len(p) {
			break
		}
		if err != nil {
			why := o.s.broken(f, err)
			return n, fmt.Errorf("after %d of %d bytes at %d: %w", n, len(p), off, why)
		}
	}
	if resp.StatusCode == http.StatusPartialContent {
		if k, _ := io.ReadFull(resp.Body, make([]byte, 1)); k > 0 {
			return 0, wrong("the server sent more than the %d bytes it was asked for", len(p))
		}
		ended = true
	}
	return n, nil
}

// check wants the response to be the bytes asked for, of the file that was opened.
func (o *object) check(resp *http.Response, off, n int64) error {
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return wrong("the server sent the file in encoding %q", e)
	}
	length := n
	switch resp.StatusCode {
	case http.StatusPartialContent:
		v := resp.Header.Get("Content-Range")
		first, last, total, ok := wire.ContentRange(v)
		if !ok || first != off || last != off+n-1 {
			return wrong("the server sent range %q when asked for bytes %d-%d", v, off, off+n-1)
		}
		if total >= 0 && total != o.size {
			return fmt.Errorf("the file has %d bytes now, and had %d: %w", total, o.size, backends.ErrStale)
		}
	case http.StatusOK: // the whole file: fine where its start is wanted
		if off != 0 {
			return fmt.Errorf("the server ignores ranges: %w", backends.ErrNotSupported)
		}
		length = o.size
	default:
		return wrong("the server sent status %d for a range", resp.StatusCode)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		if resp.StatusCode == http.StatusOK {
			return fmt.Errorf("the file has %d bytes now, and had %d: %w", resp.ContentLength, o.size, backends.ErrStale)
		}
		return wrong("the server announced %d bytes when asked for %d", resp.ContentLength, length)
	}
	return o.same(resp)
}

// same compares what tells one content from the next. Data servers that a request was redirected to may
// each have their own, so only our own host counts.
func (o *object) same(resp *http.Response) error {
	if !o.s.home(resp.Request.URL) {
		return nil
	}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil && !o.mtime.IsZero() && !t.Equal(o.mtime) {
		return fmt.Errorf("the file was changed at %v: %w", t, backends.ErrStale)
	}
	if e := resp.Header.Get("ETag"); e != "" && !strings.HasPrefix(e, "W/") {
		if !o.etag.CompareAndSwap(nil, &e) && *o.etag.Load() != e {
			return fmt.Errorf("the file has another ETag now: %w", backends.ErrStale)
		}
	}
	return nil
}

// parseDigest reads Digest (RFC 3230): adler32 in hex, md5 and sha-256 in base64 (or hex, as some send it).
func parseDigest(values []string) backends.Checksums {
	var c backends.Checksums
	for _, v := range values {
		for _, d := range strings.Split(v, ",") {
			alg, val, _ := strings.Cut(strings.TrimSpace(d), "=")
			switch strings.ToLower(alg) {
			case "adler32":
				if _, err := strconv.ParseUint(val, 16, 32); err == nil && len(val) <= 8 {
					c.Adler32 = strings.Repeat("0", 8-len(val)) + strings.ToLower(val)
				}
			case "md5":
				c.MD5 = digestHex(val, 16)
			case "sha-256", "sha256":
				c.SHA256 = digestHex(val, 32)
			}
		}
	}
	return c
}

func digestHex(v string, n int) string {
	if b, err := hex.DecodeString(v); err == nil && len(b) == n {
		return strings.ToLower(v)
	}
	if b, err := base64.StdEncoding.DecodeString(v); err == nil && len(b) == n {
		return hex.EncodeToString(b)
	}
	return ""
}
