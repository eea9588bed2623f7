package rucio

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// rule is one that there was when it was asked for. Many files of one dataset ask for the same one: the server hears of it every ruledFor.
type rule struct {
	id    backends.RuleID
	asked time.Time
}

const ruledFor = 10 * time.Minute

// ruledOn is the collection of those that a file is in which a rule for it is on: that of its name, else the first.
func (c *Catalogue) ruledOn(d backends.DID, parents []backends.DID) backends.DID {
	if len(parents) == 0 {
		return d
	}
	if c.isLFN() {
		for _, p := range []backends.DID{c.home(d), loose(c.home(d))} {
			if slices.Contains(parents, p) {
				return p
			}
		}
	}
	return parents[0]
}

// AddRule asks Rucio for copies. A rule on a file becomes one on the dataset that the file is in, unless it is in none.
func (c *Catalogue) AddRule(ctx context.Context, r backends.Rule) (backends.RuleID, error) {
	if err := r.Check(); err != nil {
		return "", edge("add rule", r.DID, err)
	}
	a, err := c.stat(ctx, r.DID)
	if err != nil {
		return "", edge("add rule", r.DID, err)
	}
	on := r.DID
	switch {
	case on.Name == "":
		return "", edge("add rule", on, fmt.Errorf("a scope has no rules in Rucio: %w", backends.ErrNotSupported))
	case a.info.Type == backends.File:
		parents, err := c.c.Parents(ctx, on)
		if err != nil {
			return "", edge("add rule", on, err)
		}
		on = c.ruledOn(on, parents)
	}
	life := c.o.Lifetime
	if !r.Expires.IsZero() {
		life = max(r.Expires.Sub(c.now()), time.Second)
	}
	id, err := c.ensure(ctx, on, r, life)
	return id, edge("add rule on", on, err)
}

func ruleKey(on backends.DID, account string, r backends.Rule) string {
	return fmt.Sprintf("%s\x00%s\x00%s\x00%d", on, account, r.Expression, r.Copies)
}

// ensure asks for a rule on a collection, or a file that is in none; with no lifetime it is for ever.
func (c *Catalogue) ensure(ctx context.Context, on backends.DID, r backends.Rule, life time.Duration) (backends.RuleID, error) {
	account := r.Account
	if account == "" {
		account, _ = c.c.Account()
	}
	key := ruleKey(on, account, r)
	if r, ok := c.ruled.Get(key); ok && c.now().Sub(r.asked) < ruledFor {
		return r.id, nil
	}
	n := rest.NewRule{DIDs: []backends.DID{on}, Account: account, Copies: r.Copies, Expression: r.Expression, Grouping: string(r.Grouping), Priority: r.Urgency(), Asynchronous: true}
	if n.Grouping == "" {
		n.Grouping = string(backends.GroupDataset)
	}
	set := func(to **string, values ...string) {
		for _, v := range values {
			if v != "" {
				*to = &v
				return
			}
		}
	}
	set(&n.Source, r.Source)
	set(&n.Weight, r.Weight)
	set(&n.Activity, r.Activity, c.o.Activity)
	set(&n.Comment, r.Comment, c.o.Comment)
	if life > 0 {
		s := int64(life / time.Second)
		n.Lifetime = &s
	}
	id, err := c.c.EnsureRule(ctx, n)
	if rest.Is(err, "InvalidObject", "InputValidationError") { // e.g. an activity that the server's schema does not list
		err = fmt.Errorf("the server does not take such a rule: %w: %w", err, backends.ErrNotSupported)
	}
	if err != nil {
		return "", err
	}
	c.ruled.Add(key, rule{backends.RuleID(id), c.now()})
	return backends.RuleID(id), nil
}

