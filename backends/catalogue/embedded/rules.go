package embedded

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"

	"tarn/backends"
)

// rule is the record of a rule; its DID is an inode, so that it follows renames.
type rule struct {
	inode uint64
	backends.RuleStatus
}

func (r *rule) encode() []byte {
	b := make(enc, 0, 128)
	b.uint(r.inode)
	b.uint(uint64(r.Copies))
	b.string(r.Expression)
	b.time(r.Expires)
	b.string(r.Comment)
	b.string(r.Account)
	b.string(string(r.State))
	b.string(r.Error)
	b.time(r.Created)
	if r.hasTransfer() {
		b.string(r.Source)
		b.string(r.Activity)
		b.uint(uint64(r.Priority))
		b.string(r.Weight)
		b.string(string(r.Grouping))
	}
	return b
}

// hasTransfer tells whether the rule says how its copies are made: that is what version 1 knows nothing of.
func (r *rule) hasTransfer() bool {
	return r.Source != "" || r.Activity != "" || r.Priority != 0 || r.Weight != "" || r.Grouping != ""
}

// putRule stores the record. The first one that an older program would misread makes the catalogue one that it refuses.
func (t *tx) putRule(r *rule) error {
	if r.hasTransfer() {
		has, err := t.version()
		if err != nil {
			return err
		}
		if has < versionTransfer {
			t.set(versionKey(), encodeVersion(versionTransfer))
		}
	}
	t.set(ruleKey(r.ID), r.encode())
	return nil
}

func (r *rule) decode(val []byte) error {
	d := dec{b: val}
	r.inode = d.uint()
	r.Copies = int(d.uint())
	r.Expression = d.string()
	r.Expires = d.time()
	r.Comment = d.string()
	r.Account = d.string()
	r.State = backends.RuleState(d.string())
	r.Error = d.string()
	r.Created = d.time()
	if len(d.b) > 0 {
		r.Source = d.string()
		r.Activity = d.string()
		r.Priority = int(d.uint())
		r.Weight = d.string()
		r.Grouping = backends.Grouping(d.string())
	}
	return d.err("rule")
}

// maxRuleText bounds the texts of a rule.
const maxRuleText = 4096

// AddRule stores the rule with state REPLICATING, or updates one that asks for the same copies.
func (c *Catalogue) AddRule(ctx context.Context, r backends.Rule) (id backends.RuleID, err error) {
	var random [16]byte
	rand.Read(random[:])
	err = c.update(ctx, false, func(t *tx) error {
		if err := r.Check(); err != nil {
			return err
		}
		if len(r.Expression)+len(r.Comment)+len(r.Account)+len(r.Source)+len(r.Activity)+len(r.Weight) > maxRuleText {
			return fmt.Errorf("a rule of more than %d bytes: %w", maxRuleText, backends.ErrQuota)
		}
		h, err := t.find().mustFind(r.DID)
		if err != nil {
			return err
		}
		have, err := t.rulesOn(h.Inode)
		if err != nil {
			return err
		}
		for _, old := range have {
			old.DID = r.DID // both are on one inode
			if !old.Same(r) {
				continue
			}
			id = old.ID
			if now := old.Updated(r); now != old.Rule {
				old.Rule = now
				return t.putRule(old)
			}
			return nil
		}
		n := rule{inode: h.Inode, RuleStatus: backends.RuleStatus{ID: backends.RuleID(hex.EncodeToString(random[:])), Rule: r, State: backends.RuleReplicating, Created: t.now}}
		id = n.ID
		t.set(ruleOfKey(n.inode, n.ID), nil)
		t.set(ruleInKey(n.State, n.ID), nil)
		return t.putRule(&n)
	})
	if err != nil {
		return "", opError("add rule", r.DID, err)
	}
	return id, nil
}

// rulesOn lists the rules on one inode.
func (v *view) rulesOn(ino uint64) (rs []*rule, err error) {
	prefix := ruleOfKey(ino, "")
	err = v.scan(prefix, nil, func(key, _ []byte) (bool, error) {
		id := backends.RuleID(key[len(prefix):])
		r, err := v.rule(id)
		if err == nil && r == nil {
			err = fmt.Errorf("rule %s: %w", id, backends.ErrDamaged)
		}
		rs = append(rs, r)
		return true, err
	})
	return rs, err
}

func (v *view) rule(id backends.RuleID) (*rule, error) {
	val, err := v.get(ruleKey(id))
	if err != nil || val == nil {
		return nil, err
	}
	r := &rule{}
	r.ID = id
	return r, r.decode(val)
}

func (t *tx) dropRules(ino uint64) error {
	rs, err := t.rulesOn(ino)
	for _, r := range rs {
		t.dropRule(r)
	}
	return err
}

func (t *tx) dropRule(r *rule) {
	t.del(ruleKey(r.ID))
	t.del(ruleOfKey(r.inode, r.ID))
	t.del(ruleInKey(r.State, r.ID))
}

