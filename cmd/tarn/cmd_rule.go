package main

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/replication"
	"tarn/cmd/tarn/control"
)

func (s *session) ruleCommand() *cli.Command {
	return &cli.Command{
		Name: "rule", Category: groupMove, Usage: "how many copies shall be where",
		Description: "A rule asks for copies of a file, or of all files below a directory, on the RSEs that match an\nexpression: names, key=value, and & | \\ ( ) *, as in Rucio.",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list rules", ArgsUsage: "[PATH]",
				Description: "With PATH: the rules on it and on the directories above it.\n\nExample:\n   tarn rule ls --state STUCK",
				Flags:       []cli.Flag{&cli.StringSliceFlag{Name: "state", Usage: "only those that are `STATE`: OK, REPLICATING, STUCK"}},
				Action: func(c *cli.Context) error {
					if err := want(c, 0, 1); err != nil {
						return err
					}
					var states []backends.RuleState
					for _, x := range c.StringSlice("state") {
						st := backends.RuleState(strings.ToUpper(x))
						if st != backends.RuleOK && st != backends.RuleReplicating && st != backends.RuleStuck {
							return usage([]string{"rule", "ls"}, "--state: want OK, REPLICATING or STUCK, not %q", x)
						}
						states = append(states, st)
					}
					l := s.t.list("id", "state", ">copies", "expression", "expires", "on", "")
					err := call(c.Context, s, c.Args().Slice(), "rule/ls", func(ps []control.Text) any {
						req := control.RulesRequest{States: states}
						if len(ps) == 1 {
							req.Path = ps[0]
						}
						return req
					}, func(r control.RuleEntry) error {
						on := r.Path.Quote()
						if on == "" {
							on = control.Text(r.DID.String()).Quote()
						}
						return l.add(r, string(r.ID), string(r.State), strconv.Itoa(r.Copies), r.Expression, when(r.Expires), on, strings.TrimSpace(how(r.Rule)+"  "+r.Error))
					}, nil)
					return errors.Join(err, l.end())
				},
			},
			s.ruleAddCommand(),
			s.ruleExplainCommand(),
			s.ruleSimulateCommand(),
			{
				Name: "rm", Usage: "remove rules", ArgsUsage: "ID...",
				Description: "What no rule wants any more stays until somebody removes the file.",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					var n control.Count
					err := call[struct{}](c.Context, s, nil, "rule/rm", func([]control.Text) any { return control.IDsRequest{IDs: c.Args().Slice()} }, nil, &n)
					if err != nil {
						return err
					}
					return s.t.object(n, func() { s.t.say("%s removed", count(n.Done, "rule")) })
				},
			},
		},
	}
}

// how says in words how the copies of a rule are made, where it says so.
func how(r backends.Rule) string {
	var out []string
	say := func(name, v string) {
		if v != "" {
			out = append(out, name+" "+v)
		}
	}
	say("from", r.Source)
	say("activity", r.Activity)
	if r.Priority > 0 {
		say("priority", strconv.Itoa(r.Priority))
	}
	say("weight", r.Weight)
	say("grouping", string(r.Grouping))
	say("comment", r.Comment)
	if len(out) == 0 {
		return ""
	}
	return "(" + strings.Join(out, ", ") + ")"
}

// ruleFlags are what a rule says beside the path and the expression.
func ruleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "copies", Aliases: []string{"n"}, Value: 1, Usage: "`N` copies"},
		&cli.StringFlag{Name: "lifetime", Usage: "for this `TIME` (30d, 12h); default: for ever"},
		&cli.StringFlag{Name: "source", Usage: "make the copies of those at the RSEs that `EXPR` matches, and wait for one"},
		&cli.StringFlag{Name: "activity", Usage: "what it is for, a `WORD`: activities share a storage fairly"},
		&cli.IntFlag{Name: "priority", Usage: "`N`, 1 to 5, 5 is the most urgent", DefaultText: "3"},
		&cli.StringFlag{Name: "weight", Usage: "prefer RSEs by this attribute, a number; those without `KEY` are not chosen"},
		&cli.StringFlag{Name: "grouping", Usage: "which files go to the same RSEs: `ALL`, DATASET (those of a directory; default) or NONE"},
		&cli.StringFlag{Name: "comment", Usage: "`WORDS` to remember it by"},
	}
}

