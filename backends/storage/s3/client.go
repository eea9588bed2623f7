package s3

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"tarn/backends/storage/wire"
)

// newCore makes a client whose requests go by tr. It tries nothing twice: package retry does.
func (s *Storage) newCore(region string, tr http.RoundTripper) (*minio.Core, error) {
	lookup := map[string]minio.BucketLookupType{"path": minio.BucketLookupPath, "host": minio.BucketLookupDNS}[s.o.Style]
	core, err := minio.NewCore(s.base.Host, &minio.Options{
		Creds: credentials.New(keys{s}), Secure: s.base.Scheme == "https", Transport: tr, Region: region,
		BucketLookup: lookup, TrailingHeaders: true, MaxRetries: 1,
	})
	if err != nil {
		return nil, wrong("the URL is of no S3 server: %v", err)
	}
	core.SetAppInfo("tarn", "1")
	return core, nil
}

// keys gives those of now for each request.
type keys struct{ s *Storage }

func (k keys) Retrieve() (credentials.Value, error) {
	v, err := k.s.o.Credentials.Keys(k.s.o.KeyFile)
	switch {
	case err != nil:
		return credentials.Value{}, err
	case v.Secret == "":
		return credentials.Value{SignerType: credentials.SignatureAnonymous}, nil
	}
	return credentials.Value{AccessKeyID: v.Access, SecretAccessKey: v.Secret, SessionToken: v.Session, SignerType: credentials.SignatureV4}, nil
}

func (k keys) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return k.Retrieve()
}

func (k keys) IsExpired() bool { return true }

// call is what the transport saw of one operation, beside what the client library tells.
type call struct {
	status int
	header http.Header
	err    error // why there was no response, or no end of one
}

type callKey struct{}

// patience is the key of how much longer than usual a server may be silent.
type patience struct{}

// patient allows for a server that copies n bytes before it answers.
func patient(ctx context.Context, n int64) context.Context {
	return context.WithValue(ctx, patience{}, copying(n))
}

// copying is how long a server may take to copy n bytes: 10 MB/s are expected at least.
func copying(n int64) time.Duration { return time.Duration(n/10_000) * time.Millisecond }

// ask makes requests through the client library and puts their failure in our words.
func (s *Storage) ask(ctx context.Context, f func(ctx context.Context) error) error {
	_, err := s.seen(ctx, f)
	return err
}

// seen is ask that gives what the transport saw, too.
func (s *Storage) seen(ctx context.Context, f func(ctx context.Context) error) (*call, error) {
	c := &call{}
	return c, s.words(ctx, c, f(context.WithValue(ctx, callKey{}, c)))
}

// transport sees to it that requests end, that answers are no longer than they need to be, and that nothing is
// sent to where a server points.
type transport struct {
	s    *Storage
	pool *http.Transport
}

func newTransport(s *Storage) *transport {
	return &transport{s, wire.Transport(wire.Options{Credentials: s.o.Credentials, Connect: s.o.Connect, Connections: s.o.Connections, Dial: s.o.dial})}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c, _ := req.Context().Value(callKey{}).(*call)
	if c == nil {
		c = &call{}
	}
	*c = call{}
	more, _ := req.Context().Value(patience{}).(time.Duration)
	f := wire.Begin(req.Context(), t.s.ctx, wire.Deadlines{Connect: t.s.o.Connect, Stall: t.s.o.Stall + more})
	req = req.WithContext(f.Ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &feed{req.Body, f}
		req.GetBody = nil
	}
	resp, err := t.pool.RoundTrip(req)
	if err != nil {
		c.err = f.Broken(err, t.s.o.Credentials)
		f.End(nil)
		return nil, c.err
	}
	f.Progress()
	c.status, c.header = resp.StatusCode, resp.Header
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		f.End(resp)
		c.err = wrong("the server sends requests elsewhere (status %d%s): correct host, region or bucket in the lake file", resp.StatusCode, hostOf(req, resp))
		return nil, c.err
	}
	b := &answer{ReadCloser: resp.Body, t: t, c: c, f: f, bytes: -1}
	if req.Method != http.MethodGet || req.URL.RawQuery != "" || resp.StatusCode >= 300 {
		b.bytes, b.tags = maxAnswer, maxTags
	}
	resp.Body = b
	return resp, nil
}

// hostOf tells where a redirect leads to.
func hostOf(req *http.Request, resp *http.Response) string {
	if u, err := req.URL.Parse(resp.Header.Get("Location")); err == nil && u.Host != "" && u.Host != req.URL.Host {
		return ", to " + u.Host
	}
	return ""
}

// feed gives the body of a request. While it waits for the writer nobody is to blame but him.
type feed struct {
	io.ReadCloser
	f *wire.Flight
}

func (b *feed) Read(p []byte) (int, error) {
	b.f.Hold()
	n, err := b.ReadCloser.Read(p)
	b.f.Progress()
	return n, err
}

// What an answer in XML can have: a page of 1000 keys of 1024 escaped bytes, with owner and checksums. Its elements
// become much larger in memory than they are on the wire.
const (
	maxAnswer = 8 << 20
	maxTags   = 1 << 16
)

// answer is the body of a response.
type answer struct {
	io.ReadCloser
	t     *transport
	c     *call
	f     *wire.Flight
	bytes int // that may still come; -1: any number
	tags  int // of XML that may still come
}

func (b *answer) Read(p []byte) (int, error) {
	if b.c.err != nil {
		return 0, b.c.err
	}
	n, err := b.ReadCloser.Read(p)
	b.f.Progress()
	if b.bytes >= 0 {
		b.bytes -= n
		b.tags -= bytes.Count(p[:n], []byte("<"))
		if b.bytes < 0 || b.tags < 0 {
			b.c.err = wrong("the server's answer is longer than it can be")
			return 0, b.c.err
		}
	}
	if err != nil && err != io.EOF {
		b.c.err = b.f.Broken(err, b.t.s.o.Credentials)
		err = b.c.err
	}
	return n, err
}

func (b *answer) Close() error {
	err := b.ReadCloser.Close()
	b.f.End(nil)
	return err
}

// bound ties the requests of a client to a context that its methods do not take.
type bound struct {
	*transport
	ctx context.Context
}

func (b bound) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.transport.RoundTrip(req.WithContext(b.ctx))
}

// page asks for some of what is below prefix, folders taken together. A prefix of nothing is an empty page.
func (s *Storage) page(ctx context.Context, prefix, token string, n int) (page minio.ListBucketV2Result, err error) {
	err = s.ask(ctx, func(ctx context.Context) error {
		region, err := s.core.GetBucketLocation(ctx, s.bucket) // from memory but the first time
		if err != nil {
			return err
		}
		core, err := s.newCore(region, bound{s.tr, ctx}) // ListObjectsV2 takes no context
		if err != nil {
			return err
		}
		page, err = core.ListObjectsV2(s.bucket, prefix, "", token, "/", n)
		return err
	})
	switch {
	case err != nil:
	case page.Name == "": // an empty page of it would mean that nothing is there
		err = wrong("the server's answer is no listing of a bucket")
	case len(page.Contents)+len(page.CommonPrefixes) > n:
		err = wrong("the server lists more than it was asked for")
	}
	return page, err
}

var _ http.RoundTripper = (*transport)(nil)
