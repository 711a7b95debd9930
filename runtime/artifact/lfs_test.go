package artifact_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/artifact"
)

// lfsPointer is a pointer file after the Git LFS specification, version 1.
const lfsPointer = "version https://git-lfs.github.com/spec/v1\n" +
	"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"

func TestLFSPointersAreToldFromFiles(t *testing.T) {
	for _, c := range []struct {
		name, head string
		want       bool
	}{
		{"a pointer", lfsPointer, true},
		{"the tool's first name", strings.Replace(lfsPointer, "git-lfs", "hawser", 1), true},
		{"with an extension", strings.Replace(lfsPointer, "oid", "ext-0-foo sha256:00\noid", 1), true},
		{"without a size", strings.Split(lfsPointer, "size")[0], true},
		{"with Windows' line ends", strings.ReplaceAll(lfsPointer, "\n", "\r\n"), true},
		{"nothing", "", false},
		{"JSON", `{"version": "1.0"}`, false},
		{"a text that speaks of pointers", "A pointer is:\n" + lfsPointer, false},
		{"a text that begins as one", "version https://git-lfs.github.com/spec/v1 is the specification", false},
		{"a file longer than a pointer", lfsPointer + strings.Repeat(" ", artifact.MaxLFSPointer), false},
	} {
		err := artifact.CheckLFSPointer("model.safetensors", []byte(c.head))
		if errors.Is(err, artifact.ErrLFSPointer) != c.want {
			t.Errorf("%s: got %v, want a pointer: %v", c.name, err, c.want)
		}
	}
}

func TestAPointerIsNamedWithWhatToDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := os.WriteFile(path, []byte(lfsPointer), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := artifact.ReadBounded(path, 1<<20)
	for _, want := range []string{path, "Git LFS pointer", "12345 bytes", "git lfs pull"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
}
