package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Names of the files of a model folder.
const (
	ConfigFile  = "config.json"
	WeightsFile = "model.safetensors"
	IndexFile   = "model.safetensors.index.json"
)

// Bounds of the JSON files of a model folder. Llama-3.1's tokenizer.json has
// 9 MB, the index of a 405-billion model 100 KB.
const (
	MaxConfigBytes = 4 << 20
	MaxIndexBytes  = 64 << 20
)

// Checkpoint is an open model folder: its config and all its weight files.
// Its methods may be called concurrently.
type Checkpoint struct {
	dir    string
	config Config
	files  []*File
	where  map[string]*File
}

// OpenDir opens a model folder in Hugging Face layout: config.json and
// model.safetensors or model.safetensors.index.json with its shards.
func OpenDir(dir string) (*Checkpoint, error) {
	config, err := ReadConfig(dir)
	if err != nil {
		return nil, err
	}
	shards, index, err := Shards(dir)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{dir: dir, config: config, where: map[string]*File{}}
	if err := c.open(shards, index); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Checkpoint) open(shards []string, index map[string]string) error {
	for _, shard := range shards {
		f, err := Open(filepath.Join(c.dir, shard))
		if errors.Is(err, fs.ErrNotExist) {
			return failure.Permanentf(contract.ReasonInvalidModel, "%s names the shard %s, which is not in %s: fetch the whole model", IndexFile, shard, c.dir)
		}
		if err != nil {
			return err
		}
		c.files = append(c.files, f)
		for _, name := range f.names {
			if other, twice := c.where[name]; twice {
				return failure.Permanentf(contract.ReasonInvalidModel, "tensor %q is in both %s and %s", name, other.path, f.path)
			}
			c.where[name] = f
		}
	}
	for name, shard := range index {
		if f := c.where[name]; f == nil || filepath.Base(f.path) != shard {
			return failure.Permanentf(contract.ReasonInvalidModel, "%s says that tensor %q is in %s, but it is not: index and shards are of different models", IndexFile, name, shard)
		}
	}
	return nil
}

// ReadConfig reads dir's config.json, and generation_config.json for tokens
// that end a sequence: instruct models list the end of a turn only there. Where that
// file names some, the family's default does not count.
func ReadConfig(dir string) (Config, error) {
	b, err := readModelFile(dir, ConfigFile, MaxConfigBytes)
	if err != nil {
		return Config{}, err
	}
	c, ends, err := parseConfig(b)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", dir, err)
	}
	b, err = artifact.ReadBounded(filepath.Join(dir, "generation_config.json"), MaxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return Config{}, failure.Content(contract.ReasonInvalidModel, err)
	}
	var generation struct {
		EOS json.RawMessage `json:"eos_token_id"`
	}
	if err := json.Unmarshal(b, &generation); err != nil {
		return Config{}, failure.Permanentf(contract.ReasonInvalidModel, "%s: generation_config.json: %w", dir, err)
	}
	more, err := parseEOS(generation.EOS)
	if err != nil {
		return Config{}, fmt.Errorf("%s: generation_config.json: %w", dir, err)
	}
	if len(more) > 0 && !ends {
		c.EOS = nil
	}
	for _, id := range within(more, c.VocabSize) {
		if !slices.Contains(c.EOS, id) {
			c.EOS = append(c.EOS, id)
		}
	}
	return c, nil
}

// readModelFile reads a file that every model folder must have.
func readModelFile(dir, name string, limit int64) ([]byte, error) {
	b, err := artifact.ReadBounded(filepath.Join(dir, name), limit)
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(dir); statErr == nil {
			return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s has no %s: it is no model folder in Hugging Face layout", dir, name)
		}
	}
	return b, failure.Content(contract.ReasonInvalidModel, err)
}

// Shards returns the weight files of a model folder and, if it has an index,
// which tensor is in which. model.safetensors wins where both are there.
func Shards(dir string) (files []string, index map[string]string, err error) {
	switch _, err := os.Stat(filepath.Join(dir, WeightsFile)); {
	case err == nil:
		return []string{WeightsFile}, nil, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("looking for weights: %w", err)
	}
	b, err := artifact.ReadBounded(filepath.Join(dir, IndexFile), MaxIndexBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, failure.Permanentf(contract.ReasonInvalidModel,
			"%s has neither %s nor %s: weights must be safetensors (convert .bin files first)", dir, WeightsFile, IndexFile)
	}
	if err != nil {
		return nil, nil, failure.Content(contract.ReasonInvalidModel, err)
	}
	index, err = ParseIndex(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", dir, err)
	}
	return IndexShards(index), index, nil
}

