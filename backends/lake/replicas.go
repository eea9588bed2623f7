package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn/backends"
)

// replicasOf lists the copies of exactly the content that in describes. When the DID
// has another content by now, or is gone, the old one is looked for among the Pasts, so
// that an open file stays readable until its grace period ends; ErrStale when it is
// not there either.
func (l *Lake) replicasOf(ctx context.Context, in backends.Info) ([]backends.Replica, error) {
	now, err := l.o.Catalogue.Stat(ctx, in.DID)
	switch {
	case err == nil && (in.Generation == "" || now.Generation == in.Generation):
		return l.o.Catalogue.Replicas(ctx, in.DID)
	case err != nil && !errors.Is(err, backends.ErrNotExist) && !errors.Is(err, backends.ErrNotDir):
		return nil, err
	}
	if l.o.Versions != nil && in.Generation != "" {
		for past, err := range l.o.Versions.Pasts(ctx, in.DID) {
			if err != nil {
				return nil, err
			}
			if past.Info.Generation == in.Generation {
				return past.Replicas, nil
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("generation %s of %s: %w", in.Generation, in.DID, backends.ErrStale)
}

// source is one replica with the way to reach it; rse is nil when lake.yaml does not
// know its RSE.
type source struct {
	backends.Replica
	rse *RSE
}

func (s source) tape() bool { return s.rse != nil && s.rse.Tape != nil }

// good tells whether the replica may be read.
func (s source) good() bool { return s.rse != nil && s.State == backends.Available }

// sources orders replicas as Open tries them: those that may be read first, by the RSE
// having failed lately, domain (LAN first), being a server much slower than the best of those that were measured, with
// what is read there now, distance, kind (disk first) and name.
func (l *Lake) sources(replicas []backends.Replica) []source {
	out := make([]source, 0, len(replicas))
	late, speeds, best := map[string]bool{}, map[string]Speed{}, map[bool]float64{}
	for _, r := range replicas {
		s := source{r, l.rse(r.RSE)}
		out = append(out, s)
		_, late[r.RSE] = l.lately(r.RSE)
		if s.good() && !s.rse.Storage.Traits().Local { // disks of this machine are as fast as what else they do lets them
			speeds[r.RSE] = l.meter.speed(r.RSE)
			best[s.rse.LAN] = max(best[s.rse.LAN], speeds[r.RSE].effective())
		}
	}
	slowness := func(s source) int { return speeds[s.RSE].slowness(best[s.rse.LAN]) }
	no := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(out, func(a, b source) int {
		if d := no(a.good()) - no(b.good()); d != 0 || !a.good() {
			return d
		}
		if d := no(!late[a.RSE]) - no(!late[b.RSE]); d != 0 {
			return d
		}
		if d := no(a.rse.LAN) - no(b.rse.LAN); d != 0 {
			return d
		}
		if d := slowness(a) - slowness(b); d != 0 {
			return d
		}
		if d := a.rse.Distance - b.rse.Distance; d != 0 {
			return d
		}
		if d := no(!a.tape()) - no(!b.tape()); d != 0 {
			return d
		}
		return strings.Compare(a.RSE, b.RSE)
	})
	return out
}

// why says in words what keeps a replica from being read, "" for nothing that is known
// without asking its storage.
func (s source) why() string {
	switch {
	case s.rse == nil:
		return "RSE is not in lake.yaml"
	case s.State == backends.Bad && s.Error != "":
		return "declared BAD: " + s.Error
	case s.State == backends.Bad:
		return "declared BAD"
	case s.State == backends.Copying:
		return "is being copied"
	case s.State == backends.BeingDeleted:
		return "is being deleted"
	case s.State != backends.Available:
		return "state " + string(s.State)
	}
	return ""
}

// tapeLocalities asks one tape system for many paths, in one call of bounded time.
func (l *Lake) tapeLocalities(ctx context.Context, r *RSE, paths []string) ([]backends.Locality, error) {
	var out []backends.Locality
	err := l.attempt(ctx, func(ctx context.Context) (err error) {
		out, err = r.Tape.Locality(ctx, paths...)
		return err
	})
	if err == nil && len(out) != len(paths) {
		err = fmt.Errorf("%d localities for %d paths: %w", len(out), len(paths), backends.ErrDamaged)
	}
	if err != nil {
		return nil, fmt.Errorf("locality at %s: %w", r.Name, err)
	}
	return out, nil
}

// Localities tells for each Info where its bytes are, with one question to the
// catalogue a file and one to each tape system. It opens nothing: a disk replica on
// record counts as ONLINE. Symbolic links and empty files are ONLINE, collections and
// files that are gone NONE. A tape system that does not answer makes its replicas
// UNAVAILABLE; an error means that the catalogue did not answer.
func (l *Lake) Localities(ctx context.Context, infos ...backends.Info) ([]backends.Locality, error) {
	type question struct {
		paths []string
		files []int
	}
	type answer struct{ online, nearline, unknown, gone bool }
	answers := make([]answer, len(infos))
	tapes := map[*RSE]*question{}
	for i, in := range infos {
		switch {
		case in.Type != backends.File:
			answers[i].gone = true
			continue
		case in.IsSymlink() || in.Size == 0:
			answers[i].online = true
			continue
		}
		replicas, err := l.o.Catalogue.Replicas(ctx, in.DID)
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
			answers[i].gone = true
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("localities: %w", err)
		}
		for _, r := range replicas {
			s := source{r, l.rse(r.RSE)}
			switch {
			case !s.good():
				answers[i].unknown = answers[i].unknown || r.State == backends.Available || r.State == backends.Copying
			case s.tape():
				q := tapes[s.rse]
				if q == nil {
					q = &question{}
					tapes[s.rse] = q
				}
				q.paths, q.files = append(q.paths, r.PFN), append(q.files, i)
			default:
				answers[i].online = true
			}
		}
	}
	for rse, q := range tapes {
		found, err := l.tapeLocalities(ctx, rse, q.paths)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			l.noteDown(rse.Name, err)
			l.log.Warn("locality not known", "rse", rse.Name, "files", len(q.paths), "err", err)
		}
		for j, i := range q.files {
			if err != nil {
				answers[i].unknown = true
				continue
			}
			a := &answers[i]
			a.online = a.online || found[j].IsOnline()
			a.nearline = a.nearline || found[j] == backends.Nearline || found[j] == backends.OnlineAndNearline
			a.unknown = a.unknown || found[j] == backends.Unavailable
		}
	}
	out := make([]backends.Locality, len(infos))
	for i, a := range answers {
		switch {
		case a.gone:
			out[i] = backends.NoLocality
		case a.online && a.nearline:
			out[i] = backends.OnlineAndNearline
		case a.online:
			out[i] = backends.Online
		case a.nearline:
			out[i] = backends.Nearline
		case a.unknown:
			out[i] = backends.Unavailable
		default:
			out[i] = backends.Lost
		}
	}
	return out, nil
}

// DeclareBad notes that the replica of this content at the RSE is not what the catalogue
// says; it is not read any more until Verify finds it good or replication replaces
// it. Success when there is no such replica, or the content was replaced meanwhile.
func (l *Lake) DeclareBad(ctx context.Context, in backends.Info, rse string, why error) error {
	return l.declareBad(ctx, in, rse, "", why)
}

// DeclareReplicaBad is DeclareBad of the replica that was looked at. Success when there is one of another path by now: whoever
// opened a file long ago says nothing of the copy that was made in its place.
func (l *Lake) DeclareReplicaBad(ctx context.Context, in backends.Info, r backends.Replica, why error) error {
	return l.declareBad(ctx, in, r.RSE, r.PFN, why)
}

func (l *Lake) declareBad(ctx context.Context, in backends.Info, rse, pfn string, why error) error {
	replicas, err := l.replicasOf(ctx, in)
	if err == nil {
		i := slices.IndexFunc(replicas, func(r backends.Replica) bool { return r.RSE == rse && (pfn == "" || r.PFN == pfn) })
		if i < 0 {
			return nil
		}
		r := replicas[i]
		if r.State == backends.Bad {
			return nil
		}
		r.State, r.Error = backends.Bad, why.Error()
		if err = l.o.Catalogue.PutReplica(ctx, in.DID, in.Generation, r); err == nil {
			l.log.Error("replica declared BAD", "did", in.DID, "rse", rse, "pfn", r.PFN, "why", why)
		}
	}
	if errors.Is(err, backends.ErrStale) || errors.Is(err, backends.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("declare the replica of %s at %s bad: %w", in.DID, rse, err)
	}
	if f := l.onBad.Load(); f != nil {
		(*f)(in.DID)
	}
	return nil
}

// Candidate is one replica as Open sees it.
type Candidate struct {
	RSE      string                `json:"rse"`
	Kind     backends.RSEKind      `json:"kind,omitempty"`
	PFN      string                `json:"pfn"`
	State    backends.ReplicaState `json:"state"`
	Distance int                   `json:"distance"`
	Locality backends.Locality     `json:"locality"`
	Usable   bool                  `json:"usable"` // could be read now
	Reason   string                `json:"reason"` // why it is first, second, or not to be had
}

// Explain lists the replicas of in as Open would try them, the usable ones first, each
// with the reason. It reads no bytes and recalls nothing.
func (l *Lake) Explain(ctx context.Context, in backends.Info) ([]Candidate, error) {
	replicas, err := l.replicasOf(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("explain %s: %w", in.DID, err)
	}
	var usable, not []Candidate
	for _, s := range l.sources(replicas) {
		c := Candidate{RSE: s.RSE, PFN: s.PFN, State: s.State, Locality: backends.Unavailable, Reason: s.why()}
		if s.rse != nil {
			c.Kind, c.Distance = s.rse.Kind, s.rse.Distance
		}
		if s.State == backends.Bad {
			c.Locality = backends.Lost
		}
		if from := l.Sending(in, s.RSE); s.State == backends.Copying && from != "" {
			c.Reason += " by third party, from " + from
		}
		if c.Reason == "" {
			l.explainGood(ctx, s, in, &c)
		}
		if !c.Usable {
			not = append(not, c)
			continue
		}
		if len(usable) == 0 {
			c.Reason = "first choice: " + c.Reason
		} else {
			c.Reason = fmt.Sprintf("choice %d: %s", len(usable)+1, c.Reason)
		}
		usable = append(usable, c)
	}
	return append(usable, not...), nil
}

func (l *Lake) explainGood(ctx context.Context, s source, in backends.Info, c *Candidate) {
	c.Reason = fmt.Sprintf("%s at distance %d", strings.ToLower(string(s.rse.Kind)), s.rse.Distance)
	if s.rse.LAN {
		c.Reason += ", at this site"
	}
	if v := l.meter.speed(s.RSE); v.Rate > 0 {
		c.Reason += fmt.Sprintf(", some %.0f MB/s a read lately", v.Rate/1e6)
	}
	c.Usable, c.Locality = true, backends.Online
	if s.tape() {
		found, err := l.tapeLocalities(ctx, s.rse, []string{s.PFN})
		if err != nil {
			c.Usable, c.Locality, c.Reason = false, backends.Unavailable, err.Error()
			return
		}
		c.Locality, c.Usable = found[0], found[0].IsOnline()
		switch c.Locality {
		case backends.Online:
			c.Reason += ", in its disk buffer, not on tape yet"
		case backends.OnlineAndNearline:
			c.Reason += ", staged"
		case backends.Nearline:
			c.Reason = "on tape, not staged" + l.recalls.explain(in)
		default:
			c.Reason = "the tape system says " + string(c.Locality)
		}
	}
	if f, ok := l.lately(s.RSE); ok && c.Usable {
		c.Reason += fmt.Sprintf(", put behind the others since it failed %s ago: %s", l.now().Sub(f.at).Round(1e9), f.why)
	}
}
