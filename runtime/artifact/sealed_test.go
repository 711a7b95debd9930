package artifact_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/test/faults"
)

type sealedThing struct {
	Name   string    `json:"name"`
	Scores []float64 `json:"scores"`
}

func readThing(path string) (any, error) {
	b, err := artifact.ReadSealed(path, 1<<20)
	if err != nil {
		return nil, err
	}
	var got sealedThing
	if err := json.Unmarshal(b, &got); err != nil {
		return nil, errors.New(path + ": " + err.Error())
	}
	return got, nil
}

// TestASealedFileIsReadAsItWasWritten, also by who knows nothing of seals, and so is one of an
// earlier version, which has none.
func TestASealedFileIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "thing.json")
	want := sealedThing{Name: "a\nb", Scores: []float64{0.5, 0.25}}
	if err := artifact.WriteSealed(path, want); err != nil {
		t.Fatal(err)
	}
	sealed, err := artifact.ReadSealed(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var older sealedThing
	if err := json.Unmarshal(whole, &older); err != nil || older.Name != want.Name || !strings.Contains(string(whole), `"sealed": "sha256:`) {
		t.Errorf("as JSON it is %+v (%v):\n%s", older, err, whole)
	}
	if err := artifact.WriteJSONAtomic(path, want); err != nil {
		t.Fatal(err)
	}
	plain, err := artifact.ReadSealed(path, 1<<20)
	if err != nil || string(plain) != string(sealed) {
		t.Errorf("without a seal it is read as %s (%v), with one as %s", plain, err, sealed)
	}
	if err := artifact.WriteSealed(path, struct{}{}); err != nil {
		t.Fatal(err)
	}
	if b, err := artifact.ReadSealed(path, 1<<20); err != nil || strings.TrimSpace(string(b)) != "{}" {
		t.Errorf("nothing is read as %s (%v)", b, err)
	}
}

func TestBitFlipsOfASealedFileAreFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "thing.json")
	if err := artifact.WriteSealed(path, sealedThing{Name: "math", Scores: []float64{0.5, 0.25, 12345678}}); err != nil {
		t.Fatal(err)
	}
	found := faults.Reader{Path: path, Read: func() (any, error) { return readThing(path) }, Remedies: []string{""}}.Damage(t, 1000, 1)
	t.Logf("%+v", found)
}

// TestADamagedManifestIsNotRead: what the seal covers is more than what the digest of the files
// does.
func TestADamagedManifestIsNotRead(t *testing.T) {
	dir := t.TempDir()
	if err := artifact.WriteManifest(dir, map[string]any{"score": 0.75}); err != nil {
		t.Fatal(err)
	}
	if !artifact.Complete(dir) {
		t.Error("it is not complete")
	}
	path := filepath.Join(dir, "t2-manifest.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), "0.75", "0.85", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = artifact.ReadManifest[map[string]any](dir)
	if !errors.Is(err, artifact.ErrDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove the folder "+dir) {
		t.Errorf("got %v", err)
	}
}
