package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/replication"
	"tarn/backends/rseexpr"
)

// RSERequest names an RSE; Name "" is all.
type RSERequest struct {
	Name string `json:"name,omitempty"`
}

// Held counts replicas.
type Held struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

func (h *Held) add(n int64) { h.Files++; h.Bytes += n }

// RSEUsage is what an RSE holds, as the catalogue has it on record, and what its storage says of space.
type RSEUsage struct {
	Name  string           `json:"name"`
	Kind  backends.RSEKind `json:"kind,omitempty"`
	Total int64            `json:"total"` // of the storage
	Free  int64            `json:"free"`
	Error string           `json:"error,omitempty"` // why it does not answer

	All    Held                           `json:"all"`
	Own    Held                           `json:"own,omitzero"`    // by the user's rules, of a server's catalogue
	Quota  *int64                         `json:"quota,omitempty"` // in bytes, of the user; none: without bound, or not a server's
	States map[backends.ReplicaState]Held `json:"states"`
	// Of those AVAILABLE: Expiring are held by rules that all end, Unlocked by no rule at all, Unverified were never verified,
	// and Only are the only ones of their files.
	Expiring   Held `json:"expiring"`
	Unlocked   Held `json:"unlocked"`
	Unverified Held `json:"unverified"`
	Only       Held `json:"only"`

	High    string                  `json:"high,omitempty"` // marks, as the lake file has them
	Low     string                  `json:"low,omitempty"`
	Scratch bool                    `json:"scratch,omitempty"`
	Care    *replication.CareStatus `json:"care,omitempty"` // what was done for it since the mount; none without a daemon
}

