// Package readme reads the examples out of the repository's README files, so
// that tests run them as they are printed.
package readme

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Block is a fenced block of code.
type Block struct {
	// Section is the heading it stands under, without its hashes.
	Section string
	// Language is what the fence says, such as sh or yaml; it may be empty.
	Language string
	// Line is the number of its first line in the file.
	Line int
	Text string
}

// Commands are the lines of a shell block, without comments.
func (b Block) Commands() []string {
	var commands []string
	for line := range strings.Lines(b.Text) {
		if line, _, _ = strings.Cut(line, " #"); strings.TrimSpace(line) != "" {
			commands = append(commands, strings.TrimSpace(line))
		}
	}
	return commands
}

// Blocks returns the fenced blocks of a Markdown text, in order.
func Blocks(markdown string) []Block {
	var blocks []Block
	section := ""
	open := false
	number := 0
	for line := range strings.Lines(markdown) {
		number++
		line = strings.TrimRight(line, "\n")
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && !open:
			blocks = append(blocks, Block{Section: section, Language: fence, Line: number + 1})
			open = true
		case isFence:
			open = false
		case open:
			blocks[len(blocks)-1].Text += line + "\n"
		case strings.HasPrefix(line, "#"):
			section = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	return blocks
}

// Find returns the one block of README.md under root that stands in a section,
// is in a language and has a text in it.
func Find(root, section, language, text string) (Block, error) {
	path := filepath.Join(root, "README.md")
	markdown, err := os.ReadFile(path)
	if err != nil {
		return Block{}, err
	}
	var found []Block
	for _, b := range Blocks(string(markdown)) {
		if b.Section == section && b.Language == language && strings.Contains(b.Text, text) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		return Block{}, fmt.Errorf("%s has %d blocks of %s with %q in its section %q, want one", path, len(found), language, text, section)
	}
	return found[0], nil
}