// moveRules gives the rules of a DID to the inode that stands at its name now; one
// that the new inode has already is not doubled.
func (t *tx) moveRules(from, to uint64) error {
	if from == to {
		return nil
	}
	rs, err := t.rulesOn(from)
	if err != nil || len(rs) == 0 {
		return err
	}
	have, err := t.rulesOn(to)
	if err != nil {
		return err
	}
next:
	for _, r := range rs {
		t.dropRule(r)
		for _, h := range have {
			if h.Same(r.Rule) {
				continue next
			}
		}
		r.inode = to
		t.set(ruleKey(r.ID), r.encode())
		t.set(ruleOfKey(to, r.ID), nil)
		t.set(ruleInKey(r.State, r.ID), nil)
	}
	return nil
}

// RulesOf streams the rules on d itself and on the collections above it.
func (c *Catalogue) RulesOf(ctx context.Context, d backends.DID) iter.Seq2[backends.RuleStatus, error] {
	return pages(ctx, c, "rules of", d, func() pager[backends.RuleStatus] {
		var queue []uint64
		found := false
		return func(f finder, emit func(backends.RuleStatus)) (bool, error) {
			if !found {
				h, err := f.mustFind(d)
				if err != nil {
					return false, err
				}
				if err := f.above(h.Inode, func(ino uint64) bool { queue = append(queue, ino); return true }); err != nil {
					return false, err
				}
				found = true
			}
			for n := 0; len(queue) > 0 && n < pageSize; queue = queue[1:] {
				rs, err := f.rulesOn(queue[0])
				if err != nil {
					return false, err
				}
				for _, r := range rs {
					if r.DID, err = f.didOf(r.inode); err != nil {
						return false, err
					}
					emit(r.RuleStatus)
					n++
				}
			}
			return len(queue) > 0, nil
		}
	})
}

// AllRules streams every rule on a DID that exists; with states given, only those in
// one of them.
func (c *Catalogue) AllRules(ctx context.Context, states ...backends.RuleState) iter.Seq2[backends.RuleStatus, error] {
	return pages(ctx, c, "rules", backends.DID{}, func() pager[backends.RuleStatus] {
		prefixes := [][]byte{{prefixRule}}
		if len(states) > 0 {
			prefixes = nil
			seen := map[backends.RuleState]bool{}
			for _, s := range states {
				if !seen[s] {
					seen[s] = true
					prefixes = append(prefixes, ruleInKey(s, ""))
				}
			}
		}
		var from []byte
		return func(f finder, emit func(backends.RuleStatus)) (bool, error) {
			if len(prefixes) == 0 {
				return false, nil
			}
			prefix, n := prefixes[0], 0
			err := f.scan(prefix, from, func(key, _ []byte) (bool, error) {
				from = append(append(from[:0], key...), 0)
				n++
				st, err := f.ruleStatus(backends.RuleID(key[len(prefix):]))
				if err == nil && st != nil {
					emit(*st)
				}
				return n < pageSize, err
			})
			if n < pageSize {
				prefixes, from = prefixes[1:], nil
			}
			return len(prefixes) > 0, err
		}
	})
}

// ruleStatus gives what callers see of a rule; nil while its DID is but a Past.
func (v *view) ruleStatus(id backends.RuleID) (*backends.RuleStatus, error) {
	r, err := v.rule(id)
	if err != nil || r == nil {
		return nil, err
	}
	p, err := v.placeOf(r.inode)
	if err != nil || p == nil || p.state != live {
		return nil, err
	}
	r.DID, err = v.didOf(r.inode)
	return &r.RuleStatus, err
}

// SetRuleState notes how far a rule is.
func (c *Catalogue) SetRuleState(ctx context.Context, id backends.RuleID, s backends.RuleState, why string) error {
	err := c.update(ctx, false, func(t *tx) error {
		r, err := t.rule(id)
		if err != nil || r == nil {
			return errOr(err, backends.ErrNotExist)
		}
		switch s {
		case backends.RuleOK, backends.RuleReplicating, backends.RuleStuck:
		default:
			return fmt.Errorf("state %q: %w", s, backends.ErrNotSupported)
		}
		t.del(ruleInKey(r.State, id))
		r.State, r.Error = s, why[:min(len(why), maxRuleText)]
		t.set(ruleKey(id), r.encode())
		t.set(ruleInKey(s, id), nil)
		return nil
	})
	if err != nil {
		return opError("set state of rule "+string(id), backends.DID{}, err)
	}
	return nil
}

// DeleteRule forgets the rule.
func (c *Catalogue) DeleteRule(ctx context.Context, id backends.RuleID) error {
	err := c.update(ctx, true, func(t *tx) error {
		r, err := t.rule(id)
		if err != nil || r == nil {
			return errOr(err, backends.ErrNotExist)
		}
		t.dropRule(r)
		return nil
	})
	if err != nil {
		return opError("delete rule "+string(id), backends.DID{}, err)
	}
	return nil
}
