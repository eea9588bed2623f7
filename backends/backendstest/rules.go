package backendstest

import (
	"slices"
	"time"

	"tarn/backends"
)

func (k *catalogueTest) needRules() {
	k.Helper()
	if k.Rules == nil {
		k.Skip("no Rules")
	}
}

func (k *catalogueTest) rule(d backends.DID, copies int, expr string) backends.RuleID {
	k.Helper()
	id, err := k.Rules.AddRule(k.ctx, backends.Rule{DID: d, Copies: copies, Expression: expr, Account: "root", Comment: "why"})
	k.must(err)
	return id
}

func (k *catalogueTest) rulesOf(d backends.DID) (out []backends.RuleID) {
	k.Helper()
	for _, r := range collect(k, k.Rules.RulesOf(k.ctx, d)) {
		out = append(out, r.ID)
	}
	return out
}

func (k *catalogueTest) allRules(states ...backends.RuleState) (out []backends.RuleID) {
	k.Helper()
	for _, r := range collect(k, k.Rules.AllRules(k.ctx, states...)) {
		out = append(out, r.ID)
	}
	slices.Sort(out)
	return out
}

var ruleCases = []catalogueCase{
	{"AddRule stores the rule with state REPLICATING; an equal one gives its ID", func(k *catalogueTest) {
		k.needRules()
		k.file(k.did("f"), 1)
		r := backends.Rule{DID: k.did("f"), Copies: 2, Expression: "country=ES&type=DISK", Expires: k.clock.now(), Comment: "c", Account: "a"}
		id, err := k.Rules.AddRule(k.ctx, r)
		k.must(err)
		got := collect(k, k.Rules.RulesOf(k.ctx, k.did("f")))
		k.equal("number of rules", len(got), 1)
		if got[0].ID != id || got[0].State != backends.RuleReplicating || got[0].Created.IsZero() || got[0].Rule.DID != r.DID || !got[0].Expires.Equal(r.Expires) ||
			got[0].Copies != 2 || got[0].Expression != r.Expression || got[0].Comment != "c" || got[0].Account != "a" {
			k.Fatalf("rule is %+v", got[0])
		}
		r.Comment = "another"
		again, err := k.Rules.AddRule(k.ctx, r)
		k.must(err)
		k.equal("ID", again, id)
		r.Copies = 3
		other, err := k.Rules.AddRule(k.ctx, r)
		k.must(err)
		if other == id {
			k.Error("another rule has the same ID")
		}
		k.equal("number of rules", len(k.allRules()), 2)
	}},
	{"AddRule keeps how the copies are made, and another source is another rule", func(k *catalogueTest) {
		k.needRules()
		k.file(k.did("f"), 1)
		r := backends.Rule{DID: k.did("f"), Copies: 1, Expression: "CNAF", Source: "PIC|site=PIC", Activity: "raw data", Priority: 5, Weight: "space", Grouping: backends.GroupAll, Account: "a", Comment: "c"}
		id, err := k.Rules.AddRule(k.ctx, r)
		k.must(err)
		k.must(k.Rules.SetRuleState(k.ctx, id, backends.RuleOK, ""))
		k.equal("rule", collect(k, k.Rules.AllRules(k.ctx))[0].Rule, r)
		r.Source = ""
		other, err := k.Rules.AddRule(k.ctx, r)
		k.must(err)
		if other == id {
			k.Error("a rule with another source has the same ID")
		}
		k.equal("number of rules", len(k.allRules()), 2)
	}},
	{"AddRule of the same copies changes what it says, keeps the rest, and ends no sooner", func(k *catalogueTest) {
		k.needRules()
		k.file(k.did("f"), 1)
		first := backends.Rule{DID: k.did("f"), Copies: 1, Expression: "A", Comment: "c", Account: "a", Activity: "raw", Priority: 2, Expires: k.clock.now().Add(time.Hour).UTC()}
		id, err := k.Rules.AddRule(k.ctx, first)
		k.must(err)
		k.must(k.Rules.SetRuleState(k.ctx, id, backends.RuleStuck, "why"))
		again := func(change func(*backends.Rule), want func(*backends.Rule)) {
			k.Helper()
			r := backends.Rule{DID: first.DID, Copies: 1, Expression: "A", Expires: first.Expires}
			change(&r)
			got, err := k.Rules.AddRule(k.ctx, r)
			k.must(err)
			k.equal("ID", got, id)
			want(&first)
			now := collect(k, k.Rules.AllRules(k.ctx))[0]
			now.Expires = now.Expires.UTC()
			k.equal("rule", now.Rule, first)
			k.equal("state", now.State, backends.RuleStuck)
		}
		again(func(r *backends.Rule) {}, func(r *backends.Rule) {})
		again(func(r *backends.Rule) { r.Priority, r.Grouping = 5, backends.GroupNone }, func(r *backends.Rule) { r.Priority, r.Grouping = 5, backends.GroupNone })
		again(func(r *backends.Rule) { r.Activity, r.Weight = "user", "w" }, func(r *backends.Rule) { r.Activity, r.Weight = "user", "w" })
		again(func(r *backends.Rule) { r.Expires = r.Expires.Add(-time.Minute) }, func(r *backends.Rule) {})
		later := first.Expires.Add(time.Hour)
		again(func(r *backends.Rule) { r.Expires = later }, func(r *backends.Rule) { r.Expires = later })
		again(func(r *backends.Rule) { r.Expires = time.Time{} }, func(r *backends.Rule) { r.Expires = time.Time{} })
		again(func(r *backends.Rule) { r.Expires = later }, func(r *backends.Rule) {})
	}},
	{"AddRule refuses what no rule can be: ErrNotSupported", func(k *catalogueTest) {
		k.needRules()
		k.file(k.did("f"), 1)
		for _, r := range []backends.Rule{{Copies: 0, Expression: "A"}, {Copies: 1}, {Copies: 1, Expression: "A", Priority: 6}, {Copies: 1, Expression: "A", Priority: -1},
			{Copies: 1, Expression: "A", Grouping: "SOME"}, {Copies: 1, Expression: "A", Activity: "a\nb"}} {
			r.DID = k.did("f")
			_, err := k.Rules.AddRule(k.ctx, r)
			k.wants(err, backends.ErrNotSupported)
		}
		k.equal("all", len(k.allRules()), 0)
	}},
	{"a rule is on a DID that exists", func(k *catalogueTest) {
		k.needRules()
		_, err := k.Rules.AddRule(k.ctx, backends.Rule{DID: k.did("x"), Copies: 1, Expression: "*"})
		k.wants(err, backends.ErrNotExist)
		k.wants(failure(k, k.Rules.RulesOf(k.ctx, k.did("x"))), backends.ErrNotExist)
	}},
	{"RulesOf streams the rules on d and on the collections above it", func(k *catalogueTest) {
		k.needRules()
		k.dir(k.did("d"))
		k.dir(k.did("other"))
		k.file(k.did("d/f"), 1)
		k.file(k.did("d/g"), 2)
		top, dir, file, member := k.rule(k.did(""), 1, "TAPE"), k.rule(k.did("d"), 1, "A"), k.rule(k.did("d/f"), 1, "B"), k.rule(k.did("other"), 1, "C")
		k.equal("of f", k.rulesOf(k.did("d/f")), []backends.RuleID{file, dir, top})
		k.equal("of g", k.rulesOf(k.did("d/g")), []backends.RuleID{dir, top})
		k.must(k.Catalogue.Attach(k.ctx, k.did("other"), k.did("d/g")))
		if got := k.rulesOf(k.did("d/g")); len(got) != 3 || !slices.Contains(got, member) {
			k.Errorf("of g as a member: %v, want %v in it", got, member)
		}
	}},
	{"AllRules streams every rule, or those in one of the states", func(k *catalogueTest) {
		k.needRules()
		k.file(k.did("f"), 1)
		a, b, c := k.rule(k.did("f"), 1, "A"), k.rule(k.did("f"), 1, "B"), k.rule(k.did("f"), 1, "C")
		k.must(k.Rules.SetRuleState(k.ctx, a, backends.RuleOK, ""))
		k.must(k.Rules.SetRuleState(k.ctx, b, backends.RuleStuck, "no space at B"))
		sorted := func(ids ...backends.RuleID) []backends.RuleID { slices.Sort(ids); return ids }
		k.equal("all", k.allRules(), sorted(a, b, c))
		k.equal("OK", k.allRules(backends.RuleOK), sorted(a))
		k.equal("not OK", k.allRules(backends.RuleStuck, backends.RuleReplicating, backends.RuleStuck), sorted(b, c))
		for _, r := range collect(k, k.Rules.AllRules(k.ctx, backends.RuleStuck)) {
			k.equal("why", r.Error, "no space at B")
		}
	}},
	{"SetRuleState and DeleteRule of no rule are ErrNotExist", func(k *catalogueTest) {
		k.needRules()
		k.file(k.did("f"), 1)
		id := k.rule(k.did("f"), 1, "A")
		k.must(k.Rules.DeleteRule(k.ctx, id))
		k.wants(k.Rules.DeleteRule(k.ctx, id), backends.ErrNotExist)
		k.wants(k.Rules.SetRuleState(k.ctx, id, backends.RuleOK, ""), backends.ErrNotExist)
		k.equal("all", len(k.allRules()), 0)
		k.equal("OK", len(k.allRules(backends.RuleOK)), 0)
	}},
	{"rules follow renames, stay with a name whose content is replaced, and go with what is removed", func(k *catalogueTest) {
		k.needRules()
		k.needRename()
		k.dir(k.did("d"))
		k.file(k.did("d/f"), 1)
		id := k.rule(k.did("d/f"), 1, "A")
		k.must(k.Namespace.Rename(k.ctx, k.did("d"), k.did("e")))
		k.equal("DID", collect(k, k.Rules.AllRules(k.ctx))[0].DID, k.did("e/f"))
		k.equal("of e/f", k.rulesOf(k.did("e/f")), []backends.RuleID{id})
		k.file(k.did("e/tmp"), 2) // as an editor saves
		k.must(k.Namespace.Rename(k.ctx, k.did("e/tmp"), k.did("e/f")))
		k.equal("of the new content", k.rulesOf(k.did("e/f")), []backends.RuleID{id})
		in := fileInfo(k.did("e/f"), 3)
		in.Inode = 1 << 41
		k.must(k.Catalogue.Add(k.ctx, in, nil, replica("A")))
		k.equal("of a new inode", k.rulesOf(k.did("e/f")), []backends.RuleID{id})
		k.must(k.Namespace.Remove(k.ctx, k.did("e/f")))
		k.equal("all", len(k.allRules()), 0)
		if k.Versions == nil {
			return
		}
		k.must(k.Versions.Undelete(k.ctx, k.pasts(k.did("e/f"))[0].Handle))
		k.equal("after undelete", k.rulesOf(k.did("e/f")), []backends.RuleID{id})
		k.dir(k.did("gone"))
		k.rule(k.did("gone"), 1, "A")
		k.must(k.Namespace.Remove(k.ctx, k.did("gone")))
		k.must(k.Catalogue.Add(k.ctx, fileInfo(k.did("nocopy"), 1), nil))
		k.rule(k.did("nocopy"), 1, "A")
		k.must(k.Namespace.Remove(k.ctx, k.did("nocopy")))
		k.equal("all", k.allRules(), []backends.RuleID{id})
	}},
}
