package filecat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"tarn/backends"
)

// MetaSet is metadata under a name, to be set together.
type MetaSet struct {
	Name string        `json:"name"`
	Meta backends.Meta `json:"meta"`
}

// AddMetaSet notes a metadata set, or replaces the one of that name (addMetadataSet). Its values must be those that their
// fields can have. ErrName, ErrQuota.
func (c *Catalogue) AddMetaSet(ctx context.Context, name string, m backends.Meta) error {
	if name == "" || len(name) > maxDatasetName {
		return fmt.Errorf("metadata set %q: want a name of 1 to %d bytes: %w", name, maxDatasetName, backends.ErrName)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.Schema(ctx)
	if err != nil {
		return err
	}
	if m, err = s.Values(m); err != nil {
		return fmt.Errorf("metadata set %q: %w", name, err)
	}
	return c.put(ctx, tableSet, name, m)
}

// MetaSet gives one (getMetadataSet). ErrNotExist.
func (c *Catalogue) MetaSet(ctx context.Context, name string) (MetaSet, error) {
	b, err := c.o.Side.SideRecord(ctx, tableSet, name)
	if err != nil {
		return MetaSet{}, fmt.Errorf("metadata set %q: %w", name, err)
	}
	return parseMetaSet(name, b)
}

func parseMetaSet(name string, b []byte) (MetaSet, error) {
	s := MetaSet{Name: name}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&s.Meta); err != nil {
		return s, fmt.Errorf("metadata set %q: %w: %w", name, backends.ErrDamaged, err)
	}
	return s, nil
}

// MetaSets streams all, by name.
func (c *Catalogue) MetaSets(ctx context.Context) iter.Seq2[MetaSet, error] {
	return func(yield func(MetaSet, error) bool) {
		for r, err := range c.o.Side.SideRecords(ctx, tableSet, "", "") {
			var s MetaSet
			if err == nil {
				s, err = parseMetaSet(r.Key, r.Value)
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// RemoveMetaSet forgets one; what was set by it stays. ErrNotExist.
func (c *Catalogue) RemoveMetaSet(ctx context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.MetaSet(ctx, name); err != nil {
		return err
	}
	return c.put(ctx, tableSet, name, nil)
}
