package replication

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"tarn/backends"
)

// Simulated is what a rule would come to.
type Simulated struct {
	Rule  backends.Rule `json:"rule"`
	Files int64         `json:"files"`
	Bytes int64         `json:"bytes"`
	There int64         `json:"there"` // files that have all copies already

	Links   []SimulatedLink `json:"links"` // the copies that would be made
	Waiting []SimulatedRest `json:"waiting,omitempty"`
	Stuck   []SimulatedRest `json:"stuck,omitempty"`

	// Takes is for how long copies would be made, by the speeds that were measured; Known is false when there is none of
	// some link, which is left out.
	Takes time.Duration `json:"takes_ns"`
	Known bool          `json:"known"`
}

// SimulatedLink is the copies from one RSE to another.
type SimulatedLink struct {
	From    string        `json:"from"` // "": there is no good copy, or none is needed
	To      string        `json:"to"`
	Files   int64         `json:"files"`
	Bytes   int64         `json:"bytes"`
	Rate    float64       `json:"rate"`      // bytes a second of one read of From; 0: not measured
	AtATime int           `json:"at_a_time"` // copies to To
	Takes   time.Duration `json:"takes_ns"`  // 0: not known
}

// SimulatedRest is files for which copies would not be made at once, with the reason.
type SimulatedRest struct {
	Why   string       `json:"why"`
	Files int64        `json:"files"`
	Bytes int64        `json:"bytes"`
	First backends.DID `json:"first"` // one of them
}

// maxReasons bounds the reasons that are told apart.
const maxReasons = 20

// Simulate tells what a rule would come to: which RSEs would be chosen, for which files, and what would be copied from
// where. Nothing is changed, and no rule is added.
func (e *Engine) Simulate(ctx context.Context, rule backends.Rule) (Simulated, error) {
	out := Simulated{Rule: rule, Known: true, Links: []SimulatedLink{}}
	if err := rule.Check(); err != nil {
		return out, err
	}
	if _, err := e.l.Matching(rule.Expression); err != nil {
		return out, err
	}
	if _, err := e.l.Sources(rule); err != nil {
		return out, err
	}
	s := e.scratch()
	clear(s.trouble)
	r := backends.RuleStatus{ID: "simulated", Rule: rule}
	byLink := map[[2]string]*SimulatedLink{}
	for in, err := range e.files(ctx, rule.DID) {
		if err != nil {
			return out, err
		}
		out.Files++
		out.Bytes += in.Size
		moves, _, l, err := s.choose(ctx, r, in, false)
		if err != nil {
			return out, err
		}
		switch {
		case l == nil:
			out.There++
		case l.stuck:
			out.Stuck = rest(out.Stuck, in, l.why)
		case l.waits:
			out.Waiting = rest(out.Waiting, in, l.why)
		case l.why != "" || len(moves) == 0:
			out.Waiting = rest(out.Waiting, in, cmp.Or(l.why, s.reason(in.DID)))
		}
		for _, m := range moves {
			p := [2]string{m.source, m.rse}
			if byLink[p] == nil {
				byLink[p] = &SimulatedLink{From: m.source, To: m.rse}
			}
			byLink[p].Files++
			byLink[p].Bytes += in.Size
			s.mu.Lock()
			s.dropLocked(m)
			s.destLocked(m.rse).bytes += in.Size // its room is taken
			s.mu.Unlock()
		}
	}
	byDest := map[string]time.Duration{}
	for _, x := range byLink {
		e.estimate(x)
		out.Known = out.Known && (x.Takes > 0 || x.Bytes == 0)
		byDest[x.To] += x.Takes
		out.Takes = max(out.Takes, byDest[x.To])
		out.Links = append(out.Links, *x)
	}
	slices.SortFunc(out.Links, func(a, b SimulatedLink) int {
		return cmp.Or(strings.Compare(a.To, b.To), strings.Compare(a.From, b.From))
	})
	return out, nil
}

// estimate tells how long the copies of a link take.
func (e *Engine) estimate(x *SimulatedLink) {
	e.mu.Lock()
	x.AtATime = newDest(x.To, e.o).limit()
	if d := e.dests[x.To]; d != nil {
		x.AtATime = d.limit()
	}
	e.mu.Unlock()
	if n, limited := e.links.limit(x.From, x.To); limited {
		x.AtATime = min(x.AtATime, n)
	}
	v := e.l.Speed(x.From)
	if x.Rate = v.Rate; x.Rate == 0 {
		return
	}
	one := float64(x.Bytes)/x.Rate + float64(x.Files)*v.Latency.Seconds()
	x.Takes = time.Duration(one / float64(min(int64(max(x.AtATime, 1)), x.Files)) * float64(time.Second))
}

// reason is why a file's copies cannot be chosen.
func (e *Engine) reason(d backends.DID) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.trouble[key{d, ""}]; t != nil {
		return t.err.Error()
	}
	return "no RSE can be chosen now"
}

func rest(all []SimulatedRest, in backends.Info, why string) []SimulatedRest {
	i := slices.IndexFunc(all, func(r SimulatedRest) bool { return r.Why == why })
	if i < 0 && len(all) >= maxReasons {
		i = maxReasons - 1
	}
	if i < 0 {
		i, all = len(all), append(all, SimulatedRest{Why: why, First: in.DID})
	}
	all[i].Files++
	all[i].Bytes += in.Size
	return all
}
