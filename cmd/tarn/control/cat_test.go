package control

import (
	"testing"

	"tarn/backends"
)

func TestMayAccess(t *testing.T) {
	for _, c := range []struct {
		mode        uint32
		uid         uint32
		gids        []uint32
		read, write bool
	}{
		{0o640, 1, nil, true, true}, {0o440, 1, nil, true, false}, {0o640, 9, []uint32{7, 2}, true, false}, {0o640, 9, []uint32{7}, false, false},
		{0o664, 9, nil, true, false}, {0o046, 1, []uint32{2}, false, false}, {0o046, 9, []uint32{2}, true, false}, {0o000, 0, nil, true, true}, {0o002, 9, nil, false, true},
	} {
		in := backends.Info{Mode: c.mode, UID: 1, GID: 2}
		for write, want := range map[bool]bool{false: c.read, true: c.write} {
			if got := mayAccess(in, AccessRequest{UID: c.uid, GIDs: c.gids, Write: write}); got != want {
				t.Errorf("mode %o, user %d, groups %v, write %v: %v", c.mode, c.uid, c.gids, write, got)
			}
		}
	}
}
