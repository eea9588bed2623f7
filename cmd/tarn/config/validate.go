package config

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/naming"
	"tarn/backends/rseexpr"
)

// Validate reports every fault of c at once, as *Error, or nil. Load has done it
// already; this is for a Config made by hand.
func (c *Config) Validate() error {
	bad := &Error{File: c.file}
	c.validate(bad)
	if len(bad.Faults) == 0 {
		return nil
	}
	bad.sort()
	return bad
}

// judge collects faults of one Config.
type judge struct {
	c   *Config
	bad *Error
}

func (j judge) fault(key, format string, args ...any) {
	name, line := j.c.src.at(key)
	if name == "" && j.c.file != "" {
		name = filepath.Base(j.c.file)
	}
	j.bad.add(name, line, key, fmt.Sprintf(format, args...))
}

func (j judge) oneOf(key, got string, words ...string) {
	if !slices.Contains(words, got) {
		j.fault(key, "want %s, not %q", strings.Join(words, " or "), got)
	}
}

func (j judge) within(key string, got, lo, hi int64, show func(int64) string) {
	if got < lo || got > hi {
		j.fault(key, "want %s to %s, not %s", show(lo), show(hi), show(got))
	}
}

func sizeWord(n int64) string { return Size(n).String() }
func intWord(n int64) string  { return fmt.Sprint(n) }

