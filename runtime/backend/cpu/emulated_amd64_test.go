package cpu

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/transformersquared/operator/test/amxtest"
)

// TestMain lets tests have path amx where the processor has no tiles: their instructions
// are emulated, and all else is what would run beside tiles. What the emulation finds
// wrong fails the tests, whichever is to blame.
func TestMain(m *testing.M) {
	f := detect()
	if !f.amx {
		if err := amxtest.Install(); err != nil {
			fmt.Fprintf(os.Stderr, "Path amx is not tested: %v\n", err)
		} else {
			emulated = pathsWith(features{avx2: true, avx512: f.avx512, vnni: f.vnni, amx: true})[:2]
		}
	}
	code := m.Run()
	if faults := amxtest.Faults(); len(faults) > 0 {
		fmt.Fprintf(os.Stderr, "On tiles:\n%s\n", strings.Join(faults, "\n"))
		code = 1
	}
	os.Exit(code)
}
