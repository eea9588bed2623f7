package webdav

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

// uploads is the folder of unfinished uploads at the top of the prefix.
const uploads = ".tarn-uploads"

const propfindBody = `<?xml version="1.0" encoding="utf-8"?>` +
	`<propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/>` +
	`<quota-available-bytes/><quota-used-bytes/></prop></propfind>`

// entry is one response of a PROPFIND.
type entry struct {
	path            string // of the URL, without a slash at the end
	attr            backends.Attr
	used, available int64 // quota; -1: not told
}

// multistatus is the part of RFC 4918 that is looked at. Some servers answer with allprop, whatever was asked for.
type davResponse struct {
	Href     string `xml:"DAV: href"`
	Status   string `xml:"DAV: status"`
	Propstat []struct {
		Status string `xml:"DAV: status"`
		Prop   struct {
			Length   string `xml:"DAV: getcontentlength"`
			Modified string `xml:"DAV: getlastmodified"`
			Type     struct {
				Collection *struct{} `xml:"DAV: collection"`
			} `xml:"DAV: resourcetype"`
			Available string `xml:"DAV: quota-available-bytes"`
			Used      string `xml:"DAV: quota-used-bytes"`
		} `xml:"DAV: prop"`
	} `xml:"DAV: propstat"`
}

// maxEntry bounds the text of one response: what is read of a listing is kept one entry at a time.
const maxEntry = 1 << 20

// budget is a reader that refuses to go on when an entry gets too long.
type budget struct {
	r    io.Reader
	left int
	f    *wire.Flight
}

func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, wrong("an entry of the listing is longer than %d bytes", maxEntry)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	b.f.Progress()
	return n, err
}

// propfind streams the entries of a PROPFIND and gives the path of the URL that answered. each may end
// it with an error.
func (s *Storage) propfind(ctx context.Context, p, depth string, each func(entry) error) (string, error) {
	r := request{
		method: "PROPFIND", url: s.url(p), header: http.Header{"Depth": {depth}, "Content-Type": {"application/xml"}},
		body: io.NopCloser(strings.NewReader(propfindBody)), length: int64(len(propfindBody)),
		ok: func(st int) bool { return st == http.StatusMultiStatus || st == http.StatusOK },
	}
	text := strings.NewReader(propfindBody)
	r.body = io.NopCloser(text)
	r.again = func() bool { _, err := text.Seek(0, io.SeekStart); return err == nil }
	resp, f, err := s.send(ctx, r)
	if err != nil {
		return "", err
	}
	defer f.End(resp)
	if resp.StatusCode != http.StatusMultiStatus {
		return "", fmt.Errorf("the server does not speak WebDAV (PROPFIND got status %d): %w", resp.StatusCode, backends.ErrNotSupported)
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return "", wrong("the server sent a listing in encoding %q", e)
	}
	at := strings.TrimSuffix(resp.Request.URL.Path, "/")
	in := &budget{r: resp.Body, left: maxEntry, f: f}
	d := xml.NewDecoder(in)
	whole, any := false, false
	for {
		tok, err := d.Token()
		if err == io.EOF {
			switch {
			case !whole: // also an empty body
				return at, down("the server cut a listing short")
			case !any: // what is not there has a status for it
				return at, wrong("the server sent a listing of nothing")
			}
			return at, nil
		}
		if err != nil {
			return at, s.garbled(f, err)
		}
		if e, ok := tok.(xml.EndElement); ok && e.Name.Local == "multistatus" {
			whole = true
		}
		start, ok := tok.(xml.StartElement)
		if !ok || start.Name != (xml.Name{Space: "DAV:", Local: "response"}) {
			continue
		}
		var x davResponse
		if err := d.DecodeElement(&x, &start); err != nil {
			return at, s.garbled(f, err)
		}
		in.left, any = maxEntry, true
		e, ok, err := x.entry()
		if err != nil {
			return at, err
		}
		if ok {
			if err := each(e); err != nil {
				return at, err
			}
		}
	}
}

// garbled tells a listing that is no XML from a connection that broke.
func (s *Storage) garbled(f *wire.Flight, err error) error {
	var syntax *xml.SyntaxError
	if f.Ctx.Err() == nil && errors.As(err, &syntax) {
		return wrong("the server sent a malformed listing: %v", syntax)
	}
	return s.broken(f, err)
}

// entry checks one response; false for what is not there (any more).
func (x *davResponse) entry() (entry, bool, error) {
	e := entry{used: -1, available: -1}
	if x.Status != "" && !okStatus(x.Status) {
		return e, false, nil
	}
	p, err := hrefPath(strings.TrimSpace(x.Href))
	if err != nil {
		return e, false, err
	}
	e.path = strings.TrimSuffix(p, "/")
	found := len(x.Propstat) == 0
	size := ""
	for _, ps := range x.Propstat {
		if ps.Status != "" && !okStatus(ps.Status) {
			continue
		}
		found = true
		if ps.Prop.Type.Collection != nil {
			e.attr.IsDir = true
		}
		if v := strings.TrimSpace(ps.Prop.Length); v != "" {
			size = v
		}
		if t, err := http.ParseTime(strings.TrimSpace(ps.Prop.Modified)); err == nil {
			e.attr.MTime = t
		} else if t, err := time.Parse(time.RFC3339, strings.TrimSpace(ps.Prop.Modified)); err == nil {
			e.attr.MTime = t
		}
		e.available, e.used = quota(ps.Prop.Available, e.available), quota(ps.Prop.Used, e.used)
	}
	if !e.attr.IsDir && found {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n < 0 {
			return e, false, wrong("the server says that %q has a size of %q", e.path, size)
		}
		e.attr.Size = n
	}
	return e, found, nil
}

