package rest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"tarn/backends"
)

// The types of authentication (lib/rucio/client/baseclient.py).
const (
	Userpass  = "userpass"
	X509      = "x509"
	X509Proxy = "x509_proxy"
	OIDC      = "oidc" // a ready-made token
)

// Config is the section [client] of a rucio.cfg, or the like of it from elsewhere.
type Config struct {
	Host     string // rucio_host: a URL
	AuthHost string // auth_host; "": Host
	Account  string
	VO       string // "": def
	AuthType string
	Username string
	Password string
	Cert     string // client_cert, a file
	Key      string // client_key, a file
	Proxy    string // client_x509_proxy, a file
	CA       string // ca_cert, a file or folder
	From     string // the file that it was read from
}

// String leaves the password out.
func (c Config) String() string {
	return fmt.Sprintf("%s as %s by %s", c.Host, c.Account, c.AuthType)
}

// check completes a Config and says what is wrong with it.
func (c *Config) check() error {
	bad := func(format string, a ...any) error {
		where := ""
		if c.From != "" {
			where = c.From + ": "
		}
		return fmt.Errorf(where+format+": %w", append(a, backends.ErrNotSupported)...)
	}
	if c.AuthHost == "" {
		c.AuthHost = c.Host
	}
	for _, h := range []string{c.Host, c.AuthHost} {
		u, err := url.Parse(h)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return bad("rucio_host %q is no URL of a Rucio server: want https://host:port", h)
		}
		if u.User != nil {
			return bad("rucio_host: a password does not belong into a URL")
		}
	}
	if c.AuthType == "" {
		switch {
		case c.Username != "":
			c.AuthType = Userpass
		case c.Cert != "":
			c.AuthType = X509
		default:
			c.AuthType = X509Proxy
		}
	}
	switch c.AuthType {
	case Userpass:
		if c.Username == "" || c.Password == "" {
			return bad("auth_type userpass wants username and password in rucio.cfg")
		}
	case X509:
		if c.Cert == "" || c.Key == "" {
			return bad("auth_type x509 wants client_cert and client_key in rucio.cfg")
		}
	case X509Proxy, OIDC:
	default:
		return bad("auth_type %q is not one that tarn knows: %s, %s, %s or %s", c.AuthType, Userpass, X509, X509Proxy, OIDC)
	}
	return nil
}

// Find gives the rucio.cfg that Rucio's own clients would take (lib/rucio/common/config.py): RUCIO_CONFIG,
// $RUCIO_HOME/etc, the virtual environment's etc, /opt/rucio/etc. "" when there is none.
func Find(getenv func(string) string) string {
	if f := getenv("RUCIO_CONFIG"); f != "" {
		return f
	}
	var at []string
	if h := getenv("RUCIO_HOME"); h != "" {
		at = append(at, filepath.Join(h, "etc/rucio.cfg"))
	}
	if v := getenv("VIRTUAL_ENV"); v != "" {
		at = append(at, filepath.Join(v, "etc/rucio.cfg"))
	}
	for _, f := range append(at, "/opt/rucio/etc/rucio.cfg") {
		if _, err := os.Stat(f); err == nil {
			return f
		}
	}
	return ""
}

// Load reads the section [client] of a rucio.cfg, and what the environment says over it. ErrNotExist, ErrDamaged.
func Load(file string, getenv func(string) string) (Config, error) {
	c := Config{From: file}
	if file != "" {
		f, err := os.Open(file)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return c, fmt.Errorf("rucio.cfg %s: %w", file, backends.ErrNotExist)
		case err != nil:
			return c, fmt.Errorf("read rucio.cfg: %w", err)
		}
		defer f.Close()
		if err := c.read(f); err != nil {
			return c, fmt.Errorf("rucio.cfg %s: %w", file, err)
		}
	}
	for _, v := range []struct {
		name string
		to   *string
	}{{"RUCIO_ACCOUNT", &c.Account}, {"RUCIO_AUTH_TYPE", &c.AuthType}, {"RUCIO_VO", &c.VO}, {"X509_USER_PROXY", &c.Proxy}, {"RUCIO_CLIENT_PROXY", &c.Proxy}} {
		if s := getenv(v.name); s != "" {
			*v.to = s
		}
	}
	expand := func(s *string) { *s = os.Expand(*s, getenv) }
	expand(&c.Cert)
	expand(&c.Key)
	expand(&c.Proxy)
	expand(&c.CA)
	return c, nil
}

// read reads an INI file as Python's configparser does, as far as rucio.cfg files use it: sections, "key = value" or
// "key: value", comments of whole lines, values that go on in indented lines.
func (c *Config) read(r io.Reader) error {
	fields := map[string]*string{
		"rucio_host": &c.Host, "auth_host": &c.AuthHost, "account": &c.Account, "vo": &c.VO, "auth_type": &c.AuthType, "username": &c.Username,
		"password": &c.Password, "client_cert": &c.Cert, "client_key": &c.Key, "client_x509_proxy": &c.Proxy, "ca_cert": &c.CA,
	}
	in := bufio.NewScanner(io.LimitReader(r, 1<<20))
	section, n := "", 0
	for in.Scan() {
		n++
		raw := in.Text()
		line := strings.TrimSpace(raw)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			end := strings.IndexByte(line, ']')
			if end < 0 {
				return fmt.Errorf("line %d: a section without its end: %w", n, backends.ErrDamaged)
			}
			section = line[1:end]
		case raw[0] == ' ' || raw[0] == '\t': // goes on; no value of ours has several lines
		case section == "client":
			i := strings.IndexAny(line, "=:")
			if i < 0 { // its text may be a secret
				return fmt.Errorf("line %d: neither a section nor key = value: %w", n, backends.ErrDamaged)
			}
			if to := fields[strings.ToLower(strings.TrimSpace(line[:i]))]; to != nil {
				*to = strings.TrimSpace(line[i+1:])
			}
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("%w: %w", err, backends.ErrDamaged)
	}
	return nil
}
