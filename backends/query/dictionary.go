package query

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// DIRAC's dictionary form: a key's value is a value (equality), a list (one of them), or an
// object of operators, = != < > <= >= in nin.

// isDictionary tells whether a query is of this form.
func isDictionary(s string) bool {
	s = strings.TrimLeft(s, " \t\r\n")
	return s != "" && s[0] == '{'
}

// parseDictionary reads JSON token by token, so that keys keep their order and one that is given twice counts twice.
func parseDictionary(s string) (Expr, error) {
	d := &dictionary{s: s, dec: json.NewDecoder(strings.NewReader(s))}
	d.dec.UseNumber()
	if _, err := d.token("{"); err != nil {
		return nil, err
	}
	var all And
	for d.dec.More() {
		key, err := d.text("a key")
		if err != nil {
			return nil, err
		}
		conditions, err := d.conditions(key)
		if err != nil {
			return nil, err
		}
		for _, c := range conditions {
			all = appendAnd(all, c)
		}
	}
	if _, err := d.token("}"); err != nil {
		return nil, err
	}
	if _, err := d.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, d.wrong("the end", "more behind the dictionary")
	}
	switch len(all) {
	case 0:
		return All(), nil
	case 1:
		return all[0], nil
	}
	return all, nil
}

type dictionary struct {
	s   string
	dec *json.Decoder
}

func (d *dictionary) wrong(want, got string) error {
	return &SyntaxError{Query: d.s, Pos: min(int(d.dec.InputOffset()), len(d.s)), Want: want, Got: got}
}

// token reads one, which is a delimiter when want is not "".
func (d *dictionary) token(want string) (json.Token, error) {
	t, err := d.dec.Token()
	if err != nil {
		got := err.Error()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			got = "the end"
		}
		if want == "" {
			want = "JSON"
		}
		return nil, d.wrong(want, got)
	}
	if want != "" && t != json.Token(json.Delim(want[0])) {
		return nil, d.wrong(want, fmt.Sprint(t))
	}
	return t, nil
}

func (d *dictionary) text(want string) (string, error) {
	t, err := d.token("")
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok || s == "" {
		return "", d.wrong(want, fmt.Sprintf("%q", fmt.Sprint(t)))
	}
	return s, nil
}

// conditions reads what stands behind a key.
func (d *dictionary) conditions(key string) ([]Expr, error) {
	t, err := d.token("")
	if err != nil {
		return nil, err
	}
	if t != json.Token(json.Delim('{')) {
		e, err := d.operand(key, Equal, t)
		return []Expr{e}, err
	}
	var out []Expr
	for d.dec.More() {
		word, err := d.text("an operator")
		if err != nil {
			return nil, err
		}
		op := Op(word)
		switch op {
		case Equal, NotEqual, Greater, GreaterOrEqual, Less, LessOrEqual:
		case In:
			op = Equal
		case "nin":
			op = NotEqual
		default:
			return nil, d.wrong("an operator (= != < > <= >= in nin)", fmt.Sprintf("%q", word))
		}
		if t, err = d.token(""); err != nil {
			return nil, err
		}
		e, err := d.operand(key, op, t)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if _, err := d.token("}"); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, d.wrong("an operator (= != < > <= >= in nin)", "none")
	}
	return out, nil
}

// operand reads the value that begins with t, or a list of values.
func (d *dictionary) operand(key string, op Op, t json.Token) (Expr, error) {
	term := Term{Key: key, Op: op}
	var plain []bool
	add := func(t json.Token) error {
		switch v := t.(type) {
		case string:
			term.Values, plain = append(term.Values, v), append(plain, false)
		case json.Number:
			term.Values, plain = append(term.Values, v.String()), append(plain, true)
		case bool:
			term.Values, plain = append(term.Values, fmt.Sprint(v)), append(plain, true)
		default:
			return d.wrong("a text or number", fmt.Sprint(t))
		}
		return nil
	}
	if t != json.Token(json.Delim('[')) {
		if err := add(t); err != nil {
			return nil, err
		}
		return withWords(term, plain), nil
	}
	if !op.lists() {
		return nil, d.wrong(fmt.Sprintf("one value after %s (lists go with = != in nin)", op), "a list")
	}
	for d.dec.More() {
		t, err := d.token("")
		if err != nil {
			return nil, err
		}
		if err := add(t); err != nil {
			return nil, err
		}
	}
	if _, err := d.token("]"); err != nil {
		return nil, err
	}
	if len(term.Values) == 0 {
		return nil, d.wrong("a value", "an empty list")
	}
	return withWords(term, plain), nil
}