func quota(v string, old int64) int64 {
	if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil && n >= 0 {
		return min(n, 1<<58) // sums of many must not overflow
	}
	return old
}

// okStatus reads "HTTP/1.1 200 OK".
func okStatus(line string) bool {
	f := strings.Fields(line)
	return len(f) >= 2 && strings.HasPrefix(f[1], "2")
}

// hrefPath is the path of a URL or of a path in a listing. Not all servers escape it.
func hrefPath(href string) (string, error) {
	raw := href
	if i := strings.Index(raw, "://"); i >= 0 && !strings.HasPrefix(raw, "/") {
		raw = raw[i+3:]
		if i = strings.IndexByte(raw, '/'); i < 0 {
			return "/", nil
		}
		raw = raw[i:]
	}
	p, err := url.PathUnescape(raw)
	if err != nil {
		p = raw
	}
	if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
		return "", wrong("the server lists %q", href)
	}
	return p, nil
}

// stat0 is one PROPFIND.
func (s *Storage) stat0(ctx context.Context, p string) (backends.Attr, error) {
	var a backends.Attr
	n := 0
	_, err := s.propfind(ctx, p, "0", func(e entry) error {
		if n++; n > 1 {
			return wrong("the server lists more than it was asked for")
		}
		a = e.attr
		return nil
	})
	switch {
	case err != nil && (status(err) == http.StatusMethodNotAllowed || status(err) == http.StatusNotImplemented):
		return s.head(ctx, p)
	case err != nil:
		return a, err
	case n == 0:
		return a, backends.ErrNotExist
	}
	a.Path = p
	return a, nil
}

// head is what can be known of a file from a server without WebDAV.
func (s *Storage) head(ctx context.Context, p string) (backends.Attr, error) {
	resp, f, err := s.send(ctx, request{method: "HEAD", url: s.url(p)})
	if err != nil {
		return backends.Attr{}, err
	}
	f.End(resp)
	a := backends.Attr{Path: p, Size: resp.ContentLength}
	if strings.HasSuffix(resp.Request.URL.Path, "/") {
		return backends.Attr{Path: p, IsDir: true}, nil
	}
	if a.Size < 0 {
		return a, fmt.Errorf("the server does not tell the size: %w", backends.ErrNotSupported)
	}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		a.MTime = t
	}
	return a, nil
}

func (s *Storage) stat(ctx context.Context, p string) (backends.Attr, error) {
	a, err := s.stat0(ctx, p)
	switch {
	case err != nil && p == "":
		return a, s.missing(err)
	case err != nil:
		return a, s.absent(ctx, p, err)
	}
	return a, nil
}

// entries gives those of a folder in the server's order, with paths relative to the prefix.
func (s *Storage) entries(ctx context.Context, dir string, each func(backends.Attr) error) error {
	prefix := ""
	if dir != "" {
		prefix = dir + "/"
	}
	self := false
	var outside error
	top := ""
	at, err := s.propfind(ctx, dir, "1", func(e entry) error {
		if top == "" {
			// The folder comes first with all servers that were met; its own path is how the server calls it.
			if !e.attr.IsDir {
				return backends.ErrNotDir
			}
			top, self = e.path+"/", true
			return nil
		}
		name, ok := strings.CutPrefix(e.path, top)
		switch {
		case e.path+"/" == top:
			return nil
		case !ok || name == "" || strings.Contains(name, "/") || name == "." || name == "..":
			outside = wrong("the server lists %q in the folder %q", e.path, top)
			return outside
		case prefix == "" && name == uploads:
			return nil
		}
		e.attr.Path = prefix + name
		return each(e.attr)
	})
	if err == nil && !self {
		return backends.ErrNotExist
	}
	if err == nil && path.Base(at) != path.Base(strings.TrimSuffix(top, "/")) && path.Base(at) != "." {
		return wrong("the server lists %q when asked for %q", top, at)
	}
	if err != nil && outside == nil && dir != "" {
		return s.absent(ctx, dir, err)
	}
	if dir == "" {
		return s.missing(err)
	}
	return err
}

// List holds the entries of the folder until all have come, to sort them.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		var all []backends.Attr
		err := s.do(ctx, "list", dir, func(ctx context.Context) error {
			return s.entries(ctx, dir, func(a backends.Attr) error {
				if len(all) == s.o.Entries {
					return wrong("the folder has more than %d entries", s.o.Entries)
				}
				all = append(all, a)
				return nil
			})
		})
		if err != nil {
			yield(backends.Attr{}, err)
			return
		}
		slices.SortFunc(all, func(a, b backends.Attr) int { return strings.Compare(a.Path, b.Path) })
		for i, a := range all {
			if i > 0 && a.Path == all[i-1].Path {
				continue
			}
			if i%256 == 0 && ctx.Err() != nil {
				yield(backends.Attr{}, s.edge("list", dir, ctx.Err()))
				return
			}
			if !yield(a, nil) {
				return
			}
		}
	}
}
