package server

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestALostDeviceIsTriedElsewhere wants clients to be told to try again: another server
// may answer.
func TestALostDeviceIsTriedElsewhere(t *testing.T) {
	e := asAPIError(fmt.Errorf("computing: %w", fmt.Errorf("decide: %w", backend.ErrDeviceLost)))
	if e.status != http.StatusServiceUnavailable {
		t.Errorf("status %d, want %d", e.status, http.StatusServiceUnavailable)
	}
}
