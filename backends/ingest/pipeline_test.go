package ingest

import (
	"fmt"
	"testing"
)

// TestPipeline: files appear in a folder, get their copies on disk and tape, and are deleted; the tombstones prove it.
func TestPipeline(t *testing.T) {
	r := newRig(t)
	s := r.open(r.replicate())
	r.write("early.fits", "was here before")
	if err := s.Add(t.Context(), r.definition("A", "B", "T")); err != nil {
		t.Fatal(err)
	}
	r.background(s.Run)
	want := map[string]string{"early.fits": "was here before"}
	for i := range 50 {
		name := fmt.Sprintf("2025/%02d/f%d.fits", i%3, i)
		want[name] = fmt.Sprint("content of ", i)
		r.write(name, want[name])
	}
	for _, name := range []string{"bad\xff\xfe.fits", "bad\xff/in.fits", "new\nline.fits", "ü b.fits"} {
		want[name] = "content of " + name
		r.write(name, want[name])
	}
	r.until("all is deleted", func() bool {
		st, err := s.Status("dl0")
		r.must(err)
		return st.Deleted.Files == int64(len(want)) && st.Found == st.Deleted
	})
	if left := r.sources(); len(left) > 0 {
		t.Errorf("left at the source: %q", left)
	}
	for name, text := range want {
		if got := r.read("/ctao/dl0/" + name); got != text {
			t.Errorf("%s is %q, want %q", name, got, text)
		}
		if n := len(r.replicas("/ctao/dl0/" + name)); n != 3 {
			t.Errorf("%s has %d replicas", name, n)
		}
	}
	n := 0
	r.must(s.Audit(t.Context(), "dl0", true, func(a Audited) error {
		if n++; !a.OK || len(a.Checked) < 2 {
			t.Errorf("audit: %+v", a)
		}
		return nil
	}))
	if n != len(want) {
		t.Errorf("%d tombstones, want %d", n, len(want))
	}
	st, _ := s.Status("dl0")
	if st.Found != st.Deleted || st.Oldest != nil || st.StuckAll != 0 || st.Error != "" || st.State != Running {
		t.Errorf("%+v", st)
	}
}
