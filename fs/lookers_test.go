package fs

import "testing"

// TestLookers: a process skims once it read names without looking any up, and no more when
// it looks.
func TestLookers(t *testing.T) {
	var l lookers
	const pid, other = 7, 8
	if l.skims(pid) {
		t.Error("skims before it read anything")
	}
	l.listed(pid)
	if !l.skims(pid) || l.skims(other) || l.is(pid) {
		t.Error("does not skim, or another does")
	}
	if l.add(pid); l.skims(pid) {
		t.Error("skims after a look-up")
	}
	l.listed(pid)
	if l.skims(pid) {
		t.Error("skims again, though it looked")
	}
	became := 0
	for range 2 * looks {
		if l.add(pid) {
			became++
		}
	}
	if !l.is(pid) || became != 1 {
		t.Errorf("looks: %v, became so %d times", l.is(pid), became)
	}
}
