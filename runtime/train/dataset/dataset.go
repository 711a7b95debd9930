// Package dataset reads the data sets that experts are trained and evaluated
// on, in the formats of well-known sets: JSON objects, one a line or in one
// array, compressed by gzip or not. A data set comes from its user, so every
// record is checked before the first is used. Records that the reward cannot
// judge are left out and counted; a file that is damaged, or of which most
// records are so, is refused with the place, the reason and what to do.
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
	// Solution is a right answer in full, where Reference has only what it comes to.
	Solution string
	// Line is the record's line in its file, from 1; where the file is one array,
	// its element.
	Line int
	// Index is the record's place among all of the file, from 0.
	Index int
	// Place is where it comes from, in words, of a set of several files.
	Place string
}

// Target is what a model that learns from given answers is to write; empty where the
// record does not say.
func (r Record) Target() string {
	if r.Solution != "" {
		return r.Solution
	}
	return r.Reference.Answer
}

// Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Set is a data set in memory.
type Set struct {
	// Name is what messages call it: "ConfigMap math, key train.jsonl", or the
	// file's path or address.
	Name    string
	Records []Record
	// Digest is the SHA-256 of the file, "sha256:…".
	Digest string
	// Skipped are the records that were left out.
	Skipped []Skip
	// Skills is what a set of contract.FormatSkills was made of: its records are
	// requests, of which pass 1's question asks for the label in their references.
	Skills *contract.SkillsSpec
	unit   string // that Line counts
}

// Skip is a record that cannot be used.
type Skip struct {
	// Index is the record's place among all of the file, from 0.
	Index int
	// Why begins with the place: `line 12, field "answer": …`.
	Why string
}

// Limits that no data set for expert vectors comes near; they keep a wrong path
// from filling the memory.
const (
	MaxBytes  = 512 << 20
	maxRecord = 4 << 20
)

// Load reads the data set that spec describes, checks its digest, and checks
// each record with judge (which may be nil). Errors are classified for the
// operator: what is wrong with the content is contract.ReasonInvalidDataset.
func Load(ctx context.Context, spec contract.DatasetSpec, judge reward.Judge) (*Set, error) {
	if spec.Format == contract.FormatSkills {
		return loadSkills(ctx, spec)
	}
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
	text, err := unpack(content, MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	index, misjudged := 0, 0
	var damaged error
	unit, err := objects(text, func(o object) bool {
		if spec.Limit > 0 && len(set.Records) == spec.Limit {
			return false
		}
		record, err := parseRecord(o.text, parse)
		where := ""
		if err == nil && judge != nil {
			if err = judge.Check(record.Reference); err != nil {
				misjudged++
				where = fmt.Sprintf(", field %q", referenceFields[spec.Format])
			}
		}
		record.Line, record.Index = o.number, index
		index++
		switch {
		case errors.Is(err, errDamaged):
			damaged = fmt.Errorf("%s %d: %w: correct or remove it (format %s)", unitLine, o.number, err, spec.Format)
			return false
		case err != nil:
			set.Skipped = append(set.Skipped, Skip{record.Index, fmt.Sprintf("%d%s: %v", o.number, where, err)})
		default:
			set.Records = append(set.Records, record)
		}
		return true
	})
	if err = errors.Join(err, damaged); err != nil {
		return nil, fmt.Errorf("%s, %w", name, err)
	}
	set.unit = unit
	for i := range set.Skipped {
		set.Skipped[i].Why = unit + " " + set.Skipped[i].Why
	}
	if index == 0 {
		return nil, fmt.Errorf("%s: the file has no records: it must have one JSON object a line, or one array of them (format %s)",
			name, spec.Format)
	}
	remedy := fmt.Sprintf("correct the format, which is %s, or the data set", spec.Format)
	if 2*misjudged > len(set.Skipped) {
		remedy = "correct the reward or the data set"
	}
	return set, set.usable(remedy)
}

// usable refuses a set of which most records had to be left out.
func (s *Set) usable(remedy string) error {
	skipped, all := len(s.Skipped), len(s.Skipped)+len(s.Records)
	switch {
	case 2*skipped <= all:
		return nil
	case all == 1:
		return fmt.Errorf("%s, %s: %s", s.Name, s.Skipped[0].Why, remedy)
	default:
		return fmt.Errorf("%s: %d of %d records cannot be used, the first at %s: %s", s.Name, skipped, all, s.Skipped[0].Why, remedy)
	}
}

// Fit leaves out the records that use refuses, such as those whose prompt is too
// long for a model. It refuses the set, with the remedy, if most are left out.
func (s *Set) Fit(use func(Record) error, remedy string) (*Set, error) {
	fitting := &Set{Name: s.Name, Digest: s.Digest, Skipped: slices.Clone(s.Skipped), Skills: s.Skills, unit: s.unit}
	for _, r := range s.Records {
		if err := use(r); err != nil {
			fitting.Skipped = append(fitting.Skipped, Skip{r.Index, fmt.Sprintf("%s: %v", s.place(r), err)})
			continue
		}
		fitting.Records = append(fitting.Records, r)
	}
	if err := fitting.usable(remedy); err != nil {
		return nil, failure.Permanent(contract.ReasonInvalidDataset, err)
	}
	return fitting, nil
}

// referenceFields are the fields that rewards judge by.
var referenceFields = map[string]string{
	contract.FormatGSM8K: "answer", contract.FormatMBPP: "test_list", contract.FormatHumanEval: "test",
	contract.FormatARC: "answerKey", contract.FormatMATH: "answer", contract.FormatChat: "messages", contract.FormatPairs: "answer",
}

func parseRecord(text []byte, parse parser) (Record, error) {
	if len(text) > maxRecord {
		return Record{}, fmt.Errorf("it has %d bytes, more than %d", len(text), maxRecord)
	}
	record, err := parse(text)
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

// Formats lists the formats of files that can be read. contract.FormatSkills, which is
// made of several files, is not among them.
func Formats() []string {
	return []string{
		contract.FormatGSM8K, contract.FormatMBPP, contract.FormatHumanEval, contract.FormatARC,
		contract.FormatMATH, contract.FormatChat, contract.FormatPairs,
	}
}

// DefaultReward returns the reward that fits a format, for people who do not
// name one.
func DefaultReward(format string) string {
	switch format {
	case contract.FormatGSM8K:
		return contract.RewardNumeric
	case contract.FormatMBPP, contract.FormatHumanEval:
		return contract.RewardUnitTests
	case contract.FormatMATH:
		return contract.RewardMath
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
	if spec.Skills != nil {
		return nil, fmt.Errorf("skills are of format %s, not of %s", contract.FormatSkills, spec.Format)
	}
	if spec.Path != "" && spec.Source() != (contract.Source{Path: spec.Path}) || spec.Source() == (contract.Source{}) {
		return nil, errors.New("a data set needs exactly one of path, url, huggingFace, s3 and oci")
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
	case contract.FormatHumanEval:
		return template.parseHumanEval, nil
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
