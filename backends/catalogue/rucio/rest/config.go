package rest

import (
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
	SSH       = "ssh"  // a key, which signs what the server asks to be signed
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
	SSHKey   string // ssh_private_key, a file
	From     string // the file that it was read from
}

// String leaves the password out.
func (c Config) String() string {
	return fmt.Sprintf("%s as %s by %s", c.Host, c.Account, c.AuthType)
}

// GoString leaves it out where a program prints its own values.
func (c Config) GoString() string { return c.String() }

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
		if strings.Contains(h, "@") { // nor is it in the error
			return bad("rucio_host: a user or password does not belong into a URL")
		}
		u, err := url.Parse(h)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return bad("rucio_host %q is no URL of a Rucio server: want https://host:port", h)
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
	case SSH:
		if c.SSHKey == "" || c.Account == "" {
			return bad("auth_type ssh wants ssh_private_key and account in rucio.cfg")
		}
	case X509Proxy, OIDC:
	default:
		return bad("auth_type %q is not one that tarn knows: %s, %s, %s, %s or %s", c.AuthType, Userpass, X509, X509Proxy, OIDC, SSH)
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

// Load reads the section [client] of a rucio.cfg, and what the environment says over it, in the order of Rucio's own client
// (lib/rucio/client/baseclient.py): RUCIO_CLIENT_PROXY counts more than the file, X509_USER_PROXY less. ErrNotExist, ErrDamaged.
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
	}{{"RUCIO_ACCOUNT", &c.Account}, {"RUCIO_AUTH_TYPE", &c.AuthType}, {"RUCIO_VO", &c.VO}, {"RUCIO_CLIENT_PROXY", &c.Proxy},
		{"RUCIO_CLIENT_CERT", &c.Cert}, {"RUCIO_CLIENT_KEY", &c.Key}} {
		if s := getenv(v.name); s != "" {
			*v.to = s
		}
	}
	if c.Proxy == "" {
		c.Proxy = getenv("X509_USER_PROXY")
	}
	if getenv("X509_CERT_DIR") != "" {
		c.CA = "" // it counts more than the file; Options.TLS is where it gets in
	}
	for _, f := range []*string{&c.Cert, &c.Key, &c.Proxy, &c.CA, &c.SSHKey} {
		*f = os.Expand(*f, getenv)
		if rest, ok := strings.CutPrefix(*f, "~/"); ok && getenv("HOME") != "" {
			*f = filepath.Join(getenv("HOME"), rest)
		}
	}
	return c, nil
}

// read takes what a rucio.cfg says.
func (c *Config) read(r io.Reader) error {
	f, err := readINI(r)
	if err != nil {
		return err
	}
	for key, to := range map[string]*string{
		"rucio_host": &c.Host, "auth_host": &c.AuthHost, "account": &c.Account, "vo": &c.VO, "auth_type": &c.AuthType, "username": &c.Username,
		"password": &c.Password, "client_cert": &c.Cert, "client_key": &c.Key, "client_x509_proxy": &c.Proxy, "ca_cert": &c.CA, "ssh_private_key": &c.SSHKey,
	} {
		*to = f.get("client", key)
	}
	return nil
}
