package kernels

import (
	"math"
	"os"
	"regexp"
	"strconv"
	"testing"
)

// TestPowersAreThoseOfExp2 compares the table in powers.cuh with what package sample
// computes its exponentials with: tokens are the same only if these are, to the bit.
func TestPowersAreThoseOfExp2(t *testing.T) {
	text, err := os.ReadFile("powers.cuh")
	if err != nil {
		t.Fatal(err)
	}
	words := regexp.MustCompile(`0x[0-9a-f]{16}`).FindAllString(string(text), -1)
	const steps = 256
	if len(words) != steps {
		t.Fatalf("powers.cuh has %d powers, want %d", len(words), steps)
	}
	for i, word := range words {
		got, err := strconv.ParseUint(word, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		if want := math.Float64bits(math.Exp2(float64(i) / steps)); got != want {
			t.Errorf("power %d is %#016x, want %#016x", i, got, want)
		}
	}
}
