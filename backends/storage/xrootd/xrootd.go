// Package xrootd is a storage element spoken to by the root protocol: XRootD servers and redirectors, EOS, dCache and
// their like.
//
//	st, err := xrootd.Open(xrootd.Options{URL: "root://door.example.org:1094//eos/ctao", Credentials: src})
//
// reached from the lake's configuration as
//
//	rses:
//	  - {name: SITE-DISK, kind: disk, protocols: [{url: "roots://door.example.org//eos/ctao"}]}
//
// It stands on libXrdCl and is there in builds with the tag xrdcl; without it the package is pure Go and Open says what
// to do. roots is root with TLS from the start. Requests are asynchronous: one that is out holds no thread. A read is
// kXR_pgread, whose pages carry CRC32C, where the server knows it. An upload goes to the hidden folder .tarn-uploads at
// the top of the prefix, is synced, compared there with the server's own checksum, and moved to its place by Commit.
//
// A manager (cmsd) that finds no server with a file may mean that the file does not exist or that its server is away: that is
// ErrUnavailable, never ErrNotExist. Its List is ErrNotSupported.
//
// CopyTo lets one server fetch a file from another (ofs.tpc), whose bytes do not come by here.
//
// Proxy and token (ztn, over TLS only) are those of Options.Credentials as they are when a connection is made; what comes
// after they were renewed goes by a new one. Servers that a redirector names are shown them, too: each has its clients log in.
// Keytabs (sss) and the trusted authorities (X509_CERT_DIR) are taken by the library from the environment of the process.
package xrootd

import (
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/credential"
)

// Options say where the storage is and how it behaves; zero fields take the default.
type Options struct {
	// URL is root://host[:1094]//folder or roots://; one slash before the folder will do. The folder has to be there.
	URL string
	// Marker names a file that must stand in the folder, or the storage is unavailable. It tells a mounted disk from the
	// empty folder that it is mounted on.
	Marker string
	// Credentials are the proxy and the token; nil lets the library look.
	Credentials *credential.Source
	// ReadOnly refuses Create and Remove.
	ReadOnly bool
	// Capacity is what Space says when the server does not tell; 0 is 1 PiB.
	Capacity int64
	// Checksums (checksum.Default) are computed of every upload while it goes.
	Checksums []string
	// Timeout (15 s) bounds every request, and a read with opening its file again after the server was lost.
	Timeout time.Duration
	// Requests (256) is how many are out at once.
	Requests int
	// Log gets what no caller can be told; nil is nowhere.
	Log *slog.Logger
	// Now is the clock that left-over uploads are judged by.
	Now func() time.Time
}

// uploads is the folder of unfinished uploads, at the top of the prefix.
const uploads = ".tarn-uploads"

// Open gives the storage at o.URL. It fails when the options make no sense or the build has no libXrdCl, not when the
// server is away.
func Open(o Options) (backends.Storage, error) {
	end, err := parseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("open xrootd storage: %w", err)
	}
	return open(o, end)
}

// endpoint is what a URL says.
type endpoint struct {
	scheme string // root, roots
	addr   string // host:port
	prefix string // absolute and clean
}

// String is the URL for people.
func (e endpoint) String() string { return e.scheme + "://" + e.addr + "/" + e.prefix }

// parseURL reads root://host[:port]//prefix. The path is absolute on the server, with one slash or two.
func parseURL(raw string) (endpoint, error) {
	bad := func(format string, args ...any) (endpoint, error) {
		return endpoint{}, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), backends.ErrName)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return bad("the URL cannot be read: want root://host:port//folder")
	}
	port := u.Port()
	if port == "" {
		port = "1094"
	}
	e := endpoint{scheme: u.Scheme, addr: u.Hostname() + ":" + port, prefix: path.Clean("/" + u.Path)}
	if strings.Contains(u.Hostname(), ":") {
		e.addr = "[" + u.Hostname() + "]:" + port
	}
	switch {
	case u.Scheme != "root" && u.Scheme != "roots":
		return bad("want a URL of root or roots, not of %q", u.Scheme)
	case u.User != nil:
		return bad("the URL of %s has a user or password in it; use a proxy or a token", u.Host)
	case u.Hostname() == "":
		return bad("the URL has no host")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return bad("the URL of %s has more than a folder after the host", u.Host)
	}
	if e.prefix != "/" {
		if err := checkPath(e.prefix[1:]); err != nil {
			return bad("the folder of the URL: %v", err)
		}
	}
	return e, nil
}

// checkPath refuses what is not relative and clean, what the protocol cannot carry, and our own folder. "" is the prefix
// itself. A question mark begins what is no part of the name; lines end the entries of a listing.
func checkPath(p string) error {
	if p == "" {
		return nil
	}
	if len(p) > 4000 {
		return fmt.Errorf("path of %d bytes: %w", len(p), backends.ErrNameTooLong)
	}
	if strings.ContainsAny(p, "\x00\r\n?") {
		return fmt.Errorf("path %q: the root protocol cannot carry line ends, NUL and question marks: %w", p, backends.ErrName)
	}
	for i, e := range strings.Split(p, "/") {
		switch {
		case e == "", e == ".", e == "..":
			return fmt.Errorf("path %q: not relative and clean: %w", p, backends.ErrName)
		case len(e) > 255:
			return fmt.Errorf("path %.40q...: element of %d bytes: %w", p, len(e), backends.ErrNameTooLong)
		case i == 0 && e == uploads:
			return fmt.Errorf("path %q: reserved: %w", p, backends.ErrName)
		}
	}
	return nil
}
