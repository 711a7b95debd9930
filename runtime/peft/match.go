package peft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// allLinear as target_modules means every projection but the head.
const allLinear = "all-linear"

// selection chooses modules: by names, or by one regular expression that must match
// the whole name. The zero value is null.
type selection struct {
	names []string
	text  string
	regex *regexp.Regexp
}

// none reports whether a selection is null or empty.
func (s selection) none() bool { return len(s.names) == 0 && s.text == "" }

// open reports whether a selection cannot be told: Python's regular expressions can
// do more than Go's, such as look ahead.
func (s selection) open() bool { return s.text != "" && s.regex == nil }

func parseSelection(raw json.RawMessage) (selection, error) {
	var s selection
	if neutral(raw) {
		return s, nil
	}
	if json.Unmarshal(raw, &s.names) == nil {
		return s, nil
	}
	s.names = nil
	if err := json.Unmarshal(raw, &s.text); err != nil {
		return s, errors.New("is neither a list of names nor a regular expression")
	}
	if s.text != allLinear {
		s.regex, _ = regexp.Compile(`^(?:` + s.text + `)$`)
	}
	return s, nil
}

// matches reports whether a module is chosen, by the rule of PEFT: a name is the whole
// of a module's or its last parts.
func (s selection) matches(module string) bool {
	switch {
	case s.text == allLinear:
		return true
	case s.text != "":
		return s.regex != nil && s.regex.MatchString(module)
	default:
		return slices.ContainsFunc(s.names, func(name string) bool {
			return module == name || strings.HasSuffix(module, "."+name)
		})
	}
}

// feedforward reports whether IA3 scales the inputs of a module. Here PEFT compares the
// end of the name without regard to where a part begins: "proj" is every projection.
func (s selection) feedforward(module string) bool {
	if s.text != "" {
		return s.regex != nil && s.regex.MatchString(module)
	}
	return slices.ContainsFunc(s.names, func(name string) bool { return strings.HasSuffix(module, name) })
}

// layerChoice restricts targets that are chosen by name to some layers.
type layerChoice struct {
	indices  []int
	patterns []*regexp.Regexp
}

func parseLayers(indices, patterns json.RawMessage) (layerChoice, error) {
	var c layerChoice
	if !neutral(indices) {
		var one int
		if json.Unmarshal(indices, &one) == nil {
			c.indices = []int{one}
		} else if err := json.Unmarshal(indices, &c.indices); err != nil {
			return c, errors.New("layers_to_transform is neither a number of a layer nor a list of them")
		}
	}
	// Without a pattern any part before the number will do.
	texts := []string{`[^.]*`}
	if !neutral(patterns) {
		var one string
		if json.Unmarshal(patterns, &one) == nil {
			texts = []string{one}
		} else if err := json.Unmarshal(patterns, &texts); err != nil {
			return c, errors.New("layers_pattern is neither a name nor a list of names")
		}
		if len(texts) == 1 && texts[0] == "" {
			texts[0] = `[^.]*`
		}
	}
	for _, text := range texts {
		r, err := regexp.Compile(`^.*?\.(?:` + text + `)\.(\d+)\.`)
		if err != nil {
			return c, fmt.Errorf("layers_pattern %q is no regular expression that is known here: %w", text, err)
		}
		c.patterns = append(c.patterns, r)
	}
	return c, nil
}

func (c layerChoice) matches(module string) bool {
	if len(c.indices) == 0 {
		return true
	}
	for _, p := range c.patterns {
		if m := p.FindStringSubmatch(module); m != nil {
			index, err := strconv.Atoi(m[len(m)-1])
			return err == nil && slices.Contains(c.indices, index)
		}
	}
	return false
}

// adapts reports whether PEFT, loading this configuration, gives a module an adapter.
// A tensor of another module PEFT would leave aside. What a regular expression that
// only Python knows says cannot be told; the file's tensors then say it.
func (c *Config) adapts(module string) bool {
	if !c.exclude.none() && !c.exclude.open() && c.exclude.matches(module) {
		return false
	}
	if c.targets.none() || c.targets.open() {
		return true // Null is chosen by the model's type when the adapter is made.
	}
	if !c.targets.matches(module) {
		return false
	}
	byName := c.targets.text == "" && !slices.Contains(c.targets.names, module)
	return !byName || c.layers.matches(module)
}

// pattern is an entry of rank_pattern or alpha_pattern.
type pattern struct {
	text  string
	regex *regexp.Regexp
	value float64
}

// parsePatterns reads an object of regular expressions and numbers, in its order: the
// first that matches counts.
func parsePatterns(raw json.RawMessage) ([]pattern, error) {
	if neutral(raw) {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("is no object")
	}
	var all []pattern
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		p := pattern{}
		p.text, _ = key.(string)
		if err := d.Decode(&p.value); err != nil {
			return nil, fmt.Errorf("%q: %w", p.text, err)
		}
		if p.regex, err = regexp.Compile(`^(?:.*\.)?(?:` + p.text + `)$`); err != nil {
			return nil, fmt.Errorf("%q is no regular expression that is known here: %w", p.text, err)
		}
		all = append(all, p)
	}
	return all, nil
}

func lookup(patterns []pattern, module string) (float64, bool) {
	for _, p := range patterns {
		if p.regex.MatchString(module) {
			return p.value, true
		}
	}
	return 0, false
}
