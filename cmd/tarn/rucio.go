package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/credential"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// rucioClient is the server and the user that a lake file names, over what the user's rucio.cfg and the environment say.
func rucioClient(c config.Rucio, getenv func(string) string) (rest.Config, error) {
	file := cmp.Or(c.Client, rest.Find(getenv))
	r, err := rest.Load(file, getenv)
	if err != nil {
		return r, control.Fail(err, "catalogue.client_config of the lake file, or RUCIO_CONFIG, names a rucio.cfg", "%v", err)
	}
	for _, f := range []struct {
		to   *string
		from string
	}{
		{&r.Host, c.URL}, {&r.AuthHost, c.AuthURL}, {&r.Account, c.Account}, {&r.VO, c.VO}, {&r.AuthType, c.Auth}, {&r.Username, c.Username},
		{&r.Cert, c.Cert}, {&r.Key, c.Key}, {&r.Proxy, c.Proxy}, {&r.CA, c.CA},
	} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	if r.AuthType == rest.SSH && c.Key != "" {
		r.SSHKey, r.Key = c.Key, ""
	}
	if c.URL != "" && c.AuthURL == "" {
		r.AuthHost = "" // that of rucio.cfg is another server's
	}
	if c.Token != "" && c.Auth == "" {
		r.AuthType = rest.OIDC
	}
	if c.Password != "" {
		b, err := os.ReadFile(c.Password)
		if err != nil {
			return r, control.Fail(backends.ErrPermission, "catalogue.password names the file that the password is in", "read the password: %v", err)
		}
		r.Password = strings.TrimRight(string(b), "\r\n")
	}
	if r.Host == "" {
		return r, control.Fail(control.ErrUsage, "set catalogue.url in the lake file, or rucio_host in a rucio.cfg that RUCIO_CONFIG names", "no Rucio server is named")
	}
	return r, nil
}

// connectRucio makes the client of a lake's server; nothing is asked yet.
func connectRucio(cfg *config.Config, cred *credential.Source, log *slog.Logger, now func() time.Time) (*rest.Client, error) {
	c := cfg.Catalogue.Rucio
	conf, err := rucioClient(c, os.Getenv)
	if err != nil {
		return nil, err
	}
	own := cred
	if c.Token != "" || conf.Proxy != "" && conf.AuthType == rest.X509Proxy {
		own = cred.Of(credential.Files{Token: c.Token, Proxy: conf.Proxy})
	}
	o := rest.Options{
		Config: conf, Agent: "tarn/" + strings.Fields(versionString())[0], Log: log, Now: now, TokenDir: filepath.Join(cfg.Run, "tokens"),
		Token: func() (string, error) {
			t, err := own.Token()
			if err == nil && t.Secret == "" {
				err = fmt.Errorf("no token was found; put one into catalogue.token of the lake file, or BEARER_TOKEN_FILE: %w", backends.ErrPermission)
			}
			return t.Secret, err
		},
		Proxy: func() (tls.Certificate, error) {
			p, err := own.Proxy()
			if err == nil && p.Cert == nil {
				err = fmt.Errorf("no proxy was found; make one with voms-proxy-init: %w", backends.ErrPermission)
			}
			if err != nil {
				return tls.Certificate{}, err
			}
			return *p.Cert, nil
		},
	}
	if u, err := url.Parse(conf.Host); err == nil && conf.CA == "" {
		o.TLS = cred.ServerConfig(u.Hostname())
	}
	client, err := rest.New(o)
	if err != nil {
		return nil, control.Fail(control.ErrFatal, "`tarn config show` tells where each setting is from", "open the catalogue of lake %s: %v", cfg.Name, err)
	}
	return client, nil
}

// openRucio opens the catalogue of a Rucio server. The server need not be up.
func (o *opened) openRucio(cred *credential.Source) error {
	client, err := connectRucio(o.cfg, cred, o.log, o.now)
	if err != nil {
		return err
	}
	c := o.cfg.Catalogue
	opt := rucio.Options{
		Client: client, Layout: backends.Layout(c.Layout), Roots: c.Roots, Scopes: c.Shown, TTL: c.TTL.D(), NegativeTTL: c.Negative.D(), Stale: c.Stale.D(),
		Entries: int(c.Cache / rucioEntry), Lifetime: c.RuleLifetime.D(), Activity: c.Activity, Comment: c.Comment, Expire: c.Remove == config.RemoveExpire,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Log: o.log, Now: o.now,
	}
	if c.ScopeOf != "" {
		opt.ScopeOf, _ = rucio.ScopeAlgorithm(c.ScopeOf) // the lake file was judged
	}
	cat, err := rucio.Open(opt)
	if err != nil {
		client.Close()
		return fmt.Errorf("open the catalogue of lake %s: %w", o.cfg.Name, err)
	}
	o.onClose(cat.Close)
	o.cat, o.rucio, o.client = cat, cat, client
	return nil
}

// rucioEntry is what an entry of a listing takes in memory, in bytes.
const rucioEntry = 512

// notRucio refuses what is about the stored catalogue where there is none here.
func notRucio(cfg *config.Config, what string) error {
	if !cfg.IsRucio() {
		return nil
	}
	return control.Fail(backends.ErrNotSupported, "ask who runs the Rucio server: its database has the catalogue", "%s: the catalogue of lake %s is Rucio's", what, cfg.Name)
}

// asks bounds what has to be known before a lake opens.
const asks = 20 * time.Second

// withinAsks gives a context for it.
func withinAsks(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, asks)
}
