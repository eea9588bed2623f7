package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/credential"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// used is one protocol of the lake in `tarn whoami`, and who it is used as.
type used struct {
	RSE      string   `json:"rse"`
	Protocol string   `json:"protocol"`          // its URL
	With     []string `json:"with"`              // kinds of credentials that the server is shown, in this order
	From     []string `json:"from,omitempty"`    // the files of these that the protocol names for itself
	Missing  string   `json:"missing,omitempty"` // what it would need beside them
	Hint     string   `json:"hint,omitempty"`
}

// whoRow is a line of `tarn whoami --json`: one of its fields is there.
type whoRow struct {
	Credential  *credential.Found       `json:"credential,omitempty"`
	Authorities *credential.Authorities `json:"authorities,omitempty"`
	Rucio       *rucioWho               `json:"rucio,omitempty"`
	Use         *used                   `json:"use,omitempty"`
}

// takes is which credentials a scheme can show, the preferred first, and whether it is of no use without one.
var takes = map[string]struct {
	kinds []string
	must  bool
}{
	"davs": {[]string{"token", "proxy"}, false}, "https": {[]string{"token", "proxy"}, false},
	"gsiftp": {[]string{"proxy"}, true},
	"root":   {[]string{"proxy", "token"}, false}, "roots": {[]string{"proxy", "token"}, false},
	"s3": {[]string{"s3 keys"}, false}, "s3s": {[]string{"s3 keys"}, false},
}

func (s *session) whoamiCommand() *cli.Command {
	return &cli.Command{
		Name: "whoami", Category: groupLake, Usage: "the proxy, tokens, keys and authorities that are found, and what uses them",
		Description: `Shows the credentials that this shell's environment leads to, never a secret, when they expire, and
the trusted authorities with their lists of revoked certificates. With a lake (--lake, TARN_LAKE, or the
only one there is): those of the files that its protocols name (keys, proxy, token), too, and for each
protocol of each RSE what its server is shown, and what is missing. With a Rucio server: the account there, and when
its token ends, which is renewed by itself unless it was brought along. A mount
uses the credentials of the environment that it was started in.

Exit codes: 0 nothing is missing, 9 nothing was found and there is no lake to ask for, 12 something is
expired, cannot be used, or is missing where a protocol cannot do without.`,
		Action: func(c *cli.Context) error {
			var cfg *config.Config
			file, _, err := s.pick()
			if err == nil {
				cfg, err = s.load(file)
			}
			if err != nil && !errors.Is(err, config.ErrNoLake) {
				return err
			}
			return s.whoami(c.Context, credential.New(credential.Options{Getenv: os.Getenv, UID: os.Geteuid()}), cfg)
		},
	}
}

func (s *session) whoami(ctx context.Context, cred *credential.Source, cfg *config.Config) error {
	found, trust := cred.List(), cred.Authorities()
	l := s.t.list("", "", "", "")
	bad := 0
	for _, f := range append(slices.Clone(found), ofFiles(cred, cfg)...) {
		if f.Problem != "" {
			bad++
		}
		if f.Kind == "s3 keys" {
			f.Name = shortKey(f.Name)
		}
		if err := l.add(whoRow{Credential: &f}, f.Kind, f.From, s.foundWord(f)); err != nil {
			return err
		}
	}
	if trust.Problem != "" {
		bad++
	}
	if err := l.add(whoRow{Authorities: &trust}, "authorities", trust.Dir, s.trustWord(trust)); err != nil {
		return err
	}
	if cfg != nil && cfg.IsRucio() {
		w := s.askRucio(ctx, cfg, cred)
		if w.Problem != "" {
			bad++
		}
		if err := l.add(whoRow{Rucio: &w}, "rucio", w.Server, s.rucioWord(w)); err != nil {
			return err
		}
	}
	if cfg != nil {
		for _, r := range rsesOf(cfg) {
			for _, p := range r.Protocols {
				u := useOf(r, p, seenBy(cred, p, found))
				if u.Missing != "" {
					bad++
				}
				word := "as nobody"
				if len(u.With) > 0 {
					word = "as " + strings.Join(u.With, " and ")
				}
				if len(u.From) > 0 {
					word += " of " + strings.Join(u.From, " and ")
				}
				if u.Missing != "" {
					word = u.Missing
				}
				if u.Hint != "" {
					word += ": " + u.Hint
				}
				if err := l.add(whoRow{Use: &u}, u.RSE, u.Protocol, word); err != nil {
					return err
				}
			}
		}
	}
	if err := l.end(); err != nil {
		return err
	}
	switch {
	case bad > 0:
		return control.Fail(backends.ErrPermission, "", "%s expired, missing or of no use; each is named above", count(int64(bad), "credential"))
	case len(found) == 0 && cfg == nil:
		return control.Fail(control.ErrNothing, "set X509_USER_PROXY or BEARER_TOKEN_FILE, or name a lake that needs neither", "no credentials were found")
	}
	return nil
}

