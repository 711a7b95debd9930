package jobs

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
)

func TestTheCurveIsThatOfTheTraining(t *testing.T) {
	p := NewProgress()
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		Handler(p).ServeHTTP(w, httptest.NewRequest(http.MethodGet, contract.PathCurve, nil))
		return w
	}
	if w := ask(); w.Code != http.StatusNotFound {
		t.Errorf("before a training the answer is %d: %s", w.Code, w.Body)
	}
	score := 0.5
	want := contract.Curve{
		Skill: "math", Iterations: 3, BaselineScore: 0.25,
		Points: []contract.CurvePoint{{Iteration: 1, Reward: -0.5}, {Iteration: 2, Reward: 0.5, Score: &score}},
	}
	p.Curve(want)
	w := ask()
	var got contract.Curve
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || w.Code != http.StatusOK {
		t.Errorf("status %d\n%s", w.Code, diff)
	}
	want.Points = make([]contract.CurvePoint, 3*contract.MaxCurvePoints)
	p.Curve(want)
	if err := json.Unmarshal(ask().Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Points) != contract.MaxCurvePoints {
		t.Errorf("a long curve has %d points", len(got.Points))
	}
}
