package embedded

import (
	"bytes"
	"context"
	"testing"

	"tarn/backends"
)

// A catalogue is readable by older programs until a rule is put into it that they would misread, and so is its backup.
func TestVersionIsThatOfWhatIsStored(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	open := func() *Catalogue {
		t.Helper()
		c, err := Open(Options{Dir: dir, CacheBytes: 8 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	versionIs := func(c *Catalogue, want int) {
		t.Helper()
		var b bytes.Buffer
		info, err := c.Backup(ctx, &b, "l")
		if err != nil || info.Format != want {
			t.Fatalf("format is %d, want %d; %v", info.Format, want, err)
		}
		back, _, err := OpenBackup(ctx, Options{}, bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		sameRules(t, c, back)
	}
	c := open()
	d := backends.DID{Scope: "s", Name: "/s/d"}
	if err := c.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "s"}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Add(ctx, backends.Info{DID: d, Type: backends.Container}, nil); err != nil {
		t.Fatal(err)
	}
	r := backends.Rule{DID: d, Copies: 1, Expression: "A", Comment: "c"}
	id, err := c.AddRule(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	versionIs(c, versionFirst)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open()
	versionIs(c, versionFirst)
	r.Priority = 4 // of the stored one
	if again, err := c.AddRule(ctx, r); err != nil || again != id {
		t.Fatal(again, err)
	}
	versionIs(c, versionTransfer)
	if err := c.SetRuleState(ctx, id, backends.RuleOK, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open()
	defer c.Close()
	versionIs(c, versionTransfer)
	for st := range c.AllRules(ctx) {
		if st.Priority != 4 || st.Comment != "c" || st.State != backends.RuleOK {
			t.Errorf("rule is %+v", st)
		}
	}
	if _, err := decodeVersion(encodeVersion(formatVersion + 1)); err == nil {
		t.Error("a newer format is read")
	}
}

func sameRules(t *testing.T, a, b *Catalogue) {
	t.Helper()
	var all [2][]backends.RuleStatus
	for i, c := range []*Catalogue{a, b} {
		for st, err := range c.AllRules(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			all[i] = append(all[i], st)
		}
	}
	if len(all[0]) != len(all[1]) {
		t.Fatalf("%d rules, and %d in the backup", len(all[0]), len(all[1]))
	}
	for i := range all[0] {
		if all[0][i] != all[1][i] {
			t.Errorf("rule %+v is %+v in the backup", all[0][i], all[1][i])
		}
	}
}

// A rule of version 1 has no more than the fields of version 1, and is read.
func TestRuleOfVersionOne(t *testing.T) {
	r := rule{inode: 7}
	r.Copies, r.Expression, r.Comment, r.State = 2, "A|B", "c", backends.RuleStuck
	old := r.encode()
	var got rule
	if err := got.decode(old); err != nil || got.Expression != "A|B" || got.Source != "" || got.Priority != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	r.Source, r.Grouping, r.Priority = "X", backends.GroupNone, 5
	long := r.encode()
	if !bytes.HasPrefix(long, old) {
		t.Error("the first fields have changed")
	}
	for n := len(old) + 1; n < len(long); n++ {
		if got.decode(long[:n]) == nil {
			t.Errorf("cut to %d bytes it is read", n)
		}
	}
}
