package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// TestWhatANewerOperatorAsksForIsServedAsFarAsItIsKnown, and the status never says that
// all of it is.
func TestWhatANewerOperatorAsksForIsServedAsFarAsItIsKnown(t *testing.T) {
	h := open(t, nil)
	set, err := h.set().Named()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	called := contract.DigestPrefix + strings.Repeat("c", 64)
	offered := strings.Replace(string(text), set.Called, called, 1)
	known := json.RawMessage(offered)
	if status, code := h.put(t, token, known); code != http.StatusAccepted || status.DesiredDigest != called {
		t.Fatalf("status %d, %+v", code, status)
	}
	waitFor(t, "the set to be served by the name that it came with", func() bool { return h.Status().ExpertSetDigest == called })

	more := json.RawMessage(strings.Replace(strings.Replace(offered, called, contract.DigestPrefix+strings.Repeat("d", 64), 1), "{", `{"tomorrow":{},`, 1))
	if status, code := h.put(t, token, more); code != http.StatusAccepted {
		t.Fatalf("status %d, %+v", code, status)
	}
	waitFor(t, "the rest to be served", func() bool { return h.Status().Error != nil })
	status := h.Status()
	if e := status.Error; e.Reason != contract.ReasonRuntimeTooOld || !e.Permanent || !strings.Contains(e.Message, "tomorrow") {
		t.Errorf("error %+v", e)
	}
	if d := status.ExpertSetDigest; d == status.DesiredDigest || d == called {
		t.Errorf("in use is %s, which is all of a set", d)
	}
	if _, resp := h.ask(t, contract.PathChatCompletions, chat("demo:demo-math", "x", nil)); resp.StatusCode != http.StatusOK {
		t.Errorf("the experts that are known do not answer: %s", resp.Status)
	}
}
