package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/ingest/watch"
	"tarn/backends/lake"
	"tarn/backends/rseexpr"
)

var goodName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)

// parseDelete reads Definition.Delete: how many bytes of safe files are kept; -1: none, -2: all.
func parseDelete(s string) (int64, error) {
	word, arg, has := strings.Cut(s, ":")
	switch {
	case s == "" || s == DeleteNever:
		return -2, nil
	case s == DeleteAfterRules:
		return -1, nil
	case word == DeleteKeepNewest && has:
		n, err := parseSize(arg)
		if err != nil {
			return 0, fmt.Errorf("delete %q: %w", s, err)
		}
		return n, nil
	}
	return 0, fmt.Errorf("delete %q: want never, after-rules or keep-newest:SIZE: %w", s, backends.ErrName)
}

// The words of Definition.Delete; keep-newest has a size after it, as keep-newest:2TB.
const (
	DeleteNever      = "never"
	DeleteAfterRules = "after-rules"
	DeleteKeepNewest = "keep-newest"
)

// parseSize reads bytes with a decimal (kB, MB, ...) or binary (KiB, MiB, ...) unit.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "KkMGTPiB")
	unit := strings.ToUpper(strings.TrimSuffix(s[len(digits):], "B"))
	factor := map[string]float64{"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
		"KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40, "PI": 1 << 50}[unit]
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || factor == 0 || n < 0 || n*factor >= 1<<62 || n != n {
		return 0, fmt.Errorf("size %q: want bytes, or a number with kB, MB, GB, TB, KiB, MiB, ...: %w", s, backends.ErrName)
	}
	return int64(n * factor), nil
}

// schedule is the times of day at which files may be sent; none: always.
type schedule []window

// window is minutes of the day; one that ends before it begins goes over midnight.
type window struct{ from, to int }

func parseSchedule(s string) (schedule, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var out schedule
	for part := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(part), "-")
		a, errA := minutes(from)
		b, errB := minutes(to)
		if !ok || errA != nil || errB != nil || a == b {
			return nil, fmt.Errorf("schedule %q: want HH:MM-HH:MM, several with commas: %w", s, backends.ErrName)
		}
		out = append(out, window{a, b})
	}
	return out, nil
}

func minutes(s string) (int, error) {
	if s == "24:00" {
		return 24 * 60, nil
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err
}

// open tells whether files may be sent at that time.
func (s schedule) open(t time.Time) bool {
	m := t.Hour()*60 + t.Minute()
	for _, w := range s {
		if w.from < w.to && m >= w.from && m < w.to || w.from > w.to && (m >= w.from || m < w.to) {
			return true
		}
	}
	return len(s) == 0
}

// check tells all that is wrong with a definition, but for what others have to do with it.
func (o Options) check(ctx context.Context, d Definition) error {
	var faults []error
	fault := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	bad := func(format string, args ...any) { fault(fmt.Errorf(format+": %w", append(args, backends.ErrName)...)) }
	if !goodName.MatchString(d.Name) {
		bad("name %q: 1 to 64 letters, digits, '.', '-' and '_' are wanted", d.Name)
	}
	fault(o.checkDir(d.Dir))
	fault(o.checkTarget(ctx, d.Target))
	if len(d.Rules) == 0 {
		bad("rules: one at least is needed, since the first says where files go")
	}
	for _, r := range d.Rules {
		fault(o.checkRule(r))
	}
	fault(o.checkServed(d))
	if o.Lake.Rules() == nil {
		fault(fmt.Errorf("rules: the catalogue has none: %w", backends.ErrNotSupported))
	}
	for _, p := range append(d.Pattern[:len(d.Pattern):len(d.Pattern)], d.Priority...) {
		if _, err := path.Match(p, ""); err != nil {
			bad("pattern %q", p)
		}
	}
	_, err := watch.ParseRule(d.Complete)
	fault(err)
	_, err = parseDelete(d.Delete)
	fault(err)
	_, err = parseSchedule(d.Schedule)
	fault(err)
	if d.Order != "" && d.Order != "oldest" && d.Order != "priority" {
		bad("order %q: want oldest or priority", d.Order)
	}
	if d.Order == "priority" && len(d.Priority) == 0 {
		bad("order priority: patterns are wanted")
	}
	if d.Bandwidth < 0 || d.Rescan < 0 {
		bad("bandwidth and rescan: less than 0")
	}
	if _, ok := o.Metadata[d.Metadata]; !ok && d.Metadata != "" {
		bad("metadata %q: there are no rules of that name", d.Metadata)
	}
	return errors.Join(faults...)
}

// checkDir wants a folder that has nothing to do with the lake's own.
func (o Options) checkDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("folder %q: an absolute path is wanted: %w", dir, backends.ErrName)
	}
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("folder %s: %w", dir, backends.ErrNotExist)
	case err != nil:
		return fmt.Errorf("folder %s: %w", dir, err)
	case !st.IsDir():
		return fmt.Errorf("folder %s: %w", dir, backends.ErrNotDir)
	}
	if err := readable(dir); err != nil {
		return fmt.Errorf("folder %s cannot be read: %w: %w", dir, backends.ErrPermission, err)
	}
	for _, a := range append(o.Avoid(), o.Dir) {
		if nested(dir, a) {
			return fmt.Errorf("folder %s: %s is the lake's own: %w", dir, a, backends.ErrBusy)
		}
	}
	return nil
}

