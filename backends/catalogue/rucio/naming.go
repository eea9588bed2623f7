package rucio

import (
	"context"
	"errors"
	"log/slog"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/naming"
)

// asksNames bounds a question for a path, and asked how many answers are kept.
const (
	asksNames = 20 * time.Second
	asked     = 10_000
)

// Naming is the algorithm of a deterministic RSE that package naming does not know: the server tells where a copy of a DID belongs, once
// (GET /rses/RSE/lfns2pfns). nil for an RSE without protocols, where nothing can be written.
func Naming(client *rest.Client, r rest.RSE, log *slog.Logger) *naming.Algorithm {
	if len(r.Protocols) == 0 {
		return nil
	}
	scheme := r.Protocols[0].Scheme
	known, _ := lru.New[backends.DID, string](asked)
	return naming.Asked(r.LFN2PFN(), func(d backends.DID) string {
		if p, ok := known.Get(d); ok {
			return p
		}
		ctx, cancel := context.WithTimeout(context.Background(), asksNames)
		defer cancel()
		pfns, err := client.PFNs(ctx, r.Name, scheme, []backends.DID{d})
		below, ok := r.Below(pfns[d.String()])
		if err == nil && !ok {
			err = errors.New("the answer has no path below the RSE's prefix")
		}
		if err != nil {
			log.Warn("Rucio does not tell where a copy belongs", "did", d, "rse", r.Name, "algorithm", r.LFN2PFN(), "err", err)
			return ""
		}
		known.Add(d, below)
		return below
	})
}
