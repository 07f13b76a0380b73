package retry

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"math"
	"strconv"
	"strings"
	"time"
)

// MaxExpressionLen is the longest accepted text of an expression, in bytes. It also bounds how deep an expression can
// nest and how long it takes to evaluate.
const MaxExpressionLen = 1024

// variable is the only free name in an expression: how many retries there have been, 0 before the first.
const variable = "retried"

// Expression is a compiled retry delay: arithmetic over floating-point numbers whose result is milliseconds.
//
// The grammar is that of numbers in decimal notation, the variable retried, parentheses, the operators + - * / % ^, the
// signs + and -, and the functions pow(x,y), sqrt(x), abs(x), exp(x), floor(x), ceil(x), round(x), min(x,…), max(x,…).
// % is the floating-point remainder. ^ is the power; it binds tighter than * and than a sign on its left, and to the
// right: -2^2 is -4 and 2^3^2 is 512. Two signs in a row need a blank or parentheses between them.
//
// An Expression is immutable and may be used by several goroutines at once.
type Expression struct {
	source string
	code   []instruction
}

// instruction is one step of the postfix form: it takes args values off the stack and puts one on it.
type instruction struct {
	op    opcode
	args  int
	value float64 // of opNumber
}

type opcode uint8

const (
	opNumber opcode = iota
	opRetried
	opNegate
	opAdd
	opSubtract
	opMultiply
	opDivide
	opRemainder
	opPower
	opSqrt
	opAbs
	opExp
	opFloor
	opCeil
	opRound
	opMin
	opMax
)

// function describes a callable name. variadic functions take args arguments or more.
type function struct {
	op       opcode
	args     int
	variadic bool
}

var functions = map[string]function{
	"pow":   {op: opPower, args: 2},
	"sqrt":  {op: opSqrt, args: 1},
	"abs":   {op: opAbs, args: 1},
	"exp":   {op: opExp, args: 1},
	"floor": {op: opFloor, args: 1},
	"ceil":  {op: opCeil, args: 1},
	"round": {op: opRound, args: 1},
	"min":   {op: opMin, args: 1, variadic: true},
	"max":   {op: opMax, args: 1, variadic: true},
}

// operator describes an infix operator. Go reads ^ as an operator of the precedence of +, so precedence is decided here.
type operator struct {
	op         opcode
	precedence int
}

var operators = map[token.Token]operator{
	token.ADD: {opAdd, 1},
	token.SUB: {opSubtract, 1},
	token.MUL: {opMultiply, 2},
	token.QUO: {opDivide, 2},
	token.REM: {opRemainder, 2},
	token.XOR: {opPower, 3},
}

// Compile reads an expression. The text of its errors is fit to follow "invalid Upstash-Retry-Delay header: ".
func Compile(source string) (*Expression, error) {
	if len(source) > MaxExpressionLen {
		return nil, fmt.Errorf("expression has %d bytes, at most %d are allowed", len(source), MaxExpressionLen)
	}
	if strings.TrimSpace(source) == "" {
		return nil, errors.New("empty expression")
	}
	for i, r := range source {
		if r != '\t' && (r < ' ' || r > '~') {
			return nil, fmt.Errorf("column %d: character %q is not allowed", i+1, r)
		}
	}
	// What Go's parser reads beyond the grammar is either a node that the compiler refuses, or a comment.
	if strings.Contains(source, "//") || strings.Contains(source, "/*") {
		return nil, errors.New("comments are not allowed")
	}
	root, err := parser.ParseExpr(source)
	if err != nil {
		if list, ok := errors.AsType[scanner.ErrorList](err); ok && len(list) > 0 {
			return nil, fmt.Errorf("column %d: %s", list[0].Pos.Column, list[0].Msg)
		}
		return nil, err
	}
	c := compiler{source: source}
	if err := c.expression(root); err != nil {
		return nil, err
	}
	return &Expression{source: source, code: c.code}, nil
}

// String returns the text the expression was compiled from, unchanged.
func (e *Expression) String() string { return e.source }

// Delay returns the wait for a message that has been retried so many times: 0 before its first retry. The result is
// rounded to milliseconds; a negative one or one that is not a number is zero, one above [MaxDelay] is MaxDelay.
func (e *Expression) Delay(retried int) time.Duration {
	ms := e.eval(float64(retried))
	switch {
	case math.IsNaN(ms) || ms <= 0:
		return 0
	case ms >= float64(MaxDelay/time.Millisecond):
		return MaxDelay
	default:
		return time.Duration(math.Round(ms)) * time.Millisecond
	}
}

func (e *Expression) eval(retried float64) float64 {
	var room [16]float64 // deeper expressions exist, but none that a person wrote
	stack := room[:0]
	for _, in := range e.code {
		// The compiler guarantees that the arguments are there.
		args := stack[len(stack)-in.args:]
		stack = append(stack[:len(stack)-in.args], in.apply(args, retried))
	}
	return stack[0]
}

