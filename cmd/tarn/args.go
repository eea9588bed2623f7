package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// arrange puts a command line into the order that the flag parser wants: global flags,
// the command, its flags, "--", its arguments. So flags can stand anywhere (`tarn ls
// /ctao --json`), short ones can be joined (-lR), and what is not known is told here,
// with a suggestion.
func arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 {
		return []string{app.Name}, nil
	}
	var globals, path, locals, rest []string
	cmds, own := app.Commands, []cli.Flag(nil)
	leaf := false    // no command name can follow
	helping := false // tarn help COMMAND
	put := func(list *[]string, f cli.Flag, value *string, i *int, written string) error {
		name := "--" + f.Names()[0]
		takes, _ := f.(cli.DocGenerationFlag)
		switch {
		case takes == nil || !takes.TakesValue():
			if value != nil {
				name += "=" + *value
			}
		case value != nil:
			name += "=" + *value
		case *i+1 < len(args):
			*i++
			name += "=" + args[*i]
		default:
			return usage(path, "%s needs a value", written)
		}
		*list = append(*list, name)
		return nil
	}
	one := func(written, name string, value *string, i *int) (bool, error) {
		if f := findFlag(own, name); f != nil {
			return true, put(&locals, f, value, i, written)
		}
		if f := findFlag(app.Flags, name); f != nil {
			return true, put(&globals, f, value, i, written)
		}
		if name == "h" || name == "help" {
			locals = append(locals, "--help")
			return true, nil
		}
		return false, nil
	}
	for i := 1; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case len(a) > 1 && a[0] == '-':
			name, v, hasValue := strings.Cut(strings.TrimPrefix(a[1:], "-"), "=")
			var value *string
			if hasValue {
				value = &v
			}
			ok, err := one(a, name, value, &i)
			if err != nil {
				return nil, err
			}
			if ok {
				continue
			}
			if strings.HasPrefix(a, "--") || hasValue {
				return nil, unknownFlag(path, a, append(slices.Clone(own), app.Flags...))
			}
			for _, c := range name {
				if ok, err := one("-"+string(c), string(c), nil, &i); err != nil {
					return nil, err
				} else if !ok {
					return nil, unknownFlag(path, a, append(slices.Clone(own), app.Flags...))
				}
			}
		case leaf && helping:
			return nil, unknownCommand(path, a, nil)
		case leaf:
			rest = append(rest, a)
		default:
			c := findCommand(cmds, a)
			if sub := findCommand(cmds, defaults[strings.Join(path, " ")]); c == nil && sub != nil && !helping {
				path = append(path, sub.Name)
				own, leaf, rest = append(slices.Clone(own), sub.Flags...), true, append(rest, a)
				continue
			}
			if c == nil {
				if a == "help" && len(path) == 0 && !helping {
					helping = true
					continue
				}
				return nil, unknownCommand(path, a, cmds)
			}
			path = append(path, c.Name)
			cmds, own, leaf = c.Subcommands, c.Flags, len(c.Subcommands) == 0
		}
	}
	switch {
	case helping && len(path) == 0:
		rest = []string{"help"}
	case helping:
		locals = []string{"--help"}
	}
	if slices.Contains(locals, "--help") {
		rest = nil // or they would be asked for help about
	}
	out := append([]string{app.Name}, globals...)
	out = append(append(out, path...), locals...)
	if len(path) > 0 && leaf {
		out = append(out, "--")
	}
	return append(out, rest...), nil
}

// defaults are the commands that are meant when what follows those above them is no command.
var defaults = map[string]string{"replicas": "ls", "index": "make"}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func findCommand(cmds []*cli.Command, name string) *cli.Command {
	for _, c := range cmds {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// words are those that a command is called by, without the program's name.
func words(c *cli.Command) []string { return strings.Fields(c.HelpName)[1:] }

// usage is an error of the command line.
func usage(path []string, format string, args ...any) error {
	return control.Fail(control.ErrUsage, "`"+strings.Join(append([]string{"tarn", "help"}, path...), " ")+"` shows how it is used", format, args...)
}

func unknownFlag(path []string, got string, flags []cli.Flag) error {
	var names []string
	for _, f := range flags {
		for _, n := range f.Names() {
			if len(n) > 1 {
				names = append(names, "--"+n)
			}
		}
	}
	return usage(path, "%s has no flag %s%s", strings.Join(append([]string{"tarn"}, path...), " "), got, nearest(got, names))
}

func unknownCommand(path []string, got string, cmds []*cli.Command) error {
	var names []string
	for _, c := range cmds {
		if !c.Hidden {
			names = append(names, c.Names()...)
		}
	}
	return usage(path, "%s has no command %q%s", strings.Join(append([]string{"tarn"}, path...), " "), got, nearest(got, names))
}

// nearest gives `; did you mean x?`, when something is near.
func nearest(got string, names []string) string {
	got, _, _ = strings.Cut(got, "=")
	begin := strings.TrimLeft(got, "-")
	best, dist := "", 5 // twice the edits; a wrong first letter counts for half a one
	for _, n := range names {
		d := 2 * cliDistance(got, n)
		if begin != "" && !strings.HasPrefix(strings.TrimLeft(n, "-"), begin[:1]) {
			d++
		}
		if d < dist {
			best, dist = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// cliDistance counts the edits from a to b; a beginning of b counts as one.
func cliDistance(a, b string) int {
	if len(a) > 2 && strings.HasPrefix(b, a) {
		return 1
	}
	return config.Distance(a, b)
}
