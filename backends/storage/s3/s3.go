// Package s3 is a storage element behind Amazon's S3 protocol: AWS, Ceph, MinIO, versitygw and their like.
//
//	st, err := s3.Open(s3.Options{URL: "s3s://s3.example.org:9000/bucket/prefix", Credentials: src})
//
// reached from the lake's configuration as
//
//	rses:
//	  - {name: SITE-S3, kind: disk, protocols: [{url: "s3s://s3.example.org:9000/bucket/prefix"}]}
//
// The scheme s3s is S3 over TLS, s3 over plain HTTP. The first part of the path is the bucket, which must be there;
// what is below the rest of it belongs to the storage. Small files are one PUT at Commit, others a multipart upload
// whose parts go while the bytes come. Either way a CRC32C goes with the bytes, so that a server refuses what has
// changed on its way; of one that does not know it the ETags of the parts are compared. Nothing is to be seen before
// Commit. adler32, md5 and sha256 are kept with the object: as user
// metadata where it was one PUT, else as tags, since the metadata of a multipart upload is told before its bytes.
//
// Redirects are not followed: keys sign for one host.
package s3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/credential"
	"tarn/backends/storage/wire"
)

// Options say where the storage is and how it is spoken to.
type Options struct {
	// URL is the prefix of all paths.
	URL string
	// Credentials give the keys and the trusted authorities; nil has no keys and trusts the system's.
	Credentials *credential.Source
	// KeyFile is the only file of keys, in the form of ~/.aws/credentials; "": as AWS's tools find them.
	KeyFile string
	// Style is how the bucket stands in requests: "path", "host" (bucket.s3.example.org), or "": host where the
	// server is Amazon's or Google's.
	Style string
	// Region signs requests; "" asks the server for the bucket's.
	Region string
	// ReadOnly refuses Create and Remove.
	ReadOnly bool
	// Size is what Space tells, since S3 knows no quotas; default 1 PiB.
	Size int64
	// PartSize (8 MiB) is that of multipart uploads, 5 to 16 MiB; parts of files that have more than 10,000 are larger.
	PartSize int64
	// Connections bounds those to the server; default 64.
	Connections int
	// Connect (10s) bounds DNS, TCP and TLS together.
	Connect time.Duration
	// Stall (60s) is how long a request may wait for the next byte in either direction.
	Stall time.Duration
	// Entries bounds a listing; default 10 million.
	Entries int

	Log *slog.Logger
	Now func() time.Time

	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Storage is what lies below a prefix of a bucket.
type Storage struct {
	o      Options
	base   *url.URL // http or https, without path
	bucket string
	prefix string // "" or ending with a slash
	tr     *transport
	core   *minio.Core

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex // guards the rest; never held across I/O
	closed  bool
	live    map[string]struct{} // IDs of multipart uploads that are under way here
	cleaned time.Time
	asked   time.Time // when Space last saw the bucket
}

var _ backends.Storage = (*Storage)(nil)

// Open gives the storage at o.URL. It fails when the options make no sense, not when the server is
// away: a lake must come up while one of its sites is down.
func Open(o Options) (*Storage, error) {
	if o.Credentials == nil {
		o.Credentials = credential.None()
	}
	def(&o.Size, 1<<50)
	def(&o.PartSize, 8*mib)
	o.PartSize = min(max(o.PartSize, 5*mib), blocks*blockSize/2)
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
	s := &Storage{o: o, live: map[string]struct{}{}}
	err := s.parseURL(o.URL)
	if err == nil && !(o.Style == "" || o.Style == "path" || o.Style == "host") {
		err = fmt.Errorf("want style path or host, not %q: %w", o.Style, backends.ErrName)
	}
	if err == nil {
		s.ctx, s.cancel = context.WithCancel(context.Background())
		s.tr = newTransport(s)
		s.core, err = s.newCore(o.Region, s.tr)
	}
	if err != nil {
		return nil, fmt.Errorf("open S3 storage: %w", err)
	}
	return s, nil
}

const mib = 1 << 20

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// parseURL sets server, bucket and prefix. Its errors never show what stands for a password.
func (s *Storage) parseURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("the URL cannot be parsed: %w", backends.ErrName)
	}
	scheme := map[string]string{"s3": "http", "s3s": "https"}[u.Scheme]
	switch {
	case scheme == "":
		return fmt.Errorf("want a URL of s3s or s3, not of %q: %w", u.Scheme, backends.ErrName)
	case u.User != nil:
		return fmt.Errorf("the URL has a user or password in it; use the AWS environment or a file of keys: %w", backends.ErrName)
	case u.Hostname() == "":
		return fmt.Errorf("the URL has no host: %w", backends.ErrName)
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return fmt.Errorf("the URL has more than a path after the host: %w", backends.ErrName)
	}
	p := strings.Trim(u.Path, "/")
	if err := wire.CheckPath(p, "S3"); err != nil {
		return fmt.Errorf("the path of the URL: %w", err)
	}
	bucket, prefix, _ := strings.Cut(p, "/")
	if err := s3utils.CheckValidBucketName(bucket); err != nil {
		return fmt.Errorf("the URL has no name of a bucket after the host, such as s3s://s3.example.org/bucket/prefix: %w", backends.ErrName)
	}
	if prefix != "" {
		prefix += "/"
	}
	s.base, s.bucket, s.prefix = &url.URL{Scheme: scheme, Host: u.Host}, bucket, prefix
	return nil
}

