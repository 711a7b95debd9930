package backends_test

import (
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/backends"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

func TestEveryBackendOfThisProgramOpens(t *testing.T) {
	for _, name := range append(backends.Names(), "") {
		be, err := backends.Open(name, 2)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if want := contract.BackendCPU + " ("; !strings.HasPrefix(be.Name(), want) || !strings.Contains(be.Name(), "2 threads") {
			t.Errorf("%q computes with %q", name, be.Name())
		}
		if err := be.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Who asks for what this program has not is told what it has, and that another
// try does not help.
func TestWhatThisProgramHasNotIsSaid(t *testing.T) {
	for name, says := range map[string]string{contract.BackendCUDA: "run t2-cuda", "CPU": `"CPU" is unknown`, "tpu": "has cpu"} {
		_, err := backends.Open(name, 0)
		if reason, permanent := failure.Of(err); reason != contract.ReasonUsage || !permanent || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v (%s, permanent %v), want one that says %q", name, err, reason, permanent, says)
		}
	}
	t.Setenv(cpu.EnvPath, "abacus")
	_, err := backends.Open(contract.BackendCPU, 0)
	if reason, permanent := failure.Of(err); reason != contract.ReasonUsage || !permanent || !strings.Contains(err.Error(), "abacus") {
		t.Errorf("%v (%s, permanent %v)", err, reason, permanent)
	}
}
