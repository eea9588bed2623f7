package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"tarn/backends"
	"tarn/backends/filecat"
	"tarn/backends/query"
)

// CatFindRequest asks for what matches a query, in either form, at and below a path. It works on the catalogue: files
// that wait in the journal are not in it.
type CatFindRequest struct {
	Path  Text         `json:"path"`
	Query string       `json:"query"`
	Kind  filecat.Kind `json:"kind,omitempty"` // file, directory; "" is both
	With  string       `json:"with,omitempty"` // "meta": metadata, inherited ones too; "replicas"; "": nothing

	NoIndex bool `json:"no_index,omitempty"` // ask the catalogue itself
}

// prepared finds the catalogue, the root, which must exist, and the query of a request.
func (s *Service) prepared(ctx context.Context, root Text, text string) (*filecat.Catalogue, string, query.Expr, error) {
	fc := s.Files
	e, err := fc.Query(ctx, text)
	if err != nil {
		return nil, "", nil, err
	}
	n, err := s.node(ctx, string(root))
	if err != nil {
		return nil, "", nil, err
	}
	defer n.Forget(1)
	return fc, n.Path(), e, nil
}

func (s *Service) catFind(ctx context.Context, req CatFindRequest, out *stream) (any, error) {
	fc, root, e, err := s.prepared(ctx, req.Path, req.Query)
	if err != nil {
		return nil, err
	}
	var c Count
	within, reply := withIndex(ctx, req.NoIndex)
	done := func() CatFindReply { return CatFindReply{c, reply()} }
	result := func(in backends.Info) LFNResult {
		c.Done++
		if in.Type == backends.File {
			c.Bytes += in.Size
		}
		return LFNResult{LFN: s.lfnOf(in.DID), Kind: kindOf(in)}
	}
	switch req.With {
	case "meta":
		for x, err := range fc.Detailed(within, root, req.Kind, e) {
			if err != nil {
				return nil, err
			}
			if err := out.value(result(x.Info), x.Meta); err != nil {
				return nil, err
			}
		}
		return done(), nil
	case "", "replicas":
	default:
		return nil, Fail(ErrUsage, "", "%q: want meta or replicas", req.With)
	}
	for in, err := range fc.Find(within, root, req.Kind, e) {
		if err != nil {
			return nil, err
		}
		if req.With == "" {
			err = out.item(result(in))
		} else {
			places, perr := s.placesOf(ctx, in)
			if perr != nil && !errors.Is(perr, backends.ErrNotExist) {
				return nil, fmt.Errorf("replicas of %s: %w", in.DID, perr)
			}
			err = out.value(result(in), places)
		}
		if err != nil {
			return nil, err
		}
	}
	return done(), nil
}

// CatFindReply is how many were found, and where the answer is from.
type CatFindReply struct {
	Count
	FindReply
}

// lfnOf is a name as DIRAC's users know it: a lake path that every command takes, or scope:name where the name tells none.
func (s *Service) lfnOf(d backends.DID) Text {
	if s.Lake.IsPath(d) || s.Remote != nil {
		return Text(s.Lake.DIDPath(d))
	}
	return Text(d.String())
}

func kindOf(in backends.Info) string {
	switch {
	case in.IsDir():
		return string(filecat.Directory)
	case in.IsSymlink():
		return "link"
	}
	return string(filecat.File)
}

// ValuesReply is which values remain for each declared field (getCompatibleMetadata).
type ValuesReply struct {
	Values map[string][]json.RawMessage `json:"values"`
	More   []string                     `json:"more,omitempty"` // fields that have more values than are told
}

func (s *Service) catValues(ctx context.Context, req CatFindRequest, _ *stream) (any, error) {
	fc, root, e, err := s.prepared(ctx, req.Path, req.Query)
	if err != nil {
		return nil, err
	}
	values, more, err := fc.Compatible(ctx, root, e)
	r := ValuesReply{map[string][]json.RawMessage{}, more}
	for k, list := range values {
		r.Values[k] = []json.RawMessage{}
		for _, v := range list {
			b, err := json.Marshal(v)
			if err != nil {
				return nil, fmt.Errorf("value of %s: %w", k, err)
			}
			r.Values[k] = append(r.Values[k], b)
		}
	}
	return r, err
}

