package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// rucioMark is how the lake of the user's own rucio.cfg is named: rucio:, or rucio:URL.
const rucioMark = "rucio:"

// rucioOf tells whether a LAKE argument is one, and which server it names.
func rucioOf(lake string) (server string, ok bool) {
	server, ok = strings.CutPrefix(lake, rucioMark)
	if !ok || server != "" && !strings.Contains(server, "://") {
		return "", false
	}
	return server, true
}

// rucioLakeFile is the text of a lake file for a Rucio server.
func rucioLakeFile(name string, conf rest.Config, write string) string {
	v := func(s string) string { // as YAML has it
		b, err := yaml.Marshal(s)
		if err != nil {
			return `""`
		}
		return string(bytes.TrimSpace(b))
	}
	line := func(key, value, comment string) string {
		if value == "" {
			return ""
		}
		return fmt.Sprintf("  %-16s %s%s\n", key+":", v(value), comment)
	}
	var b strings.Builder
	b.WriteString("# A lake of tarn whose catalogue is a Rucio server's. `tarn config keys` lists all keys, `tarn config check`\n# reports every fault at once. What stands in lake.local.yaml beside this file overrides it.\n\n")
	fmt.Fprintf(&b, "name: %s\n\ncatalogue:\n  type: rucio\n", name)
	b.WriteString(line("url", conf.Host, ""))
	if conf.AuthHost != conf.Host {
		b.WriteString(line("auth_url", conf.AuthHost, ""))
	}
	b.WriteString(line("client_config", conf.From, "   # how to log in"))
	b.WriteString(line("account", conf.Account, ""))
	b.WriteString(`  layout: contents   # or lfn, with scope_algorithm and roots: the names of DIDs are paths
  ttl: 1m            # how long an answer of the server is taken for true
  stale: 1d          # and while the server is away

`)
	if write != "" {
		fmt.Fprintf(&b, "# Where new files go, as an RSE expression: the first copy is written by tarn, a rule makes the rest.\nwrite_rules:\n  - {copies: 1, expression: %s}\n\n", v(write))
	} else {
		b.WriteString("# Where new files go, as an RSE expression; without it nothing can be written.\n#write_rules:\n#  - {copies: 1, expression: MY-SITE_SCRATCHDISK}\n\n")
	}
	b.WriteString(`# RSEs come from Rucio. What stands here overrides parts of one.
#rses:
#  - name: MY-SITE_DISK
#    distance: 1
#    protocols:
#      - {url: "davs://door.example.org:2880", token: /home/me/token, limits: {concurrent: 8}}

cache:
  path: cache
  limit: 10G
  free_floor: 1G

journal:
  path: journal
`)
	return b.String()
}

// initRucio makes the lake file of a Rucio server in dir, and tries it.
func (s *session) initRucio(ctx context.Context, dir, name, server, account, write string) error {
	if filepath.Base(dir) == "lake.yaml" {
		dir = filepath.Dir(dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("make a lake: %w", err)
	}
	conf, err := rucioClient(config.Rucio{URL: server, Account: account}, os.Getenv)
	if err != nil {
		return err
	}
	if name == "" {
		name = lakeName(filepath.Base(dir))
	}
	file := filepath.Join(dir, "lake.yaml")
	fresh, err := s.writeNewFile(dir, file, rucioLakeFile(name, conf, write), "")
	if err != nil {
		return err
	}
	cfg, err := config.Load(file, s.settings...)
	if err != nil {
		return err
	}
	if !fresh {
		if now := cfg.Catalogue.Rucio; !cfg.IsRucio() || now.URL != conf.Host || account != "" && now.Account != account {
			where := conf.Host
			if account != "" {
				where = account + " at " + where
			}
			return control.Fail(backends.ErrExist, "correct "+shellWord(file)+", or name another folder", "%s is a lake already, and not that of %s", dir, where)
		}
		s.t.say("%s is a lake already; nothing was changed", dir)
		return nil
	}
	return s.tellRucio(ctx, cfg, dir)
}

// tellRucio opens a new lake once, and tells what is there.
func (s *session) tellRucio(ctx context.Context, cfg *config.Config, dir string) error {
	if err := makeFolder(cfg.Run); err != nil {
		return err
	}
	o, err := openLake(cfg, openOptions{Create: true, Log: s.logger(), Now: s.t.now})
	if err != nil {
		d := control.Describe(err)
		return control.Fail(err, cmp.Or(d.Hint, "correct it, and mount it"), "%s is written, but the lake cannot be opened: %s", cfg.File(), d.Message)
	}
	account, _ := o.client.Account()
	s.t.say("lake %s made in %s: account %s at %s", cfg.Name, dir, account, o.client.URL())
	open, closed := 0, 0
	for _, r := range o.lake.RSEs() {
		if g := o.gates[r.Name]; g != nil && g.reads("") != nil {
			closed++
		} else {
			open++
		}
	}
	s.t.say("   %s, %d of them cannot be read from here (`tarn rse ls` tells why)", count(int64(open+closed), "RSE"), closed)
	n := 0
	var lerr error
	for _, err := range o.cat.Scopes(ctx) {
		if lerr = err; err != nil {
			break
		}
		n++
	}
	if lerr == nil {
		s.t.say("   %s", count(int64(n), "top folder"))
	}
	if err := errors.Join(lerr, o.Close()); err != nil {
		return err
	}
	s.t.say("mount it:  tarn mount %s MOUNTPOINT", shellWord(dir))
	return nil
}

// cacheFolder is where the lake of a user's own rucio.cfg lives: it has nothing in it that cannot be had again but files that are not sent yet.
func cacheFolder(conf rest.Config) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", control.Fail(err, "set HOME or XDG_CACHE_HOME, or make a lake with `tarn init --rucio URL DIR`", "no cache directory: %v", err)
	}
	u, err := url.Parse(conf.Host)
	if err != nil {
		return "", control.Fail(control.ErrUsage, "", "rucio_host is no URL")
	}
	return filepath.Join(base, "tarn", "rucio", lakeName(strings.ReplaceAll(u.Host, ":", "_")+"_"+cmp.Or(conf.Account, "nobody")+strings.TrimSuffix("_"+conf.VO, "_"))), nil
}

// rucioLake gives the lake file of the user's own rucio.cfg and environment, with another server or account where these are
// named, made anew where something has changed.
func (s *session) rucioLake(server, account string) (file string, err error) {
	conf, err := rucioClient(config.Rucio{URL: server, Account: account}, os.Getenv)
	if err != nil {
		return "", err
	}
	dir, err := cacheFolder(conf)
	if err != nil {
		return "", err
	}
	if err := makeFolder(dir); err != nil {
		return "", err
	}
	if abs, aerr := filepath.Abs(conf.From); conf.From != "" && aerr == nil {
		conf.From = abs
	}
	file = filepath.Join(dir, "lake.yaml")
	text := rucioLakeFile(filepath.Base(dir), conf, "")
	if old, err := os.ReadFile(file); err == nil && string(old) == text {
		return file, nil
	}
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the lake file: %w", err)
	}
	return file, os.Rename(file+".new", file)
}