var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	// Rucio wants capitals in RSE names; older sites do not follow it.
	rseForm  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,254})$`)
	attrForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
)

func (c *Config) validate(bad *Error) {
	j := judge{c, bad}
	if !nameForm.MatchString(c.Name) {
		j.fault("name", "want 1 to 63 letters, digits, '.', '-', '_', not %q", c.Name)
	}
	j.within("memory", int64(c.Memory), int64(128*MiB), int64(TiB), sizeWord)
	j.catalogue()
	j.cache()
	j.oneOf("journal.close", c.Journal.Close, CloseLocal, CloseFast, CloseRemote, CloseRegistered)
	j.rses()
	j.folders()
	j.servers()
	j.scopes()
	j.writeRules()
	j.ingest()
	j.transfers()
	j.checksums()
	j.recalls()
	if f := j.c.Reads.Failover.D(); f < 100*time.Millisecond {
		j.fault("reads.failover", "want 100ms and more, not %v", j.c.Reads.Failover)
	}
	if j.c.Reads.Hedge < 0 || j.c.Reads.Hedge == 1 {
		j.fault("reads.hedge", "want 2 and more, or 0 (never), not %d", j.c.Reads.Hedge)
	}
	if e := j.c.Index.Every.D(); e != 0 && e < time.Minute {
		j.fault("index.every", "want 0 (never) or 1m and more, not %v", j.c.Index.Every)
	}
	j.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	j.oneOf("log.format", c.Log.Format, "text", "json")
	if w := c.Mount.Watchdog.D(); w != 0 && w < 100*time.Millisecond {
		j.fault("mount.watchdog", "want 0 or 100ms and more, not %v", c.Mount.Watchdog)
	}
	j.oneOf("mount.io_uring", c.Mount.IOURing, "auto", "on", "off")
	if u := c.Mount.Umask; u != nil && *u > 0o777 {
		j.fault("mount.umask", "want 0 to 0777, not %v", *u)
	}
}

func (j judge) cache() {
	c := &j.c.Cache
	j.oneOf("cache.verify", c.Verify, VerifyNormal, VerifyStrict)
	j.within("cache.streams", int64(c.Streams), 1, 64, intWord)
	j.within("cache.block", int64(c.Block), int64(4*KiB), int64(64*MiB), sizeWord)
	if c.Block > 0 && c.Block&(c.Block-1) != 0 {
		j.fault("cache.block", "want a power of two, not %v", c.Block)
	}
	if low := max(2*c.Block, 1); c.Limit < low {
		j.fault("cache.limit", "want at least %v (two blocks), not %v", low, c.Limit)
	} else if c.Head+c.Tail > c.Limit {
		j.fault("cache.limit", "%v is less than head and tail of one file (%v)", c.Limit, c.Head+c.Tail)
	}
}

func (j judge) rses() {
	if len(j.c.RSEs) == 0 && !j.c.IsRucio() {
		j.fault("rses", "want at least one RSE")
	}
	first := map[string]int{}
	for i, r := range j.c.RSEs {
		key := fmt.Sprintf("rses[%d]", i)
		switch k, twice := first[r.Name]; {
		case r.Name == "":
			j.fault(key+".name", "want a name")
		case !rseForm.MatchString(r.Name):
			j.fault(key+".name", "want letters, digits, '-', '_', not %q", r.Name)
		case twice:
			_, line := j.c.src.at(fmt.Sprintf("rses[%d].name", k))
			j.fault(key+".name", "duplicate RSE %q%s", r.Name, firstAt(line))
		default:
			first[r.Name] = i
		}
		switch {
		case j.c.IsRucio():
			j.overrides(key, r)
		case len(r.Protocols) > 0:
			j.protocols(key, r)
		case r.Path == "":
			j.fault(key+".path", "want the folder of the replicas, or protocols of a storage elsewhere")
		}
		for a := range r.Attributes {
			if !attrForm.MatchString(a) {
				j.fault(key+".attributes."+a, "want an attribute name of letters, digits, '_', '-', '.', not %q", a)
			} else if slices.Contains([]string{"rse", "name", "rse_type"}, a) {
				j.fault(key+".attributes."+a, "%q is known of every RSE and cannot be an attribute", a)
			}
		}
		if j.c.IsRucio() {
			continue
		}
		switch {
		case r.Kind != Disk && r.Kind != TapeKind:
			j.fault(key+".kind", "want disk or tape, not %q", r.Kind)
		case r.Kind == Disk && r.Tape != nil:
			j.fault(key+".tape", "a disk RSE has no tape settings; is it of kind tape?")
		case r.Kind == TapeKind && r.Tape == nil:
			j.fault(key+".tape", "a tape RSE needs tape settings, such as {drives: 2, cartridges: 20, cartridge_size: 12TB, buffer: 1T}")
		case r.Kind == TapeKind:
			j.tape(key+".tape", r.Tape)
		}
		j.care(key, r)
		j.oneOf(key+".naming", cmp.Or(r.Naming, naming.Unique), naming.Words()...)
		if a, _ := naming.ByName(r.Naming); a != nil && r.Kind == TapeKind {
			j.fault(key+".naming", "%s is for disk RSEs: want unique", a)
		}
	}
}

// care judges what an RSE's owner wants beside copies.
func (j judge) care(key string, r RSE) {
	switch {
	case r.High > 0 && r.Kind == TapeKind:
		j.fault(key+".high", "is for disk RSEs: what is on tape is not deleted for space")
	case r.High > 0 && r.High.IsPart() != r.Low.IsPart():
		j.fault(key+".low", "want a part of the space as high is, or a size as high is, not %v and %v", r.High, r.Low)
	case r.High > 0 && r.Low >= r.High:
		j.fault(key+".low", "want less than high (%v), not %v", r.High, r.Low)
	case r.High == 0 && r.Low > 0:
		j.fault(key+".low", "wants a high, too")
	}
	if r.Scratch && r.Kind == TapeKind {
		j.fault(key+".scratch", "is for disk RSEs")
	}
	if r.DrainTo == "" {
		return
	}
	if _, err := rseexpr.Parse(r.DrainTo); err != nil {
		j.fault(key+".drain_to", "%v", err)
	}
}

func firstAt(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf(", first in line %d", line)
}

func (j judge) tape(key string, t *Tape) {
	j.within(key+".drives", int64(t.Drives), 1, 1000, intWord)
	j.within(key+".cartridges", int64(t.Cartridges), 1, 1e6, intWord)
	if t.CartridgeSize < MiB {
		j.fault(key+".cartridge_size", "want at least 1MiB, not %v", t.CartridgeSize)
	}
	if t.Colocate && t.Spread {
		j.fault(key+".spread", "contradicts colocate")
	}
	if t.Buffer < MiB {
		j.fault(key+".buffer", "want at least 1MiB, not %v", t.Buffer)
	}
}

// folders wants every place to be its own: what is inside another would be taken for
// part of it, or be deleted with it.
func (j judge) folders() {
	type place struct{ key, path string }
	c := j.c
	all := []place{{"run", c.Run}, {"catalogue.path", c.Catalogue.Path}, {"cache.path", c.Cache.Path}, {"journal.path", c.Journal.Path}, {"ingest.path", c.Ingest.Path}}
	for _, p := range all {
		if p.path == "" {
			j.fault(p.key, "want a folder")
		}
	}
	for i, r := range c.RSEs {
		all = append(all, place{fmt.Sprintf("rses[%d].path", i), r.Path})
	}
	for i, p := range all {
		if p.path != "" && !filepath.IsAbs(p.path) {
			j.fault(p.key, "want an absolute path, not %q", p.path)
		}
		for _, q := range all[:i] {
			if p.path == "" || q.path == "" {
				continue
			}
			switch a, b := filepath.Clean(p.path), filepath.Clean(q.path); {
			case a == b:
				j.fault(p.key, "is the same folder as %s: %s", q.key, b)
			case inside(a, b):
				j.fault(p.key, "%s lies inside %s: %s", a, q.key, b)
			case inside(b, a):
				j.fault(p.key, "%s holds %s: %s", a, q.key, b)
			}
		}
	}
}

// servers wants that of each RSE at a server, too: the copies of one would be files of the other that nobody knows, and
// what is counted as two copies be one. That the same disk is behind two servers it cannot tell.
func (j judge) servers() {
	type place struct {
		rse       int
		key, path string
	}
	var all []place
	for i, r := range j.c.RSEs {
		for k, p := range r.Protocols {
			u, err := url.Parse(p.URL)
			isS3 := err == nil && strings.HasPrefix(u.Scheme, "s3")
			if err != nil || u.Host == "" || isS3 && strings.Trim(u.Path, "/") == "" {
				continue // told of elsewhere
			}
			key := fmt.Sprintf("rses[%d].protocols[%d].url", i, k)
			at := place{i, key, strings.ToLower(u.Host) + path.Clean("/"+u.Path)}
			if isS3 { // a bucket is no folder of another protocol
				at.path = "s3 " + at.path
			}
			for _, q := range all {
				if q.rse == i {
					continue // another door to the same
				}
				if at.path == q.path || inside(at.path, q.path) || inside(q.path, at.path) {
					j.fault(key, "%s overlaps with %s of RSE %s, %s: want places of their own", at.path, q.key, j.c.RSEs[q.rse].Name, q.path)
					break
				}
			}
			all = append(all, at)
		}
	}
}

func (j judge) ingest() {
	first := map[string]int{}
	for i, m := range j.c.Ingest.Metadata {
		key := fmt.Sprintf("ingest.metadata[%d]", i)
		if !nameForm.MatchString(m.Name) {
			j.fault(key+".name", "want 1 to 63 letters, digits, '.', '-', '_', not %q", m.Name)
		} else if k, twice := first[m.Name]; twice {
			_, line := j.c.src.at(fmt.Sprintf("ingest.metadata[%d].name", k))
			j.fault(key+".name", "duplicate rules %q%s", m.Name, firstAt(line))
		} else {
			first[m.Name] = i
		}
		if _, err := m.Rules().Compile(); err != nil {
			j.fault(key, "%v", err)
		}
	}
}

func inside(p, dir string) bool { return strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") }

func (j judge) scopes() {
	if len(j.c.Scopes) == 0 && !j.c.IsRucio() {
		j.fault("scopes", "want at least one scope")
	}
	first := map[string]int{}
	for i, s := range j.c.Scopes {
		key := fmt.Sprintf("scopes[%d]", i)
		if err := backends.CheckScope(s.Name); err != nil {
			j.fault(key+".name", "%v", err)
		} else if k, twice := first[s.Name]; twice {
			_, line := j.c.src.at(fmt.Sprintf("scopes[%d].name", k))
			j.fault(key+".name", "duplicate scope %q%s", s.Name, firstAt(line))
		} else {
			first[s.Name] = i
		}
		j.oneOf(key+".layout", s.Layout, string(backends.LayoutLFN), string(backends.LayoutContents))
	}
}

func (j judge) writeRules() {
	if j.c.IsRucio() {
		j.rucioRules()
		return
	}
	for i, w := range j.c.WriteRules {
		key := fmt.Sprintf("write_rules[%d]", i)
		if w.Copies < 1 {
			j.fault(key+".copies", "want at least 1, not %d", w.Copies)
		}
		e, err := rseexpr.Parse(w.Expression)
		if err != nil {
			j.fault(key+".expression", "%v", err)
			continue
		}
		var match, closed int
		for _, r := range j.c.RSEs {
			if e.Match(r.Backend()) {
				match++
				if r.ReadOnly {
					closed++
				}
			}
		}
		switch {
		case match == 0:
			j.fault(key+".expression", "%q matches no RSE of this lake", w.Expression)
		case match-closed < w.Copies:
			j.fault(key+".expression", "%q matches %s that can be written, %d copies want as many", w.Expression, plural(match-closed, "RSE"), w.Copies)
		}
	}
}

func (j judge) transfers() {
	t := j.c.Transfers
	for _, n := range []struct {
		key string
		v   int
	}{{"at_a_time", t.AtATime}, {"per_link", t.PerLink}} {
		if n.v < 0 || n.v > 1000 {
			j.fault("transfers."+n.key, "want 0 to 1000, not %d", n.v)
		}
	}
	for i, a := range t.Activities {
		key := fmt.Sprintf("transfers.activities[%d]", i)
		if a.Share < 1 || a.Share > 1000 {
			j.fault(key+".share", "want 1 to 1000, not %d", a.Share)
		}
		if slices.ContainsFunc(t.Activities[:i], func(b Activity) bool { return a.Name == b.Name }) {
			j.fault(key+".name", "%q is given twice", a.Name)
		}
	}
	for i, l := range t.Links {
		key := fmt.Sprintf("transfers.links[%d]", i)
		if l.Copies < -1 || l.Copies > 1000 {
			j.fault(key+".copies", "want -1 (no bound) to 1000, not %d", l.Copies)
		}
		for _, e := range [][2]string{{"from", l.From}, {"to", l.To}} {
			x, err := rseexpr.Parse(e[1])
			if err != nil {
				j.fault(key+"."+e[0], "%v", err)
			} else if !j.c.IsRucio() && !slices.ContainsFunc(j.c.RSEs, func(r RSE) bool { return x.Match(r.Backend()) }) {
				j.fault(key+"."+e[0], "%q matches no RSE of this lake", e[1])
			}
		}
	}
}

// Backend is the RSE in the words of the catalogue and the rules.
func (r RSE) Backend() backends.RSE {
	kind := backends.DiskKind
	if r.Kind == TapeKind {
		kind = backends.TapeKind
	}
	return backends.RSE{Name: r.Name, Kind: kind, Attributes: r.Attributes, ReadOnly: r.ReadOnly}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (j judge) checksums() {
	if len(j.c.Checksums) == 0 {
		j.fault("checksums", "want at least one of adler32, md5, sha256")
	}
	for i, a := range j.c.Checksums {
		key := fmt.Sprintf("checksums[%d]", i)
		j.oneOf(key, a, "adler32", "md5", "sha256")
		if slices.Contains(j.c.Checksums[:i], a) {
			j.fault(key, "%q is given twice", a)
		}
	}
}

func (j judge) recalls() {
	r := &j.c.Recalls
	if r.Timeout <= r.Hold {
		j.fault("recalls.timeout", "want more than recalls.hold (%v), not %v", r.Hold, r.Timeout)
	}
	j.oneOf("recalls.policy.nonblock", r.Policy.Nonblock, "resident", "eagain")
	for i, p := range r.Policy.Rules {
		key := fmt.Sprintf("recalls.policy.rules[%d]", i)
		j.oneOf(key+".action", p.Action, "recall", "refuse", "ask")
		for k, pat := range p.Comm {
			if pat == "" || len(pat) > 15 {
				j.fault(fmt.Sprintf("%s.comm[%d]", key, k), "%q: want a process name of 1 to 15 bytes, as ps -o comm shows it", pat)
			}
		}
	}
	if b := r.Policy.Burst; b.Files > 0 && b.Window <= 0 {
		j.fault("recalls.policy.burst.window", "want more than 0 when burst.files is %d", b.Files)
	} else if b.Files < 0 {
		j.fault("recalls.policy.burst.files", "want 0 (off) or more, not %d", b.Files)
	}
	if r.Readahead.Files < 0 {
		j.fault("recalls.readahead.files", "want 0 (off) or more, not %d", r.Readahead.Files)
	}
}
