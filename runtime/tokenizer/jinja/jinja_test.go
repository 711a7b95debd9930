package jinja_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/tokenizer/jinja"
)

// budget is far more than any template of these tests needs.
const budget = 1_000_000

// TestTemplatesRenderAsJinja2Does compares with what Jinja2 makes of them:
//
//	python3 hack/golden/jinja.py runtime/tokenizer/jinja/testdata/jinja.json
func TestTemplatesRenderAsJinja2Does(t *testing.T) {
	b, err := os.ReadFile("testdata/jinja.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Version   int             `json:"version"`
		Variables json.RawMessage `json:"variables"`
		Cases     []struct {
			Template string `json:"template"`
			Text     string `json:"text"`
			Error    string `json:"error"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	if golden.Version != 1 || len(golden.Cases) < 80 {
		t.Fatalf("golden of version %d with %d cases", golden.Version, len(golden.Cases))
	}
	variables := decode(t, golden.Variables)
	for _, c := range golden.Cases {
		got, err := render(c.Template, variables, budget)
		switch {
		case c.Error != "" && err == nil:
			t.Errorf("%s\n got %q, Jinja2 refuses it (%s)", c.Template, got, c.Error)
		case c.Error == "" && err != nil:
			t.Errorf("%s\n got error %v\nwant %q", c.Template, err, c.Text)
		case c.Error == "" && got != c.Text:
			t.Errorf("%s\n got %q\nwant %q", c.Template, got, c.Text)
		}
	}
}

func render(source string, variables map[string]any, budget int) (string, error) {
	template, err := jinja.Parse(source)
	if err != nil {
		return "", err
	}
	return template.Render(variables, budget)
}

// decode reads a JSON object as variables, keeping the order of its keys.
func decode(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	variables := map[string]any{}
	must(t, d, json.Delim('{'))
	for d.More() {
		key, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		variables[fmt.Sprint(key)] = value(t, d)
	}
	return variables
}

func must(t *testing.T, d *json.Decoder, want json.Delim) {
	t.Helper()
	if token, err := d.Token(); err != nil || token != want {
		t.Fatalf("%v (%v), want %v", token, err, want)
	}
}

func value(t *testing.T, d *json.Decoder) any {
	t.Helper()
	token, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	switch v := token.(type) {
	case json.Delim:
		if v == '[' {
			list := jinja.List{}
			for d.More() {
				list = append(list, value(t, d))
			}
			must(t, d, ']')
			return list
		}
		var pairs []any
		for d.More() {
			key, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, key, value(t, d))
		}
		must(t, d, '}')
		return jinja.NewDict(pairs...)
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return int(i)
		}
		f, err := v.Float64()
		if err != nil {
			t.Fatal(err)
		}
		return f
	default:
		return v
	}
}

func TestErrorsSayWhereAndWhat(t *testing.T) {
	for _, c := range []struct{ name, source, want string }{
		{"an unknown filter", "\n\n{{ x | frobnicate }}", `line 3: filter "frobnicate"`},
		{"an unknown test", "{{ x is\nfrobnicated }}", `test "frobnicated"`},
		{"an unknown statement", "{% include 'x' %}", `statement "include"`},
		{"no end", "{% for x in y %}\n", "[else endfor]"},
		{"an undefined variable", "a\n{{ x.y }}", "line 2: x is undefined"},
		{"a refusal", "{{ raise_exception('Roles must alternate') }}", "Roles must alternate"},
		{"in a loop", "{% for x in [1] %}\n\n{{ x + 'a' }}{% endfor %}", "line 3: int and str"},
		{"break without a loop", "{% break %}", "outside of a loop"},
	} {
		if got, err := render(c.source, nil, budget); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestHostileTemplatesRunOutOfBudget(t *testing.T) {
	for name, source := range map[string]string{
		"an endless loop":           `{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}`,
		"a long range":              `{{ range(1000000000) | length }}`,
		"a huge string":             `{{ 'a' * 1000000000000 }}`,
		"a string that doubles":     `{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
		"a list that doubles":       `{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}`,
		"a replacement that grows":  `{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('a', 'aa') %}{% endfor %}`,
		"a filter that grows":       `{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('a', 'aa') %}{% endfor %}`,
		"a join that grows":         `{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s | list | join(ns.s) %}{% endfor %}`,
		"an endless recursion":      `{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}`,
		"output without end":        `{% for i in range(99999) %}` + strings.Repeat("x", 1000) + `{% endfor %}`,
		"parentheses":               "{{ " + strings.Repeat("(", 100_000) + " }}",
		"negations":                 "{{ " + strings.Repeat("not ", 100_000) + "1 }}",
		"signs":                     "{{ " + strings.Repeat("-", 100_000) + "1 }}",
		"statements in each other":  strings.Repeat("{% if 1 %}", 10_000),
		"an indentation that grows": `{% set ns = namespace(s='a\n\n\n\n') %}{% for i in range(60) %}{% set ns.s = ns.s | indent(900, blank=true) + ns.s %}{% endfor %}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := render(source, nil, budget); err == nil {
				t.Errorf("got %.40q", got)
			}
		})
	}
}

func TestATemplateCannotChangeWhatItIsGiven(t *testing.T) {
	messages := jinja.List{jinja.NewDict("role", "user")}
	for _, source := range []string{
		`{{ messages.append(1) }}`, `{{ messages[0].update({'role': 'x'}) }}`, `{{ messages.pop() }}`,
		`{% set messages[0].role = 'x' %}`, `{% set m = messages[0] %}{% set m.role = 'system' %}`,
	} {
		if got, err := render(source, map[string]any{"messages": messages}, budget); err == nil {
			t.Errorf("%s gave %q", source, got)
		}
	}
}

// FuzzTemplate: any template ends, with output or an error.
func FuzzTemplate(f *testing.F) {
	f.Add("{% for m in messages %}{{ m.role ~ loop.index }}{% endfor %}")
	f.Add("{% set ns = namespace(a=1) %}{% if ns.a is defined and not x %}{{- 'x' | upper -}}{% endif %}")
	f.Add("{% macro m(a, b=2) %}{{ a[1:] }}{% endmacro %}{{ m([1,2], b={'c': 3}) | tojson(indent=1) }}{# c #}{% raw %}{{{% endraw %}")
	f.Add("{{ 'a b'.split()[-1] * 3 if 1 <= 2 < 3 else none // 2 ** 1 % 1 }}")
	variables := map[string]any{"messages": jinja.List{jinja.NewDict("role", "user", "content", "hello")}, "x": nil}
	f.Fuzz(func(t *testing.T, source string) {
		if text, err := render(source, variables, 100_000); err == nil && len(text) > 100_000 {
			t.Fatalf("%d bytes of output", len(text))
		}
	})
}
