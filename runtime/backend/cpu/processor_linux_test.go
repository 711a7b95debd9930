package cpu

import (
	"strings"
	"testing"
)

func TestTheProcessorsModel(t *testing.T) {
	const info = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz\nstepping\t: 8\nflags\t\t: fpu\n\nprocessor\t: 1\nvendor_id\t: Another\n"
	if got, want := modelOf(strings.NewReader(info)), "GenuineIntel 6 143 8 Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, other := range []string{"", "processor\t: 0\nBogoMIPS\t: 50.00\n", "vendor_id\t: GenuineIntel\n"} {
		if got := modelOf(strings.NewReader(other)); got != "" {
			t.Errorf("of %q: %q", other, got)
		}
	}
}
