package gridftp

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"

	"tarn/backends"
)

// uploads is the folder of unfinished uploads, at the top of the prefix.
const uploads = ".tarn-uploads"

// endpoint is what a URL says.
type endpoint struct {
	gsi    bool
	host   string // for certificates
	addr   string // host:port
	prefix string // absolute and clean
	user   string // ftp only; "" is anonymous
}

// parseURL reads gsiftp://host[:2811]/prefix and ftp://[user@]host[:21]/prefix. The path is absolute on the server.
func parseURL(raw string) (endpoint, error) {
	bad := func(why string) (endpoint, error) {
		return endpoint{}, fmt.Errorf("%s: %w", why, backends.ErrName)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return bad("the URL cannot be read: want gsiftp://host:port/folder or ftp://host:port/folder")
	}
	if _, secret := u.User.Password(); secret {
		return bad("the URL of " + u.Host + " has a password in it: remove it, and use gsiftp with a proxy certificate")
	}
	e := endpoint{host: u.Hostname(), prefix: path.Clean("/" + u.Path), user: u.User.Username()}
	port := u.Port()
	switch u.Scheme {
	case "gsiftp":
		e.gsi = true
		if e.user != "" {
			return bad(fmt.Sprintf("URL %s: with gsiftp the certificate says who you are: leave out %s@", u, e.user))
		}
		if port == "" {
			port = "2811"
		}
	case "ftp":
		if port == "" {
			port = "21"
		}
	default:
		return bad(fmt.Sprintf("URL %s: the scheme is neither gsiftp nor ftp", u))
	}
	switch {
	case e.host == "":
		return bad(fmt.Sprintf("URL %s: no host", u))
	case u.RawQuery != "" || u.Fragment != "":
		return bad(fmt.Sprintf("URL %s: a folder and nothing after it is wanted", u))
	case !carried(e.prefix + e.user):
		return bad(fmt.Sprintf("URL %s: a line end, NUL or byte 255 in it", u))
	}
	e.addr = net.JoinHostPort(e.host, port)
	return e, nil
}

// carried tells whether the control channel can carry s: no line ends, and 255 is Telnet's escape, which servers take out.
func carried(s string) bool {
	return !strings.ContainsAny(s, "\r\n\x00") && strings.IndexByte(s, 0xff) < 0
}

// checkPath refuses what is not relative and clean, what the control channel cannot carry, and our own folder. "" and "." are the prefix itself.
func checkPath(p string) error {
	if p == "" || p == "." {
		return nil
	}
	if len(p) > 4000 {
		return fmt.Errorf("path of %d bytes: %w", len(p), backends.ErrNameTooLong)
	}
	if !carried(p) {
		return fmt.Errorf("path %q: FTP cannot carry line ends, NUL and byte 255: %w", p, backends.ErrName)
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

// remote is the absolute path on the server.
func (s *Storage) remote(p string) string { return path.Join(s.end.prefix, p) }

// at is what errors call a path.
func (s *Storage) at(p string) string {
	scheme := "ftp://"
	if s.end.gsi {
		scheme = "gsiftp://"
	}
	return scheme + s.end.addr + s.remote(strings.ToValidUTF8(p, "?"))
}
