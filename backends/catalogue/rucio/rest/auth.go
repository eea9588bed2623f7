package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

const (
	early     = time.Minute // how long before its end a token is not used any more
	loginTime = time.Minute // what a login may take
	maxToken  = 64 << 10    // bytes of a file that a token is kept in
)

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

// flight is a login under way, for all who need it.
type flight struct {
	done  chan struct{}
	token token // set before done is closed, as err
	err   error
}

// auth gives a token, logging in when there is none that is good for a while. One login is for all who ask meanwhile, and none of
// them ends it for the others: it is the client's.
func (c *Client) auth(ctx context.Context) (token, error) {
	c.mu.Lock()
	if t := c.token; t.value != "" && (t.expires.IsZero() || c.o.Now().Before(t.expires.Add(-early))) && c.o.Config.AuthType != OIDC {
		c.mu.Unlock()
		return t, nil
	}
	f := c.login
	if f == nil {
		if c.life.Err() != nil {
			c.mu.Unlock()
			return token{}, fmt.Errorf("log in: the client %w", backends.ErrClosed)
		}
		f = &flight{done: make(chan struct{})}
		c.login = f
		c.under.Add(1)
		go c.fly(f)
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return token{}, fmt.Errorf("log in: %w", ctx.Err())
	}
}

// fly logs in for all.
func (c *Client) fly(f *flight) {
	defer c.under.Done()
	ctx, cancel := context.WithTimeout(c.life, loginTime)
	defer cancel()
	f.token, f.err = c.obtain(ctx)
	if f.err != nil && ctx.Err() != nil { // nobody's who waits
		f.err = fmt.Errorf("log in to %s: no answer in %v: %w", c.o.Config.AuthHost, loginTime, errDown)
	}
	c.mu.Lock()
	c.login = nil
	if f.err == nil {
		c.token = f.token
	}
	c.mu.Unlock()
	close(f.done)
}

// forget drops a token that the server did not take; another that a program has left meanwhile stays.
func (c *Client) forget(t token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token.value == t.value {
		c.token = token{}
	}
	if kept, ok := c.kept(); ok && kept.value == t.value {
		os.Remove(c.tokenFile())
	}
}

// obtain gets a token: one that is ready, one that an earlier client has left, or a new one by login.
func (c *Client) obtain(ctx context.Context) (token, error) {
	conf := c.o.Config
	if conf.AuthType == OIDC {
		return c.ready()
	}
	if t, ok := c.kept(); ok {
		return t, nil
	}
	t, err := c.logIn(ctx)
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

// ready gives a token that somebody else has got.
func (c *Client) ready() (token, error) {
	conf := c.o.Config
	v, err := "", error(nil)
	if c.o.Token != nil {
		v, err = c.o.Token()
	}
	switch {
	case err != nil:
		return token{}, fmt.Errorf("log in to %s: %w", conf.Host, err)
	case v == "":
		return token{}, fmt.Errorf("log in to %s: no token; put one where WLCG's discovery looks for it (BEARER_TOKEN_FILE): %w", conf.Host, backends.ErrPermission)
	}
	return token{value: v, account: conf.Account}, nil
}

// logIn asks for a token (GET /auth/...).
func (c *Client) logIn(ctx context.Context) (token, error) {
	conf := c.o.Config
	h := http.Header{}
	route := "/auth/" + conf.AuthType
	switch conf.AuthType {
	case Userpass:
		h.Set("X-Rucio-Username", latin1(conf.Username))
		h.Set("X-Rucio-Password", latin1(conf.Password))
	case SSH:
		signature, err := c.answerChallenge(ctx)
		if err != nil {
			return token{}, err
		}
		h.Set("X-Rucio-SSH-Signature", signature)
	}
	var t token
	k := call{method: http.MethodGet, route: route, path: route}
	err := c.send(ctx, k, nil, h, func(r *http.Response) error {
		if r.StatusCode == http.StatusPartialContent {
			return fmt.Errorf("the identity has several accounts (%s): name one: %w", r.Header.Get("X-Rucio-Auth-Accounts"), backends.ErrPermission)
		}
		t.value, t.account = r.Header.Get(authToken), r.Header.Get("X-Rucio-Auth-Account")
		if t.account == "" {
			t.account = conf.Account
		}
		t.expires = ParseTime(r.Header.Get("X-Rucio-Auth-Token-Expires"))
		if t.value == "" {
			return fmt.Errorf("the answer has no token; is this a Rucio server? %w", backends.ErrUnavailable)
		}
		return nil
	})
	return t, err
}

// latin1 writes a header's value as WSGI servers read it; what has other letters goes as it is.
func latin1(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return s
		}
		b = append(b, byte(r))
	}
	return string(b)
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
	b, err := readOwn(name)
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

// readOwn reads a file that is this user's alone: a folder that others may write in must not give us their tokens.
func readOwn(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || !fi.Mode().IsRegular() || fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is not this user's alone: %w", name, backends.ErrPermission)
	}
	return io.ReadAll(io.LimitReader(f, maxToken))
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
