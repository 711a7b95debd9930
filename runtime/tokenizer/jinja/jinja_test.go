package jinja_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
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

// shares makes a value of 60 lists whose text would be astronomic.
const shares = `{% set ns = namespace(l=[1], m=[1], t=(1,)) %}{% for i in range(60) %}` +
	`{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}`

// TestDeepValuesAreComparedInOneGo: a chain of lists within lists takes as long as it
// has lists.
func TestDeepValuesAreComparedInOneGo(t *testing.T) {
	const chain = `{% set ns = namespace(a=[1], b=[2]) %}{% for i in range(20000) %}{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}{% endfor %}`
	got, err := render(chain+`{{ ns.a < ns.b }} {{ ns.a == ns.b }} {{ ns.a in [ns.b] }} {{ (ns.a | string | length) }}`, nil, budget)
	if err != nil || got != "True False False 40003" { //nolint:dupword // What Jinja2 says.
		t.Errorf("got %q, %v", got, err)
	}
}

// TestWhatIsNotKnownFailsWhenItIsReached: DeepSeek's and other templates have branches
// for extensions that nobody takes.
func TestWhatIsNotKnownFailsWhenItIsReached(t *testing.T) {
	for name, c := range map[string]struct{ source, want string }{
		"a filter":             {`{% if x %}{{ 'a' | from_json }}{% endif %}ok`, `filter "from_json"`},
		"a test":               {`{% if x and y is fancy %}a{% endif %}ok`, `test "fancy"`},
		"a test in a branch":   {`{{ 'a' if not x else (y is fancy.test(1)) }}ok`, `test "fancy.test"`},
		"a statement":          {`{% if x %}{% do list.append(1) %}{% endif %}ok`, `statement "do"`},
		"one with a body":      {`{% if x %}{% trans count=1 %}a{{ b }}{% endtrans %}{% endif %}ok`, `statement "trans"`},
		"a template of others": {`{% if x %}{% include 'tools.jinja' %}{% import 'x' as y %}{% endif %}ok`, `statement "include"`},
		"escaping":             {`{% autoescape x %}{% endautoescape %}ok`, "autoescape"},
		"a filter block":       {`{% if x %}{% filter shout %}a{% endfilter %}{% endif %}ok`, `filter "shout"`},
		"a macro's":            {`{% macro m() %}{{ 1 | nothing }}{% endmacro %}{% if x %}{{ m() }}{% endif %}ok`, `filter "nothing"`},
		"a name for map":       {`{% if x %}{{ [1] | map('nothing') | list }}{% endif %}ok`, `filter "nothing"`},
	} {
		got, err := render(c.source, map[string]any{"x": false}, budget)
		if err != nil || !strings.HasSuffix(got, "ok") {
			t.Errorf("%s that is not reached: %q, %v", name, got, err)
		}
		if got, err := render(c.source, map[string]any{"x": true}, budget); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%s that is reached: %q, %v, want %s", name, got, err, c.want)
		}
	}
}

