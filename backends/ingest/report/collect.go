package report

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"tarn/backends/ingest"
)

// moments is how many points the curve of a stage has.
const moments = 240

// reasonsKept is how many different reasons of failures are kept; all others are counted together.
const reasonsKept = 50

// Of makes a test of what an ingest has on record: files gives its records, and is asked twice. samples may be nil; then
// the throughput is told by the files that ended.
func Of(st ingest.Status, samples []ingest.Sample, files func() iter.Seq2[ingest.Record, error]) (Test, error) {
	t := Test{Name: st.Name, Work: st.Dir + " → " + st.Target}
	var first, last time.Time
	for r, err := range files() {
		if err != nil {
			return t, err
		}
		for _, at := range times(r) {
			if !at.IsZero() && (first.IsZero() || at.Before(first)) {
				first = at
			}
			if at.After(last) {
				last = at
			}
		}
	}
	t.Took = last.Sub(first)
	var came [len(StageNames)][moments + 1]int64
	var sent [moments + 1]int64
	var ways [3]Times
	reasons := map[string]int64{}
	step := func(at time.Time) int {
		if t.Took <= 0 {
			return moments
		}
		// Rounded up: nothing is shown before it happened.
		return min(max(int((int64(at.Sub(first))*moments+int64(t.Took)-1)/int64(t.Took)), 0), moments)
	}
	for r, err := range files() {
		if err != nil {
			return t, err
		}
		at := times(r)
		t.Files++
		t.Bytes += r.Size
		for k, when := range at {
			if !when.IsZero() {
				came[k][step(when)]++
			}
		}
		if !r.TransferredAt.IsZero() {
			sent[step(r.TransferredAt)] += r.Size
		}
		if !r.SafeAt.IsZero() {
			t.Safe++
		}
		if r.Stage == ingest.Deleted {
			t.Deleted++
		}
		for k, end := range []time.Time{r.VerifiedAt, r.SafeAt, r.DeletedAt} {
			if !end.IsZero() && !r.FoundAt.IsZero() {
				ways[k].Add(end.Sub(r.FoundAt))
			}
		}
		if r.Error != "" {
			if _, ok := reasons[r.Error]; !ok && len(reasons) >= reasonsKept {
				r.Error = "other reasons"
			}
			reasons[r.Error]++
		}
	}
	t.course(came, sent)
	if len(samples) > 1 {
		t.Sent = t.Sent[:0]
		for _, s := range samples {
			t.Sent = append(t.Sent, Sent{At: s.Time.Sub(samples[0].Time), Bytes: s.Bytes - samples[0].Bytes})
		}
	}
	for k, name := range []string{"found → verified", "found → safe", "found → deleted"} {
		if ways[k].files > 0 {
			t.Times = append(t.Times, ways[k].Distribution(name))
		}
	}
	for why, n := range reasons {
		t.Failures = append(t.Failures, Failure{why, n})
	}
	slices.SortFunc(t.Failures, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
	return t, nil
}

// times are when a file came to each stage, in the order of StageNames.
func times(r ingest.Record) [len(StageNames)]time.Time {
	return [...]time.Time{r.FoundAt, r.SealedAt, r.TransferredAt, r.VerifiedAt, r.RegisteredAt, r.SafeAt, r.DeletedAt}
}

// course sums up what came in each step of the time.
func (t *Test) course(came [len(StageNames)][moments + 1]int64, sent [moments + 1]int64) {
	if t.Took <= 0 {
		return
	}
	var sum Sample
	var bytes int64
	for i := range moments + 1 {
		sum.At = t.Took * time.Duration(i) / moments
		for k := range came {
			sum.Files[k] += came[k][i]
		}
		bytes += sent[i]
		t.Stages = append(t.Stages, sum)
		t.Sent = append(t.Sent, Sent{At: sum.At, Bytes: bytes})
	}
}
