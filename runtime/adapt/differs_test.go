package adapt_test

import (
	"testing"

	"github.com/transformersquared/operator/runtime/adapt"
)

func TestDecisionsDiffer(t *testing.T) {
	mix := func(math, code float64) adapt.Decision {
		return adapt.Decision{Expert: "math+code", Weights: map[string]float64{"math": math, "code": code}}
	}
	one := func(name string) adapt.Decision {
		return adapt.Decision{Expert: name, Weights: map[string]float64{name: 1}}
	}
	for name, c := range map[string]struct {
		a, b adapt.Decision
		want bool
	}{
		"the same":                     {one("math"), one("math"), false},
		"another expert":               {one("math"), one("code"), true},
		"the base":                     {one("math"), adapt.Decision{Expert: "base"}, true},
		"both the base":                {adapt.Decision{Expert: "base"}, adapt.Decision{Expert: "base", Fallback: "Others"}, false},
		"shares that are rounded":      {mix(0.5, 0.5), mix(0.5625, 0.4375), false},
		"shares that are others":       {mix(0.5, 0.5), mix(0.625, 0.375), true},
		"a mixture and one of its own": {mix(0.5, 0.5), one("math"), true},
	} {
		if got := c.a.Differs(c.b); got != c.want || c.b.Differs(c.a) != got {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
