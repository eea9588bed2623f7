package main

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"tarn/backends/credential"
	"tarn/cmd/tarn/config"
)

// rucioWho is who a lake's Rucio server takes the user for.
type rucioWho struct {
	Server  string    `json:"server"`
	Version string    `json:"version,omitempty"`
	Account string    `json:"account"`
	Auth    string    `json:"auth"`             // type of authentication
	Config  string    `json:"config,omitempty"` // the rucio.cfg
	Expires time.Time `json:"expires,omitzero"` // of the token, which is renewed
	Problem string    `json:"problem,omitempty"`
}

// askRucio logs in.
func (s *session) askRucio(ctx context.Context, cfg *config.Config, cred *credential.Source) (w rucioWho) {
	ctx, cancel := withinAsks(ctx)
	defer cancel()
	client, err := connectRucio(cfg, cred, slog.New(slog.DiscardHandler), s.t.now)
	if err != nil {
		w.Problem = err.Error()
		return w
	}
	defer client.Close()
	w.Server = client.URL()
	if conf, err := rucioClient(cfg.Catalogue.Rucio, os.Getenv); err == nil {
		w.Auth, w.Config, w.Account = conf.AuthType, conf.From, conf.Account
	}
	if w.Version, err = client.Ping(ctx); err == nil {
		if err = client.Login(ctx); err == nil {
			w.Account, err = client.WhoAmI(ctx)
			_, w.Expires = client.Account()
		}
	}
	if err != nil {
		w.Problem = err.Error()
	}
	return w
}

func (s *session) rucioWord(w rucioWho) string {
	if w.Problem != "" {
		return w.Problem
	}
	out := "account " + w.Account
	if w.Auth != "" {
		out += " by " + w.Auth
	}
	if w.Config != "" {
		out += " of " + w.Config
	}
	if !w.Expires.IsZero() {
		out += ", token until " + s.t.expiry(w.Expires)
	}
	return out + ", Rucio " + w.Version
}

// rsesOf are the RSEs of a lake as far as they are known without asking anybody: those of the lake file, or what Rucio said last.
func rsesOf(cfg *config.Config) []config.RSE {
	if !cfg.IsRucio() {
		return cfg.RSEs
	}
	all, err := keptRSEs(rsesFile(cfg))
	if err != nil {
		return nil
	}
	var out []config.RSE
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, rseOf(all[name], overrideOf(cfg, name)).RSE)
	}
	return out
}
