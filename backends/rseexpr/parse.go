package rseexpr

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The bounds of an expression: more is an error, never a deep recursion.
const (
	MaxLength = 4096 // bytes
	MaxDepth  = 100  // nested parentheses
)

// SyntaxError says what is wrong with an expression, and where.
type SyntaxError struct {
	Expression string
	Pos        int // byte offset, from 0
	Problem    string
}

// Error gives the expression cut to a readable length, the position counted from 1, and the problem.
func (e *SyntaxError) Error() string {
	s := e.Expression
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return fmt.Sprintf("RSE expression %q: position %d: %s", s, e.Pos+1, e.Problem)
}

// Parse reads an expression; the error is a *SyntaxError.
func Parse(s string) (Expr, error) {
	p := &parser{in: s}
	if len(s) > MaxLength {
		return nil, p.fail(MaxLength, fmt.Sprintf("longer than %d bytes", MaxLength))
	}
	e, err := p.expr(0)
	if err != nil {
		return nil, err
	}
	if p.pos < len(s) {
		if s[p.pos] == ')' {
			return nil, p.fail(p.pos, "unexpected ')': no parenthesis is open")
		}
		return nil, p.fail(p.pos, fmt.Sprintf("unexpected %s: want |, & or \\ between two terms", p.here()))
	}
	return e, nil
}

type parser struct {
	in  string
	pos int
}

func (p *parser) fail(pos int, problem string) error {
	return &SyntaxError{Expression: p.in, Pos: pos, Problem: problem}
}

// here describes what stands at the position.
func (p *parser) here() string {
	if p.pos >= len(p.in) {
		return "end"
	}
	for _, r := range p.in[p.pos:] {
		return strconv.QuoteRune(r)
	}
	return "end"
}

func (p *parser) space() {
	for p.pos < len(p.in) && strings.IndexByte(" \t\r\n", p.in[p.pos]) >= 0 {
		p.pos++
	}
}

func (p *parser) expr(depth int) (Expr, error) {
	left, err := p.term(depth)
	if err != nil {
		return nil, err
	}
	for {
		p.space()
		if p.pos >= len(p.in) || strings.IndexByte(`|&\`, p.in[p.pos]) < 0 {
			return left, nil
		}
		op := p.in[p.pos]
		p.pos++
		right, err := p.term(depth)
		if err != nil {
			return nil, err
		}
		left = binary{op: op, left: left, right: right}
	}
}

func (p *parser) term(depth int) (Expr, error) {
	p.space()
	if p.pos < len(p.in) && p.in[p.pos] == '(' {
		open := p.pos
		if depth == MaxDepth {
			return nil, p.fail(open, fmt.Sprintf("more than %d nested parentheses", MaxDepth))
		}
		p.pos++
		e, err := p.expr(depth + 1)
		if err != nil {
			return nil, err
		}
		p.space()
		if p.pos >= len(p.in) {
			return nil, p.fail(open, "this parenthesis is never closed")
		}
		if p.in[p.pos] != ')' {
			return nil, p.fail(p.pos, fmt.Sprintf("unexpected %s: want |, &, \\ or )", p.here()))
		}
		p.pos++
		return e, nil
	}
	return p.primitive()
}

func (p *parser) primitive() (Expr, error) {
	start := p.pos
	word := p.word(false)
	if word == "" {
		return nil, p.fail(p.pos, fmt.Sprintf("unexpected %s: want an RSE name, key=value, * or (", p.here()))
	}
	p.space()
	op := p.operator()
	if op == "" {
		if word == "*" {
			return every{}, nil
		}
		return named{word}, nil
	}
	if strings.Contains(word, "*") {
		return nil, p.fail(start, fmt.Sprintf("a key cannot hold *: %q", word))
	}
	p.space()
	at := p.pos
	value := p.word(true)
	if value == "" {
		return nil, p.fail(p.pos, fmt.Sprintf("unexpected %s: want a value after %s%s", p.here(), word, op))
	}
	if op == "=" || op == "!=" {
		return equals{key: word, pattern: value, not: op == "!="}, nil
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(n) {
		return nil, p.fail(at, fmt.Sprintf("%s compares numbers, %q is none", op, value))
	}
	return compares{key: word, op: op, text: value, n: n}, nil
}

// operator reads the longest operator at the position, or "".
func (p *parser) operator() string {
	for _, op := range []string{"!=", "<=", ">=", "=", "<", ">"} {
		if strings.HasPrefix(p.in[p.pos:], op) {
			p.pos += len(op)
			return op
		}
	}
	return ""
}

// word reads letters, digits, '.', '_', '-', '*', and bytes beyond ASCII; a value may
// hold ':', '/', '@', '+', '%' and ',' as well.
func (p *parser) word(value bool) string {
	start := p.pos
	for p.pos < len(p.in) {
		c := p.in[p.pos]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80 ||
			strings.IndexByte("._-*", c) >= 0 || value && strings.IndexByte(":/@+%,", c) >= 0
		if !ok {
			break
		}
		p.pos++
	}
	return p.in[start:p.pos]
}
