package peft

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
)

func seeds(f *testing.F, file string, use func(name string, b []byte)) {
	f.Helper()
	for _, name := range []string{"lora", "patterns", "dora", "ia3"} {
		b, err := os.ReadFile(filepath.Join("testdata", name, file))
		if err != nil {
			f.Fatal(err)
		}
		use(name, b)
	}
}

// FuzzConfig: whatever a configuration holds, it is refused or written so that it says
// the same, to the letter from then on.
func FuzzConfig(f *testing.F) {
	seeds(f, ConfigFile, func(_ string, b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		const module = "model.layers.0.self_attn.q_proj"
		if c.kind == LoRA && c.Rank(module) < 1 {
			t.Errorf("rank %d", c.Rank(module))
		}
		first, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig(first)
		if err != nil {
			t.Fatalf("%s was written, and refused: %v", first, err)
		}
		if again.adapts(module) != c.adapts(module) || again.dora != c.dora || again.kind != c.kind {
			t.Errorf("%s says something else than %s", first, b)
		}
		second, err := again.encode()
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became %s: %v", first, second, err)
		}
	})
}

// FuzzWeights: whatever weights hold, they are refused or make matrices of the shapes
// that the configuration says, which can be written.
func FuzzWeights(f *testing.F) {
	configs := map[string]*Config{}
	seeds(f, ConfigFile, func(name string, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			f.Fatal(err)
		}
		configs[name] = c
	})
	seeds(f, WeightsFile, func(name string, b []byte) { f.Add(b, name) })
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		config := configs[name]
		if config == nil {
			return
		}
		file, err := checkpoint.Read(bytes.NewReader(b), int64(len(b)), "fuzz")
		if err != nil {
			return
		}
		a, err := assemble(t.Context(), config, file)
		if err != nil {
			return
		}
		size := int64(0)
		stored, err := a.stored()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range stored {
			size += s.Size
		}
		if len(stored) != len(file.Names()) || size > int64(len(b)) {
			t.Errorf("%d tensors of %d bytes, the file has %d of %d", len(stored), size, len(file.Names()), len(b))
		}
	})
}
