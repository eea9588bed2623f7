package query

import (
	"fmt"
	"slices"
	"strings"
)

// Queries come from command lines and from names under .tarn/find: both bounds stop
// hostile ones before they cost memory or stack.
const (
	maxLength = 64 << 10
	maxDepth  = 100
)

// SyntaxError says where a query is wrong, and what was expected there.
type SyntaxError struct {
	Query string
	Pos   int    // in bytes, from 0
	Want  string // "an operator (= != > >= < <= in like)"
	Got   string // "end of query", or the text found
}

// Error gives one line with the position counted from 1.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("query %s: at character %d: expected %s, found %s", clip(e.Query), e.Pos+1, e.Want, e.Got)
}

func clip(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q...", s[:80])
	}
	return fmt.Sprintf("%q", s)
}

// Parse reads a query, in either form. Its error is a *SyntaxError.
func Parse(s string) (Expr, error) {
	if len(s) > maxLength {
		return nil, &SyntaxError{Query: s, Pos: maxLength, Want: fmt.Sprintf("at most %d bytes", maxLength), Got: "more"}
	}
	if isDictionary(s) {
		return parseDictionary(s)
	}
	p := &parser{s: s}
	p.next()
	e, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != end {
		return nil, p.expected("a key, and, or, or the end")
	}
	return e, nil
}

type kind uint8

const (
	end    kind = iota
	word        // bare or quoted text
	symbol      // an operator, comma or parenthesis
	broken      // a quote that does not end
)

type token struct {
	kind   kind
	text   string
	quoted bool
	pos    int
}

type parser struct {
	s   string
	at  int
	tok token
}

// keyword gives the word of the language that s is in any case, or "".
func keyword(s string) string {
	switch l := strings.ToLower(s); l {
	case "and", "or", "not", "in", "like":
		return l
	}
	return ""
}

func bareByte(c byte) bool {
	return c > ' ' && c != 0x7f && !strings.ContainsRune("()=!<>,'\"", rune(c)) || c >= 0x80
}

func (p *parser) next() {
	for p.at < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.at]) >= 0 {
		p.at++
	}
	pos := p.at
	if pos == len(p.s) {
		p.tok = token{kind: end, pos: pos}
		return
	}
	switch c := p.s[pos]; {
	case c == '\'' || c == '"':
		p.quoted(c)
	case bareByte(c):
		for p.at < len(p.s) && bareByte(p.s[p.at]) {
			p.at++
		}
		p.tok = token{kind: word, text: p.s[pos:p.at], pos: pos}
	default:
		p.at++
		if p.at < len(p.s) && p.s[p.at] == '=' && (c == '!' || c == '<' || c == '>') {
			p.at++
		}
		p.tok = token{kind: symbol, text: p.s[pos:p.at], pos: pos}
	}
}

func (p *parser) quoted(quote byte) {
	pos := p.at
	var b strings.Builder
	for i := pos + 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == quote:
			p.at = i + 1
			p.tok = token{kind: word, text: b.String(), quoted: true, pos: pos}
			return
		case c == '\\' && i+1 < len(p.s):
			i++
			b.WriteByte(p.s[i])
		default:
			b.WriteByte(c)
		}
	}
	p.at = len(p.s)
	p.tok = token{kind: broken, text: string(quote), pos: pos}
}

// is tells whether the token is this symbol or unquoted word of the language.
func (p *parser) is(text string) bool {
	switch p.tok.kind {
	case symbol:
		return p.tok.text == text
	case word:
		return !p.tok.quoted && keyword(p.tok.text) == text
	}
	return false
}

// isText tells whether the token can be a key or a value.
func (p *parser) isText() bool {
	return p.tok.kind == word && (p.tok.quoted || keyword(p.tok.text) == "")
}

func (p *parser) expected(want string) error {
	got := fmt.Sprintf("%q", p.tok.text)
	switch {
	case p.tok.kind == end:
		got = "the end"
	case p.tok.kind == broken:
		want, got = "a closing "+p.tok.text, "the end"
	case len(got) > 40:
		got = got[:40] + "..."
	}
	return &SyntaxError{Query: p.s, Pos: p.tok.pos, Want: want, Got: got}
}

func (p *parser) or(depth int) (Expr, error) {
	first, err := p.and(depth)
	if err != nil || !p.is("or") {
		return first, err
	}
	out := Or{}
	out = appendOr(out, first)
	for p.is("or") {
		p.next()
		e, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		out = appendOr(out, e)
	}
	return out, nil
}

func appendOr(o Or, e Expr) Or {
	if in, ok := e.(Or); ok {
		return append(o, in...)
	}
	return append(o, e)
}

func (p *parser) and(depth int) (Expr, error) {
	first, err := p.unary(depth)
	if err != nil {
		return nil, err
	}
	out := appendAnd(nil, first)
	for {
		beside := !p.is("and")
		if !beside {
			p.next()
		} else if !p.isText() && !p.is("not") && !p.is("(") {
			break
		}
		e, err := p.unary(depth)
		if err != nil {
			return nil, err
		}
		if !beside || !merge(out, e) {
			out = appendAnd(out, e)
		}
	}
	if len(out) == 1 {
		return out[0], nil
	}
	return out, nil
}

// merge adds the values of an equality to one of the same key that stands beside it: DIRAC's "a name given twice".
func merge(a And, e Expr) bool {
	t, ok := e.(Term)
	if !ok || t.Op != Equal {
		return false
	}
	for i, x := range a {
		if have, ok := x.(Term); ok && have.Key == t.Key && have.Op == Equal {
			have.Values = append(slices.Clone(have.Values), t.Values...)
			a[i] = have
			return true
		}
	}
	return false
}

func appendAnd(a And, e Expr) And {
	if in, ok := e.(And); ok {
		return append(a, in...)
	}
	return append(a, e)
}

func (p *parser) unary(depth int) (Expr, error) {
	if depth > maxDepth {
		return nil, p.expected(fmt.Sprintf("at most %d levels of not and parentheses", maxDepth))
	}
	switch {
	case p.is("not"):
		p.next()
		e, err := p.unary(depth + 1)
		if err != nil {
			return nil, err
		}
		return Not{e}, nil
	case p.is("("):
		p.next()
		e, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if !p.is(")") {
			return nil, p.expected("and, or, or )")
		}
		p.next()
		return e, nil
	case p.isText():
		return p.term()
	}
	return nil, p.expected("a key, not, or (")
}

func (p *parser) term() (Expr, error) {
	t := Term{Key: p.tok.text}
	p.next()
	for _, o := range []Op{Equal, NotEqual, Greater, GreaterOrEqual, Less, LessOrEqual, In, Like} {
		if p.is(string(o)) {
			t.Op = o
		}
	}
	if t.Op == "" {
		return nil, p.expected("an operator (= != > >= < <= in like)")
	}
	var plain []bool // values that mean what they say: quoted ones
	for {
		p.next()
		if !p.isText() {
			return nil, p.expected("a value")
		}
		t.Values = append(t.Values, p.tok.text)
		plain = append(plain, p.tok.quoted)
		p.next()
		if !p.is(",") {
			return withWords(t, plain), nil
		}
		if !t.Op.lists() {
			return nil, p.expected(fmt.Sprintf("one value after %s (lists go with = != in like)", t.Op))
		}
	}
}
