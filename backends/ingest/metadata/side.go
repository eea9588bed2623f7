package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"tarn/backends"
)

// fromSide reads the first side file that is there.
func (x *Extractor) fromSide(side func(suffix string) ([]byte, error)) (backends.Meta, error) {
	for _, suffix := range x.rules.Sides {
		b, err := side(suffix)
		if errors.Is(err, backends.ErrNotExist) {
			continue
		}
		var m backends.Meta
		if err == nil {
			m, err = parseSide(b)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", suffix, err)
		}
		return m, err
	}
	return nil, nil
}

// parseSide reads one JSON object of scalars. A null takes the key away that the header or the
// name gave. A key that is not right is left out, and named in the error.
func parseSide(b []byte) (backends.Meta, error) {
	if len(b) > maxSide {
		return nil, fmt.Errorf("it has more than %d bytes", maxSide)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var raw map[string]any
	if err := dec.Decode(&raw); err != nil {
		return nil, fmt.Errorf("no JSON object: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("there is more than one JSON object")
	}
	if raw == nil {
		return nil, errors.New("no JSON object: null")
	}
	if len(raw) > maxKeys {
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	}
	m := backends.Meta{}
	var errs []error
	for _, k := range slices.Sorted(maps.Keys(raw)) {
		if err := checkKey(k); err != nil {
			errs = append(errs, err)
			continue
		}
		if raw[k] == nil {
			m[k] = nil
			continue
		}
		v, err := scalar(raw[k])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k, err))
			continue
		}
		m[k] = v
	}
	return m, errors.Join(errs...)
}
