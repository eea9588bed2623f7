package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tarn/backends"
	"tarn/backends/lake"
)

// Explained is how it stands with a rule, and why.
type Explained struct {
	Rule    backends.RuleStatus `json:"rule"`
	RSEs    []ExplainedRSE      `json:"rses"`              // that match
	Sources []string            `json:"sources,omitempty"` // that its copies may be made of; none: of all
	Files   int64               `json:"files"`
	Bytes   int64               `json:"bytes"`
	Lacking int64               `json:"lacking"` // files
	First   []ExplainedFile     `json:"first"`   // of these
}

// ExplainedRSE is one that matches a rule.
type ExplainedRSE struct {
	RSE   string           `json:"rse"`
	Kind  backends.RSEKind `json:"kind"`
	Files int64            `json:"files"` // of the rule that have a good copy there
	Bytes int64            `json:"bytes"`
	Free  int64            `json:"free"`
	Note  string           `json:"note,omitempty"` // why it gets no copies
}

// ExplainedFile is a file that lacks copies of a rule.
type ExplainedFile struct {
	DID     backends.DID `json:"did"`
	Bytes   int64        `json:"bytes"`
	Has     []string     `json:"has"` // good copies that the rule counts
	Missing int          `json:"missing"`
	Why     []string     `json:"why"` // in words: what is under way, what it waits for, what comes next
}

// scratch is an engine that chooses as this one does, by what this one knows, and changes nothing.
func (e *Engine) scratch() *Engine {
	s := New(e.l, e.o)
	s.dry = true
	e.mu.Lock()
	defer e.mu.Unlock()
	s.groups, s.cancelled, s.priorities = maps.Clone(e.groups), maps.Clone(e.cancelled), maps.Clone(e.priorities)
	for k, t := range e.trouble {
		c := *t
		s.trouble[k] = &c
	}
	return s
}

// Explain looks at the files of a rule at and below a DID, the zero one for all, and tells how it stands with them, with at most
// most of those that lack copies. It changes nothing.
func (e *Engine) Explain(ctx context.Context, r backends.RuleStatus, below backends.DID, most int) (Explained, error) {
	out := Explained{Rule: r, First: []ExplainedFile{}}
	s := e.scratch()
	rses, err := e.l.Matching(r.Expression)
	if err != nil {
		return out, err
	}
	at := map[string]*ExplainedRSE{}
	out.RSEs = make([]ExplainedRSE, len(rses))
	for i, rse := range rses {
		x := &out.RSEs[i]
		x.RSE, x.Kind, x.Note = rse.Name, rse.Kind, notChosen(rse, r.Rule)
		at[rse.Name] = x
		if _, x.Free, err = s.space(ctx, rse); err != nil {
			x.Note = "is down: " + err.Error()
		}
	}
	if r.Source != "" {
		sources, err := e.l.Matching(r.Source)
		if err != nil {
			return out, err
		}
		for _, rse := range sources {
			out.Sources = append(out.Sources, rse.Name)
		}
	}
	if below.IsZero() {
		below = r.DID
	}
	for in, err := range e.files(ctx, below) {
		if err != nil {
			return out, err
		}
		out.Files++
		out.Bytes += in.Size
		have, err := e.l.Catalogue().Replicas(ctx, in.DID)
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
			continue
		}
		if err != nil {
			return out, err
		}
		f := ExplainedFile{DID: in.DID, Bytes: in.Size, Has: []string{}}
		for _, x := range have {
			if h := at[x.RSE]; h != nil && x.State == backends.Available {
				h.Files++
				h.Bytes += in.Size
				f.Has = append(f.Has, x.RSE)
			}
		}
		if f.Missing = r.Copies - len(f.Has); f.Missing <= 0 {
			continue
		}
		if out.Lacking++; len(out.First) >= most {
			continue
		}
		if f.Why, err = e.why(ctx, s, r, in, have); err != nil {
			return out, err
		}
		out.First = append(out.First, f)
	}
	return out, nil
}

// notChosen says why an RSE that matches a rule gets no copies for it, whatever its space; "": it does.
func notChosen(rse *lake.RSE, r backends.Rule) string {
	switch {
	case rse.ReadOnly:
		return "is read-only"
	case r.Weight != "" && rse.Attributes[r.Weight] == "":
		return "has no " + r.Weight
	}
	return ""
}

// why says in words what becomes of a file that lacks copies.
func (e *Engine) why(ctx context.Context, s *Engine, r backends.RuleStatus, in backends.Info, have []backends.Replica) (why []string, err error) {
	for _, x := range have {
		if x.State != backends.Available {
			word := fmt.Sprintf("its copy at %s is %s", x.RSE, x.State)
			if x.Error != "" {
				word += ": " + x.Error
			}
			why = append(why, word)
		}
	}
	under := false
	for _, t := range e.transfersOf(in.DID) {
		under = under || t.State != Waiting && t.State != Cancelled
		why = append(why, t.words())
	}
	moves, _, l, err := s.choose(ctx, r, in, false)
	if err != nil {
		return why, err
	}
	for _, m := range moves {
		s.mu.Lock()
		s.dropLocked(m)
		s.mu.Unlock()
		if under {
			continue
		}
		word := "the next look asks for a copy to " + m.rse
		if m.source != "" {
			word += " from " + m.source
		}
		why = append(why, word)
	}
	if l != nil && l.why != "" && !slices.ContainsFunc(why, func(w string) bool { return strings.Contains(w, l.why) }) {
		why = append(why, l.why)
	}
	return why, nil
}

// words tells of a copy in a sentence.
func (t Transfer) words() string {
	to := ""
	if t.To != "" {
		to = " to " + t.To
	}
	if t.From != "" {
		to += " from " + t.From
	}
	switch {
	case t.State == Running:
		return fmt.Sprintf("a copy%s is being made, %d of %d bytes", to, t.Done, t.Bytes)
	case t.State == Staging:
		return fmt.Sprintf("a copy%s waits for the recall of its source from tape", to)
	case t.State == Queued:
		return fmt.Sprintf("a copy%s waits for its turn, priority %d", to, t.Priority)
	case t.State == Cancelled:
		return fmt.Sprintf("a copy%s was cancelled, `tarn transfers retry` lets it be made", to)
	case t.Failures > 0:
		return fmt.Sprintf("a copy%s has failed %d times and is tried again at %s: %s", to, t.Failures, t.NextTry.Local().Format("2006-01-02 15:04:05"), t.Error)
	}
	return t.Error
}

// transfersOf lists those of one file.
func (e *Engine) transfersOf(d backends.DID) (out []Transfer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := []string{""}
	for _, rse := range e.l.RSEs() {
		names = append(names, rse.Name)
	}
	for _, rse := range names {
		k := key{d, rse}
		if m := e.moves[k]; m != nil {
			out = append(out, e.transferLocked(m))
		} else if x := e.trouble[k]; x != nil && !x.asked {
			out = append(out, x.transfer(k))
		}
		if e.cancelled[k] {
			out = append(out, Transfer{DID: d, To: rse, State: Cancelled})
		}
	}
	return out
}