// GUIDRequest asks which files have these GUIDs (getLFNForGUID).
type GUIDRequest struct {
	GUIDs []string `json:"guids"`
}

// unfound tells of each of the names that was not found.
func unfound(names []string, found map[string]bool, out *stream, what string) (c Count, err error) {
	for _, x := range names {
		if found[x] {
			c.Done++
			continue
		}
		c.Failed++
		if err := out.item(LFNResult{LFN: Text(x), Error: Fail(backends.ErrNotExist, "", "no file has the %s %s", what, Text(x).Quote())}); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (s *Service) catGUID(ctx context.Context, req GUIDRequest, out *stream) (any, error) {
	fc := s.Files
	found := map[string]bool{}
	err := fc.ByGUID(ctx, req.GUIDs, func(guid string, d backends.DID) error {
		if found[guid] {
			return nil // copied metadata: the first one counts
		}
		found[guid] = true
		return out.value(LFNResult{LFN: Text(guid)}, s.lfnOf(d))
	})
	if err != nil {
		return nil, err
	}
	return unfound(req.GUIDs, found, out, "GUID")
}

// PFNRequest asks which files have copies at these PFNs (getLFNForPFN).
type PFNRequest struct {
	PFNs []string `json:"pfns"`
}

// byPlace refuses what a server has no question for.
func (s *Service) byPlace() error {
	if s.Remote == nil {
		return nil
	}
	return Fail(backends.ErrNotSupported, "`tarn replicas` and `tarn catalogue replicas` tell the places of a name", "%s does not tell names by their places", s.Remote.Who())
}

func (s *Service) catPFN(ctx context.Context, req PFNRequest, out *stream) (any, error) {
	if err := s.byPlace(); err != nil {
		return nil, err
	}
	fc := s.Files
	found := map[string]bool{}
	err := fc.ByPFN(ctx, req.PFNs, func(pfn, _ string, d backends.DID) error {
		found[pfn] = true
		return out.value(LFNResult{LFN: Text(pfn)}, s.lfnOf(d))
	})
	if err != nil {
		return nil, err
	}
	return unfound(req.PFNs, found, out, "PFN")
}

// DumpRequest asks for all that is on record of an SE (getSEDump).
type DumpRequest struct {
	SE string `json:"se"`
}

// DumpEntry is one of its files.
type DumpEntry struct {
	LFN          Text   `json:"lfn"`
	PFN          Text   `json:"pfn"`
	Size         int64  `json:"size"`
	Checksum     string `json:"checksum"`
	ChecksumType string `json:"checksum_type"`
	Status       string `json:"status"`
}

func (s *Service) catDump(ctx context.Context, req DumpRequest, out *stream) (any, error) {
	if err := s.byPlace(); err != nil {
		return nil, err
	}
	fc := s.Files
	if _, ok := s.Lake.RSE(req.SE); !ok {
		return nil, Fail(backends.ErrNotExist, "`tarn rse ls` shows them", "there is no RSE %q", req.SE)
	}
	var c Count
	for e, err := range fc.Dump(ctx, req.SE) {
		if err != nil {
			return nil, err
		}
		m := metadataOf(e.Info)
		for _, r := range e.Replicas {
			if r.RSE != req.SE {
				continue
			}
			c.Done++
			c.Bytes += e.Info.Size
			if err := out.item(DumpEntry{s.lfnOf(e.Info.DID), Text(r.PFN), e.Info.Size, m.Checksum, m.ChecksumType, replicaStatus(r)}); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// CountersRequest asks for what there is; All counts also what takes a walk over the lake.
type CountersRequest struct {
	All bool `json:"all,omitempty"`
}

func (s *Service) catCounters(ctx context.Context, req CountersRequest, _ *stream) (any, error) {
	fc := s.Files
	return fc.Counters(ctx, req.All)
}
