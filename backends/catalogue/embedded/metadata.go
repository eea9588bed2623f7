package embedded

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"

	"tarn/backends"
)

// maxMeta bounds the metadata of one DID, so that it fits a transaction.
const maxMeta = 64 << 10

// Metadata has its own encoding and not JSON: it keeps strings of any bytes as they
// are, and a query over 10^6 records reads it several times faster.
const (
	metaNull   = 'z'
	metaFalse  = '0'
	metaTrue   = '1'
	metaFloat  = 'f'
	metaNumber = 'n' // the literal of a json.Number or integer
	metaString = 's'
	metaList   = 'l'
	metaObject = 'o'
)

// maxMetaDepth bounds lists in lists, for what is read and what is written.
const maxMetaDepth = 64

func encodeMeta(m backends.Meta) ([]byte, error) {
	b := make(enc, 0, 256)
	if err := b.object(m, 0); err != nil {
		return nil, err
	}
	if len(b) > maxMeta {
		return nil, fmt.Errorf("metadata of %d bytes, at most %d: %w", len(b), maxMeta, backends.ErrQuota)
	}
	return b, nil
}

func (e *enc) object(m map[string]any, depth int) error {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	e.uint(uint64(len(keys)))
	for _, k := range keys {
		e.string(k)
		if err := e.value(m[k], depth+1); err != nil {
			return fmt.Errorf("metadata %q: %w", k, err)
		}
	}
	return nil
}

func (e *enc) value(v any, depth int) error {
	if depth > maxMetaDepth {
		return fmt.Errorf("more than %d levels of lists: %w", maxMetaDepth, backends.ErrQuota)
	}
	switch v := v.(type) {
	case nil:
		e.byte(metaNull)
	case bool:
		if v {
			e.byte(metaTrue)
		} else {
			e.byte(metaFalse)
		}
	case float64:
		e.byte(metaFloat)
		e.float(v)
	case json.Number:
		e.byte(metaNumber)
		e.string(v.String())
	case int:
		e.byte(metaNumber)
		e.string(strconv.Itoa(v))
	case int64:
		e.byte(metaNumber)
		e.string(strconv.FormatInt(v, 10))
	case string:
		e.byte(metaString)
		e.string(v)
	case []any:
		e.byte(metaList)
		e.uint(uint64(len(v)))
		for _, x := range v {
			if err := e.value(x, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		e.byte(metaObject)
		return e.object(v, depth)
	default:
		return e.foreign(v, depth)
	}
	return nil
}

// foreign stores any other type as the JSON value it marshals to.
func (e *enc) foreign(v any, depth int) error {
	j, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%T is no JSON value: %w: %w", v, backends.ErrNotSupported, err)
	}
	var x any
	d := json.NewDecoder(bytes.NewReader(j))
	d.UseNumber()
	if err := d.Decode(&x); err != nil {
		return fmt.Errorf("%T is no JSON value: %w: %w", v, backends.ErrNotSupported, err)
	}
	return e.value(x, depth+1)
}

func decodeMeta(v []byte) (backends.Meta, error) {
	d := dec{b: v}
	m := d.object(0)
	return m, d.err("metadata")
}

func (d *dec) object(depth int) map[string]any {
	n := d.count()
	m := make(map[string]any, n)
	for ; n > 0 && !d.bad; n-- {
		k := d.string()
		m[k] = d.value(depth + 1)
	}
	return m
}

func (d *dec) value(depth int) any {
	if depth > 2*maxMetaDepth {
		d.fail()
		return nil
	}
	switch d.byte() {
	case metaNull:
		return nil
	case metaFalse:
		return false
	case metaTrue:
		return true
	case metaFloat:
		return d.float()
	case metaNumber:
		return json.Number(d.string())
	case metaString:
		return d.string()
	case metaList:
		n := d.count()
		l := make([]any, 0, n)
		for ; n > 0 && !d.bad; n-- {
			l = append(l, d.value(depth+1))
		}
		return l
	case metaObject:
		return d.object(depth)
	}
	d.fail()
	return nil
}

// mergeMeta sets what m holds in the record old; a nil value deletes the key. It
// gives nil when nothing is left.
func mergeMeta(old []byte, m backends.Meta) ([]byte, error) {
	all := backends.Meta{}
	if old != nil {
		var err error
		if all, err = decodeMeta(old); err != nil {
			return nil, err
		}
	}
	for k, v := range m {
		switch {
		case k == "":
			return nil, fmt.Errorf("metadata key %q: %w", k, backends.ErrName)
		case len(k) > 255:
			return nil, fmt.Errorf("metadata key %.40q: %w", k, backends.ErrNameTooLong)
		case v == nil:
			delete(all, k)
		default:
			all[k] = v
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return encodeMeta(all)
}