// rseUsage goes through all replicas on record.
func (s *Service) rseUsage(ctx context.Context, req RSERequest, out *stream) (any, error) {
	if s.Remote != nil {
		return nil, s.remoteUsage(ctx, req, out)
	}
	rec := s.Lake.Records()
	if rec == nil {
		return nil, fmt.Errorf("what RSEs hold: %w", backends.ErrNotSupported)
	}
	if req.Name != "" {
		if _, err := s.rse(req.Name); err != nil {
			return nil, err
		}
	}
	all := map[string]*RSEUsage{}
	of := func(name string) *RSEUsage {
		if all[name] == nil {
			all[name] = &RSEUsage{Name: name, States: map[backends.ReplicaState]Held{}}
		}
		return all[name]
	}
	var seen int64
	for x, err := range rec.Records(ctx, req.Name) {
		if err == nil {
			err = s.usageOf(ctx, x, req.Name, of)
		}
		if err != nil {
			return nil, err
		}
		if seen++; seen%10000 == 0 {
			out.progress(Progress{What: "counted", Files: seen})
		}
	}
	care := map[string]replication.CareStatus{}
	if s.Engine != nil {
		for _, c := range s.Engine.Care() {
			care[c.RSE] = c
		}
	}
	for _, r := range s.Lake.RSEs() {
		if req.Name != "" && r.Name != req.Name {
			continue
		}
		u := of(r.Name)
		delete(all, r.Name)
		u.Kind, u.Scratch = r.Kind, r.Care.Scratch
		if !r.Care.High.IsZero() {
			u.High, u.Low = markWord(r.Care.High), markWord(r.Care.Low)
		}
		if c, ok := care[r.Name]; ok {
			u.Care = &c
		}
		own, cancel := context.WithTimeout(ctx, 10*time.Second)
		var err error
		if u.Total, u.Free, err = r.Storage.Space(own); err != nil {
			u.Error = err.Error()
		}
		cancel()
		if err := out.item(*u); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) { // that are on record only
		all[name].Error = "this RSE is not in the lake file"
		if err := out.item(*all[name]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func markWord(m lake.Mark) string {
	if m.Bytes > 0 {
		return fmt.Sprint(m.Bytes)
	}
	return fmt.Sprintf("%g%%", m.Part*100)
}

// usageOf counts the replicas of one file.
func (s *Service) usageOf(ctx context.Context, x backends.Entry, only string, of func(string) *RSEUsage) error {
	type rule struct {
		e    rseexpr.Expr
		ends bool
	}
	var rules []rule
	if s.Lake.Rules() != nil {
		for r, err := range s.Lake.Rules().RulesOf(ctx, x.Info.DID) {
			if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
				break // renamed or removed meanwhile
			}
			if err != nil {
				return err
			}
			e, perr := rseexpr.Parse(r.Expression)
			if perr != nil || !r.Expires.IsZero() && !s.Now().Before(r.Expires) {
				continue
			}
			rules = append(rules, rule{e, !r.Expires.IsZero()})
		}
	}
	n := x.Info.Size
	good := 0
	for _, r := range x.Replicas {
		if r.State == backends.Available {
			good++
		}
	}
	for _, r := range x.Replicas {
		if only != "" && r.RSE != only {
			continue
		}
		u := of(r.RSE)
		u.All.add(n)
		h := u.States[r.State]
		h.add(n)
		u.States[r.State] = h
		if r.State != backends.Available {
			continue
		}
		if r.Verified.IsZero() {
			u.Unverified.add(n)
		}
		if good == 1 {
			u.Only.add(n)
		}
		at, ok := s.Lake.RSE(r.RSE)
		held, ends := false, true
		for _, rule := range rules {
			if ok && rule.e.Match(at.RSE) {
				held, ends = true, ends && rule.ends
			}
		}
		switch {
		case !held:
			u.Unlocked.add(n)
		case ends:
			u.Expiring.add(n)
		}
	}
	return nil
}

// rse finds an RSE by name.
func (s *Service) rse(name string) (*lake.RSE, error) {
	r, ok := s.Lake.RSE(name)
	if !ok {
		return nil, Fail(backends.ErrNotExist, "`tarn rse ls` lists them", "this lake has no RSE %s", name)
	}
	return r, nil
}

// RSESetRequest changes settings of an RSE; an empty value takes back what was set before.
type RSESetRequest struct {
	Name string            `json:"name"`
	Set  map[string]string `json:"set"`
}

// RSESetReply is what an RSE is now.
type RSESetReply struct {
	Name       string            `json:"name"`
	File       Text              `json:"file"` // where the settings stand
	Attributes map[string]string `json:"attributes,omitempty"`
	ReadOnly   bool              `json:"read_only,omitempty"`
	Drain      bool              `json:"drain,omitempty"`
	DrainTo    string            `json:"drain_to,omitempty"`
	High       string            `json:"high,omitempty"`
	Low        string            `json:"low,omitempty"`
	Scratch    bool              `json:"scratch,omitempty"`
	Shared     bool              `json:"shared,omitempty"`
	// Later tells what takes effect with the next mount only.
	Later string `json:"later,omitempty"`
}

// rseSet writes settings and puts them in force.
func (s *Service) rseSet(_ context.Context, req RSESetRequest, _ *stream) (any, error) {
	if _, err := s.rse(req.Name); err != nil {
		return nil, err
	}
	if s.SetRSE == nil {
		return nil, fmt.Errorf("set RSE %s: %w", req.Name, backends.ErrNotSupported)
	}
	for k, v := range req.Set {
		if strings.ContainsAny(k+v, "\n\x00") || k == "" {
			return nil, Fail(ErrUsage, "", "%q is no setting", k+"="+v)
		}
	}
	if to := req.Set["drain_to"]; to != "" {
		// One that does not parse is told of with the other settings.
		if e, err := rseexpr.Parse(to); err == nil && !slices.ContainsFunc(s.matching(e), func(r *lake.RSE) bool { return r.Name != req.Name }) {
			return nil, Fail(ErrUsage, "`tarn rse ls` shows the RSEs and their attributes", "%q matches no other RSE of this lake, and %s could not be drained to it", to, req.Name)
		}
	}
	file, later, err := s.SetRSE(req.Name, req.Set)
	if err != nil {
		return nil, err
	}
	if s.Engine != nil {
		s.Engine.Cared()
	}
	r, err := s.rse(req.Name)
	if err != nil {
		return nil, err
	}
	out := RSESetReply{Name: r.Name, File: Text(file), Attributes: r.Attributes, ReadOnly: r.ReadOnly, Drain: r.Care.Drain, DrainTo: r.Care.DrainTo,
		Scratch: r.Care.Scratch, Shared: r.Care.Shared, Later: later}
	if !r.Care.High.IsZero() {
		out.High, out.Low = markWord(r.Care.High), markWord(r.Care.Low)
	}
	return out, nil
}

// RSEDrain is how far a drain is.
type RSEDrain struct {
	Name    string                  `json:"name"`
	Drain   bool                    `json:"drain"`
	To      string                  `json:"to,omitempty"`
	Left    Held                    `json:"left"`           // on record there
	Past    Held                    `json:"past,omitzero"`  // and of what was removed or replaced, until its grace period ends
	Care    *replication.CareStatus `json:"care,omitempty"` // none while the lake is not mounted
	Daemon  bool                    `json:"daemon"`         // there is one that drains
	Waiting int                     `json:"waiting"`        // copies that are under way, to any RSE
}

// rseDrain tells how far the drain of an RSE, or of all that are drained, is.
func (s *Service) rseDrain(ctx context.Context, req RSERequest, out *stream) (any, error) {
	if req.Name != "" {
		if _, err := s.rse(req.Name); err != nil {
			return nil, err
		}
	}
	for _, r := range s.Lake.RSEs() {
		if req.Name != r.Name && (req.Name != "" || !r.Care.Drain) {
			continue
		}
		d := RSEDrain{Name: r.Name, Drain: r.Care.Drain, To: r.Care.DrainTo}
		if s.Engine != nil {
			d.Daemon = true
			st := s.Engine.Status()
			d.Waiting = st.Queued + st.Staging + st.Running + st.Waiting
			for _, c := range s.Engine.Care() {
				if c.RSE == r.Name {
					d.Care = &c
				}
			}
		}
		if rec := s.Lake.Records(); rec != nil {
			for x, err := range rec.Records(ctx, r.Name) {
				if err != nil {
					return nil, err
				}
				d.Left.add(x.Info.Size)
			}
		}
		if v := s.Lake.Versions(); v != nil {
			for p, err := range v.Pasts(ctx, backends.DID{}) {
				if err != nil {
					return nil, err
				}
				if slices.ContainsFunc(p.Replicas, func(x backends.Replica) bool { return x.RSE == r.Name }) {
					d.Past.add(p.Info.Size)
				}
			}
		}
		if err := out.item(d); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
