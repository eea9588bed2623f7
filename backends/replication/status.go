package replication

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"tarn/backends"
)

// Status is how the engine is doing.
type Status struct {
	LastSweep   time.Time `json:"last_sweep,omitzero"`
	SweptRules  int       `json:"swept_rules"` // looked at by it
	Queued      int       `json:"queued"`
	Staging     int       `json:"staging"` // wait for the recall of their source
	Running     int       `json:"running"`
	Waiting     int       `json:"waiting"`            // failed, and wait for their retry
	Sourceless  int       `json:"waiting_for_source"` // wait for a copy that they may be made of
	Cancelled   int       `json:"cancelled"`
	Copied      int64     `json:"copied"` // files, since New
	CopiedBytes int64     `json:"copied_bytes"`
	Failures    int64     `json:"failures"`
	Reaped      int64     `json:"reaped"`               // old contents deleted for good
	ReapWaiting int       `json:"reap_waiting"`         // whose time has come, but an RSE does not let them go
	ReapError   string    `json:"reap_error,omitempty"` // why, of the first
}

// TransferState is how far a copy is.
type TransferState string

// The states of a copy.
const (
	Queued    TransferState = "QUEUED"
	Staging   TransferState = "STAGING" // its source is being recalled
	Running   TransferState = "RUNNING"
	Waiting   TransferState = "WAITING"   // failed, and its next try is at NextTry; or there is nothing yet that it may be made of
	Cancelled TransferState = "CANCELLED" // by hand
)

// Transfer is one copy that is wanted.
type Transfer struct {
	DID      backends.DID  `json:"did"`
	From     string        `json:"from,omitempty"` // the RSE that it was to be made from when it was chosen
	To       string        `json:"to,omitempty"`   // "" while no RSE can be chosen
	Activity string        `json:"activity,omitempty"`
	Priority int           `json:"priority,omitempty"`
	Sender   string        `json:"sender,omitempty"` // the RSE whose server sends it, by third party; "": the bytes come by here
	Bytes    int64         `json:"bytes,omitempty"`
	Done     int64         `json:"done,omitempty"`
	State    TransferState `json:"state"`
	Since    time.Time     `json:"since,omitzero"`
	Failures int           `json:"failures,omitempty"`
	Error    string        `json:"error,omitempty"`
	NextTry  time.Time     `json:"next_try,omitzero"`
}

// Status gives the counters.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	for _, m := range e.moves {
		switch m.state {
		case Staging:
			s.Staging++
		case Running:
			s.Running++
		default:
			s.Queued++
		}
	}
	for k, t := range e.trouble {
		if e.moves[k] == nil && !t.asked {
			s.Waiting++
		}
	}
	for _, g := range e.ledgers {
		for _, l := range g.lacking {
			if l.waits {
				s.Sourceless++
			}
		}
	}
	s.Cancelled = len(e.cancelled)
	return s
}

// Transfers lists the copies that run, wait for their source, wait for their turn, and
// wait for their next try, in this order, each kind by age.
func (e *Engine) Transfers() []Transfer {
	e.mu.Lock()
	var out []Transfer
	for k, m := range e.moves {
		t := e.transferLocked(m)
		if x := e.trouble[k]; x != nil {
			t.Failures, t.Error = x.attempts, x.err.Error()
		}
		out = append(out, t)
	}
	for k, x := range e.trouble {
		if e.moves[k] == nil && !x.asked {
			out = append(out, x.transfer(k))
		}
	}
	for _, g := range e.ledgers {
		for d, l := range g.lacking {
			if l.waits && !e.cancelled[key{d, ""}] {
				out = append(out, Transfer{DID: d, Activity: g.rule.Activity, Priority: g.rule.Urgency(), State: Waiting, Error: l.why})
			}
		}
	}
	for k := range e.cancelled {
		out = append(out, Transfer{DID: k.did, To: k.rse, State: Cancelled})
	}
	e.mu.Unlock()
	order := []TransferState{Running, Staging, Queued, Waiting, Cancelled}
	slices.SortFunc(out, func(a, b Transfer) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State)), a.Since.Compare(b.Since),
			a.NextTry.Compare(b.NextTry), strings.Compare(a.DID.String(), b.DID.String()), strings.Compare(a.To, b.To))
	})
	return out
}

func (e *Engine) transferLocked(m *move) Transfer {
	t := Transfer{DID: m.did, From: m.source, To: m.rse, Activity: m.class.activity, Priority: m.class.priority, Bytes: m.in.Size, Done: m.done.Load(), State: m.state, Since: m.since}
	if m.state == Running {
		t.Sender = e.l.Sending(m.in, m.rse)
	}
	return t
}

func (t *trouble) transfer(k key) Transfer {
	return Transfer{DID: k.did, To: k.rse, State: Waiting, Failures: t.attempts, Error: t.err.Error(), NextTry: t.next}
}