// maxKey is what a key can have (S3 User Guide, "Naming Amazon S3 objects").
const maxKey = 1024

// at is a path for people.
func (s *Storage) at(p string) string {
	scheme := map[string]string{"http": "s3", "https": "s3s"}[s.base.Scheme]
	return strings.TrimSuffix(scheme+"://"+s.base.Host+"/"+s.bucket+"/"+s.prefix+p, "/")
}

// do runs one operation on a path: what it gets wrong is told with its name and the URL.
func (s *Storage) do(ctx context.Context, op, p string, f func(ctx context.Context) error) error {
	err := wire.CheckPath(p, "S3")
	if err == nil && len(s.prefix)+len(p) > maxKey {
		err = backends.ErrNameTooLong
	}
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

// Stat implements backends.Storage, as the methods after it. A folder is there when something is below it.
func (s *Storage) Stat(ctx context.Context, p string) (a backends.Attr, err error) {
	err = s.do(ctx, "stat", p, func(ctx context.Context) error {
		a, _, err = s.stat(ctx, p)
		return err
	})
	return a, err
}

func (s *Storage) stat(ctx context.Context, p string) (backends.Attr, minio.ObjectInfo, error) {
	if p == "" {
		return backends.Attr{IsDir: true}, minio.ObjectInfo{}, s.haveBucket(ctx)
	}
	info, err := s.head(ctx, p)
	switch {
	case errors.Is(err, backends.ErrNotExist):
		there, ferr := s.isFolder(ctx, p)
		if ferr != nil {
			return backends.Attr{}, info, ferr // a bucket that is not there, for one
		}
		if there {
			return backends.Attr{Path: p, IsDir: true}, info, nil
		}
		return backends.Attr{}, info, err
	case err != nil:
		return backends.Attr{}, info, err
	}
	return backends.Attr{Path: p, Size: info.Size, MTime: info.LastModified}, info, nil
}

// head asks for an object.
func (s *Storage) head(ctx context.Context, p string) (info minio.ObjectInfo, err error) {
	err = s.ask(ctx, func(ctx context.Context) error {
		info, err = s.core.StatObject(ctx, s.bucket, s.prefix+p, minio.StatObjectOptions{})
		return err
	})
	switch {
	case errors.Is(err, backends.ErrPermission): // HEAD has no words for why
		if _, werr := s.page(ctx, s.prefix+p+"/", "", 1); errors.Is(werr, backends.ErrPermission) || errors.Is(werr, backends.ErrUnavailable) {
			err = werr
		}
	case err == nil && info.Size < 0:
		err = wrong("the server did not say how long the object is")
	}
	return info, err
}

// isFolder tells whether there is something below p.
func (s *Storage) isFolder(ctx context.Context, p string) (bool, error) {
	page, err := s.page(ctx, s.prefix+p+"/", "", 1)
	return len(page.Contents)+len(page.CommonPrefixes) > 0, err
}

// haveBucket is an error when the bucket is not there.
func (s *Storage) haveBucket(ctx context.Context) error {
	_, err := s.page(ctx, s.prefix, "", 1) // HEAD has no words for what is wrong
	return err
}

// Open asks for the size; the bytes are had by ReadAt.
func (s *Storage) Open(ctx context.Context, p string) (o backends.Object, err error) {
	err = s.do(ctx, "open", p, func(ctx context.Context) error {
		a, info, err := s.stat(ctx, p)
		if err != nil {
			return err
		}
		if a.IsDir {
			return backends.ErrIsDir
		}
		o = &object{s: s, path: p, size: a.Size, etag: info.ETag, mtime: a.MTime}
		return nil
	})
	return o, err
}

// algorithms are the digests that are kept with an object.
var algorithms = []string{"adler32", "md5", "sha256"}

// Checksum gives the digests that were kept with the object when it was uploaded; ErrNotSupported for objects of
// other programs that keep none.
func (s *Storage) Checksum(ctx context.Context, p string) (c backends.Checksums, err error) {
	err = s.do(ctx, "checksum", p, func(ctx context.Context) error {
		a, info, err := s.stat(ctx, p)
		switch {
		case err != nil:
			return err
		case a.IsDir:
			return backends.ErrIsDir
		}
		if c = sumsOf(func(alg string) string { return metadata(info.UserMetadata, alg) }); !c.IsZero() {
			return nil
		}
		if c, err = s.tagged(ctx, p, info.ETag); err == nil && c.IsZero() {
			err = fmt.Errorf("no checksum was kept with the object: %w", backends.ErrNotSupported)
		}
		return err
	})
	return c, err
}

// metadata finds a name, whose case HTTP has changed.
func metadata(m map[string]string, name string) string {
	for k, v := range m {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// sumsOf takes what has the form of each digest.
func sumsOf(get func(alg string) string) backends.Checksums {
	m := map[string]string{}
	for _, alg := range algorithms {
		v := strings.ToLower(get(alg))
		if len(v) == map[string]int{"adler32": 8, "md5": 32, "sha256": 64}[alg] && strings.Trim(v, "0123456789abcdef") == "" {
			m[alg] = v
		}
	}
	return checksum.FromMap(m)
}

// Remove deletes an object, or the empty object "folder/" that some programs make.
func (s *Storage) Remove(ctx context.Context, p string) error {
	return s.do(ctx, "remove", p, func(ctx context.Context) error {
		switch {
		case s.o.ReadOnly:
			return backends.ErrReadOnly
		case p == "":
			return fmt.Errorf("the prefix itself: %w", backends.ErrBusy)
		}
		a, _, err := s.stat(ctx, p)
		if err != nil {
			return err
		}
		if a.IsDir {
			page, err := s.page(ctx, s.prefix+p+"/", "", 2)
			if err != nil {
				return err
			}
			if len(page.CommonPrefixes) > 0 || len(page.Contents) > 1 || len(page.Contents) == 1 && page.Contents[0].Key != s.prefix+p+"/" {
				return backends.ErrNotEmpty
			}
			p += "/"
		}
		return s.remove(ctx, p)
	})
}

func (s *Storage) remove(ctx context.Context, p string) error {
	return s.ask(ctx, func(ctx context.Context) error {
		return s.core.RemoveObject(ctx, s.bucket, s.prefix+p, minio.RemoveObjectOptions{})
	})
}

// Space tells Options.Size, when the bucket is there.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	err = s.do(ctx, "space", "", func(ctx context.Context) error {
		s.mu.Lock()
		asked := s.asked
		s.mu.Unlock()
		if d := s.o.Now().Sub(asked); !asked.IsZero() && d >= 0 && d < askAgain {
			return nil
		}
		if err := s.haveBucket(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		s.asked = s.o.Now()
		s.mu.Unlock()
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return s.o.Size, s.o.Size, nil
}

// askAgain is how long the bucket counts as there.
const askAgain = 10 * time.Second

// Traits has all checksums; objects of other programs have none.
func (s *Storage) Traits() backends.StorageTraits {
	return backends.StorageTraits{Checksums: algorithms}
}

// Close ends what is running.
func (s *Storage) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.tasks.Wait()
	s.tr.pool.CloseIdleConnections()
	return nil
}
