package control

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/replication"
	"tarn/backends/rseexpr"
)

// RulesRequest asks for the rules on a path and above it, or for all; States, when
// given, are the only ones wanted.
type RulesRequest struct {
	Path   Text                 `json:"path,omitempty"`
	States []backends.RuleState `json:"states,omitempty"`
}

func (s *Service) rulesOrNot() (backends.Rules, error) {
	if r := s.Lake.Rules(); r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("rules: %w", backends.ErrNotSupported)
}

func (s *Service) rules(ctx context.Context, req RulesRequest, out *stream) (any, error) {
	r, err := s.rulesOrNot()
	if err != nil {
		return nil, err
	}
	seq := r.AllRules(ctx, req.States...)
	if req.Path != "" {
		n, err := s.node(ctx, string(req.Path))
		if err != nil {
			return nil, err
		}
		d := s.didOf(n.Info(), n.Path())
		n.Forget(1)
		seq = r.RulesOf(ctx, d)
	}
	want := map[backends.RuleState]bool{}
	for _, st := range req.States {
		want[st] = true
	}
	for st, err := range seq {
		if err != nil {
			return nil, err
		}
		if len(want) > 0 && !want[st.State] {
			continue
		}
		if err := out.item(RuleEntry{st, pathOf(st.DID)}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// RuleAddRequest asks for copies of what stands at a path.
type RuleAddRequest struct {
	Path       Text              `json:"path"`
	Copies     int               `json:"copies"`
	Expression string            `json:"expression"`
	Lifetime   time.Duration     `json:"lifetime,omitempty"` // 0: for ever
	Comment    string            `json:"comment,omitempty"`
	Source     string            `json:"source,omitempty"`
	Activity   string            `json:"activity,omitempty"`
	Priority   int               `json:"priority,omitempty"`
	Weight     string            `json:"weight,omitempty"`
	Grouping   backends.Grouping `json:"grouping,omitempty"`
}

// RuleAdded is the rule that now stands.
type RuleAdded struct {
	ID backends.RuleID `json:"id"`
}

// ruleOf checks what is asked for against the lake, and makes a rule of it.
func (s *Service) ruleOf(ctx context.Context, req RuleAddRequest) (r backends.Rule, err error) {
	if req.Copies < 1 || req.Lifetime < 0 {
		return r, Fail(ErrUsage, "", "a rule wants at least 1 copy and a lifetime that is not negative")
	}
	e, err := rseexpr.Parse(req.Expression)
	if err != nil {
		return r, Fail(ErrUsage, "an RSE expression looks like country=ES&rse_type=DISK", "%v", err)
	}
	const show = "`tarn rse ls` shows the RSEs and their attributes"
	fit := s.matching(e)
	if len(fit) < req.Copies {
		return r, Fail(ErrUsage, show, "%q matches %d of the lake's RSEs, and %d copies want as many", req.Expression, len(fit), req.Copies)
	}
	r = backends.Rule{Copies: req.Copies, Expression: e.String(), Comment: req.Comment, Activity: req.Activity, Priority: req.Priority, Weight: req.Weight, Grouping: req.Grouping}
	if req.Source != "" {
		from, err := rseexpr.Parse(req.Source)
		if err != nil {
			return r, Fail(ErrUsage, "a source is an RSE expression, such as PIC-DISK", "source: %v", err)
		}
		if len(s.matching(from)) == 0 {
			return r, Fail(ErrUsage, show, "source %q matches none of the lake's RSEs", req.Source)
		}
		r.Source = from.String()
	}
	if req.Weight != "" {
		weighed := 0
		for _, rse := range fit {
			if w, err := strconv.ParseFloat(rse.Attributes[req.Weight], 64); err == nil && w > 0 {
				weighed++
			}
		}
		if weighed < req.Copies {
			return r, Fail(ErrUsage, show, "%d of the RSEs that %q matches have a number above 0 as %s, and %d copies want as many", weighed, req.Expression, req.Weight, req.Copies)
		}
	}
	if err := r.Check(); err != nil {
		return r, Fail(ErrUsage, "", "%s", strings.TrimSuffix(err.Error(), ": "+backends.ErrNotSupported.Error()))
	}
	n, err := s.node(ctx, string(req.Path))
	if err != nil {
		return r, err
	}
	defer n.Forget(1)
	if n.Path() == "/" {
		return r, Fail(ErrUsage, "name a scope or what is below it", "a rule cannot be on /")
	}
	r.DID = n.Info().DID
	if r.DID.Scope == "" {
		return r, Fail(backends.ErrBusy, "`tarn uploads ls` shows how far it is", "%s is not registered yet", req.Path.Quote())
	}
	if req.Lifetime > 0 {
		r.Expires = s.Now().Add(req.Lifetime).UTC()
	}
	return r, nil
}

func (s *Service) matching(e rseexpr.Expr) (fit []*lake.RSE) {
	for _, r := range s.Lake.RSEs() {
		if e.Match(r.RSE) {
			fit = append(fit, r)
		}
	}
	return fit
}

func (s *Service) ruleAdd(ctx context.Context, req RuleAddRequest, _ *stream) (any, error) {
	rules, err := s.rulesOrNot()
	if err != nil {
		return nil, err
	}
	r, err := s.ruleOf(ctx, req)
	if err != nil {
		return nil, err
	}
	id, err := rules.AddRule(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("add rule on %s: %w", req.Path.Quote(), err)
	}
	s.ruleChanged(ctx, r.DID)
	return RuleAdded{id}, nil
}

// ruleChanged lets the replication look at a rule at once, and at what was cancelled below it.
func (s *Service) ruleChanged(ctx context.Context, dids ...backends.DID) {
	if s.Engine == nil {
		s.Kick(dids...)
		return
	}
	if err := s.Engine.Changed(ctx, dids...); err != nil {
		s.Log.Warn("what was cancelled stays so", "err", err)
		s.Kick(dids...)
	}
}

// IDsRequest names rules, uploads or recalls.
type IDsRequest struct {
	IDs []string `json:"ids"`
}

func (s *Service) ruleRemove(ctx context.Context, req IDsRequest, _ *stream) (any, error) {
	rules, err := s.rulesOrNot()
	if err != nil {
		return nil, err
	}
	var c Count
	for _, id := range req.IDs {
		if err := rules.DeleteRule(ctx, backends.RuleID(id)); err != nil {
			return nil, fmt.Errorf("remove rule %s: %w", id, err)
		}
		c.Done++
		if s.Engine != nil {
			s.Engine.Removed(backends.RuleID(id))
		}
	}
	s.Kick()
	return c, nil
}

// planner is what tells of rules: the engine that makes the copies or, where none does, one that only looks.
func (s *Service) planner() *replication.Engine {
	if s.Engine != nil {
		return s.Engine
	}
	return replication.New(s.Lake, replication.Options{Log: s.Log, Now: s.Now})
}

// RuleExplainRequest asks about a rule, or the rules on a path and above it.
type RuleExplainRequest struct {
	ID    string `json:"id,omitempty"`
	Path  Text   `json:"path,omitempty"`
	Files int    `json:"files"` // that lack copies are told of, at most
}

// RuleExplained is how it stands with one of them. Below is what of it was asked about.
type RuleExplained struct {
	replication.Explained
	Path  Text `json:"path,omitempty"`
	Below Text `json:"below,omitempty"`
	// Stuck is what a server says of the transfers that its rule waits for.
	Stuck []StuckTransfer `json:"stuck,omitempty"`
}

// maxExplained bounds the files of an answer.
const maxExplained = 10_000

func (s *Service) ruleExplain(ctx context.Context, req RuleExplainRequest, out *stream) (any, error) {
	rules, err := s.rulesOrNot()
	if err != nil {
		return nil, err
	}
	if req.Files < 0 || req.Files > maxExplained {
		return nil, Fail(ErrUsage, "", "%d files: want 0 to %d", req.Files, maxExplained)
	}
	seq, below := rules.AllRules(ctx), backends.DID{}
	if req.Path != "" {
		n, err := s.node(ctx, string(req.Path))
		if err != nil {
			return nil, err
		}
		below = s.didOf(n.Info(), n.Path())
		n.Forget(1)
		seq = rules.RulesOf(ctx, below)
	}
	e, found := s.planner(), 0
	for r, err := range seq {
		if err != nil {
			return nil, err
		}
		if req.Path == "" && string(r.ID) != req.ID {
			continue
		}
		found++
		x, err := e.Explain(ctx, r, below, req.Files)
		if err != nil {
			return nil, fmt.Errorf("explain rule %s: %w", r.ID, err)
		}
		told := RuleExplained{x, pathOf(r.DID), req.Path, nil}
		if s.Remote != nil && r.State == backends.RuleStuck {
			if told.Stuck, err = s.Remote.WhyStuck(ctx, r.ID, req.Files); err != nil {
				return nil, fmt.Errorf("explain rule %s: %w", r.ID, err)
			}
		}
		if err := out.item(told); err != nil {
			return nil, err
		}
		if req.Path == "" {
			break
		}
	}
	switch {
	case found > 0:
		return nil, nil
	case req.Path != "":
		return nil, Fail(ErrNothing, "", "no rule is on %s or above it", req.Path.Quote())
	}
	return nil, Fail(backends.ErrNotExist, "`tarn rule ls` lists the rules", "there is no rule %s", req.ID)
}

// pathOf is a DID as people write it, "" where its name is no path.
func pathOf(d backends.DID) Text {
	if strings.HasPrefix(d.Name, "/") {
		return Text(d.Name)
	}
	return ""
}

// ruleSimulate tells what a rule would come to, and adds none.
func (s *Service) ruleSimulate(ctx context.Context, req RuleAddRequest, _ *stream) (any, error) {
	if _, err := s.rulesOrNot(); err != nil {
		return nil, err
	}
	r, err := s.ruleOf(ctx, req)
	if err != nil {
		return nil, err
	}
	x, err := s.planner().Simulate(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("simulate a rule on %s: %w", req.Path.Quote(), err)
	}
	return x, nil
}
