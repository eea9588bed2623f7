package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/cmd/tarn/control"
)

var recursiveFlag = &cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "and all below"}

// changeAttributes changes what the first argument said of the paths that follow it.
func (s *session) changeAttributes(c *cli.Context, req control.AttributesRequest) error {
	b := s.t.bulk(nil)
	req.Recursive = c.Bool("recursive")
	err := s.askBulk(c.Context, c.Args().Tail(), "catalogue/attributes", func(ps []control.Text) any {
		req.LFNs = ps
		return req
	}, b, "path")
	if err == nil {
		s.t.say("%s changed", count(b.done, "path"))
	}
	return err
}

func (s *session) catChmodCommand() *cli.Command {
	return &cli.Command{
		Name: "chmod", Usage: "change modes", ArgsUsage: "MODE LFN...",
		Description: lfnsHelp + `MODE is octal. With -R execute bits go to directories, and to files that have one.

Example:
   tarn catalogue chmod -R 755 /ctao/dl3`,
		Flags: []cli.Flag{recursiveFlag},
		Action: func(c *cli.Context) error {
			if err := want(c, 2, -1); err != nil {
				return err
			}
			n, err := strconv.ParseUint(c.Args().First(), 8, 32)
			if err != nil || n > 0o7777 {
				return usage([]string{"catalogue", "chmod"}, "%q is no mode: want 0 to 7777, octal", c.Args().First())
			}
			mode := uint32(n)
			return s.changeAttributes(c, control.AttributesRequest{Mode: &mode})
		},
	}
}

func (s *session) catChownCommand() *cli.Command {
	return &cli.Command{
		Name: "chown", Usage: "change owners and groups", ArgsUsage: "[USER][:GROUP] LFN...",
		Description: lfnsHelp + "USER and GROUP are names of this machine, or numbers.\n\nExample:\n   tarn catalogue chown -R ada:cta /ctao/dl3",
		Flags:       []cli.Flag{recursiveFlag},
		Action: func(c *cli.Context) error {
			if err := want(c, 2, -1); err != nil {
				return err
			}
			var req control.AttributesRequest
			user, group, _ := strings.Cut(c.Args().First(), ":")
			for _, x := range []struct {
				what, name string
				id         func(string) (uint32, bool)
				to         **uint32
			}{{"user", user, userID, &req.UID}, {"group", group, groupID, &req.GID}} {
				if x.name == "" {
					continue
				}
				n, ok := x.id(x.name)
				if !ok {
					return usage([]string{"catalogue", "chown"}, "this machine knows no %s %q", x.what, x.name)
				}
				*x.to = &n
			}
			if req.UID == nil && req.GID == nil {
				return usage([]string{"catalogue", "chown"}, "%q names neither a user nor a group", c.Args().First())
			}
			return s.changeAttributes(c, req)
		},
	}
}

func (s *session) catAccessCommand() *cli.Command {
	return &cli.Command{
		Name: "access", Usage: "whether you may read or write, by the modes of the lake", ArgsUsage: "LFN...",
		Description: lfnsHelp + "Exit code 0 also when you may not.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "write", Aliases: []string{"w"}, Usage: "write, not read"},
			&cli.StringFlag{Name: "user", Usage: "another `USER`, without its groups"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			req := control.AccessRequest{Write: c.Bool("write"), UID: uint32(os.Geteuid()), GIDs: []uint32{uint32(os.Getegid())}}
			if name := c.String("user"); name != "" {
				n, ok := userID(name)
				if !ok {
					return usage([]string{"catalogue", "access"}, "this machine knows no user %q", name)
				}
				req.UID, req.GIDs = n, nil
			} else if groups, err := os.Getgroups(); err == nil {
				for _, g := range groups {
					req.GIDs = append(req.GIDs, uint32(g))
				}
			}
			return s.askBulk(c.Context, c.Args().Slice(), "catalogue/access", func(ps []control.Text) any {
				req.LFNs = ps
				return req
			}, s.t.bulk(oneValue), "path")
		},
	}
}
