package webdav

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// macaroonLife is for how long another server may use one: a copy can take hours.
const macaroonLife = "PT24H"

// maxMacaroon bounds the answer that holds one.
const maxMacaroon = 64 << 10

// key is what another server can show to be let in here.
type key struct {
	secret string // "" is none
	narrow bool   // it is good for one file only, and no more than the copy of it
}

// key gives that to do these things with one file: our token or, where we have a proxy and no token or want a narrow one, a
// macaroon for it, which dCache, XRootD, EOS and StoRM give.
func (s *Storage) key(ctx context.Context, u *url.URL, narrow bool, activities ...string) key {
	t := s.tokenFor(u)
	if u.Scheme != "https" || !s.home(u) || t != "" && !narrow {
		return key{secret: t}
	}
	if p, _ := s.o.Credentials.Proxy(); p.Cert == nil && t == "" {
		return key{}
	}
	ask := way{s, "macaroon", nil}
	if !ask.open() {
		return key{}
	}
	m := s.macaroon(ctx, u, activities)
	if m == "" && ctx.Err() == nil {
		ask.close()
	}
	return key{m, true}
}

// macaroon asks for one; "" where the server has none to give, whatever it says.
func (s *Storage) macaroon(ctx context.Context, u *url.URL, activities []string) string {
	text, err := json.Marshal(map[string]any{"caveats": []string{"activity:" + strings.Join(activities, ",")}, "validity": macaroonLife})
	if err != nil {
		return ""
	}
	body := strings.NewReader(string(text))
	resp, f, err := s.send(ctx, request{
		method: "POST", url: u, header: http.Header{"Content-Type": {"application/macaroon-request"}}, seen: byNone,
		body: io.NopCloser(body), length: int64(len(text)),
		again: func() bool { _, err := body.Seek(0, io.SeekStart); return err == nil },
	})
	if err != nil {
		return ""
	}
	defer f.End(resp)
	var answer struct {
		Macaroon string `json:"macaroon"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, maxMacaroon)).Decode(&answer) != nil {
		return ""
	}
	if strings.ContainsFunc(answer.Macaroon, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "" // no header carries it
	}
	return answer.Macaroon
}
