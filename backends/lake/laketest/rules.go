package laketest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"tarn/backends"
)

// Pasts is backends.Versions'.
func (c *Catalogue) Pasts(_ context.Context, d backends.DID) iter.Seq2[backends.Past, error] {
	return func(yield func(backends.Past, error) bool) {
		if err := c.begin("pasts", d); err != nil {
			yield(backends.Past{}, err)
			return
		}
		pasts := slices.Clone(c.pasts)
		c.mu.Unlock()
		if !d.IsZero() {
			slices.Reverse(pasts)
		}
		for _, p := range pasts {
			if (d.IsZero() || p.Info.DID == d) && !yield(p, nil) {
				return
			}
		}
	}
}

// Undelete is backends.Versions', for a name that nothing has now.
func (c *Catalogue) Undelete(_ context.Context, handle string) error {
	if err := c.begin("undelete", backends.DID{}); err != nil {
		return err
	}
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.pasts, func(p backends.Past) bool { return p.Handle == handle })
	if i < 0 {
		return fmt.Errorf("undelete %s: %w", handle, backends.ErrNotExist)
	}
	p := c.pasts[i]
	if c.entries[p.Info.DID] != nil {
		return fmt.Errorf("undelete %s: %w", handle, backends.ErrNotSupported)
	}
	c.entries[p.Info.DID] = &entry{info: p.Info, meta: p.Meta, replicas: p.Replicas}
	c.pasts = slices.Delete(c.pasts, i, i+1)
	return nil
}

// Purge is backends.Versions'.
func (c *Catalogue) Purge(_ context.Context, handle string) error {
	if err := c.begin("purge", backends.DID{}); err != nil {
		return err
	}
	defer c.mu.Unlock()
	n := len(c.pasts)
	c.pasts = slices.DeleteFunc(c.pasts, func(p backends.Past) bool { return p.Handle == handle })
	if len(c.pasts) == n {
		return fmt.Errorf("purge %s: %w", handle, backends.ErrNotExist)
	}
	return nil
}

// History is empty.
func (c *Catalogue) History(context.Context, backends.DID, time.Time) iter.Seq2[backends.Event, error] {
	return func(func(backends.Event, error) bool) {}
}

// AddRule is backends.Rules'.
func (c *Catalogue) AddRule(_ context.Context, r backends.Rule) (backends.RuleID, error) {
	if err := c.begin("addrule", r.DID); err != nil {
		return "", err
	}
	defer c.mu.Unlock()
	if err := r.Check(); err != nil {
		return "", err
	}
	for i, x := range c.rules {
		if x.Same(r) {
			c.rules[i].Rule = x.Updated(r)
			return x.ID, nil
		}
	}
	c.seq++
	id := backends.RuleID(fmt.Sprintf("rule%d", c.seq))
	c.rules = append(c.rules, backends.RuleStatus{ID: id, Rule: r, State: backends.RuleReplicating, Created: time.Now()})
	return id, nil
}

// RulesOf is backends.Rules'.
func (c *Catalogue) RulesOf(_ context.Context, d backends.DID) iter.Seq2[backends.RuleStatus, error] {
	return c.ruleSeq("rulesof", d, func(r backends.RuleStatus) bool {
		above := map[backends.DID]bool{d: true}
		c.aboveLocked(d, above)
		return above[r.DID]
	})
}

func (c *Catalogue) aboveLocked(d backends.DID, above map[backends.DID]bool) {
	for i := range d.Name {
		if d.Name[i] == '/' && c.layout(d.Scope) == backends.LayoutLFN {
			above[backends.DID{Scope: d.Scope, Name: d.Name[:i]}] = true
		}
	}
	for k, e := range c.entries {
		if e.children[d] && !above[k] {
			above[k] = true
			c.aboveLocked(k, above)
		}
	}
}

// AllRules is backends.Rules'.
func (c *Catalogue) AllRules(_ context.Context, states ...backends.RuleState) iter.Seq2[backends.RuleStatus, error] {
	return c.ruleSeq("allrules", backends.DID{}, func(r backends.RuleStatus) bool {
		return len(states) == 0 || slices.Contains(states, r.State)
	})
}

func (c *Catalogue) ruleSeq(op string, d backends.DID, want func(backends.RuleStatus) bool) iter.Seq2[backends.RuleStatus, error] {
	return func(yield func(backends.RuleStatus, error) bool) {
		if err := c.begin(op, d); err != nil {
			yield(backends.RuleStatus{}, err)
			return
		}
		var list []backends.RuleStatus
		for _, r := range c.rules {
			if want(r) {
				list = append(list, r)
			}
		}
		c.mu.Unlock()
		for _, r := range list {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// SetRuleState is backends.Rules'.
func (c *Catalogue) SetRuleState(_ context.Context, id backends.RuleID, s backends.RuleState, why string) error {
	if err := c.begin("setrulestate", backends.DID{}); err != nil {
		return err
	}
	defer c.mu.Unlock()
	for i := range c.rules {
		if c.rules[i].ID == id {
			c.rules[i].State, c.rules[i].Error = s, why
			return nil
		}
	}
	return fmt.Errorf("set state of rule %s: %w", id, backends.ErrNotExist)
}

// DeleteRule is backends.Rules'.
func (c *Catalogue) DeleteRule(_ context.Context, id backends.RuleID) error {
	if err := c.begin("deleterule", backends.DID{}); err != nil {
		return err
	}
	defer c.mu.Unlock()
	n := len(c.rules)
	c.rules = slices.DeleteFunc(c.rules, func(r backends.RuleStatus) bool { return r.ID == id })
	if len(c.rules) == n {
		return fmt.Errorf("delete rule %s: %w", id, backends.ErrNotExist)
	}
	return nil
}