// ruleRequest reads them.
func ruleRequest(c *cli.Context) (req control.RuleAddRequest, err error) {
	if err := want(c, 2, 2); err != nil {
		return req, err
	}
	if req.Lifetime, err = lifetime(c, "lifetime"); err != nil {
		return req, err
	}
	req.Copies, req.Expression, req.Comment = c.Int("copies"), c.Args().Get(1), c.String("comment")
	req.Source, req.Activity, req.Priority, req.Weight = c.String("source"), c.String("activity"), c.Int("priority"), c.String("weight")
	req.Grouping = backends.Grouping(strings.ToUpper(c.String("grouping")))
	if c.IsSet("priority") && (req.Priority < backends.LowestPriority || req.Priority > backends.HighestPriority) {
		return req, usage(words(c.Command), "--priority: want %d to %d, not %d", backends.LowestPriority, backends.HighestPriority, req.Priority)
	}
	return req, nil
}

func (s *session) ruleAddCommand() *cli.Command {
	return &cli.Command{
		Name: "add", Usage: "ask for copies", ArgsUsage: "PATH EXPRESSION",
		Description: `The copies are made by the daemon, while the lake is mounted. A rule that is there already, on the
same path with the same copies, expression and source, gets what is said anew of the rest, and ends no sooner
than before.

Examples:
   tarn rule add /ctao/dl3 'country=IT&rse_type=DISK' --copies 1 --lifetime 30d
   tarn rule add /ctao/dl0 CNAF-DISK --source PIC-DISK --activity raw --priority 5`,
		Flags: ruleFlags(),
		Action: func(c *cli.Context) error {
			req, err := ruleRequest(c)
			if err != nil {
				return err
			}
			var added control.RuleAdded
			err = call[struct{}](c.Context, s, c.Args().Slice()[:1], "rule/add", func(ps []control.Text) any {
				req.Path = ps[0]
				return req
			}, nil, &added)
			if err != nil {
				return err
			}
			return s.t.object(added, func() { fmt.Fprintln(s.t.out, added.ID) })
		},
	}
}

func (s *session) ruleExplainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "what a rule lacks, and why", ArgsUsage: "ID|PATH",
		Description: `Tells which RSEs match, what each of them has, and of files that lack copies why that is so and what comes
next. With PATH: of the rules on it and on the directories above it, for the files at and below it.

Example:
   tarn rule explain /ctao/dl0/run7.fits`,
		Flags: []cli.Flag{&cli.IntFlag{Name: "files", Value: 20, Usage: "tell of at most `N` files that lack copies"}},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			var paths []string
			req := control.RuleExplainRequest{ID: c.Args().First(), Files: c.Int("files")}
			if _, err := hex.DecodeString(req.ID); err != nil || len(req.ID) != 32 {
				paths, req.ID = []string{req.ID}, ""
			}
			return call(c.Context, s, paths, "rule/explain", func(ps []control.Text) any {
				if len(ps) == 1 {
					req.Path = ps[0]
				}
				return req
			}, func(x control.RuleExplained) error {
				return s.t.object(x, func() { s.explained(x) })
			}, nil)
		},
	}
}

