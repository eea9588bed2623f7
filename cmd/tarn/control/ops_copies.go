package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/rseexpr"
)

// replicasOf lists the copies of a file, with the locality of those on tape.
func (s *Service) replicasOf(ctx context.Context, p string, in backends.Info) ([]ReplicaEntry, error) {
	reps, err := s.Lake.Catalogue().Replicas(ctx, in.DID)
	if errors.Is(err, backends.ErrNotExist) {
		return nil, nil // not registered yet
	}
	if err != nil {
		return nil, fmt.Errorf("replicas of %s: %w", Text(p).Quote(), err)
	}
	out := make([]ReplicaEntry, 0, len(reps))
	for _, r := range reps {
		e := ReplicaEntry{RSE: r.RSE, State: string(r.State), Verified: r.Verified, PFN: Text(r.PFN), Error: r.Error}
		rse, ok := s.Lake.RSE(r.RSE)
		switch {
		case !ok:
			e.Error = "this RSE is not in the lake file"
		case rse.Tape != nil:
			e.Kind = rse.Kind
			locs, err := rse.Tape.Locality(ctx, r.PFN)
			if err != nil {
				e.Locality, e.Error = string(backends.Unavailable), err.Error()
			} else {
				e.Locality = string(locs[0])
			}
		default:
			e.Kind, e.Locality = rse.Kind, string(backends.Online)
		}
		out = append(out, e)
	}
	return out, nil
}

// replicas lists the copies of every file at and below some paths.
func (s *Service) replicas(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	return nil, s.eachFile(ctx, req.Paths, func(p string, in backends.Info) error {
		reps, err := s.replicasOf(ctx, p, in)
		if err != nil {
			return err
		}
		for _, r := range reps {
			r.Path = Text(p)
			if err := out.item(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachFile calls f for every regular file at and below the paths.
func (s *Service) eachFile(ctx context.Context, paths []Text, f func(p string, in backends.Info) error) error {
	for _, p := range paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return err
		}
		root := n.Path()
		n.Forget(1)
		for w, err := range s.FS.Walk(ctx, root) {
			if err != nil {
				return err
			}
			if w.Info.Type != backends.File || w.Info.IsSymlink() {
				continue
			}
			w.Info.DID = didOf(w.Info, w.Path)
			if err := f(w.Path, w.Info); err != nil {
				return err
			}
		}
	}
	return nil
}

// rses lists the storages of the lake.
func (s *Service) rses(ctx context.Context, _ struct{}, out *stream) (any, error) {
	for _, r := range s.Lake.RSEs() {
		e := RSEEntry{Name: r.Name, Kind: r.Kind, Attributes: r.Attributes, Naming: r.Naming.String(), ReadOnly: r.ReadOnly, Drain: r.Care.Drain, Distance: r.Distance, LAN: r.LAN, Speed: s.Lake.Speed(r.Name)}
		own, cancel := context.WithTimeout(ctx, 10*time.Second)
		var err error
		if e.Total, e.Free, err = r.Storage.Space(own); err != nil {
			e.Error = err.Error()
		}
		cancel()
		if r.Endpoints != nil {
			e.Endpoints = r.Endpoints() // after the question for space: it may be what failed
		}
		if r.Counters != nil {
			e.Counters = r.Counters()
		}
		if err := out.item(e); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

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
		d := didOf(n.Info(), n.Path())
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
		e := RuleEntry{RuleStatus: st}
		if len(st.DID.Name) > 0 && st.DID.Name[0] == '/' {
			e.Path = Text(st.DID.Name)
		}
		if err := out.item(e); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// RuleAddRequest asks for copies of what stands at a path.
type RuleAddRequest struct {
	Path       Text          `json:"path"`
	Copies     int           `json:"copies"`
	Expression string        `json:"expression"`
	Lifetime   time.Duration `json:"lifetime,omitempty"` // 0: for ever
	Comment    string        `json:"comment,omitempty"`
}

// RuleAdded is the rule that now stands.
type RuleAdded struct {
	ID backends.RuleID `json:"id"`
}

func (s *Service) ruleAdd(ctx context.Context, req RuleAddRequest, _ *stream) (any, error) {
	rules, err := s.rulesOrNot()
	if err != nil {
		return nil, err
	}
	if req.Copies < 1 || req.Lifetime < 0 {
		return nil, Fail(ErrUsage, "", "a rule wants at least 1 copy and a lifetime that is not negative")
	}
	e, err := rseexpr.Parse(req.Expression)
	if err != nil {
		return nil, Fail(ErrUsage, "an RSE expression looks like country=ES&rse_type=DISK", "%v", err)
	}
	fit := 0
	for _, r := range s.Lake.RSEs() {
		if e.Match(r.RSE) {
			fit++
		}
	}
	if fit < req.Copies {
		return nil, Fail(ErrUsage, "`tarn rse ls` shows the RSEs and their attributes", "%q matches %d of the lake's RSEs, and %d copies want as many", req.Expression, fit, req.Copies)
	}
	n, err := s.node(ctx, string(req.Path))
	if err != nil {
		return nil, err
	}
	defer n.Forget(1)
	if n.Path() == "/" {
		return nil, Fail(ErrUsage, "name a scope or what is below it", "a rule cannot be on /")
	}
	r := backends.Rule{DID: n.Info().DID, Copies: req.Copies, Expression: e.String(), Comment: req.Comment}
	if r.DID.Scope == "" {
		return nil, Fail(backends.ErrBusy, "`tarn uploads ls` shows how far it is", "%s is not registered yet", req.Path.Quote())
	}
	if req.Lifetime > 0 {
		r.Expires = s.Now().Add(req.Lifetime).UTC()
	}
	id, err := rules.AddRule(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("add rule on %s: %w", req.Path.Quote(), err)
	}
	s.Kick(r.DID)
	return RuleAdded{id}, nil
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
	}
	s.Kick()
	return c, nil
}

// verifying is how many files are verified at a time: those on tape are recalled together.
const verifying = 64

// verify re-reads every replica at and below some paths.
func (s *Service) verify(ctx context.Context, req PathsRequest, out *stream) (any, error) {
	var (
		mu sync.Mutex // guards c, p and the order on out
		c  Count
		p  = Progress{What: "verified"}
	)
	g, own := errgroup.WithContext(ctx)
	g.SetLimit(verifying)
	err := s.eachFile(own, req.Paths, func(path string, in backends.Info) error {
		g.Go(func() error {
			var results []lake.VerifyResult
			err := s.Lake.Verify(own, in, func(r lake.VerifyResult) { results = append(results, r) })
			mu.Lock()
			defer mu.Unlock()
			var sent error
			for _, r := range results {
				e := VerifyEntry{Path: Text(path), RSE: r.RSE, OK: r.OK, Bad: r.Bad, Bytes: r.Bytes}
				if r.OK {
					c.Done++
				} else {
					c.Failed++
					e.Error = r.Error
				}
				if r.Bad {
					s.Kick(in.DID) // a copy is missing now
				}
				c.Bytes += r.Bytes
				p.Bytes += r.Bytes
				sent = errors.Join(sent, out.item(e))
			}
			if errors.Is(err, backends.ErrNotExist) {
				return nil // unsent, or removed meanwhile
			}
			if err != nil {
				return err
			}
			p.Files++
			out.progress(p)
			return sent
		})
		return nil
	})
	if gerr := g.Wait(); gerr != nil {
		err = gerr // it ended the walk
	}
	return c, err
}
