package rucio

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// Fits tells why Rucio would not take a name, by its generic schema.
func (c *Catalogue) Fits(d backends.DID) error { return edge("look at the name of", d, c.newName(d)) }

// Look asks the server for files and their copies: two calls a Page.
func (c *Catalogue) Look(ctx context.Context, files []backends.DID) (map[backends.DID]backends.Look, error) {
	fail := func(err error) (map[backends.DID]backends.Look, error) {
		return nil, edge(fmt.Sprintf("look at %d files", len(files)), backends.DID{}, err)
	}
	metas, err := c.c.BulkMeta(ctx, files)
	if err != nil {
		return fail(err)
	}
	var there []backends.DID
	for d, m := range metas {
		if m.Type == rest.TypeFile {
			there = append(there, d)
		}
	}
	var rows map[backends.DID]rest.Replicas
	if len(there) > 0 {
		if rows, err = c.c.ListReplicas(ctx, there); err != nil {
			return fail(err)
		}
	}
	at := map[string]bool{}
	for _, row := range rows {
		for rse := range row.States {
			at[rse] = true
		}
	}
	rses, err := c.rsesOf(ctx, slices.Collect(maps.Keys(at)))
	if err != nil {
		return fail(err)
	}
	out := make(map[backends.DID]backends.Look, len(metas))
	for d, m := range metas {
		l := backends.Look{Info: c.info(m), Removed: m.Hidden != nil && *m.Hidden}
		if row, ok := rows[d]; ok {
			l.Replicas = c.withBad(d, c.replicasOf(rses, row))
		} else if m.Type == rest.TypeFile {
			return fail(fmt.Errorf("the server says nothing of the copies of %s: %w: %w", d, backends.ErrUnavailable, backends.ErrTemporary))
		}
		out[d] = l
	}
	return out, nil
}

// Ask puts rules on the datasets of directories.
func (c *Catalogue) Ask(ctx context.Context, dirs []backends.DID, rules []backends.Rule) error {
	for _, r := range rules {
		err := r.Check()
		if err == nil && !r.Expires.IsZero() && !r.Expires.After(c.now()) {
			err = fmt.Errorf("the rule for %d copies on %q has ended at %s: %w", r.Copies, r.Expression, r.Expires.Format(time.RFC3339), backends.ErrNotSupported)
		}
		if err != nil {
			return edge("ask for rules", backends.DID{}, err)
		}
	}
	sets, why, err := c.datasets(ctx, dirs)
	if err != nil {
		return edge("ask for rules", backends.DID{}, err)
	}
	for _, dir := range dirs {
		if err := why[dir]; err != nil {
			return edge("ask for rules on", dir, err)
		}
		for _, r := range rules {
			var life time.Duration
			if !r.Expires.IsZero() {
				life = max(r.Expires.Sub(c.now()), time.Second)
			}
			if _, err := c.ensure(ctx, sets[dir], r, life); err != nil {
				return edge(fmt.Sprintf("ask for %d copies on %q of", r.Copies, r.Expression), sets[dir], err)
			}
		}
	}
	return nil
}

// Held tells of rules on the dataset of a directory's files: a call for the dataset, and one for each of the rules if a file is wanted.
func (c *Catalogue) Held(ctx context.Context, dir backends.DID, rules []backends.Rule, want map[backends.DID]bool) ([]backends.Held, error) {
	out := make([]backends.Held, len(rules))
	a, err := c.stat(ctx, dir)
	if err != nil {
		return nil, edge("rules of the files in", dir, err)
	}
	on := loose(dir)
	if a.info.Type == backends.Dataset {
		on = dir
	}
	account, _ := c.c.Account()
	var all []rest.Rule
	if err := c.c.RulesOf(ctx, on, func(r rest.Rule) error { all = append(all, r); return nil }); err != nil {
		return nil, edge("rules of", on, err)
	}
	for i, r := range rules {
		mine := false
		for _, x := range all {
			if x.Copies != r.Copies || x.Expression != r.Expression {
				continue
			}
			s, own := status(x), x.Account == account
			if has, lasts := out[i].Lasts(r, c.now()), s.Lasts(r, c.now()); out[i].ID == "" || lasts && !has || lasts == has && own && !mine {
				out[i].RuleStatus, mine = s, own
			}
		}
		if out[i].ID == "" { // whoever asks for it again is to get a new one
			c.ruled.Remove(ruleKey(on, account, r))
		}
		if out[i].ID == "" || len(want) == 0 {
			continue
		}
		h := &out[i]
		h.At = map[backends.DID][]string{}
		err := c.c.Locks(ctx, string(h.ID), func(l rest.Lock) error {
			if d := l.DID(); want[d] && l.State == "OK" {
				h.At[d] = append(h.At[d], l.RSE)
			}
			return nil
		})
		if err != nil {
			return nil, edge("locks of rule "+string(h.ID)+" on", on, err)
		}
	}
	return out, nil
}