// ofFiles are the credentials in files that protocols name, each once.
func ofFiles(cred *credential.Source, cfg *config.Config) (out []credential.Found) {
	if cfg == nil {
		return nil
	}
	for _, r := range rsesOf(cfg) {
		for _, p := range r.Protocols {
			for _, f := range ofProtocol(cred, p) {
				if !slices.ContainsFunc(out, func(o credential.Found) bool { return o.Kind == f.Kind && o.From == f.From }) {
					out = append(out, f)
				}
			}
		}
	}
	return out
}

// ofProtocol are the credentials in the files that a protocol names.
func ofProtocol(cred *credential.Source, p config.Protocol) []credential.Found {
	if p.Keys != "" {
		f, _ := cred.FoundKeys(p.Keys)
		return []credential.Found{f}
	}
	if files := filesOf(p); files != (credential.Files{}) {
		return cred.Of(files).List()
	}
	return nil
}

// seenBy is what of found counts for a protocol: one that names files takes no others.
func seenBy(cred *credential.Source, p config.Protocol, found []credential.Found) []credential.Found {
	if own := ofProtocol(cred, p); own != nil {
		return own
	}
	return found
}

// useOf tells what the server of a protocol is shown.
func useOf(r config.RSE, p config.Protocol, found []credential.Found) used {
	out := used{RSE: r.Name, Protocol: p.URL, With: []string{}}
	u, err := url.Parse(p.URL)
	if err != nil {
		return out
	}
	t, knows := takes[u.Scheme]
	if !knows {
		out.Hint = "this protocol shows no credentials"
		return out
	}
	var unusable []string
	for _, kind := range t.kinds {
		for _, f := range found {
			switch {
			case f.Kind != kind:
			case f.Problem != "":
				unusable = append(unusable, kind)
			default:
				out.With = append(out.With, kind)
				if f.From == p.Proxy || f.From == p.Token || f.From == p.Keys {
					out.From = append(out.From, f.From)
				}
			}
		}
	}
	switch {
	case len(out.With) > 0:
	case len(unusable) > 0:
		out.Missing = "no " + strings.Join(unusable, " and ") + " that can be used"
	case t.must:
		out.Missing, out.Hint = "no "+strings.Join(t.kinds, " or "), hints[t.kinds[0]]
	default:
		out.Hint = "only what is open to all; " + hints[t.kinds[0]]
	}
	return out
}

// hints tell where a credential comes from.
var hints = map[string]string{
	"token":   "set BEARER_TOKEN_FILE or X509_USER_PROXY for more",
	"proxy":   "make one with voms-proxy-init, or set X509_USER_PROXY",
	"s3 keys": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}

// shortKey leaves of the ID of an S3 key what is enough to tell it from others.
func shortKey(id string) string {
	if len(id) <= 8 {
		return id[:len(id)/2] + "…"
	}
	return id[:4] + "…" + id[len(id)-4:]
}

func (s *session) foundWord(f credential.Found) string {
	if f.Problem != "" {
		return f.Problem
	}
	var parts []string
	add := func(what, text string) {
		if text != "" {
			parts = append(parts, strings.TrimPrefix(what+" "+text, " "))
		}
	}
	add("", f.Name)
	add("of", f.Issuer)
	add("for", strings.Join(f.Audience, " "))
	add("may", strings.Join(f.Scopes, " "))
	for _, v := range f.VOMS {
		add("VO", v.VO)
		add("", strings.Join(v.FQANs, " "))
		if !v.Expires.Equal(f.Expires) {
			add("these expire", s.t.expiry(v.Expires))
		}
	}
	if f.Expires.IsZero() {
		add("", "it does not tell when it expires")
	} else {
		add("expires", s.t.expiry(f.Expires))
	}
	return strings.Join(parts, ", ")
}

// expiry gives a time with how far it is off.
func (t *terminal) expiry(at time.Time) string {
	if left := at.Sub(t.now()); left > 0 {
		return fmt.Sprintf("%s (in %s)", when(at), span(left))
	}
	return fmt.Sprintf("%s (expired)", when(at))
}

func (s *session) trustWord(a credential.Authorities) string {
	if a.Problem != "" {
		return a.Problem
	}
	parts := []string{count(int64(a.Trusted), "authority")}
	if a.Expired > 0 {
		parts = append(parts, fmt.Sprintf("%d expired", a.Expired))
	}
	parts = append(parts, count(int64(a.Lists), "list")+" of revoked certificates")
	if !a.Oldest.IsZero() {
		parts = append(parts, "the oldest of "+when(a.Oldest))
	}
	if a.Stale > 0 {
		parts = append(parts, fmt.Sprintf("%d out of date (fetch-crl renews them)", a.Stale))
	}
	if a.System {
		parts = append(parts, "beside the machine's own")
	}
	return strings.Join(parts, ", ")
}
