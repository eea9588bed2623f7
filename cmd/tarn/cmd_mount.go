package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/cmd/tarn/config"
	tarnfs "tarn/fs"
)

func (s *session) mountCommand() *cli.Command {
	return &cli.Command{
		Name: "mount", Category: groupLake, Usage: "show a lake as a file system", ArgsUsage: "LAKE MOUNTPOINT",
		Description: `Mounts the lake and returns when the mount is usable; the daemon behind it serves the other commands,
uploads what is written, recalls from tape and makes the copies that rules want. It logs to
run/tarn.log in the lake's folder. With -f it stays in the foreground and logs to stderr.

Two processes serve a mount: the daemon, and its supervisor, which holds nothing of the lake. When
the daemon dies, or does not respond for mount.watchdog (1m; 0: no limit), the supervisor starts it
again, after 100ms at first and at most every 30s; tarn status and the log tell of it. Files that
were open then give errors and have to be opened again.

-o takes the options of mount(8), and any key of the lake file: ro, allow_other, uid=, gid=, umask=,
cache_size=, cache_dir=, close=local|fast|remote|registered, io_uring=auto|on|off, cache.limit=20G ... In /etc/fstab:
   /srv/lake  /lake  fuse.tarn  allow_other,_netdev  0 0

rucio: in place of LAKE is the Rucio server and the account of your rucio.cfg and environment, or rucio:URL another one; what
belongs to the mount is kept below ~/.cache/tarn/rucio. Keys of a lake file can be given with -o and --set.

A file with the key lakes shows several lakes side by side, each in a directory of its own and with its own processes, cache and
journal: lakes: [{name: ESCAPE, rucio: "https://...", account: ada}, {name: CTAO, lake: /srv/ctao, set: {cache: {limit: 50G}}}].
A lake that is away is tried again in the background, and its directory gives EIO meanwhile. One that was unmounted by itself comes
back when the file is mounted again at the same place.

Examples:
   tarn mount ~/lake /mnt/lake
   tarn mount rucio: /mnt/rucio --set 'write_rules=[{expression: MY-SITE_SCRATCHDISK}]'
   tarn mount grid.yaml /mnt/grid
   tarn mount -f ~/lake /mnt/lake -o ro,cache_size=50G`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "foreground", Aliases: []string{"f"}, Usage: "stay in the foreground"},
			&cli.StringSliceFlag{Name: "options", Aliases: []string{"o"}, Usage: "mount `OPTIONS`, separated by commas"},
			&cli.BoolFlag{Name: "read-only", Usage: "refuse every change that comes through the mount"},
			&cli.BoolFlag{Name: "allow-other", Usage: "other users may use the mount"},
			&cli.StringFlag{Name: "cache-dir", Usage: "`DIR` of the hot cache"},
			&cli.StringFlag{Name: "cache-size", Usage: "its limit, as 10G"},
			&cli.StringFlag{Name: "close", Usage: "close(2) waits for local, fast (a power cut may lose the last second), remote or registered"},
			&cli.BoolFlag{Name: "no-passthrough", Usage: "read everything through the daemon"},
			&cli.BoolFlag{Name: "nonempty", Usage: "mount over a folder that is not empty"},
			&cli.BoolFlag{Name: "supervise", Value: true, Usage: "start the daemon again when it dies or hangs (--supervise=false: do not)"},
			&cli.BoolFlag{Name: "debug-fuse", Usage: "log every request of the kernel"},
		},
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if len(args) == 1 && (s.lakeArg != "" || os.Getenv("TARN_LAKE") != "") {
				args = []string{s.lakeArg, args[0]}
			}
			if len(args) != 2 {
				return want(c, 2, 2)
			}
			if args[0] != "" {
				s.lakeArg = args[0]
			}
			o := mountOptions{passthrough: !c.Bool("no-passthrough"), nonempty: c.Bool("nonempty"), debug: c.Bool("debug-fuse"), foreground: c.Bool("foreground"), supervise: c.Bool("supervise")}
			if err := s.mountSettings(c, &o); err != nil {
				return err
			}
			if server, ok := rucioOf(s.lakeArg); ok {
				file, err := s.rucioLake(server, "")
				if err != nil {
					return err
				}
				s.lakeArg = file
			}
			file, _, err := s.pick()
			if err != nil {
				return err
			}
			if err := s.loadMount(file, &o); err != nil {
				return err
			}
			if os.Getenv(readyEnv) == "" { // else it was started by a tarn that has looked
				for _, cfg := range o.lakes() {
					for _, f := range cfg.Unresolved(c.Context, net.DefaultResolver.LookupHost) {
						s.t.note("the mount goes on without it: %s", f) // a lake must come up while one of its sites is away
					}
				}
			}
			if o.point, err = filepath.Abs(args[1]); err != nil {
				return fmt.Errorf("mount: %w", err)
			}
			o.point = realPoint(o.point)
			o.later = true
			if os.Getenv(readyEnv) == "" {
				if slices.ContainsFunc(s.settings, func(x config.Setting) bool { return x.Key == "run" }) {
					s.t.note("run is where other commands look for this mount: give them the same --set run=%s, or write it into the lake file", o.cfg.Run)
				}
				if here, err := s.bringBack(c.Context, o); here || err != nil {
					return err
				}
			}
			if err := checkMount(c.Context, &o); err != nil {
				return err
			}
			if o.grid != nil {
				if err := o.grid.mountedElsewhere(o.point); err != nil {
					return err
				}
			}
			switch {
			case o.grid != nil && !o.supervise:
				if os.Getenv(lifeEnv) == "" {
					return usage([]string{"mount"}, "--supervise=false: the lakes of %s are kept by a supervisor, and cannot be without", file)
				}
				return s.serveRoot(c.Context, o)
			case !o.foreground:
				if err := tarnfs.IOURingAllowed(); err != nil && o.cfg.Mount.IOURing == string(tarnfs.IOURingOn) {
					fmt.Fprintln(s.t.err, "the mount goes on without io_uring:", err)
				}
				if err := s.takeOver(c.Context, &o); err != nil {
					return err
				}
				return s.mountBehind(c.Context, o)
			case o.supervise:
				if os.Getenv(readyEnv) == "" {
					if err := s.takeOver(c.Context, &o); err != nil {
						return err
					}
				}
				return s.supervise(c.Context, o)
			default:
				return s.serve(c.Context, o)
			}
		},
	}
}

