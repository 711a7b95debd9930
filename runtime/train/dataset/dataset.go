// Package dataset reads the data sets that experts are trained and evaluated
// on: JSONL files in the formats of well-known sets. A data set comes from its
// user, so every line is checked before the first is used, and errors have the
// form "file:line: what: remedy".
package dataset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// Record is one example: a conversation to answer, and what a right answer is.
type Record struct {
	// Messages end with the user's; the model answers.
	Messages []Message
	// Reference judges the answer.
	Reference reward.Reference
	// Line is the record's line in its file, from 1.
	Line int
}

// Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Set is a data set in memory.
type Set struct {
	// Name is what errors call it: the file's path or address.
	Name    string
	Records []Record
	// Digest is the SHA-256 of the file, "sha256:…".
	Digest string
	// Skipped says which records the judge cannot use although nothing is
	// wrong with them: "line 12: …".
	Skipped []string
}

// Limits that no data set for expert vectors comes near; they keep a wrong path
// from filling the memory.
const (
	MaxBytes   = 512 << 20
	maxLine    = 4 << 20
	maxSkipped = 0.2 // of all records
)

// Load reads the data set that spec describes, checks its digest, and checks
// each record with judge (which may be nil). Errors are classified for the
// operator: what is wrong with the content is contract.ReasonInvalidDataset.
func Load(ctx context.Context, spec contract.DatasetSpec, judge reward.Judge) (*Set, error) {
	parse, err := parserOf(spec)
	if err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, err)
	}
	name, content, err := read(ctx, spec)
	if err != nil {
		return nil, err
	}
	set, err := build(name, content, spec, parse, judge)
	if err != nil {
		return nil, failure.Permanent(contract.ReasonInvalidDataset, err)
	}
	return set, nil
}

// build parses and checks the content of a file.
func build(name string, content []byte, spec contract.DatasetSpec, parse parser, judge reward.Judge) (*Set, error) {
	set := &Set{Name: name, Digest: digest(content)}
	for number, line := range lines(content) {
		if spec.Limit > 0 && len(set.Records) == spec.Limit {
			break
		}
		if strings.TrimSpace(string(line)) == "" {
			continue
		}
		record, err := parseLine(line, parse)
		if err == nil && judge != nil {
			err = judge.Check(record.Reference)
		}
		switch {
		case errors.Is(err, reward.ErrOutsideLanguage):
			set.Skipped = append(set.Skipped, fmt.Sprintf("line %d: %v", number, err))
			continue
		case err != nil:
			return nil, fmt.Errorf("%s:%d: %w: correct or remove this line (format %s)", name, number, err, spec.Format)
		}
		record.Line = number
		set.Records = append(set.Records, record)
	}
	if skipped, all := len(set.Skipped), len(set.Skipped)+len(set.Records); float64(skipped) > maxSkipped*float64(all) {
		return nil, fmt.Errorf("%s: %d of %d records cannot be used, the first: %s", name, skipped, all, set.Skipped[0])
	}
	if len(set.Records) == 0 {
		return nil, fmt.Errorf("%s:1: the file has no records: it must have one JSON object a line (format %s)", name, spec.Format)
	}
	return set, nil
}

func parseLine(line []byte, parse parser) (Record, error) {
	if len(line) > maxLine {
		return Record{}, fmt.Errorf("the line has %d bytes, more than %d", len(line), maxLine)
	}
	record, err := parse(line)
	if err != nil {
		return Record{}, err
	}
	for _, m := range record.Messages {
		if strings.TrimSpace(m.Content) == "" {
			return Record{}, fmt.Errorf("the %s's message is empty", m.Role)
		}
	}
	return record, nil
}

// lines yields the lines of content with their numbers from 1, without line
// ends and without a byte order mark.
func lines(content []byte) func(yield func(int, []byte) bool) {
	return func(yield func(int, []byte) bool) {
		text := strings.TrimPrefix(string(content), "\ufeff")
		number := 0
		for line := range strings.Lines(text) {
			number++
			if !yield(number, []byte(strings.TrimRight(line, "\r\n"))) {
				return
			}
		}
	}
}

// Formats lists the formats that can be read.
func Formats() []string {
	return []string{
		contract.FormatGSM8K, contract.FormatMBPP, contract.FormatARC,
		contract.FormatMATH, contract.FormatChat, contract.FormatPairs,
	}
}

// DefaultReward returns the reward that fits a format, for people who do not
// name one.
func DefaultReward(format string) string {
	switch format {
	case contract.FormatGSM8K:
		return contract.RewardNumeric
	case contract.FormatMBPP:
		return contract.RewardUnitTests
	case contract.FormatARC:
		return contract.RewardMultipleChoice
	default:
		return contract.RewardExactMatch
	}
}

// parserOf returns the parser of a format with the spec's template.
func parserOf(spec contract.DatasetSpec) (parser, error) {
	if !slices.Contains(Formats(), spec.Format) {
		return nil, fmt.Errorf("data set format %q is unknown: use one of %s", spec.Format, strings.Join(Formats(), ", "))
	}
	if (spec.Path == "") == (spec.URL == "") {
		return nil, errors.New("a data set needs exactly one of path and url")
	}
	if spec.Limit < 0 {
		return nil, fmt.Errorf("the limit of a data set is %d: it must be 0 (all records) or more", spec.Limit)
	}
	template, err := newTemplate(spec.Format, spec.PromptTemplate)
	if err != nil {
		return nil, err
	}
	switch spec.Format {
	case contract.FormatGSM8K:
		return template.parseGSM8K, nil
	case contract.FormatMBPP:
		return template.parseMBPP, nil
	case contract.FormatARC:
		return template.parseARC, nil
	case contract.FormatMATH:
		return template.parseMATH, nil
	case contract.FormatPairs:
		return template.parsePairs, nil
	default:
		return parseChat, nil
	}
}