// Dictionary gives a query in DIRAC's form, as JSON, if it can be said in it: conditions that all hold, with
// wildcards and Missing, but no other or, not, or word that would have to be quoted.
func Dictionary(e Expr) (json.RawMessage, bool) {
	parts, ok := e.(And)
	if !ok {
		parts = And{e}
	}
	type condition struct {
		op     string
		values []any
	}
	var keys []string
	by := map[string][]condition{}
	for _, p := range parts {
		key, c, ok := "", condition{}, false
		switch p := p.(type) {
		case Term:
			key, ok = p.Key, true
			c.op, c.values, ok = dictionaryTerm(p)
		case Not:
			if t, is := p.X.(Term); is && t.Op == Like {
				key = t.Key
				if len(t.Values) == 1 && t.Values[0] == "*" {
					c, ok = condition{"=", []any{wordMissing}}, true
				} else if c.op, c.values, ok = dictionaryTerm(t); ok {
					c.op = map[string]string{"=": "!=", "in": "nin"}[c.op]
				}
			}
		}
		if !ok {
			return nil, false
		}
		if _, have := by[key]; !have {
			keys = append(keys, key)
		}
		for _, have := range by[key] {
			if have.op == c.op {
				return nil, false
			}
		}
		by[key] = append(by[key], c)
	}
	if len(keys) == 1 && keys[0] == "name" && parts[0].String() == All().String() {
		return json.RawMessage("{}"), true
	}
	var b bytes.Buffer
	put := func(v any) {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		ok = enc.Encode(v) == nil && ok
		b.Truncate(b.Len() - 1) // the newline that it ends with
	}
	ok = true
	b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		put(k)
		b.WriteString(": ")
		if c := by[k]; len(c) == 1 && c[0].op == "=" {
			put(c[0].values[0])
			continue
		}
		b.WriteByte('{')
		for j, c := range by[k] {
			if j > 0 {
				b.WriteString(", ")
			}
			put(c.op)
			b.WriteString(": ")
			if c.op == "in" || c.op == "nin" {
				put(c.values)
			} else {
				put(c.values[0])
			}
		}
		b.WriteByte('}')
	}
	b.WriteByte('}')
	return b.Bytes(), ok
}

// dictionaryTerm gives the operator and values of a term. Numbers are numbers when they are written as JSON does.
func dictionaryTerm(t Term) (op string, values []any, ok bool) {
	for _, v := range t.Values {
		var x any = v
		switch {
		case t.Op == Like:
			if x, ok = fromLike(v); !ok {
				return "", nil, false
			}
		case isSpecial(v):
			return "", nil, false // it would be taken for more than itself
		case t.Type != String && json.Valid([]byte(v)) && isNumber(v):
			x = json.Number(v)
		}
		values = append(values, x)
	}
	switch op = string(t.Op); t.Op {
	case Equal, Like, In:
		op = "="
		if len(values) > 1 {
			op = "in"
		}
	case NotEqual:
		if len(values) > 1 {
			op = "nin"
		}
	}
	return op, values, true
}

func isNumber(v string) bool {
	_, ok := parseNumber(v)
	return ok
}

// fromLike undoes wildcards; Any is the pattern *.
func fromLike(pattern string) (string, bool) {
	if pattern == "*" {
		return wordAny, true
	}
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '%':
			return "", false
		case c == '\\' && i+1 < len(pattern):
			i++
			if pattern[i] == '*' || pattern[i] == '?' {
				return "", false
			}
			b.WriteByte(pattern[i])
		default:
			b.WriteByte(c)
		}
	}
	v := b.String()
	return v, isSpecial(v) && v != wordAny && v != wordMissing && wildcards(v) == pattern
}