func TestHostileTemplatesRunOutOfBudget(t *testing.T) {
	for name, source := range map[string]string{
		"an endless loop":              `{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}`,
		"a long range":                 `{{ range(1000000000) | length }}`,
		"a huge string":                `{{ 'a' * 1000000000000 }}`,
		"a string that doubles":        `{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
		"a list that doubles":          `{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}`,
		"a replacement that grows":     `{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('a', 'aa') %}{% endfor %}`,
		"a filter that grows":          `{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('a', 'aa') %}{% endfor %}`,
		"a join that grows":            `{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s | list | join(ns.s) %}{% endfor %}`,
		"an endless recursion":         `{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}`,
		"output without end":           `{% for i in range(99999) %}` + strings.Repeat("x", 1000) + `{% endfor %}`,
		"parentheses":                  "{{ " + strings.Repeat("(", 100_000) + " }}",
		"negations":                    "{{ " + strings.Repeat("not ", 100_000) + "1 }}",
		"signs":                        "{{ " + strings.Repeat("-", 100_000) + "1 }}",
		"statements in each other":     strings.Repeat("{% if 1 %}", 10_000),
		"a value that shares itself":   shares + `{{ ns.l }}`,
		"its text, concatenated":       shares + `{{ 'x' ~ ns.l }}`,
		"its JSON":                     shares + `{{ ns.l | tojson }}`,
		"it compared with itself":      shares + `{{ ns.l == ns.m }}`,
		"it ordered":                   shares + `{{ ns.l < ns.m }}`,
		"it looked for":                shares + `{{ ns.l in [ns.m] }}`,
		"it joined":                    shares + `{{ [ns.l] | join }}`,
		"it formatted":                 shares + `{{ '{}'.format(ns.l) }}`,
		"it formatted by an operator":  shares + `{{ '%s' % [ns.l] }}`,
		"it as a key":                  shares + `{{ {(ns.t,): 1} }}`,
		"it as a message":              shares + `{{ 'x'.replace('x', 'y') | replace(ns.l, 'a') }}`,
		"it indexed":                   shares + `{{ [ns.l].index(ns.m) }}`,
		"it counted":                   shares + `{{ [ns.l].count(ns.m) }}`,
		"it sorted":                    shares + `{{ [ns.l, ns.m] | sort | length }}`,
		"it mapped":                    shares + `{{ range(99999) | map('default', ns.l) | join }}`,
		"a call that calls itself":     `{% macro m() %}{{ caller() }}{% call m() %}{% endcall %}{% endmacro %}{% call m() %}{% endcall %}`,
		"a caller that calls its call": `{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}`,
		"calls that double":            `{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}` + strings.Repeat(`{% call m() %}`, 60) + "x" + strings.Repeat(`{% endcall %}`, 60),
		"a loop that calls itself":     `{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}`,
		"arguments that double": `{% set ns = namespace(l=[1]) %}{% macro m() %}{% set ns.l = varargs %}{% endmacro %}` +
			`{% for i in range(60) %}{{ m(*(ns.l + ns.l)) }}{% endfor %}`,
		"many arguments":              `{% macro m() %}{{ varargs | length }}{% endmacro %}{% for i in range(999) %}{{ m(*range(9999)) }}{% endfor %}`,
		"a wide centre":               `{{ 'x'.center(1000000000000) }}`,
		"a wide filter":               `{{ 'x' | center(1000000000000) }}`,
		"a wide number":               `{{ '1'.zfill(1000000000000) }}`,
		"a wide justification":        `{{ 'x'.ljust(99999999999, '-') }}`,
		"wide tabs":                   `{{ ('\t' * 1000).expandtabs(99999999) }}`,
		"a wide format":               `{{ '%1000000000d' % 1 }}`,
		"a precise format":            `{{ '%.1000000000f' % 1 }}`,
		"a wide field":                `{{ '{:>1000000000}'.format(1) }}`,
		"many wide fields":            `{{ ('{:>9999}' * 9999).format(*range(9999)) }}`,
		"a long list of nothing":      `{{ [0] * 1000000000000 }}`,
		"many slices":                 `{{ 'x' | slice(1000000000000) | list }}`,
		"a large batch":               `{{ 'x' | batch(1000000000000, '-') | list }}`,
		"a join of long separators":   `{% set s = 'x' * 100000 %}{{ s.join(('a' * 99999) | list) }}`,
		"a large power":               `{{ 3 ** 1000000000000 }}`,
		"a filter block that grows":   `{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s %}{% filter replace('a', 'aa') %}{{ ns.s }}{% endfilter %}{% endset %}{% endfor %}`,
		"an indentation that is wide": `{{ 'x' | indent(99999999999, true) }}`,
		"JSON that is wide":           `{{ range(9999) | list | tojson(indent='x' * 9999) }}`,
		"targets":                     "{% set " + strings.Repeat("(", 100_000) + "a" + strings.Repeat(")", 100_000) + " = 1 %}",
		"an indentation that grows":   `{% set ns = namespace(s='a\n\n\n\n') %}{% for i in range(60) %}{% set ns.s = ns.s | indent(900, blank=true) + ns.s %}{% endfor %}`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := render(source, nil, budget)
			if err == nil {
				t.Fatalf("got %.40q", got)
			}
			bounds := []string{"budget", "deep", "more than", "too large"}
			if !slices.ContainsFunc(bounds, func(says string) bool { return strings.Contains(err.Error(), says) }) {
				t.Errorf("stopped for another reason: %v", err)
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
	f.Add("{% macro m(a) %}{{ caller(a, *varargs, **kwargs) }}{% endmacro %}{% call(b, c=1) m(1, 2, z=3) %}{{ b }}{{ {1: c, (1, 2): none} }}{% endcall %}")
	f.Add("{% for i, (a, b) in [(1, (2, 3))] recursive %}{{ loop.changed(a) ~ '%s %05.1f' % (a, b) }}{{ loop([]) }}{% endfor %}{{ '{:>5}{!r}'.format(1, 'x') }}")
	f.Add("{% with a = messages | groupby('role') %}{{ a | map(attribute='grouper') | list | tojson(indent=1) }}{% endwith %}{% filter upper %}{% block b scoped %}x{% endblock %}{% endfilter %}")
	f.Add("{{ [1, 2, 3] | batch(2, 0) | list }}{{ 'a b' | truncate(4) | center(9) }}{{ 'x'.zfill(3) }}{% print 0x1f, 1e3 %}{{ x | selectattr('y') | first }}")
	variables := map[string]any{"messages": jinja.List{jinja.NewDict("role", "user", "content", "hello")}, "x": nil}
	f.Fuzz(func(t *testing.T, source string) {
		if text, err := render(source, variables, 100_000); err == nil && len(text) > 100_000 {
			t.Fatalf("%d bytes of output", len(text))
		}
	})
}