// readable wants the names in a folder, and to look at what they name.
func readable(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = os.Lstat(dir + "/.")
	return err
}

// nested tells whether one folder is the other one, or in it, or around it.
func nested(a, b string) bool {
	a, b = real(a), real(b)
	return a == b || strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/") || strings.HasPrefix(b, strings.TrimSuffix(a, "/")+"/")
}

// real is a path without symbolic links, as far as it is there.
func real(p string) string {
	p = filepath.Clean(p)
	if r, err := filepath.EvalSymlinks(p); err == nil {
		return r
	}
	if dir := filepath.Dir(p); dir != p {
		return filepath.Join(real(dir), filepath.Base(p))
	}
	return p
}

// checkTarget wants a path below a scope whose names are paths.
func (o Options) checkTarget(ctx context.Context, target string) error {
	p, err := lake.CleanPath(target)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if p == "/" {
		return fmt.Errorf("target /: name a scope, or a directory below one: %w", backends.ErrName)
	}
	scope, _, _ := strings.Cut(p[1:], "/")
	in, err := o.Lake.Resolve(ctx, "/"+scope)
	if errors.Is(err, backends.ErrNotExist) {
		return fmt.Errorf("target %s: there is no scope %q: %w", p, scope, err)
	}
	if err != nil {
		return fmt.Errorf("target %s: %w", p, err)
	}
	_, served := o.Lake.Catalogue().(backends.Served)
	switch {
	case in.Layout == backends.LayoutContents && served && !strings.Contains(p[1:], "/"):
		return fmt.Errorf("target %s: files of a scope itself are in no dataset, which rules could hold; name a directory below it: %w", p, backends.ErrNotSupported)
	case in.Layout == backends.LayoutContents && !served:
		return fmt.Errorf("target %s: scope %s has layout contents, where names are no paths: %w", p, scope, backends.ErrNotSupported)
	}
	in, err = o.Lake.Resolve(ctx, p)
	if err == nil && !in.IsDir() {
		return fmt.Errorf("target %s: %w", p, backends.ErrNotDir)
	}
	if err != nil && !errors.Is(err, backends.ErrNotExist) {
		return fmt.Errorf("target %s: %w", p, err)
	}
	return nil
}

// checkRule wants an expression that enough RSEs match.
func (o Options) checkRule(r backends.Rule) error {
	fail := func(err error) error { return fmt.Errorf("rule for %d copies on %q: %w", r.Copies, r.Expression, err) }
	if r.Copies < 1 {
		return fail(fmt.Errorf("one copy at least: %w", backends.ErrName))
	}
	e, err := rseexpr.Parse(r.Expression)
	if err != nil {
		return fail(err)
	}
	_, served := o.Lake.Catalogue().(backends.Served)
	n := 0
	for _, rse := range o.Lake.RSEs() {
		if (served || !rse.ReadOnly) && e.Match(rse.RSE) { // a server makes copies where nobody else may write
			n++
		}
	}
	switch {
	case n < r.Copies && served:
		return fail(fmt.Errorf("%d RSEs match: %w", n, lake.ErrNoTarget))
	case n < r.Copies:
		return fail(fmt.Errorf("%d RSEs that can be written to match: %w", n, lake.ErrNoTarget))
	}
	if r.Source != "" {
		if _, err := rseexpr.Parse(r.Source); err != nil {
			return fail(fmt.Errorf("source: %w", err))
		}
	}
	return nil
}

// checkServed tells what is wrong with a definition where a server keeps the copies: files have to get there from here, and to be compared there.
func (o Options) checkServed(d Definition) error {
	if _, served := o.Lake.Catalogue().(backends.Served); !served || len(d.Rules) == 0 {
		return nil
	}
	if algs := o.Lake.Algs(); !slices.Contains(algs, "md5") {
		return fmt.Errorf("the lake's checksums are %s, and by md5 alone the catalogue's server can tell a file from another; add md5 to checksums: %w", strings.Join(algs, ", "), backends.ErrNotSupported)
	}
	var errs []error
	for i, r := range d.Rules {
		if err := r.Check(); err != nil {
			errs = append(errs, fmt.Errorf("rule for %d copies on %q: %w", r.Copies, r.Expression, err))
		}
		if r.Account != "" {
			errs = append(errs, fmt.Errorf("rule for %d copies on %q: it is made by the account that the lake logs in as, and not by %s: %w", r.Copies, r.Expression, r.Account, backends.ErrNotSupported))
		}
		for _, x := range d.Rules[:i] {
			if x.Copies == r.Copies && x.Expression == r.Expression {
				errs = append(errs, fmt.Errorf("two rules for %d copies on %q, of which the server keeps one: %w", r.Copies, r.Expression, backends.ErrNotSupported))
			}
		}
	}
	if errs != nil {
		return errors.Join(errs...)
	}
	for _, r := range d.Rules {
		if e, err := rseexpr.Parse(r.Expression); err == nil && slices.ContainsFunc(o.Lake.RSEs(), func(x *lake.RSE) bool { return !x.ReadOnly && e.Match(x.RSE) }) {
			return nil
		}
	}
	return fmt.Errorf("rules: none of them matches an RSE that can be written to from here, from where the server could make its copies: %w", lake.ErrNoTarget)
}
