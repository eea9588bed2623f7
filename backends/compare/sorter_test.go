package compare

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// TestSorter sorts more than its memory, in many runs, twice, and leaves no file.
func TestSorter(t *testing.T) {
	for _, n := range []int{0, 1, 100, 30000} {
		dir := t.TempDir()
		s := newSorter(dir)
		s.memory = 4 << 10
		rnd := rand.New(rand.NewPCG(1, uint64(n)))
		var want []string
		for i := range n {
			k := fmt.Sprintf("%05d", rnd.IntN(max(n/2, 1)))
			if err := s.add([]byte(k), fmt.Appendf(nil, "%08d", i)); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf("%s=%08d", k, i))
		}
		slices.Sort(want) // by the key, and those of one key in the order they came
		for range 2 {
			var got []string
			if err := s.each(func(k, v []byte) error { got = append(got, string(k)+"="+string(v)); return nil }); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%d records are not in order", n)
			}
		}
		if n == 30000 && (len(s.runs) < 2 || len(s.runs) > sortRuns) {
			t.Errorf("%d runs", len(s.runs))
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left in the folder: %v %v", left, err)
		}
		s.close()
	}
}
