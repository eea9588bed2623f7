package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// Several lakes in one mount are a root, which is a file system of its own (fs/rootdir), and on each of its directories
// the mount of one lake, by daemons of its own. The supervisor of the root's process keeps them there.

// grid is several lakes that are mounted side by side.
type grid struct {
	root  *config.Config
	lakes []gridLake
}

// gridLake is one of them.
type gridLake struct {
	name string
	s    *session // with this lake's settings
	cfg  *config.Config
}

// openGrid reads the file that lists lakes, and with load the files of all of them. The error tells of every fault.
func (s *session) openGrid(file string, load func(*session, string) (*config.Config, error)) (*grid, error) {
	conf, err := config.LoadGrid(file)
	if err != nil {
		return nil, err
	}
	g := &grid{}
	var errs []error
	for i, m := range conf.Lakes {
		l := gridLake{name: m.Name, s: &session{t: s.t, settings: append(conf.Settings(i), s.settings...)}}
		lakeFile, err := s.memberFile(m)
		if err == nil {
			l.s.lakeArg = lakeFile
			l.cfg, err = load(l.s, lakeFile)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("lake %s: %w", m.Name, err))
			continue
		}
		g.lakes = append(g.lakes, l)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	g.root = conf.Root(g.lakes[0].cfg)
	return g, g.clashes()
}

// memberFile gives the lake file of one lake.
func (s *session) memberFile(m config.Member) (string, error) {
	if m.Rucio != "" {
		return s.rucioLake(m.Rucio, m.Account)
	}
	return config.Find(m.Lake, nil)
}

// clashes tells of what two lakes cannot both have, and of what all must agree on.
func (g *grid) clashes() error {
	bad := &config.Error{File: g.root.File()}
	fault := func(i int, format string, args ...any) {
		bad.Faults = append(bad.Faults, config.Fault{Where: filepath.Base(bad.File), Key: fmt.Sprintf("lakes[%d]", i), What: fmt.Sprintf(format, args...)})
	}
	for i, l := range g.lakes {
		if l.cfg.Mount.AllowOther != g.lakes[0].cfg.Mount.AllowOther {
			fault(i, "mount.allow_other is %v here and %v in lake %s: want the same in all; `set: {mount: {allow_other: true}}` at the top, or --allow-other, sets it for all",
				l.cfg.Mount.AllowOther, g.lakes[0].cfg.Mount.AllowOther, g.lakes[0].name)
		}
	others:
		for _, o := range g.lakes[:i] {
			if l.cfg.File() == o.cfg.File() {
				fault(i, "is the same lake as %s: %s", o.name, l.cfg.File())
				continue
			}
			for _, p := range ownFolders(l.cfg) {
				for _, q := range ownFolders(o.cfg) {
					if overlap(p, q) {
						fault(i, "%s is used by lake %s, too: each lake has folders of its own", p, o.name)
						continue others
					}
				}
			}
		}
		for _, p := range ownFolders(l.cfg) {
			if overlap(p, g.root.Run) {
				fault(i, "%s is used by the mount itself (run: %s)", p, g.root.Run)
				break
			}
		}
	}
	if len(bad.Faults) > 0 {
		return bad
	}
	return nil
}

// ownFolders are those that a lake shares with nobody.
func ownFolders(c *config.Config) []string {
	out := []string{c.Run, c.Cache.Path, c.Journal.Path, c.Ingest.Path}
	if !c.IsRucio() {
		out = append(out, c.Catalogue.Path)
	}
	return out
}

func overlap(p, q string) bool {
	return p == q || strings.HasPrefix(p, q+"/") || strings.HasPrefix(q, p+"/")
}

// names are those of the directories.
func (g *grid) names() (out []string) {
	for _, l := range g.lakes {
		out = append(out, l.name)
	}
	return out
}

// linked tells whether the lakes are mounted elsewhere, with links to them in the root: fusermount3 cannot mount in a root
// that is for its user alone.
func (g *grid) linked() bool { return os.Geteuid() != 0 && !g.root.Mount.AllowOther }

