package retry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/retry"
)

func TestExpression(t *testing.T) {
	const cap = 86_400_000
	tests := []struct {
		source  string
		retried int
		want    int64 // milliseconds
	}{
		{"1000", 0, 1000},
		{"15000", 9, 15000},
		{" 1000 ", 0, 1000},
		{"1.5e3", 0, 1500},
		{".5*1000.", 0, 500},
		{"010", 0, 10},
		{"1000 * (1 + retried)", 0, 1000},
		{"1000 * (1 + retried)", 3, 4000},
		{"pow(2, retried) * 1000", 0, 1000},
		{"pow(2, retried) * 1000", 1, 2000},
		{"pow(2, retried) * 1000", 2, 4000},
		{"7000 * retried", 0, 0},
		{"7000 * retried", 1, 7000},
		{"max(1000, pow(2, retried) * 100)", 0, 1000},
		{"max(1000, pow(2, retried) * 100)", 4, 1600},

		// Precedence and association.
		{"2*3^2", 0, 18},
		{"3^2*2", 0, 18},
		{"1+2*3^2", 0, 19},
		{"2^3^2", 0, 512},
		{"(2^3)^2", 0, 64},
		{"2^3+1", 0, 9},
		{"1+2^3", 0, 9},
		{"100/2^2", 0, 25},
		{"10-3-2", 0, 5},
		{"10-(3-2)", 0, 9},
		{"100/10/5", 0, 2},
		{"100/10*5", 0, 50},
		{"17%10%4", 0, 3},
		{"2*17%10", 0, 4},
		{"5.5%2*1000", 0, 1500},
		{"-5%3+10", 0, 8},
		{"10+2*retried^2", 3, 28},
		{"2^retried*1000", 5, 32000},

		// Signs.
		{"-2^2+10", 0, 6},
		{"(-2)^2", 0, 4},
		{"10 - -2", 0, 12},
		{"10*-2+25", 0, 5},
		{"100*2^-1", 0, 50},
		{"100*2^-1*4", 0, 200},
		{"1000*2^-2^1", 0, 250},
		{"+5", 0, 5},
		{"-(-5)", 0, 5},
		{"- - 5", 0, 5},
		{"-retried+5", 3, 2},

		// Functions.
		{"sqrt(16)", 0, 4},
		{"abs(-7)", 0, 7},
		{"exp(0)", 0, 1},
		{"floor(2.7)", 0, 2},
		{"ceil(2.1)", 0, 3},
		{"round(2.5)", 0, 3},
		{"min(5, 3)", 0, 3},
		{"max(5, 3)", 0, 5},
		{"max(5, 3, 9, 1)", 0, 9},
		{"min(5)", 0, 5},
		{"max(1,(2),)", 0, 2},
		{"min(exp(2.5*(retried+1))*1000, 86400000)", 0, 12182},
		{"pow(2, pow(2, 2)) + min(1, max(2, 3)) ^ 2", 0, 17},

		// Range.
		{"-1", 0, 0},
		{"0.4", 0, 0},
		{"0.5", 0, 1},
		{"1.2", 0, 1},
		{"sqrt(-1)", 0, 0},
		{"0/0", 0, 0},
		{"5%0", 0, 0},
		{"1/0", 0, cap},
		{"-1/0", 0, 0},
		{"exp(1000)", 0, cap},
		{"min(0/0, 5)", 0, 0},
		{"86400000", 0, cap},
		{"86400001", 0, cap},
		{"86399999", 0, cap - 1},
		{"pow(2, retried)", 1 << 40, cap},
	}
	for _, tt := range tests {
		e, err := retry.Compile(tt.source)
		if err != nil {
			t.Errorf("Compile(%q): %v", tt.source, err)
			continue
		}
		if got, want := e.Delay(tt.retried), time.Duration(tt.want)*time.Millisecond; got != want {
			t.Errorf("%q after %d retries = %v, want %v", tt.source, tt.retried, got, want)
		}
		if e.String() != tt.source {
			t.Errorf("String of %q = %q", tt.source, e.String())
		}
	}
}