// mountOptions is one mount to be.
type mountOptions struct {
	cfg         *config.Config
	grid        *grid // of several lakes, whose root cfg is; else nil
	point       string
	kernel      []string // options for the kernel: nosuid ...
	foreground  bool
	passthrough bool
	nonempty    bool
	debug       bool
	supervise   bool
	later       bool // a dead mount is taken away right before the new one
}

// lakes are those that are mounted.
func (o *mountOptions) lakes() (out []*config.Config) {
	if o.grid == nil {
		return []*config.Config{o.cfg}
	}
	for _, l := range o.grid.lakes {
		out = append(out, l.cfg)
	}
	return out
}

// loadMount reads what is to be mounted: one lake, or several.
func (s *session) loadMount(file string, o *mountOptions) error {
	several, err := config.ListsLakes(file)
	if err != nil {
		return err
	}
	if !several {
		o.cfg, err = s.load(file)
		return err
	}
	if o.grid, err = s.openGrid(file, (*session).load); err != nil {
		return err
	}
	o.cfg = o.grid.root
	return nil
}

// mountSettings turns flags and -o into settings of the lake file.
func (s *session) mountSettings(c *cli.Context, o *mountOptions) error {
	set := func(from, key, value string) {
		s.settings = append(s.settings, config.Setting{From: from, Key: key, Value: value})
	}
	for _, list := range c.StringSlice("options") {
		for _, opt := range splitOptions(list) {
			if err := mountOption(opt, o, set); err != nil {
				return err
			}
		}
	}
	for _, f := range []struct{ flag, key string }{
		{"cache-dir", "cache.path"}, {"cache-size", "cache.limit"}, {"close", "journal.close"},
	} {
		if v := c.String(f.flag); v != "" {
			if f.flag == "cache-dir" {
				abs, err := filepath.Abs(v)
				if err != nil {
					return fmt.Errorf("mount: %w", err)
				}
				v = abs
			}
			set("--"+f.flag, f.key, v)
		}
	}
	for flag, key := range map[string]string{"read-only": "mount.read_only", "allow-other": "mount.allow_other"} {
		if c.Bool(flag) {
			set("--"+flag, key, "true")
		}
	}
	return nil
}

// splitOptions splits at commas that are not within brackets, so that values can be lists.
func splitOptions(s string) (out []string) {
	depth, from := 0, 0
	for i, c := range s {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, s[from:i])
				from = i + 1
			}
		}
	}
	return append(out, s[from:])
}

// mountOption takes one option of mount(8); _ and - are the same in names.
func mountOption(opt string, o *mountOptions, set func(from, key, value string)) error {
	name, value, has := strings.Cut(opt, "=")
	word := strings.ReplaceAll(name, "-", "_")
	from := "-o " + name
	keys := map[string]string{
		"uid": "mount.uid", "gid": "mount.gid", "umask": "mount.umask", "cache_dir": "cache.path", "cache_size": "cache.limit",
		"close": "journal.close", "attr_timeout": "mount.attr_timeout", "entry_timeout": "mount.entry_timeout", "verify": "cache.verify", "io_uring": "mount.io_uring",
		"log_level": "log.level", "log_file": "log.file",
	}
	switch {
	case opt == "":
	case has && strings.Contains(name, "."):
		set(from, name, value)
	case has && keys[word] != "":
		set(from, keys[word], value)
	case strings.HasPrefix(word, "x_systemd.") || strings.HasPrefix(name, "x-") || strings.HasPrefix(word, "comment"):
	case has:
		return usage([]string{"mount"}, "there is no mount option %s", name)
	default:
		switch word {
		case "ro":
			set(from, "mount.read_only", "true")
		case "rw":
			set(from, "mount.read_only", "false")
		case "allow_other":
			set(from, "mount.allow_other", "true")
		case "nosuid", "nodev", "noexec", "noatime", "relatime", "suid", "dev", "exec", "sync", "dirsync":
			o.kernel = append(o.kernel, word)
		case "nonempty":
			o.nonempty = true
		case "debug":
			o.debug = true
		case "default_permissions": // always on
		case "_netdev", "nofail", "noauto", "auto", "user", "users", "nouser", "defaults": // for mount(8)
		default:
			return usage([]string{"mount"}, "there is no mount option %s", name)
		}
	}
	return nil
}

// fromMountHelper turns the arguments of mount.tarn, as mount(8) calls it (SOURCE DIR
// [-sfnv] [-N ns] [-o OPTIONS] [-t TYPE]), into those of `tarn mount`.
func fromMountHelper(args []string) []string {
	out := []string{"tarn", "mount"}
	for i := 1; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-o" && i+1 < len(args):
			out = append(out, "-o", args[i+1])
			i++
		case (a == "-N" || a == "-t") && i+1 < len(args):
			i++
		case strings.HasPrefix(a, "-"): // -s, -n, -v, -f of mount(8) mean nothing here
		default:
			out = append(out, a)
		}
	}
	return out
}