// explained tells people how it stands with a rule.
func (s *session) explained(x control.RuleExplained) {
	t := s.t
	fmt.Fprintf(t.out, "rule %s, %s: %s of %s on %q %s\n", x.Rule.ID, x.Rule.State, nCopies(x.Rule.Copies), onWhat(x.Path, x.Rule.DID), x.Rule.Expression, how(x.Rule.Rule))
	if x.Rule.Error != "" {
		word := "stuck: "
		if x.Rule.State != backends.RuleStuck { // Rucio's own words for how far it is
			word = ""
		}
		fmt.Fprintf(t.out, "   %s%s\n", word, x.Rule.Error)
	}
	if x.Rule.Source != "" {
		fmt.Fprintf(t.out, "   made of copies at %s\n", cmp.Or(strings.Join(x.Sources, ", "), "no RSE that is there"))
	}
	if len(x.RSEs) == 0 {
		fmt.Fprintln(t.out, "   no RSE matches")
	}
	for _, r := range x.RSEs {
		fmt.Fprintf(t.out, "   %s has %s, %s; %s free", r.RSE, count(r.Files, "file"), human(r.Bytes), human(r.Free))
		if r.Note != "" {
			fmt.Fprintf(t.out, "; %s", r.Note)
		}
		fmt.Fprintln(t.out)
	}
	for _, w := range x.Stuck {
		from := ""
		if w.From != "" {
			from = " from " + w.From
		}
		fmt.Fprintf(t.out, "   %s to %s%s: %s, %s\n", w.DID.Quote(), w.RSE, from, plural(int(w.Attempts), "attempt", "attempts"), cmp.Or(w.Error, "no reason is told"))
	}
	what := count(x.Files, "file")
	if x.Below != "" {
		what += " at " + x.Below.Quote()
	}
	fmt.Fprintf(t.out, "   %s, %s; %d without all copies\n", what, human(x.Bytes), x.Lacking)
	for _, f := range x.First {
		fmt.Fprintf(t.out, "      %s: %d more wanted, has %s\n", onWhat("", f.DID), f.Missing, cmp.Or(strings.Join(f.Has, ", "), "none"))
		for _, w := range f.Why {
			fmt.Fprintf(t.out, "         %s\n", w)
		}
	}
	if left := x.Lacking - int64(len(x.First)); left > 0 {
		fmt.Fprintf(t.out, "      and %d more (--files)\n", left)
	}
}

func nCopies(n int) string {
	if n == 1 {
		return "1 copy"
	}
	return fmt.Sprintf("%d copies", n)
}

func onWhat(p control.Text, d backends.DID) string {
	if p == "" && strings.HasPrefix(d.Name, "/") {
		p = control.Text(d.Name)
	}
	return cmp.Or(p, control.Text(d.String())).Quote()
}

func (s *session) ruleSimulateCommand() *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "what a rule would come to", ArgsUsage: "PATH EXPRESSION",
		Description: `Tells which RSEs would be chosen, what would be copied from where, for how long by the speeds that
were measured lately, and what is there already. It changes nothing.

Example:
   tarn rule simulate /ctao/dl3 'country=IT&rse_type=DISK' --source PIC-DISK`,
		Flags: ruleFlags(),
		Action: func(c *cli.Context) error {
			req, err := ruleRequest(c)
			if err != nil {
				return err
			}
			var x replication.Simulated
			err = call[struct{}](c.Context, s, c.Args().Slice()[:1], "rule/simulate", func(ps []control.Text) any {
				req.Path = ps[0]
				return req
			}, nil, &x)
			if err != nil {
				return err
			}
			return errors.Join(s.t.object(x, func() { err = s.simulated(x) }), err)
		},
	}
}

// simulated tells people what a rule would come to.
func (s *session) simulated(x replication.Simulated) error {
	s.t.say("%s, %s; %s all copies already", count(x.Files, "file"), human(x.Bytes), has(x.There))
	if len(x.Links) > 0 {
		l := s.t.list("to", "from", ">files", ">bytes", ">one read", ">at a time", ">takes")
		for _, k := range x.Links {
			speed, takes := "not measured", "-"
			if k.Rate > 0 {
				speed, takes = human(int64(k.Rate))+"/s", span(k.Takes)
			}
			if err := l.add(k, k.To, cmp.Or(k.From, "-"), strconv.FormatInt(k.Files, 10), human(k.Bytes), speed, strconv.Itoa(k.AtATime), takes); err != nil {
				return err
			}
		}
		if err := l.end(); err != nil {
			return err
		}
	}
	for _, r := range x.Waiting {
		s.t.say("%s, %s, first %s: %s", count(r.Files, "file"), human(r.Bytes), onWhat("", r.First), r.Why)
	}
	for _, r := range x.Stuck {
		s.t.say("STUCK: %s, %s, first %s: %s", count(r.Files, "file"), human(r.Bytes), onWhat("", r.First), r.Why)
	}
	switch {
	case len(x.Links) == 0:
		s.t.say("nothing would be copied now")
	case x.Known:
		s.t.say("it would take about %s", span(x.Takes))
	default:
		s.t.say("how long it would take is not known: nothing was read lately of some of these")
	}
	return nil
}

func has(n int64) string {
	if n == 1 {
		return "1 has"
	}
	return fmt.Sprintf("%d have", n)
}