// ParseIndex reads a model.safetensors.index.json: tensor name to file name.
// File names must be plain names that end in .safetensors.
func ParseIndex(b []byte) (map[string]string, error) {
	var raw struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s: %w", IndexFile, err)
	}
	if len(raw.WeightMap) == 0 {
		return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s: weight_map is empty", IndexFile)
	}
	for name, file := range raw.WeightMap {
		if strings.ContainsAny(file, `/\`) || strings.HasPrefix(file, ".") || !strings.HasSuffix(file, ".safetensors") {
			return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s: tensor %q is said to be in %q, which is no name of a safetensors file", IndexFile, name, file)
		}
	}
	return raw.WeightMap, nil
}

// IndexShards lists the files that an index names, sorted.
func IndexShards(index map[string]string) []string {
	files := map[string]bool{}
	for _, file := range index {
		files[file] = true
	}
	return slices.Sorted(maps.Keys(files))
}

// Dir is the folder.
func (c *Checkpoint) Dir() string { return c.dir }

// Config is what config.json says.
func (c *Checkpoint) Config() Config { return c.config }

// Names lists the tensors of all files, sorted.
func (c *Checkpoint) Names() []string { return slices.Sorted(maps.Keys(c.where)) }

// Has reports whether there is a tensor of this name.
func (c *Checkpoint) Has(name string) bool { return c.where[name] != nil }

// Info describes the tensor of this name.
func (c *Checkpoint) Info(name string) (Info, bool) {
	f := c.where[name]
	if f == nil {
		return Info{}, false
	}
	return f.Info(name)
}

// Tensor reads a tensor as float32; see File.Tensor.
func (c *Checkpoint) Tensor(name string) (*tensor.Tensor, error) {
	f := c.where[name]
	if f == nil {
		return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s has no tensor %q", c.dir, name)
	}
	return f.Tensor(name)
}

// Rows reads a matrix as Tensor does, except that rows with a NaN or an infinity are
// made zero and listed: a row of an embedding matters only to those who ask for its
// token, and vocabularies are padded with rows that nobody trained.
func (c *Checkpoint) Rows(name string) (t *tensor.Tensor, damaged []int, err error) {
	f := c.where[name]
	if f == nil {
		return nil, nil, failure.Permanentf(contract.ReasonInvalidModel, "%s has no tensor %q", c.dir, name)
	}
	return f.tensor(name, true)
}

// DamagedRows lists the rows that Rows would make zero.
func (c *Checkpoint) DamagedRows(name string) ([]int, error) {
	f := c.where[name]
	if f == nil {
		return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s has no tensor %q", c.dir, name)
	}
	return f.damagedRows(name)
}

// Same reports whether two tensors are stored as the same bytes.
func (c *Checkpoint) Same(a, b string) (bool, error) {
	x, okX := c.Info(a)
	y, okY := c.Info(b)
	if !okX || !okY || x.DType != y.DType || !slices.Equal(x.Shape, y.Shape) {
		return false, nil
	}
	other, same := c.where[b], true
	buf := make([]byte, min(chunk, y.Size))
	err := c.where[a].eachChunk(x, func(at int64, mine []byte) error {
		if !same {
			return nil
		}
		theirs := buf[:len(mine)]
		if _, err := other.data.ReadAt(theirs, y.Offset+at); err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		same = bytes.Equal(mine, theirs)
		return nil
	})
	if err != nil {
		return false, failure.Content(contract.ReasonInvalidModel, fmt.Errorf("comparing tensors %q and %q: %w", a, b, err))
	}
	return same, nil
}

// Parameters counts the elements of all tensors. A tied output projection that
// is stored beside the embedding counts once.
func (c *Checkpoint) Parameters() int64 {
	const head, embedding = "lm_head.weight", "model.embed_tokens.weight"
	var n int64
	for name, f := range c.where {
		if name == head && c.config.TieEmbeddings && c.Has(embedding) {
			continue
		}
		n += f.infos[name].Elements()
	}
	return n
}

// Architecture summarises the model for its manifest.
func (c *Checkpoint) Architecture() contract.Architecture {
	return contract.Architecture{
		Family: c.config.Family, Layers: c.config.Layers, HiddenSize: c.config.HiddenSize,
		Parameters: c.Parameters(), VocabularySize: c.config.VocabSize, ContextLength: c.config.MaxPositions,
	}
}

// Close closes all files.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
