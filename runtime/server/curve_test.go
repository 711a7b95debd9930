package server_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// TestAPodTellsTheCurveOfAnExpertInItsVolume, served or not, and of nothing else.
func TestAPodTellsTheCurveOfAnExpertInItsVolume(t *testing.T) {
	h := open(t, nil)
	other := h.volume.Expert(t, "reasoning", 3) // In no set.
	write := func(digest, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(h.volume.ExpertDir(t, digest), contract.MetricsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(other.Digest, `{"iteration":1,"reward":-0.5,"loss":0,"gradNorm":0,"answerTokens":9}`+"\n"+
		`{"iteration":2,"reward":0.5,"loss":0,"gradNorm":0,"answerTokens":9,"validationScore":0.75}`+"\n")
	write(h.code.Digest, "{\"iteration\":1}\nno json\n")
	ask := func(query string) (int, string) {
		t.Helper()
		r, err := http.Get(h.admin.URL + contract.PathCurve + "?" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	code, body := ask("digest=" + url.QueryEscape(other.Digest))
	var c contract.Curve
	if err := json.Unmarshal([]byte(body), &c); err != nil || code != http.StatusOK {
		t.Fatalf("%d: %s: %v", code, body, err)
	}
	if c.Skill != "reasoning" || c.BaselineScore != other.BaselineScore || len(c.Points) != 2 || c.Points[1].Score == nil || *c.Points[1].Score != 0.75 {
		t.Errorf("the curve is %s", body)
	}
	for _, test := range []struct {
		name, query, says string
		code              int
	}{
		{"no digest", "digest=../../models", "is no digest", http.StatusBadRequest},
		{"nothing asked", "", "is no digest", http.StatusBadRequest},
		{"another's", "digest=" + contract.DigestPrefix + strings.Repeat("a", 64), "is not in the volume", http.StatusNotFound},
		{"not trained here", "digest=" + h.math.Digest, "was not trained here", http.StatusNotFound},
		{"another base's volume", "from=..%2F..&digest=" + h.math.Digest, "is to be transferred from", http.StatusNotFound},
		{"damaged", "digest=" + h.code.Digest, "line 2 of", http.StatusInternalServerError},
	} {
		t.Run(test.name, func(t *testing.T) {
			if code, body := ask(test.query); code != test.code || !strings.Contains(body, test.says) {
				t.Errorf("%d: %s", code, body)
			}
		})
	}
}