// status is a rule in tarn's words.
func status(r rest.Rule) backends.RuleStatus {
	s := backends.RuleStatus{
		ID: backends.RuleID(r.ID), Created: r.Created.Time, Error: r.Error,
		Rule: backends.Rule{
			DID: backends.DID{Scope: r.Scope, Name: r.Name}, Copies: r.Copies, Expression: r.Expression, Source: r.Source, Expires: r.Expires.Time,
			Comment: r.Comments, Account: r.Account, Activity: r.Activity, Priority: r.Priority, Weight: r.Weight, Grouping: backends.Grouping(r.Grouping),
		},
	}
	switch r.State {
	case "OK":
		s.State = backends.RuleOK
	case "STUCK", "SUSPENDED":
		s.State = backends.RuleStuck
	default:
		s.State = backends.RuleReplicating
	}
	if s.Error == "" && r.State != "OK" {
		s.Error = fmt.Sprintf("Rucio says %s: %d copies are there, %d being made, %d stuck", r.State, max(r.OK, 0), max(r.Replicating, 0), max(r.Stuck, 0))
	}
	return s
}

// RulesOf streams the rules on d and on the collections above it.
func (c *Catalogue) RulesOf(ctx context.Context, d backends.DID) iter.Seq2[backends.RuleStatus, error] {
	return func(yield func(backends.RuleStatus, error) bool) {
		if _, err := c.stat(ctx, d); err != nil {
			yield(backends.RuleStatus{}, edge("rules of", d, err))
			return
		}
		if d.Name == "" {
			return
		}
		seen := map[backends.DID]bool{}
		for todo := []backends.DID{d}; len(todo) > 0; todo = todo[1:] {
			on := todo[0]
			if seen[on] || len(seen) > 1000 {
				continue
			}
			seen[on] = true
			var all []rest.Rule
			err := c.c.RulesOf(ctx, on, func(r rest.Rule) error { all = append(all, r); return nil })
			if files := loose(on); err == nil && on == d && !seen[files] { // the rules that its files got stand there
				seen[files] = true
				if f, lerr := c.look(ctx, files); lerr == nil && f.info.Type == backends.Dataset {
					err = c.c.RulesOf(ctx, files, func(r rest.Rule) error { all = append(all, r); return nil })
				}
			}
			var parents []backends.DID
			if err == nil {
				parents, err = c.c.Parents(ctx, on)
			}
			if err != nil {
				yield(backends.RuleStatus{}, edge("rules of", on, err))
				return
			}
			for _, r := range all {
				if !yield(status(r), nil) {
					return
				}
			}
			todo = append(todo, parents...)
		}
	}
}

// AllRules streams the account's rules.
func (c *Catalogue) AllRules(ctx context.Context, want ...backends.RuleState) iter.Seq2[backends.RuleStatus, error] {
	return func(yield func(backends.RuleStatus, error) bool) {
		if err := c.c.Login(ctx); err != nil {
			yield(backends.RuleStatus{}, edge("list rules", backends.DID{}, err))
			return
		}
		account, _ := c.c.Account()
		stopped := false
		err := c.c.Rules(ctx, url.Values{"account": {account}}, func(r rest.Rule) error {
			s := status(r)
			if len(want) > 0 && !slices.Contains(want, s.State) {
				return nil
			}
			if !yield(s, nil) {
				stopped = true
				return errEnough
			}
			return nil
		})
		if err != nil && !stopped {
			yield(backends.RuleStatus{}, edge("list rules", backends.DID{}, err))
		}
	}
}

// SetRuleState: how far a rule is Rucio knows.
func (c *Catalogue) SetRuleState(ctx context.Context, id backends.RuleID, _ backends.RuleState, _ string) error {
	if _, err := c.c.Rule(ctx, string(id)); err != nil {
		return edge("set the state of rule "+string(id), backends.DID{}, err)
	}
	return edge("set the state of rule "+string(id), backends.DID{}, fmt.Errorf("that is for Rucio's judge: %w", backends.ErrNotSupported))
}

// DeleteRule ends a rule; Rucio does so within an hour.
func (c *Catalogue) DeleteRule(ctx context.Context, id backends.RuleID) error {
	c.ruled.Purge()
	return edge("delete rule "+string(id), backends.DID{}, c.c.DeleteRule(ctx, string(id)))
}
