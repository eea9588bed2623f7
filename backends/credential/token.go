package credential

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"tarn/backends"
)

// Token is a bearer token.
type Token struct {
	Secret  string    // "" when there is none that can be used
	From    string    // the variable or file that it is from
	Subject string    // of a JWT, as the rest
	Expires time.Time // zero: not known
	Issuer  string
	Scopes  []string // as in the WLCG profile: storage.read:/path
	// Audience names the servers that it is for.
	Audience []string
}

type tokenFile = cached[Token]

// Token gives that of the named file, or the first one that WLCG's discovery finds; the zero Token when there is
// none. One that cannot be used comes with an error that says why, and without its secret. A named file must be
// readable by its owner alone.
func (s *Source) Token() (Token, error) {
	if s.named != nil {
		if s.named.Token == "" {
			return Token{}, nil
		}
		return s.theTokenOf(s.named.Token, true)
	}
	if v := strings.TrimSpace(s.o.Getenv("BEARER_TOKEN")); v != "" {
		return s.judge(parseToken(v, "BEARER_TOKEN"))
	}
	if f := s.o.Getenv("BEARER_TOKEN_FILE"); f != "" {
		return s.theTokenOf(f, false)
	}
	paths := []string{s.tmp("bt_u")}
	if d := s.o.Getenv("XDG_RUNTIME_DIR"); d != "" {
		paths = append([]string{filepath.Join(d, fmt.Sprintf("bt_u%d", s.o.UID))}, paths...)
	}
	for _, p := range paths {
		if t, there, err := s.tokenOf(p, false); there {
			return t, err
		}
	}
	return Token{}, nil
}

// theTokenOf is tokenOf for a file that has to be there.
func (s *Source) theTokenOf(path string, private bool) (Token, error) {
	t, there, err := s.tokenOf(path, private)
	if !there {
		return t, fmt.Errorf("the token file %s is not there: %w", path, backends.ErrPermission)
	}
	return t, err
}

// tokenOf gives that of a file, and whether there is the file; private: others may not read it.
func (s *Source) tokenOf(path string, private bool) (t Token, there bool, err error) {
	t, err = s.token.get(path, func() (Token, stamp, error) {
		b, st, err := s.secret(path, private)
		if err != nil {
			return Token{}, st, err
		}
		t, err := parseToken(strings.TrimSpace(string(b)), path)
		return t, st, err
	})
	t.From = path
	if errors.Is(err, errNone) {
		return t, false, nil
	}
	t, err = s.judge(t, err)
	return t, true, err
}

// judge takes the secret from a token that is of no use.
func (s *Source) judge(t Token, err error) (Token, error) {
	if err != nil {
		err = fmt.Errorf("the token of %s: %w", t.From, err)
	} else if !t.Expires.IsZero() && !s.o.Now().Before(t.Expires) {
		err = fmt.Errorf("the token of %s %w at %s; get a new one: %w", t.From, backends.ErrExpired, t.Expires.Local().Format(time.DateTime), backends.ErrPermission)
	}
	if err != nil {
		t.Secret = ""
	}
	return t, err
}

// parseToken reads what a JWT says of itself; whether that is true is for servers to judge. Other
// forms (macaroons) are taken as they are.
func parseToken(text, from string) (Token, error) {
	t := Token{Secret: text, From: from}
	if text == "" {
		return t, fmt.Errorf("it is empty: %w", backends.ErrDamaged)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return t, fmt.Errorf("it has characters that no token has: %w", backends.ErrDamaged)
	}
	part := strings.Split(text, ".")
	if len(part) != 3 {
		return t, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(part[1], "="))
	if err != nil {
		return t, nil
	}
	var claims struct {
		Sub   string          `json:"sub"`
		Iss   string          `json:"iss"`
		Exp   float64         `json:"exp"`
		Scope json.RawMessage `json:"scope"` // a text with spaces; SciTokens 1 had lists
		Aud   json.RawMessage `json:"aud"`   // a text or a list
	}
	if json.Unmarshal(b, &claims) == nil {
		t.Subject, t.Issuer = printable([]byte(claims.Sub)), printable([]byte(claims.Iss))
		t.Audience = texts(claims.Aud)
		for _, s := range texts(claims.Scope) {
			t.Scopes = append(t.Scopes, strings.Fields(s)...)
		}
		if claims.Exp > 0 && claims.Exp < 1<<40 {
			t.Expires = time.Unix(int64(claims.Exp), 0)
		}
	}
	return t, nil
}

// texts gives a claim that is a text, or a list of them.
func texts(raw json.RawMessage) (out []string) {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		out = []string{one}
	} else if json.Unmarshal(raw, &out) != nil {
		return nil
	}
	for i := range out {
		out[i] = printable([]byte(out[i]))
	}
	return out
}
