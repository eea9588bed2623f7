package embedded

import (
	"testing"

	"tarn/backends"
)

// TestListsInLists: a list that is read inside another, and one that is given up, take no
// room from those that are still read.
func TestListsInLists(t *testing.T) {
	c, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: "ctao"}}); err != nil {
		t.Fatal(err)
	}
	const dirs = 3
	if _, err := c.Import(t.Context(), benchLake(dirs*1000)); err != nil {
		t.Fatal(err)
	}
	var read func(dir, most int)
	read = func(dir, most int) {
		d := backends.DID{Scope: "ctao", Name: "/ctao/dl3/dir000" + string(rune('0'+dir))}
		i := 0
		for in, err := range c.Contents(t.Context(), d, "") {
			if err != nil {
				t.Fatal(err)
			}
			if want := benchFile(dir*1000 + i); in.DID != want.DID || in.Checksums != want.Checksums {
				t.Fatalf("entry %d of %s is %s", i, d, in.DID)
			}
			if i++; i == most {
				return
			}
			if i%300 == 0 && dir+1 < dirs {
				read(dir+1, 700)
				read(dir+1, 1000)
			}
		}
		if i != min(most, 1000) {
			t.Fatalf("%d entries of %s", i, d)
		}
	}
	for range 3 {
		read(0, 1001)
	}
}
