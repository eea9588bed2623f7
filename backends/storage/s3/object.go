package s3

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

// object is an open file: its size, and what tells it from a later one of the same name.
type object struct {
	s     *Storage
	path  string
	size  int64
	etag  string
	mtime time.Time
}

func (o *object) Size() int64  { return o.size }
func (o *object) Close() error { return nil }

// ReadAt is one request for exactly the bytes wanted, of the object that was opened: a closed range within it, and
// If-Match. What follows of an error is that the bytes before it are good.
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

func (o *object) read(ctx context.Context, p []byte, off int64) (n int, err error) {
	opts := minio.GetObjectOptions{}
	opts.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1))
	if o.etag != "" {
		if err := opts.SetMatchETag(o.etag); err != nil {
			return 0, wrong("the server gave an ETag that is none")
		}
	}
	var body io.ReadCloser
	var info minio.ObjectInfo
	c := &call{}
	ctx = context.WithValue(ctx, callKey{}, c)
	body, info, _, err = o.s.core.GetObject(ctx, o.s.bucket, o.s.prefix+o.path, opts)
	if err != nil {
		return 0, o.s.words(ctx, c, err)
	}
	defer body.Close()
	if err := o.check(c, info, off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err = io.ReadFull(body, p)
	if err != nil {
		if c.err == nil && (err == io.EOF || err == io.ErrUnexpectedEOF) {
			c.err = down("the server ended early")
		}
		return n, fmt.Errorf("after %d of %d bytes at %d: %w", n, len(p), off, o.s.words(ctx, c, err))
	}
	if c.status == http.StatusPartialContent {
		if k, _ := io.ReadFull(body, make([]byte, 1)); k > 0 {
			return 0, wrong("the server sent more than the %d bytes it was asked for", len(p))
		}
	}
	return n, nil
}

// check wants the response to be the bytes asked for, of the object that was opened.
func (o *object) check(c *call, info minio.ObjectInfo, off, n int64) error {
	if e := c.header.Get("Content-Encoding"); e != "" && e != "identity" && e != "aws-chunked" {
		return wrong("the server sent the object in encoding %q", plain(e))
	}
	length := n
	switch c.status {
	case http.StatusPartialContent:
		v := c.header.Get("Content-Range")
		first, last, total, ok := wire.ContentRange(v)
		if !ok || first != off || last != off+n-1 {
			return wrong("the server sent range %q when asked for bytes %d-%d", plain(v), off, off+n-1)
		}
		if total >= 0 && total != o.size {
			return fmt.Errorf("the object has %d bytes now, and had %d: %w", total, o.size, backends.ErrStale)
		}
	case http.StatusOK: // the whole object: fine where its start is wanted
		if off != 0 {
			return fmt.Errorf("the server ignores ranges: %w", backends.ErrNotSupported)
		}
		length = o.size
	default:
		return wrong("the server sent status %d for a range", c.status)
	}
	if info.Size >= 0 && info.Size != length {
		if c.status == http.StatusOK {
			return fmt.Errorf("the object has %d bytes now, and had %d: %w", info.Size, o.size, backends.ErrStale)
		}
		return wrong("the server announced %d bytes when asked for %d", info.Size, length)
	}
	switch {
	case info.ETag != o.etag:
		return fmt.Errorf("the object has another ETag now: %w", backends.ErrStale)
	case o.etag == "" && !info.LastModified.Equal(o.mtime):
		return fmt.Errorf("the object was changed at %v: %w", info.LastModified, backends.ErrStale)
	}
	return nil
}
