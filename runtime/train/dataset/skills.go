package dataset

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// One of heldOut prompts of a skill is validated with. A skill has at most so many
// records in each part: of more, a classifier learns nothing new, and a validation
// takes the longer.
const (
	heldOut       = 5
	maxTrained    = 4096
	maxValidation = 64
)

// skillPrompt is a prompt, and what orders it among others: the hash of its text.
type skillPrompt struct {
	record Record
	key    [sha256.Size]byte
}

// held reports whether the prompt is for validation, whatever set it is in.
func (p skillPrompt) held() bool { return binary.BigEndian.Uint64(p.key[:])%heldOut == 0 }

// loadSkills makes the data set that a specification of contract.FormatSkills
// describes. The message of a record is the prompt alone, which the model is shown in
// pass 1's question, and its reference is the label.
//
// Every skill has the same share: in training as many records as the largest has, its
// own over and over where it has less; in validation as many as the smallest has, so
// that none is asked twice. A prompt that two skills have tells none from the other,
// and is left out.
func loadSkills(ctx context.Context, spec contract.DatasetSpec) (*Set, error) {
	if err := validSkills(spec); err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, err)
	}
	var names []string
	for _, each := range spec.Skills.Sets {
		names = append(names, each.Skill)
	}
	set := &Set{Name: "prompts of " + strings.Join(names, ", "), Skills: spec.Skills, unit: unitRecord}
	identity := []any{spec.Skills.Pass1, spec.Skills.Part}
	skills := make([][]skillPrompt, len(names))
	for i, each := range spec.Skills.Sets {
		one, err := Load(ctx, each.Dataset, nil)
		if err != nil {
			return nil, fmt.Errorf("skill %s: %w", each.Skill, err)
		}
		identity = append(identity, each.Skill, one.Digest, each.Dataset.Format, each.Dataset.PromptTemplate, each.Dataset.Limit)
		for _, s := range one.Skipped {
			set.Skipped = append(set.Skipped, Skip{s.Index, one.Name + ", " + s.Why})
		}
		skills[i] = promptsOf(one, each.Skill)
	}
	content, err := json.Marshal(identity)
	if err != nil {
		return nil, fmt.Errorf("identifying %s: %w", set.Name, err)
	}
	set.Digest = digest(content)
	set.Skipped = append(set.Skipped, leaveOutShared(skills, names)...)
	for i := range skills {
		if skills[i], err = part(skills[i], spec.Skills.Part); err != nil {
			return nil, failure.Permanent(contract.ReasonInvalidDataset, fmt.Errorf("skill %s: %w", names[i], err))
		}
	}
	set.Records = balanced(skills, spec.Skills.Part)
	return set, nil
}

// validSkills reports what makes no sense in a specification.
func validSkills(spec contract.DatasetSpec) error {
	s := spec.Skills
	switch {
	case s == nil:
		return fmt.Errorf("format %s is made of data sets that have a format of their own: give them in skills", contract.FormatSkills)
	case spec.Source() != contract.Source{} || spec.PromptTemplate != "" || spec.Limit != 0 || spec.Digest != "":
		return fmt.Errorf("format %s takes no source, digest, promptTemplate or limit: give them in each of skills.sets", contract.FormatSkills)
	case s.Part != contract.PartTrain && s.Part != contract.PartValidation:
		return fmt.Errorf("skills.part %q is unknown: use %s or %s", s.Part, contract.PartTrain, contract.PartValidation)
	case len(s.Sets) < 2:
		return fmt.Errorf("skills.sets has %d data sets: there is nothing to tell apart with less than 2", len(s.Sets))
	}
	taken := map[string]bool{}
	for i, set := range s.Sets {
		known := set.Skill == contract.OthersLabel ||
			slices.ContainsFunc(s.Pass1.Skills, func(l contract.SkillLine) bool { return l.Skill == set.Skill })
		switch {
		case !known:
			return fmt.Errorf("skills.sets[%d] has skill %q, which is none of skills.pass1.skills, nor %s", i, set.Skill, contract.OthersLabel)
		case taken[set.Skill]:
			return fmt.Errorf("skills.sets has skill %q twice", set.Skill)
		case set.Dataset.Format == contract.FormatSkills || set.Dataset.Skills != nil:
			return fmt.Errorf("skills.sets[%d] is made of skills itself: give a file and its format", i)
		}
		taken[set.Skill] = true
	}
	return nil
}

// promptsOf are the distinct prompts of a data set, in the order of their keys, as
// records of a skill. Only the last message of a conversation is shown in pass 1.
func promptsOf(set *Set, skill string) []skillPrompt {
	var list []skillPrompt
	known := map[[sha256.Size]byte]bool{}
	for _, r := range set.Records {
		message := r.Messages[len(r.Messages)-1]
		p := skillPrompt{key: sha256.Sum256([]byte(message.Content))}
		if known[p.key] {
			continue
		}
		known[p.key] = true
		p.record = Record{
			Messages: []Message{message}, Reference: reward.Reference{Answer: skill},
			Line: r.Line, Place: fmt.Sprintf("%s, %s %d", set.Name, set.unit, r.Line),
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b skillPrompt) int { return bytes.Compare(a.key[:], b.key[:]) })
	return list
}

// leaveOutShared takes out the prompts that several skills have.
func leaveOutShared(skills [][]skillPrompt, names []string) (skipped []Skip) {
	owners := map[[sha256.Size]byte][]string{}
	for i, prompts := range skills {
		for _, p := range prompts {
			owners[p.key] = append(owners[p.key], names[i])
		}
	}
	for i := range skills {
		skills[i] = slices.DeleteFunc(skills[i], func(p skillPrompt) bool {
			all := owners[p.key]
			if len(all) > 1 {
				skipped = append(skipped, Skip{p.record.Index, fmt.Sprintf("%s: skills %s have the same prompt", p.record.Place, strings.Join(all, " and "))})
			}
			return len(all) > 1
		})
	}
	return skipped
}

// part returns the prompts of a skill that are learnt from, or those that are held
// out: a fifth, by their text alone, and of few prompts at least one for each part.
func part(prompts []skillPrompt, name string) ([]skillPrompt, error) {
	if len(prompts) < 2 {
		return nil, fmt.Errorf("it has %d prompts of its own, and needs at least one to learn from and one to validate with: add some", len(prompts))
	}
	var train, validation []skillPrompt
	for _, p := range prompts {
		if p.held() {
			validation = append(validation, p)
		} else {
			train = append(train, p)
		}
	}
	switch {
	case len(validation) == 0:
		train, validation = train[1:], train[:1]
	case len(train) == 0:
		train, validation = validation[:1], validation[1:]
	}
	if name == contract.PartValidation {
		return validation, nil
	}
	return train, nil
}

// balanced takes turns with the skills, so that all have the same share.
func balanced(skills [][]skillPrompt, part string) []Record {
	sizes := make([]int, len(skills))
	for i := range skills {
		sizes[i] = len(skills[i])
	}
	n := min(slices.Max(sizes), maxTrained)
	if part == contract.PartValidation {
		n = min(slices.Min(sizes), maxValidation)
	}
	var records []Record
	for i := range n {
		for _, prompts := range skills {
			r := prompts[i%len(prompts)].record
			r.Index = len(records)
			records = append(records, r)
		}
	}
	return records
}

// place says where a record comes from.
func (s *Set) place(r Record) string { return cmp.Or(r.Place, fmt.Sprintf("%s %d", s.unit, r.Line)) }