// pointOf is where a lake is mounted, below the root at point.
func (g *grid) pointOf(point, name string) string {
	if g.linked() {
		return realPoint(filepath.Join(g.root.Run, "lakes", name))
	}
	return filepath.Join(point, name)
}

// links tells the root's process where a lake is, and whether it is there; nil where none are needed.
func (g *grid) links() func(string) (string, bool) {
	if !g.linked() {
		return nil
	}
	return func(name string) (string, bool) {
		point := g.pointOf("", name)
		mounts, err := config.SystemMounts()
		return point, err == nil && mountsAt(mounts, point) > 0
	}
}

// mountedElsewhere refuses a second mount of the same file at another place.
func (g *grid) mountedElsewhere(point string) error {
	v, ok, err := supervisorOf(g.root)
	if err != nil || !ok || v.Mountpoint == point {
		return err
	}
	return control.Fail(backends.ErrBusy, "`tarn umount "+shellWord(v.Mountpoint)+"` takes that away", "the lakes of %s are mounted at %s already", g.root.File(), control.Text(v.Mountpoint).Quote())
}

// lock lets one supervisor at a time mount the lakes of the file, until it is closed or the process ends.
func (g *grid) lock() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(g.root.Run, "mount.lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = control.Fail(backends.ErrBusy, "`tarn status` shows where", "another process mounts the lakes of %s", g.root.File())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// rootOf gives the Config of what is mounted somewhere, of a lake or of the root of several.
func rootOf(m config.MountOf) (*config.Config, error) {
	if !m.Grid {
		return config.Load(m.Lake, config.Environment(os.Environ())...)
	}
	g, err := config.LoadGrid(m.Lake)
	if err != nil {
		return nil, err
	}
	return g.Root(nil), nil
}

// within is config.Within, which follows symbolic links to a mount, and those of the root of several lakes.
func within(mounts []config.MountOf, path string) (m config.MountOf, rel string, ok bool) {
	if m, rel, ok = config.Within(mounts, path); !ok {
		m, rel, ok = config.Within(mounts, realPoint(path, mounts...))
	}
	if !ok || !m.Grid || rel == "/" {
		return m, rel, ok
	}
	name, rest, _ := strings.Cut(rel[1:], "/")
	target, err := os.Readlink(filepath.Join(m.Point, name))
	if err != nil {
		return m, rel, ok // it is no link
	}
	if l, lrel, lok := config.Within(mounts, filepath.Join(target, rest)); lok && !l.Grid {
		return l, lrel, true
	}
	return m, rel, ok
}

// lakesBelow lists the mounts of the lakes of a root, which are on its directories or on record.
func lakesBelow(root config.MountOf, mounts []config.MountOf) []config.MountOf {
	out := root.Below(mounts)
	lakes, _, err := lakesOf(root)
	if err != nil || !root.Grid {
		return out
	}
	for _, m := range mounts {
		on := slices.ContainsFunc(lakes.Lakes, func(l control.LakeState) bool { return l.Point == m.Point })
		if on && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// errRoot tells who names a path in the root of several lakes what is there in place of a lake.
func errRoot(m config.MountOf, rel string) error {
	var known []control.LakeState
	if cfg, err := rootOf(m); err == nil {
		if l, err := control.ReadLakes(cfg.Run); err == nil {
			known = l.Lakes
		}
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(rel, "/"), "/")
	i := slices.IndexFunc(known, func(l control.LakeState) bool { return l.Name == name })
	switch {
	case name == "":
		var names []string
		for _, l := range known {
			names = append(names, l.Name)
		}
		return control.Fail(config.ErrSeveral, "name one of them: "+strings.Join(names, ", "), "%s is the root of several lakes", control.Text(m.Point).Quote())
	case i < 0:
		return control.Fail(backends.ErrNotExist, "`tarn status "+shellWord(m.Point)+"` lists them", "there is no lake %s in %s", control.Text(name).Quote(), control.Text(m.Point).Quote())
	}
	why := known[i].Why
	if why == "" {
		why = "it is " + known[i].State
	}
	return control.Fail(errors.Join(backends.ErrUnavailable, backends.ErrTemporary), "`tarn status "+shellWord(m.Point)+"` tells when it is tried again", "lake %s is not mounted: %s", name, why)
}
