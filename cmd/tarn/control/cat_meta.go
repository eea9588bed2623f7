package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"tarn/backends"
	"tarn/backends/filecat"
	"tarn/backends/query"
	"tarn/fs/vfs"
)

// FieldRequest declares metadata fields, or takes that back.
type FieldRequest struct {
	Names []string     `json:"names"`
	Type  string       `json:"type,omitempty"`
	For   filecat.Kind `json:"for,omitempty"`
}

func (s *Service) catFields(ctx context.Context, _ struct{}, out *stream) (any, error) {
	fc := s.Files
	schema, err := fc.Schema(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range schema.Fields() {
		if err := out.item(f); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Service) catAddField(ctx context.Context, req FieldRequest, _ *stream) (any, error) {
	fc := s.Files
	t, err := query.ParseType(req.Type)
	if err != nil {
		return nil, Fail(ErrUsage, "", "%v", err)
	}
	var c Count
	for _, name := range req.Names {
		if err := fc.AddField(ctx, filecat.Field{Name: name, Type: t, For: req.For}); err != nil {
			return nil, err
		}
		c.Done++
	}
	return c, nil
}

func (s *Service) catRemoveField(ctx context.Context, req FieldRequest, _ *stream) (any, error) {
	fc := s.Files
	var c Count
	for _, name := range req.Names {
		if err := fc.RemoveField(ctx, name); err != nil {
			return nil, err
		}
		c.Done++
	}
	return c, nil
}

// UserMetaRequest asks for metadata: with Own only for what is set on the path itself.
type UserMetaRequest struct {
	LFNs []Text `json:"lfns"`
	Own  bool   `json:"own,omitempty"`
}

func (s *Service) catMeta(ctx context.Context, req UserMetaRequest, out *stream) (any, error) {
	fc := s.Files
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		n, err := s.node(ctx, p)
		if err != nil {
			return nil, err
		}
		defer n.Forget(1)
		return s.userMeta(ctx, fc, n, req.Own)
	})
}

func (s *Service) userMeta(ctx context.Context, fc *filecat.Catalogue, n *vfs.Node, own bool) (backends.Meta, error) {
	d := n.Info().DID
	if d.Scope == "" || own { // it waits in the journal, or is the root
		m, err := s.FS.Meta(ctx, n)
		if m == nil {
			m = backends.Meta{}
		}
		return m, err
	}
	all, _, err := fc.UserMeta(ctx, d)
	return all, err
}

// SetMetaEntry is the metadata that one path is to get; null deletes a key.
type SetMetaEntry struct {
	LFN  Text          `json:"lfn"`
	Meta backends.Meta `json:"meta"`
}

// UnmarshalJSON keeps numbers as they are written: ids of 19 digits are no float64.
func (e *SetMetaEntry) UnmarshalJSON(b []byte) error {
	type plain SetMetaEntry
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	d.DisallowUnknownFields()
	return d.Decode((*plain)(e))
}

// SetUserMetaRequest sets metadata of many paths (setMetadataBulk); with Delete, keys have to be there (removeMetadata).
// Set names a metadata set whose values each path gets beside its own.
type SetUserMetaRequest struct {
	Entries []SetMetaEntry `json:"entries"`
	Delete  bool           `json:"delete,omitempty"`
	Set     string         `json:"set,omitempty"`
}

func (s *Service) catSetMeta(ctx context.Context, req SetUserMetaRequest, out *stream) (any, error) {
	set := backends.Meta{}
	if req.Set != "" {
		x, err := s.Files.MetaSet(ctx, req.Set)
		if err != nil {
			return nil, noMetaSet(req.Set, err)
		}
		set = x.Meta
	}
	lfns, at := make([]Text, len(req.Entries)), 0
	for i, e := range req.Entries {
		lfns[i] = e.LFN
	}
	return eachLFN(ctx, lfns, out, func(p string) (any, error) {
		m := set.Clone()
		for k, v := range req.Entries[at].Meta {
			m[k] = v
		}
		at++
		n, err := s.node(ctx, p)
		if err != nil {
			return nil, err
		}
		defer n.Forget(1)
		if req.Delete {
			have, err := s.FS.Meta(ctx, n)
			if err != nil {
				return nil, err
			}
			for k := range m {
				if _, ok := have[k]; !ok {
					return nil, Fail(backends.ErrNotExist, "`tarn catalogue meta get --own PATH` shows those that it has", "%s has no metadata %q of its own", Text(p).Quote(), k)
				}
			}
		}
		return true, s.FS.SetMeta(ctx, n, m)
	})
}

func noMetaSet(name string, err error) error {
	if errors.Is(err, backends.ErrNotExist) {
		return Fail(backends.ErrNotExist, "`tarn catalogue metaset ls` lists them", "there is no metadata set %s", Text(name).Quote())
	}
	return err
}

// MetaSetsRequest names metadata sets (getMetadataSet), and for one that is added what it has (addMetadataSet).
type MetaSetsRequest struct {
	Names []string      `json:"names,omitempty"`
	Meta  backends.Meta `json:"meta,omitempty"`
}

func (s *Service) catMetaSets(ctx context.Context, req MetaSetsRequest, out *stream) (any, error) {
	fc := s.Files
	for _, name := range req.Names {
		x, err := fc.MetaSet(ctx, name)
		if err != nil {
			return nil, noMetaSet(name, err)
		}
		if err := out.item(x); err != nil {
			return nil, err
		}
	}
	if len(req.Names) > 0 {
		return nil, nil
	}
	for x, err := range fc.MetaSets(ctx) {
		if err != nil {
			return nil, err
		}
		if err := out.item(x); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Service) catAddMetaSet(ctx context.Context, req MetaSetsRequest, _ *stream) (any, error) {
	fc := s.Files
	if len(req.Names) != 1 {
		return nil, Fail(ErrUsage, "", "%d names: want one", len(req.Names))
	}
	return Count{Done: 1}, fc.AddMetaSet(ctx, req.Names[0], req.Meta)
}

func (s *Service) catRemoveMetaSet(ctx context.Context, req MetaSetsRequest, _ *stream) (any, error) {
	fc := s.Files
	var c Count
	for _, name := range req.Names {
		if err := fc.RemoveMetaSet(ctx, name); err != nil {
			return nil, noMetaSet(name, err)
		}
		c.Done++
	}
	return c, nil
}
