package rest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tarn/backends"
)

const authToken = "X-Rucio-Auth-Token"

// token is what a login gave.
type token struct {
	value   string
	expires time.Time // zero: not known
	account string
}

// early is how long before its end a token is not used any more.
const early = time.Minute

// Account is the account that the server knows us as; "" before the first login.
func (c *Client) Account() (name string, expires time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token.account == "" {
		return c.o.Config.Account, c.token.expires
	}
	return c.token.account, c.token.expires
}

// Login makes sure that there is a token.
func (c *Client) Login(ctx context.Context) error {
	_, err := c.auth(ctx)
	return err
}

// auth gives a token, logging in when there is none that is good for a while. One call logs in for all.
func (c *Client) auth(ctx context.Context) (token, error) {
	for {
		c.mu.Lock()
		if t := c.token; t.value != "" && (t.expires.IsZero() || c.o.Now().Before(t.expires.Add(-early))) && c.o.Config.AuthType != OIDC {
			c.mu.Unlock()
			return t, nil
		}
		if wait := c.login; wait != nil {
			c.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return token{}, ctx.Err()
			}
		}
		done := make(chan struct{})
		c.login = done
		c.mu.Unlock()

		t, err := c.obtain(ctx)

		c.mu.Lock()
		c.login = nil
		if err == nil {
			c.token = t
		}
		c.mu.Unlock()
		close(done)
		return t, err
	}
}

// forget drops a token that the server did not take.
func (c *Client) forget(t token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token.value == t.value {
		c.token = token{}
	}
	if f := c.tokenFile(); f != "" {
		os.Remove(f)
	}
}

// obtain gets a token: one that is ready, one that an earlier client has left, or a new one by login.
func (c *Client) obtain(ctx context.Context) (token, error) {
	conf := c.o.Config
	if conf.AuthType == OIDC {
		if c.o.Token == nil {
			return token{}, fmt.Errorf("log in to %s: no token; put one where WLCG's discovery looks for it (BEARER_TOKEN_FILE): %w", conf.Host, backends.ErrPermission)
		}
		v, err := c.o.Token()
		if err != nil {
			return token{}, fmt.Errorf("log in to %s: %w", conf.Host, err)
		}
		return token{value: v, account: conf.Account}, nil
	}
	if t, ok := c.kept(); ok {
		return t, nil
	}
	h := http.Header{}
	set := func(k, v string) {
		if v != "" {
			h.Set(k, v)
		}
	}
	set("X-Rucio-Account", conf.Account)
	set("X-Rucio-VO", conf.VO)
	route := "/auth/x509"
	switch conf.AuthType {
	case Userpass:
		route = "/auth/userpass"
		set("X-Rucio-Username", conf.Username)
		set("X-Rucio-Password", conf.Password)
	case X509Proxy:
		route = "/auth/x509_proxy"
	}
	var t token
	k := call{method: http.MethodGet, route: route, path: route}
	err := c.once(ctx, k, nil, h, func(r *http.Response) error {
		if r.StatusCode == http.StatusPartialContent {
			return fmt.Errorf("the identity has several accounts (%s): name one: %w", r.Header.Get("X-Rucio-Auth-Accounts"), backends.ErrPermission)
		}
		t.value, t.account = r.Header.Get(authToken), r.Header.Get("X-Rucio-Auth-Account")
		t.expires = ParseTime(r.Header.Get("X-Rucio-Auth-Token-Expires"))
		if t.value == "" {
			return fmt.Errorf("the answer has no token; is this a Rucio server? %w", backends.ErrUnavailable)
		}
		return nil
	})
	if err != nil {
		var e *Error
		if errors.As(err, &e) && errors.Is(err, backends.ErrPermission) {
			return token{}, fmt.Errorf("log in to %s as account %q by %s: the server says %s: %w", conf.AuthHost, conf.Account, conf.AuthType, e.Class, backends.ErrPermission)
		}
		return token{}, fmt.Errorf("log in to %s by %s: %w", conf.AuthHost, conf.AuthType, err)
	}
	c.keep(t)
	return t, nil
}

// tokenFile is where a token is kept between programs of a user, "" for nowhere. It is no file of Rucio's own client, whose form says
// nothing of a token's end.
func (c *Client) tokenFile() string {
	if c.o.TokenDir == "" {
		return ""
	}
	conf := c.o.Config
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, conf.AuthHost+"_"+conf.VO+"_"+conf.Account+"_"+conf.AuthType+"_"+conf.Username)
	return filepath.Join(c.o.TokenDir, name+".token")
}

// kept reads a token of tokenFile that is good for a while.
func (c *Client) kept() (t token, ok bool) {
	name := c.tokenFile()
	if name == "" {
		return t, false
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return t, false
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 3 {
		return t, false
	}
	t.value, t.account = lines[0], lines[1]
	t.expires, err = time.Parse(time.RFC3339, lines[2])
	return t, err == nil && t.value != "" && c.o.Now().Before(t.expires.Add(-2*early))
}

// keep writes tokenFile for this user alone. What cannot be kept is obtained again.
func (c *Client) keep(t token) {
	name := c.tokenFile()
	if name == "" || t.expires.IsZero() || os.MkdirAll(filepath.Dir(name), 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".token-")
	if err != nil {
		return
	}
	_, err = fmt.Fprintf(f, "%s\n%s\n%s\n", t.value, t.account, t.expires.Format(time.RFC3339))
	if errors.Join(err, f.Close()) != nil || os.Rename(f.Name(), name) != nil {
		os.Remove(f.Name())
	}
}

// tlsConfig trusts what Config.CA names, and shows the certificate of x509.
func (c *Client) tlsConfig() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.o.TLS != nil {
		conf = c.o.TLS.Clone()
	}
	o := c.o.Config
	if o.CA != "" {
		roots, err := authorities(o.CA)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = roots
	}
	switch o.AuthType {
	case X509:
		cert, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("client_cert %s: %w: %w", o.Cert, err, backends.ErrPermission)
		}
		conf.Certificates = []tls.Certificate{cert}
	case X509Proxy: // renewed while we run
		load := c.o.Proxy
		if load == nil {
			load = func() (tls.Certificate, error) { return tls.LoadX509KeyPair(o.Proxy, o.Proxy) }
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := load()
			if err != nil {
				return nil, fmt.Errorf("proxy certificate: %w", err)
			}
			return &cert, nil
		}
	}
	return conf, nil
}

// authorities reads a file or folder of certificates.
func authorities(name string) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	files := []string{name}
	if fi, err := os.Stat(name); err != nil {
		return nil, fmt.Errorf("ca_cert: %w: %w", err, backends.ErrPermission)
	} else if fi.IsDir() {
		files, _ = filepath.Glob(filepath.Join(name, "*"))
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for {
			var block *pem.Block
			if block, b = pem.Decode(b); block == nil {
				break
			}
			if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
				pool.AddCert(cert)
				n++
			}
		}
	}
	if n == 0 {
		return nil, fmt.Errorf("ca_cert %s: no certificates in it: %w", name, backends.ErrPermission)
	}
	return pool, nil
}
