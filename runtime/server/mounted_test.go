package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/train"
)

// TestAModelThatIsMountedIsServedAndTrainedOnAsItWasFetched has nothing of a model in the volume but
// its manifest: what is mounted is loaded if it is what was fetched, byte for byte.
func TestAModelThatIsMountedIsServedAndTrainedOnAsItWasFetched(t *testing.T) {
	v := enginetest.New(t)
	at := v.Mount(t)
	serve := func() error {
		c, err := server.FromSpec(contract.ServeSpec{
			Name: "demo", DataDir: v.Root, BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest,
			Backend: contract.BackendCPU, DType: "F32", MaxBatch: 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		s := server.New(c)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		err = s.Load(t.Context())
		if err == nil {
			if chats, err := s.Chats(); err != nil || !chats {
				t.Errorf("a model with a chat template chats: %v, %v", chats, err)
			}
		}
		return err
	}
	load := func() error {
		_, _, err := train.LoadBase(t.Context(), registrytest.Open(t, 2), train.Artifacts{DataDir: v.Root, BaseDigest: v.ModelDigest, DType: "F32"})
		return err
	}
	all := map[string]func() error{"serving": serve, "training": load}
	for name, f := range all {
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	weights := filepath.Join(at, checkpoint.WeightsFile)
	b, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(weights, b, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(reason, text string) {
		t.Helper()
		for name, f := range all {
			err := f()
			e, ok := errors.AsType[*failure.Error](err)
			if !ok || e.Reason != reason || !e.Permanent || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v is not %s with %q", name, err, reason, text)
			}
		}
	}
	refused(contract.ReasonDigestMismatch, "mount the artifact that was fetched")
	if err := os.RemoveAll(at); err != nil {
		t.Fatal(err)
	}
	refused(contract.ReasonSourceNotFound, "to be mounted at "+at)
}
