package report

import (
	"math"
	"slices"
	"time"
)

// Distribution is how long files took for a way, as a histogram.
type Distribution struct {
	Name             string // "found → verified"
	Files            int64
	Median, P95, P99 time.Duration // right to 2 %
	Buckets          []Bucket      // in order of UpTo
}

// Bucket is files that took so long at most, and longer than the bucket before says.
type Bucket struct {
	UpTo  time.Duration
	Files int64
}

// Times counts durations in bounded memory, however many there are. The zero value has none.
type Times struct {
	counts map[int]int64 // by the step of the logarithm that a duration is in
	files  int64
	worst  time.Duration
}

const (
	stepsPerDecade = 120 // that are counted
	stepsPerBucket = 12  // that are shown as one
)

// Add counts a duration; a negative one, which a clock that was set back makes, is 0.
func (t *Times) Add(d time.Duration) {
	if t.counts == nil {
		t.counts = map[int]int64{}
	}
	ms := float64(d) / float64(time.Millisecond)
	t.counts[max(0, int(math.Ceil(math.Log10(max(ms, 1))*stepsPerDecade)))]++
	t.files++
	t.worst = max(t.worst, d)
}

// Distribution is what was counted.
func (t *Times) Distribution(name string) Distribution {
	d := Distribution{Name: name, Files: t.files}
	steps := make([]int, 0, len(t.counts))
	for k := range t.counts {
		steps = append(steps, k)
	}
	slices.Sort(steps)
	var n int64
	for _, k := range steps {
		for bucket := (k + stepsPerBucket - 1) / stepsPerBucket; ; {
			if last := len(d.Buckets) - 1; last < 0 {
				d.Buckets = append(d.Buckets, Bucket{UpTo: stepEnd(bucket * stepsPerBucket)})
			} else if d.Buckets[last].UpTo >= stepEnd(k) {
				break
			} else {
				// Empty ones between two are kept, so that a picture shows the gap.
				d.Buckets = append(d.Buckets, Bucket{UpTo: stepEnd((stepOf(d.Buckets[last].UpTo)/stepsPerBucket + 1) * stepsPerBucket)})
			}
		}
		d.Buckets[len(d.Buckets)-1].Files += t.counts[k]
		n += t.counts[k]
		for _, q := range []struct {
			at  *time.Duration
			of  float64
			was int64
		}{{&d.Median, 0.5, n - t.counts[k]}, {&d.P95, 0.95, n - t.counts[k]}, {&d.P99, 0.99, n - t.counts[k]}} {
			if need := int64(math.Ceil(q.of * float64(t.files))); q.was < need && n >= need {
				*q.at = min(stepEnd(k), t.worst)
			}
		}
	}
	return d
}

// stepEnd is the longest duration of a step, stepOf the step that ends with one.
func stepEnd(k int) time.Duration {
	return time.Duration(math.Round(math.Pow(10, float64(k)/stepsPerDecade) * float64(time.Millisecond)))
}

func stepOf(d time.Duration) int {
	return int(math.Round(math.Log10(float64(d)/float64(time.Millisecond)) * stepsPerDecade))
}