func TestCompileErrors(t *testing.T) {
	tests := map[string]string{
		"":                 "empty expression",
		"  ":               "empty expression",
		"1 +":              "column 4: expected operand, found 'EOF'",
		"(1":               "column 3: expected ')', found newline",
		"1 2":              "column 3: expected 'EOF', found 2",
		"retries * 1000":   "unknown name retries, the only variable is retried",
		"Retried":          "unknown name Retried, the only variable is retried",
		"pow":              "unknown name pow, the only variable is retried",
		"log(2)":           "unknown function log",
		"pow(2)":           "function pow takes 2 argument(s), not 1",
		"pow(1,2,3)":       "function pow takes 2 argument(s), not 3",
		"sqrt()":           "function sqrt takes 1 argument(s), not 0",
		"min()":            "function min takes 1 or more argument(s), not 0",
		"max(retried...)":  "function max takes 1 or more argument(s), not 1",
		"math.Pow(2, 2)":   `"math.Pow" is not a function`,
		"(pow)(2, 2)":      `"(pow)" is not a function`,
		"1 << 2":           "operator << is not allowed",
		"1 < 2":            "operator < is not allowed",
		"2 && 1":           "operator && is not allowed",
		"6 &^ 2":           "operator &^ is not allowed",
		"2 ** 3":           `"* 3" is not allowed`,
		"!1":               "operator ! is not allowed",
		"^2":               "operator ^ is not allowed",
		"2 * ^2":           "operator ^ is not allowed",
		`"1000"`:           `"\"1000\"" is not a decimal number`,
		"'a'":              `"'a'" is not a decimal number`,
		"0x10":             `"0x10" is not a decimal number`,
		"0b11":             `"0b11" is not a decimal number`,
		"1_000":            `"1_000" is not a decimal number`,
		"0x1p4":            `"0x1p4" is not a decimal number`,
		"10 --2":           "column 4: expected 'EOF', found '--'",
		"2i":               `"2i" is not a decimal number`,
		"1e999":            `"1e999" is not a decimal number`,
		"retried[0]":       `"retried[0]" is not allowed`,
		"func() {}":        `"func() {}" is not allowed`,
		"struct{}{}":       `"struct{}{}" is not allowed`,
		"1 // a second":    "comments are not allowed",
		"1 /* second */":   "comments are not allowed",
		"1000;":            "column 5: expected 'EOF', found ';'",
		"1,2":              "column 2: expected 'EOF', found ','",
		"3s":               "column 2: expected 'EOF', found s",
		"1000 \x00":        `column 6: character '\x00' is not allowed`,
		"1 +\n1":           `column 4: character '\n' is not allowed`,
		"1\xff":            `column 2: character '�' is not allowed`,
		"é":                `column 1: character 'é' is not allowed`,
		"\t1 ":             "",
		"pow(2, retried) ": "",
	}
	for source, want := range tests {
		_, err := retry.Compile(source)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("Compile(%q): error %q, want %q", source, got, want)
		}
	}
}

func TestCompileBounds(t *testing.T) {
	nested := strings.Repeat("(", 511) + "7" + strings.Repeat(")", 511)
	if got, want := mustCompile(t, nested).Delay(0), 7*time.Millisecond; got != want {
		t.Errorf("nested parentheses = %v, want %v", got, want)
	}
	signs := strings.Repeat("- ", 510) + "7"
	if got, want := mustCompile(t, signs).Delay(0), 7*time.Millisecond; got != want {
		t.Errorf("signs = %v, want %v", got, want)
	}
	powers := strings.Repeat("1^", 511) + "1" // to the right, so all operands are on the stack at once
	if got, want := mustCompile(t, powers).Delay(0), time.Millisecond; got != want {
		t.Errorf("powers = %v, want %v", got, want)
	}
	calls := strings.Repeat("max(", 200) + "7" + strings.Repeat(")", 200)
	if got, want := mustCompile(t, calls).Delay(0), 7*time.Millisecond; got != want {
		t.Errorf("calls = %v, want %v", got, want)
	}
	mustCompile(t, strings.Repeat(" ", 1023)+"1")
	_, err := retry.Compile(strings.Repeat(" ", 1024) + "1")
	if want := "expression has 1025 bytes, at most 1024 are allowed"; err == nil || err.Error() != want {
		t.Errorf("Compile of 1025 bytes: %v, want %s", err, want)
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		"1000", "pow(2, retried) * 1000", "-2^-3^2%5", "max(1, 2, 3)/0", "1 // x", "func(){}()", "((((", "0x1p-2", "a.b[c](d...)",
	} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, source string, retried int) {
		e, err := retry.Compile(source)
		if err != nil {
			if err.Error() == "" || strings.Contains(err.Error(), "\n") {
				t.Errorf("Compile(%q): error text %q", source, err)
			}
			return
		}
		d := e.Delay(retried)
		if d < 0 || d > retry.MaxDelay {
			t.Errorf("%q after %d retries = %v, out of range", source, retried, d)
		}
		// Grouping the whole changes nothing.
		if len(source)+2 <= retry.MaxExpressionLen {
			if got := mustCompile(t, "("+source+")").Delay(retried); got != d {
				t.Errorf("(%s) = %v, without parentheses %v", source, got, d)
			}
		}
	})
}

func BenchmarkExpressionDelay(b *testing.B) {
	e := mustCompile(b, "max(1000, pow(2, retried) * 100)")
	b.ReportAllocs()
	for b.Loop() {
		e.Delay(4)
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := retry.Compile("max(1000, pow(2, retried) * 100)"); err != nil {
			b.Fatal(err)
		}
	}
}
