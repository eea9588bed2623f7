package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Client asks a lake, wherever it is served.
type Client struct {
	http   *http.Client
	trans  *http.Transport
	close  []func() error
	remote bool
}

// newClient makes a Client whose connections dial gives.
func newClient(dial func(ctx context.Context) (net.Conn, error)) *Client {
	t := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
		MaxIdleConns:       4,
	}
	return &Client{http: &http.Client{Transport: t}, trans: t}
}

// Remote tells whether a daemon answers, and not this process.
func (c *Client) Remote() bool { return c.remote }

// OnClose adds what Close does at its end, after what was added before.
func (c *Client) OnClose(f func() error) { c.close = append(c.close, f) }

// Close ends the connection, and the lake itself when this process serves it.
func (c *Client) Close() error {
	c.trans.CloseIdleConnections()
	var errs []error
	for _, f := range c.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// Call asks for an operation. item is called for each result in order, progress (both
// may be nil) as it comes; an error of item ends the call. The summary is decoded into
// done, unless it is nil. The error is an *Error when the lake gave it.
func Call[Item any](ctx context.Context, c *Client, op string, req any, item func(Item) error, progress func(Progress), done any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request %s: %w", op, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // an answer that was not read to its end is given up
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://tarn/v1/"+op, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := readStream(resp.Body, func(b json.RawMessage) error {
		var v Item
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("decode answer of %s: %w", op, err)
		}
		if item == nil {
			return nil
		}
		return item(v)
	}, progress)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, ErrCutShort) {
			return context.Cause(ctx)
		}
		return err
	}
	if done == nil {
		return nil
	}
	if err := json.Unmarshal(raw, done); err != nil {
		return fmt.Errorf("decode answer of %s: %w", op, err)
	}
	return nil
}

func (c *Client) do(r *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(r)
	if err != nil {
		if r.Context().Err() != nil {
			return nil, context.Cause(r.Context())
		}
		return nil, fmt.Errorf("ask the daemon: %w: %w", ErrCutShort, err)
	}
	if resp.StatusCode == http.StatusNotFound && resp.Header.Get("Content-Type") != ndjson {
		resp.Body.Close()
		return nil, Fail(ErrFatal, "the daemon is of another version: unmount and mount again", "the daemon does not know %s", r.URL.Path)
	}
	return resp, nil
}

// Get streams the bytes of a file from off on, length -1 for all. The error of the
// reader is that of the lake; a reader that ends cleanly has given all bytes.
func (c *Client) Get(ctx context.Context, path string, off, length int64) (io.ReadCloser, error) {
	body, err := json.Marshal(ContentRequest{Path: Text(path), Offset: off, Length: length})
	if err != nil {
		return nil, err
	}
	return c.bytes(ctx, "content", bytes.NewReader(body))
}

// bytes asks for an operation that answers with bytes.
func (c *Client) bytes(ctx context.Context, op string, body io.Reader) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://tarn/v1/"+op, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		if _, err := readStream(resp.Body, nil, nil); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: status %s", op, resp.Status)
	}
	return &contentReader{resp: resp}, nil
}

// Put stores what r gives as a new file.
func (c *Client) Put(ctx context.Context, req PutRequest, r io.Reader) (PutReply, error) {
	var reply PutReply
	head, err := json.Marshal(req)
	if err != nil {
		return reply, err
	}
	// Hides what r really is: an *os.File would be closed, and its size be sent.
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://tarn/v1/put", struct{ io.Reader }{r})
	if err != nil {
		return reply, err
	}
	hr.Header.Set(requestHeader, string(head))
	resp, err := c.do(hr)
	if err != nil {
		return reply, err
	}
	defer resp.Body.Close()
	raw, err := readStream(resp.Body, nil, nil)
	if err != nil {
		return reply, err
	}
	return reply, json.Unmarshal(raw, &reply)
}

// contentReader turns the trailer of the answer into the reader's error.
type contentReader struct{ resp *http.Response }

func (c *contentReader) Read(p []byte) (int, error) {
	n, err := c.resp.Body.Read(p)
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		return n, fmt.Errorf("%w: %w", ErrCutShort, err)
	}
	var e envelope
	if json.Unmarshal([]byte(c.resp.Trailer.Get(trailer)), &e) != nil {
		return n, ErrCutShort
	}
	if e.Error != nil {
		return n, e.Error
	}
	return n, io.EOF
}

func (c *contentReader) Close() error { return c.resp.Body.Close() }
