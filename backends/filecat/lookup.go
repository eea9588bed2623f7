package filecat

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"tarn/backends"
	"tarn/backends/query"
)

// ByGUID calls f for each file that has one of the GUIDs (getLFNForGUID), in one walk over the lake.
func (c *Catalogue) ByGUID(ctx context.Context, guids []string, f func(guid string, d backends.DID) error) error {
	if len(guids) == 0 {
		return nil
	}
	want := map[string]bool{}
	for _, g := range guids {
		want[g] = true
	}
	e := query.And{query.Exists("GUID"), guidIn(want)} // the first tells the catalogue what is asked for
	for in, err := range c.Find(ctx, "/", File, e) {
		if err != nil {
			return fmt.Errorf("look for GUIDs: %w", err)
		}
		m, err := c.o.Catalogue.Meta(ctx, in.DID)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for GUIDs: %w", err)
		}
		if g, ok := (backends.Subject{Info: &in, Meta: m}).Value("GUID"); ok {
			if err := f(string(g.(query.Text)), in.DID); err != nil {
				return err
			}
		}
	}
	return nil
}

// guidIn is GUID = a,b,c for any number of them.
type guidIn map[string]bool

// String is that of a query for any GUID.
func (g guidIn) String() string { return query.Exists("GUID").String() }

// Match tells whether the GUID is one of them.
func (g guidIn) Match(get func(string) (any, bool)) bool {
	v, ok := get("GUID")
	t, is := v.(query.Text)
	return ok && is && g[string(t)]
}

// ByPFN calls f for each file with a replica at one of the PFNs (getLFNForPFN), in one pass over what is on record. A PFN
// is RSE:path, or the URL or path of a copy, which ends with the path below the prefix of its RSE: of
// several files that fit the one with the longest path counts. ErrNotSupported where the catalogue has no Records.
func (c *Catalogue) ByPFN(ctx context.Context, pfns []string, f func(pfn, rse string, d backends.DID) error) error {
	if c.o.Records == nil {
		return fmt.Errorf("look for PFNs: %w", backends.ErrNotSupported)
	}
	type hit struct {
		d       backends.DID
		rse     string
		pathLen int
	}
	best := make([]hit, len(pfns))
	ends := map[string][]int{} // by what a PFN may end with
	for i, p := range pfns {
		for _, end := range endings(p) {
			ends[end] = append(ends[end], i)
		}
	}
	for e, err := range c.o.Records.Records(ctx, "") {
		if err != nil {
			return fmt.Errorf("look for PFNs: %w", err)
		}
		for _, r := range e.Replicas {
			path := strings.TrimPrefix(r.PFN, "/")
			for _, key := range []string{path, r.RSE + ":" + path} {
				for _, i := range ends[key] {
					if len(key) > best[i].pathLen {
						best[i] = hit{e.Info.DID, r.RSE, len(key)}
					}
				}
			}
		}
	}
	for i, h := range best {
		if h.pathLen > 0 {
			if err := f(pfns[i], h.rse, h.d); err != nil {
				return err
			}
		}
	}
	return nil
}

// endings are the paths that a PFN may be of: all that begin behind a slash.
func endings(pfn string) []string {
	rse, rest, named := strings.Cut(pfn, ":")
	if named && !strings.HasPrefix(rest, "//") && !strings.Contains(rse, "/") {
		return []string{rse + ":" + strings.TrimPrefix(rest, "/")}
	}
	pfn, _, _ = strings.Cut(pfn, "?")
	out := []string{pfn}
	for i := 0; i < len(pfn); i++ {
		if pfn[i] == '/' && i+1 < len(pfn) {
			out = append(out, pfn[i+1:])
		}
	}
	return out
}

// Dump streams the files with a replica at an SE (getSEDump). ErrNotSupported where the catalogue has no Records.
func (c *Catalogue) Dump(ctx context.Context, se string) iter.Seq2[backends.Entry, error] {
	if c.o.Records == nil {
		return func(yield func(backends.Entry, error) bool) {
			yield(backends.Entry{}, fmt.Errorf("dump of %s: %w", se, backends.ErrNotSupported))
		}
	}
	return c.o.Records.Records(ctx, se)
}

// Counters is what getCatalogCounters tells.
type Counters struct {
	Files       int64            `json:"files"`
	Bytes       int64            `json:"bytes"`
	Directories int64            `json:"directories,omitempty"`
	Replicas    int64            `json:"replicas,omitempty"`
	NoReplicas  int64            `json:"files_without_replicas"`
	BySE        map[string]Tally `json:"by_se,omitempty"`
	Fields      int64            `json:"metadata_fields"`
	Datasets    int64            `json:"datasets"`
}

// Counters counts. Files and bytes are known; the rest is counted with all, in one walk.
func (c *Catalogue) Counters(ctx context.Context, all bool) (out Counters, err error) {
	out.Files, out.Bytes = c.o.Catalogue.Usage()
	s, err := c.Schema(ctx)
	if err != nil {
		return out, err
	}
	out.Fields = int64(len(s))
	for _, err := range c.Datasets(ctx, "") {
		if err != nil {
			return out, err
		}
		out.Datasets++
	}
	if !all {
		return out, nil
	}
	for in, err := range c.o.Catalogue.Find(ctx, backends.DID{}, query.Term{Key: "type", Op: query.NotEqual, Values: []string{"file"}}) {
		if err != nil {
			return out, err
		}
		if in.IsDir() {
			out.Directories++
		}
	}
	if c.o.Records == nil {
		return out, nil
	}
	out.BySE = map[string]Tally{}
	with := int64(0)
	for e, err := range c.o.Records.Records(ctx, "") {
		if err != nil {
			return out, err
		}
		with++
		for _, r := range e.Replicas {
			out.Replicas++
			t := out.BySE[r.RSE]
			t.Files, t.Bytes = t.Files+1, t.Bytes+e.Info.Size
			out.BySE[r.RSE] = t
		}
	}
	out.NoReplicas = max(0, out.Files-with)
	return out, nil
}