func (in instruction) apply(args []float64, retried float64) float64 {
	switch in.op {
	case opNumber:
		return in.value
	case opRetried:
		return retried
	case opNegate:
		return -args[0]
	case opAdd:
		return args[0] + args[1]
	case opSubtract:
		return args[0] - args[1]
	case opMultiply:
		return args[0] * args[1]
	case opDivide:
		return args[0] / args[1]
	case opRemainder:
		return math.Mod(args[0], args[1])
	case opPower:
		return math.Pow(args[0], args[1])
	case opSqrt:
		return math.Sqrt(args[0])
	case opAbs:
		return math.Abs(args[0])
	case opExp:
		return math.Exp(args[0])
	case opFloor:
		return math.Floor(args[0])
	case opCeil:
		return math.Ceil(args[0])
	case opRound:
		return math.Round(args[0])
	case opMin:
		return fold(args, math.Min)
	case opMax:
		return fold(args, math.Max)
	}
	return math.NaN()
}

func fold(args []float64, f func(x, y float64) float64) float64 {
	r := args[0]
	for _, x := range args[1:] {
		r = f(r, x)
	}
	return r
}

// compiler turns the syntax tree into postfix code. Its recursion is no deeper than the text is long.
type compiler struct {
	source string
	code   []instruction
}

func (c *compiler) emit(in instruction) { c.code = append(c.code, in) }

// expression compiles one expression as a whole. Go's tree cannot be followed where it has binary operators: it binds ^
// like + and to the left, and a sign tighter than ^. But the tree keeps parentheses as nodes, so its operands and
// operators, read from left to right, are exactly those of the text, and climb groups them anew.
func (c *compiler) expression(e ast.Expr) error {
	var t tokens
	t.flatten(e)
	return c.climb(&t, 1)
}

// tokens is an expression without its outermost grouping: operands, signs and infix operators, from left to right.
type tokens []element

type element struct {
	operand ast.Expr    // nil for a sign or an operator
	tok     token.Token // the sign or operator
}

func (t *tokens) flatten(e ast.Expr) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		t.flatten(e.X)
		*t = append(*t, element{tok: e.Op})
		t.flatten(e.Y)
	case *ast.UnaryExpr:
		*t = append(*t, element{tok: e.Op})
		t.flatten(e.X)
	default:
		*t = append(*t, element{operand: e})
	}
}

func (t *tokens) next() element {
	first := (*t)[0]
	*t = (*t)[1:]
	return first
}

// climb compiles operands joined by operators of at least the given precedence.
func (c *compiler) climb(t *tokens, precedence int) error {
	if err := c.signed(t); err != nil {
		return err
	}
	for len(*t) > 0 {
		o, ok := operators[(*t)[0].tok]
		if !ok {
			return fmt.Errorf("operator %s is not allowed", (*t)[0].tok)
		}
		if o.precedence < precedence {
			return nil
		}
		t.next()
		right := o.precedence + 1
		if o.op == opPower {
			right = o.precedence
		}
		if err := c.climb(t, right); err != nil {
			return err
		}
		c.emit(instruction{op: o.op, args: 2})
	}
	return nil
}

// signed compiles an operand with the signs before it. A sign covers the powers that follow it, and nothing else.
func (c *compiler) signed(t *tokens) error {
	first := t.next()
	if first.operand != nil {
		return c.operand(first.operand)
	}
	if first.tok != token.ADD && first.tok != token.SUB {
		return fmt.Errorf("operator %s is not allowed", first.tok)
	}
	if err := c.climb(t, operators[token.XOR].precedence); err != nil {
		return err
	}
	if first.tok == token.SUB {
		c.emit(instruction{op: opNegate, args: 1})
	}
	return nil
}

func (c *compiler) operand(e ast.Expr) error {
	switch e := e.(type) {
	case *ast.ParenExpr:
		return c.expression(e.X)
	case *ast.BasicLit:
		return c.number(e)
	case *ast.Ident:
		if e.Name != variable {
			return fmt.Errorf("unknown name %s, the only variable is %s", e.Name, variable)
		}
		c.emit(instruction{op: opRetried})
		return nil
	case *ast.CallExpr:
		return c.call(e)
	default:
		return fmt.Errorf("%q is not allowed", c.text(e))
	}
}

func (c *compiler) number(e *ast.BasicLit) error {
	// Go's numbers may also be 0x1p4 and 1_000, which ParseFloat reads, and 0b1 and 2i, which it does not.
	v, err := strconv.ParseFloat(e.Value, 64)
	if e.Kind != token.INT && e.Kind != token.FLOAT || err != nil || strings.ContainsAny(e.Value, "_xX") {
		return fmt.Errorf("%q is not a decimal number", e.Value)
	}
	c.emit(instruction{op: opNumber, value: v})
	return nil
}

func (c *compiler) call(e *ast.CallExpr) error {
	name, ok := e.Fun.(*ast.Ident)
	if !ok {
		return fmt.Errorf("%q is not a function", c.text(e.Fun))
	}
	f, ok := functions[name.Name]
	if !ok {
		return fmt.Errorf("unknown function %s", name.Name)
	}
	n := len(e.Args)
	if e.Ellipsis.IsValid() || n < f.args || n > f.args && !f.variadic {
		want := strconv.Itoa(f.args)
		if f.variadic {
			want += " or more"
		}
		return fmt.Errorf("function %s takes %s argument(s), not %d", name.Name, want, n)
	}
	for _, arg := range e.Args {
		if err := c.expression(arg); err != nil {
			return err
		}
	}
	c.emit(instruction{op: f.op, args: n})
	return nil
}

// text returns the source of a node. ParseExpr counts positions from 1.
func (c *compiler) text(e ast.Expr) string {
	from, to := max(int(e.Pos())-1, 0), min(int(e.End())-1, len(c.source))
	if from > to {
		return c.source
	}
	return c.source[from:to]
}
