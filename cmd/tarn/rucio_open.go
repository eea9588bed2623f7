package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/credential"
	"tarn/backends/lake"
	"tarn/backends/naming"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// rsesFile keeps what Rucio said of its RSEs, so that a lake can be mounted while the server is away.
func rsesFile(cfg *config.Config) string { return filepath.Join(cfg.Run, "rucio-rses.json") }

// rucioRSEs asks the server for its RSEs; while it is away those of the last time are taken.
func (o *opened) rucioRSEs() (map[string]rest.RSE, error) {
	ctx, cancel := withinAsks(context.Background())
	defer cancel()
	all, err := o.rucio.RSEs(ctx)
	if err == nil {
		if err := keepRSEs(rsesFile(o.cfg), all); err != nil {
			o.log.Warn("what Rucio says of its RSEs is not kept", "err", err)
		}
		return all, nil
	}
	if !errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("open lake %s: %w", o.cfg.Name, err)
	}
	all, kerr := keptRSEs(rsesFile(o.cfg))
	if kerr != nil {
		return nil, control.Fail(errors.Join(backends.ErrUnavailable, backends.ErrTemporary), "try again when it is back; a lake that was open once can be mounted without it",
			"the Rucio server %s does not answer: %v", o.client.URL(), err)
	}
	o.log.Warn("the Rucio server does not answer; its RSEs are those of the last time", "url", o.client.URL(), "err", err)
	return all, nil
}

// keepRSEs writes the file whole or not at all.
func keepRSEs(file string, all map[string]rest.RSE) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := makeFolder(filepath.Dir(file)); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".rucio-rses-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

func keptRSEs(file string) (all map[string]rest.RSE, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(b, &all)
}

// overrideOf is what the lake file says of an RSE.
func overrideOf(cfg *config.Config, name string) config.RSE {
	for _, r := range cfg.RSEs {
		if r.Name == name {
			return r
		}
	}
	return config.RSE{Name: name}
}

// openRucioRSEs opens the storages that Rucio knows. One that cannot be reached by what tarn speaks is there, and says so when it is used.
func (o *opened) openRucioRSEs(cred *credential.Source) ([]*lake.RSE, error) {
	all, err := o.rucioRSEs()
	if err != nil {
		return nil, err
	}
	for _, r := range o.cfg.RSEs {
		if _, ok := all[r.Name]; !ok {
			o.log.Warn("the lake file has an RSE that Rucio does not know", "rse", r.Name)
		}
	}
	here := *o.cfg
	here.RSEs = nil
	remote := map[string]remoteRSE{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r := rseOf(all[name], overrideOf(o.cfg, name))
		r.RSE = here.Here(r.RSE)
		remote[name] = r
		here.RSEs = append(here.RSEs, r.RSE)
	}
	doors := doorsOf(&here, cred, o.log)
	o.gates = map[string]*gate{}
	tapes := &withTapes{Catalogue: o.rucio, tapes: map[string]bool{}, index: newTapeIndex()}
	var out []*lake.RSE
	for _, r := range here.RSEs {
		x := remote[r.Name]
		rse := &lake.RSE{RSE: r.Backend(), LAN: o.cfg.LAN(r), Distance: r.Distance}
		p, err := openProtocols(r, doors, cred, o.cfg.Checksums, o.log, o.now, func(p config.Protocol, err error) {
			x.Unspoken = append(x.Unspoken, fmt.Sprintf("%s: %v", p.URL, err))
		})
		if err != nil {
			return nil, fmt.Errorf("open RSE %s: %w", r.Name, err)
		}
		o.onClose(p.Close)
		var under backends.Storage
		if len(p.read) > 0 {
			under, rse.Endpoints = p, p.states
		} else if len(p.all) > 0 {
			x.Unspoken = append(x.Unspoken, "none of its protocols is for reading from here")
		}
		if len(p.write) == 0 && x.Closed == "" {
			x.Closed = "none of its protocols is for writing from here"
		}
		g := newGate(r.Name, under, x.Unspoken)
		g.set(x.Unread, x.Closed)
		o.gates[r.Name] = g
		rse.Unread = g.unread
		rse.Storage, rse.ReadOnly = g, x.Closed != "" || under == nil
		if rse.Kind == backends.TapeKind {
			rse.Tape = &rucioTape{o: o, rse: r.Name, staging: x.Staging, index: tapes.index}
			tapes.tapes[r.Name] = true
		} else {
			var known bool
			if rse.Naming, known = naming.ByName(r.Naming); !known {
				rse.Naming = rucio.Naming(o.client, all[r.Name], o.log)
			}
			rse.Bound = rse.Naming != nil
		}
		out = append(out, rse)
	}
	o.cat = tapes
	return out, nil
}

// followRSEs is one look at what Rucio opens and closes for reading and writing: it is taken over.
func (o *opened) followRSEs(ctx context.Context) {
	ctx, cancel := withinAsks(ctx)
	defer cancel()
	all, err := o.rucio.RSEs(ctx)
	if err != nil {
		return
	}
	for _, r := range o.lake.RSEs() {
		now, ok := all[r.Name]
		g := o.gates[r.Name]
		if !ok || g == nil {
			continue
		}
		x := rseOf(now, overrideOf(o.cfg, r.Name))
		if p, ok := g.under.(*protocols); ok && len(p.write) == 0 && x.Closed == "" {
			x.Closed = "none of its protocols is for writing from here"
		}
		was := *g.closed.Load()
		g.set(x.Unread, x.Closed)
		b := x.Backend()
		b.ReadOnly = x.Closed != "" || g.under == nil
		if b.ReadOnly == r.ReadOnly && maps.Equal(b.Attributes, r.Attributes) {
			continue
		}
		if err := o.lake.SetRSE(b, r.Care); err != nil {
			o.log.Warn("what Rucio says of an RSE is not taken over", "rse", r.Name, "err", err)
			continue
		}
		o.log.Info("Rucio says something else of an RSE", "rse", r.Name, "closed", x.Closed, "was", was.write)
	}
}

// lakeOfRucio is what a lake of Rucio's has of its own.
func (o *opened) lakeOfRucio(lo *lake.Options) {
	lo.Served, lo.Cached = true, o.rucio
	lo.Layout = backends.Layout(o.cfg.Catalogue.Layout)
	if f, ok := rucio.ScopeAlgorithm(o.cfg.Catalogue.ScopeOf); ok {
		lo.ScopeOf = f
	}
	lo.Recall = lake.RecallOptions{PollMin: time.Second, PollMax: 15 * time.Second} // a recall is a rule, which Rucio's daemons serve in their time
}
