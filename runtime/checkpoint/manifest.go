package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
)

// OptionalFiles are those that belong to a model if they are there.
var OptionalFiles = []string{
	"tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
}

// ModelFiles lists the files of dir that make up the model: config, tokenizer
// and weights, but no card, licence or second set of weights. They alone enter
// the digest, so that it does not depend on where the model came from: an HTTP
// server can only be asked for files by name.
func ModelFiles(dir string) ([]string, error) {
	weights, index, err := Shards(dir)
	if err != nil {
		return nil, err
	}
	vocabulary, err := vocabularyFile(dir)
	if err != nil {
		return nil, err
	}
	files := append([]string{ConfigFile, vocabulary}, weights...)
	if index != nil {
		files = append(files, IndexFile)
	}
	for _, name := range OptionalFiles {
		switch _, err := os.Stat(filepath.Join(dir, name)); {
		case err == nil:
			files = append(files, name)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("listing model: %w", err)
		}
	}
	return files, nil
}

// vocabularyFile returns the one of contract.TokenizerFiles that the model uses.
func vocabularyFile(dir string) (string, error) {
	for _, name := range contract.TokenizerFiles {
		_, err := os.Stat(filepath.Join(dir, name))
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("listing model: %w", err)
		}
	}
	return "", fmt.Errorf("listing model: %s has none of %s: %w", dir, strings.Join(contract.TokenizerFiles, ", "), fs.ErrNotExist)
}

// BuildManifest hashes the files of a model folder and describes it. The folder
// must open (see OpenDir).
func BuildManifest(dir string) (contract.ModelManifest, error) {
	c, err := OpenDir(dir)
	if err != nil {
		return contract.ModelManifest{}, err
	}
	architecture := c.Architecture()
	if err := c.Close(); err != nil {
		return contract.ModelManifest{}, fmt.Errorf("closing %s: %w", dir, err)
	}
	names, err := ModelFiles(dir)
	if err != nil {
		return contract.ModelManifest{}, err
	}
	files, err := artifact.HashFiles(dir, names)
	if err != nil {
		return contract.ModelManifest{}, fmt.Errorf("hashing model: %w", err)
	}
	return contract.ModelManifest{
		Digest: contract.DigestFiles(files), Files: files, SizeBytes: artifact.TotalBytes(files), Architecture: architecture,
	}, nil
}
