package fault

import (
	"context"
	"iter"

	"tarn/backends"
	"tarn/backends/query"
)

// Catalogue is a catalogue with faults. Its Script may be shared with NewNamespace and NewRules, so
// that one Down takes all of a catalogue away.
type Catalogue struct {
	*Script
	inner backends.Catalogue
}

var _ backends.Catalogue = (*Catalogue)(nil)

// NewCatalogue decorates c; without faults it changes nothing.
func NewCatalogue(c backends.Catalogue) *Catalogue {
	return &Catalogue{Script: &Script{}, inner: c}
}

// did runs a call about one DID.
func did[T any](s *Script, ctx context.Context, op string, d backends.DID, f func() (T, error)) (v T, err error) {
	if err = s.begin(ctx, op, d.String()); err == nil {
		v, err = f()
		err = s.end(ctx, op, err, d.String())
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

// do is did for calls that give an error only.
func do(s *Script, ctx context.Context, op, what string, f func() error) error {
	if err := s.begin(ctx, op, what); err != nil {
		return err
	}
	return s.end(ctx, op, f(), what)
}

// stream passes a sequence; op fails before its first entry, op+"Entry" before each.
func stream[T any](s *Script, ctx context.Context, op, what string, name func(T) string, in iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		if err := s.begin(ctx, op, what); err != nil {
			yield(zero, err)
			return
		}
		for v, err := range in {
			if err == nil {
				err = s.begin(ctx, op+"Entry", name(v))
			}
			if err != nil {
				yield(zero, err)
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := s.end(ctx, op, nil, what); err != nil {
			yield(zero, err)
		}
	}
}

func infoName(i backends.Info) string { return i.DID.String() }

// Stat implements backends.Catalogue, as the methods after it.
func (c *Catalogue) Stat(ctx context.Context, d backends.DID) (backends.Info, error) {
	return did(c.Script, ctx, "Stat", d, func() (backends.Info, error) { return c.inner.Stat(ctx, d) })
}

// Contents asks "ContentsEntry" before each entry.
func (c *Catalogue) Contents(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return stream(c.Script, ctx, "Contents", d.String(), infoName, c.inner.Contents(ctx, d, after))
}

// Parents asks "ParentsEntry" before each entry.
func (c *Catalogue) Parents(ctx context.Context, d backends.DID) iter.Seq2[backends.DID, error] {
	return stream(c.Script, ctx, "Parents", d.String(), backends.DID.String, c.inner.Parents(ctx, d))
}

// Find asks "FindEntry" before each entry.
func (c *Catalogue) Find(ctx context.Context, root backends.DID, q query.Expr) iter.Seq2[backends.Info, error] {
	return stream(c.Script, ctx, "Find", root.String(), infoName, c.inner.Find(ctx, root, q))
}

// Add implements backends.Catalogue.
func (c *Catalogue) Add(ctx context.Context, in backends.Info, meta backends.Meta, at ...backends.Replica) error {
	return do(c.Script, ctx, "Add", in.DID.String(), func() error { return c.inner.Add(ctx, in, meta, at...) })
}

// Attach implements backends.Catalogue.
func (c *Catalogue) Attach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return do(c.Script, ctx, "Attach", parent.String(), func() error { return c.inner.Attach(ctx, parent, children...) })
}

// Detach implements backends.Catalogue.
func (c *Catalogue) Detach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return do(c.Script, ctx, "Detach", parent.String(), func() error { return c.inner.Detach(ctx, parent, children...) })
}

// Replicas implements backends.Catalogue.
func (c *Catalogue) Replicas(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	return did(c.Script, ctx, "Replicas", d, func() ([]backends.Replica, error) { return c.inner.Replicas(ctx, d) })
}

// PutReplica implements backends.Catalogue.
func (c *Catalogue) PutReplica(ctx context.Context, d backends.DID, gen backends.Generation, r backends.Replica) error {
	return do(c.Script, ctx, "PutReplica", d.String(), func() error { return c.inner.PutReplica(ctx, d, gen, r) })
}

// DropReplica implements backends.Catalogue.
func (c *Catalogue) DropReplica(ctx context.Context, d backends.DID, rse string) error {
	return do(c.Script, ctx, "DropReplica", d.String(), func() error { return c.inner.DropReplica(ctx, d, rse) })
}

// Meta implements backends.Catalogue.
func (c *Catalogue) Meta(ctx context.Context, d backends.DID) (backends.Meta, error) {
	return did(c.Script, ctx, "Meta", d, func() (backends.Meta, error) { return c.inner.Meta(ctx, d) })
}

// SetMeta implements backends.Catalogue.
func (c *Catalogue) SetMeta(ctx context.Context, d backends.DID, m backends.Meta) error {
	return do(c.Script, ctx, "SetMeta", d.String(), func() error { return c.inner.SetMeta(ctx, d, m) })
}

// Usage, Traits and Close pass.
func (c *Catalogue) Usage() (files, bytes int64) { return c.inner.Usage() }

// Traits are those of the catalogue below.
func (c *Catalogue) Traits() backends.CatalogueTraits { return c.inner.Traits() }

// Close closes the catalogue below.
func (c *Catalogue) Close() error { return c.inner.Close() }

// Namespace is a Namespace with faults.
type Namespace struct {
	*Script
	inner backends.Namespace
}

var _ backends.Namespace = (*Namespace)(nil)

// NewNamespace decorates n with the faults of s; nil makes a Script of its own.
func NewNamespace(n backends.Namespace, s *Script) *Namespace {
	if s == nil {
		s = &Script{}
	}
	return &Namespace{Script: s, inner: n}
}

// Scopes implements backends.Namespace, as the methods after it.
func (n *Namespace) Scopes(ctx context.Context) iter.Seq2[backends.Info, error] {
	return stream(n.Script, ctx, "Scopes", "", infoName, n.inner.Scopes(ctx))
}

// AddScope implements backends.Namespace.
func (n *Namespace) AddScope(ctx context.Context, in backends.Info) error {
	return do(n.Script, ctx, "AddScope", in.DID.Scope, func() error { return n.inner.AddScope(ctx, in) })
}

// RemoveScope implements backends.Namespace.
func (n *Namespace) RemoveScope(ctx context.Context, scope string) error {
	return do(n.Script, ctx, "RemoveScope", scope, func() error { return n.inner.RemoveScope(ctx, scope) })
}

// Rename implements backends.Namespace; hooks see the old name.
func (n *Namespace) Rename(ctx context.Context, from, to backends.DID) error {
	return do(n.Script, ctx, "Rename", from.String(), func() error { return n.inner.Rename(ctx, from, to) })
}

// Remove implements backends.Namespace.
func (n *Namespace) Remove(ctx context.Context, d backends.DID) error {
	return do(n.Script, ctx, "Remove", d.String(), func() error { return n.inner.Remove(ctx, d) })
}

// Update implements backends.Namespace.
func (n *Namespace) Update(ctx context.Context, d backends.DID, c backends.Change) error {
	return do(n.Script, ctx, "Update", d.String(), func() error { return n.inner.Update(ctx, d, c) })
}

// Rules is a Rules with faults.
type Rules struct {
	*Script
	inner backends.Rules
}

var _ backends.Rules = (*Rules)(nil)

// NewRules decorates r with the faults of s; nil makes a Script of its own.
func NewRules(r backends.Rules, s *Script) *Rules {
	if s == nil {
		s = &Script{}
	}
	return &Rules{Script: s, inner: r}
}

func ruleName(r backends.RuleStatus) string { return string(r.ID) }

// AddRule implements backends.Rules, as the methods after it.
func (r *Rules) AddRule(ctx context.Context, rule backends.Rule) (backends.RuleID, error) {
	return did(r.Script, ctx, "AddRule", rule.DID, func() (backends.RuleID, error) { return r.inner.AddRule(ctx, rule) })
}

// RulesOf implements backends.Rules.
func (r *Rules) RulesOf(ctx context.Context, d backends.DID) iter.Seq2[backends.RuleStatus, error] {
	return stream(r.Script, ctx, "RulesOf", d.String(), ruleName, r.inner.RulesOf(ctx, d))
}

// AllRules implements backends.Rules.
func (r *Rules) AllRules(ctx context.Context, states ...backends.RuleState) iter.Seq2[backends.RuleStatus, error] {
	return stream(r.Script, ctx, "AllRules", "", ruleName, r.inner.AllRules(ctx, states...))
}

// SetRuleState implements backends.Rules.
func (r *Rules) SetRuleState(ctx context.Context, id backends.RuleID, st backends.RuleState, why string) error {
	return do(r.Script, ctx, "SetRuleState", string(id), func() error { return r.inner.SetRuleState(ctx, id, st, why) })
}

// DeleteRule implements backends.Rules.
func (r *Rules) DeleteRule(ctx context.Context, id backends.RuleID) error {
	return do(r.Script, ctx, "DeleteRule", string(id), func() error { return r.inner.DeleteRule(ctx, id) })
}
