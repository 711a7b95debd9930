package dataset

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// pairs writes a data set of prompts "NAME 0" to "NAME n-1".
func pairs(t *testing.T, name string, n int) contract.DatasetSpec {
	t.Helper()
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "{\"prompt\": \"%s %d\", \"answer\": \"x\"}\n", name, i)
	}
	return contract.DatasetSpec{Path: write(t, lines.String()), Format: contract.FormatPairs}
}

func skillsOf(part string, sets ...contract.SkillSet) contract.DatasetSpec {
	s := &contract.SkillsSpec{Sets: sets, Part: part}
	for _, set := range sets {
		if set.Skill != contract.OthersLabel {
			s.Pass1.Skills = append(s.Pass1.Skills, contract.SkillLine{Skill: set.Skill})
		}
	}
	return contract.DatasetSpec{Format: contract.FormatSkills, Skills: s}
}

func loaded(t *testing.T, spec contract.DatasetSpec) *Set {
	t.Helper()
	set, err := Load(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func prompts(set *Set) map[string][]string {
	by := map[string][]string{}
	for _, r := range set.Records {
		by[r.Target()] = append(by[r.Target()], r.Messages[0].Content)
	}
	return by
}

func TestSkillsAreBalancedAndHeldOut(t *testing.T) {
	sets := []contract.SkillSet{
		{Skill: "math", Dataset: pairs(t, "sum", 200)}, {Skill: "code", Dataset: pairs(t, "program", 50)},
		{Skill: contract.OthersLabel, Dataset: pairs(t, "poem", 100)},
	}
	train, validation := loaded(t, skillsOf(contract.PartTrain, sets...)), loaded(t, skillsOf(contract.PartValidation, sets...))
	seen := map[string]bool{}
	for skill, all := range prompts(train) {
		if want := len(train.Records) / 3; len(all) != want {
			t.Errorf("%d records of %s are trained with, want %d as of all", len(all), skill, want)
		}
		for _, p := range all {
			seen[p] = true
		}
	}
	held := prompts(validation)
	for skill, all := range held {
		if want := len(validation.Records) / 3; len(all) != want || want < 3 {
			t.Errorf("%d records of %s are validated with, want %d as of all, and some", len(all), skill, want)
		}
		asked := map[string]bool{}
		for _, p := range all {
			if seen[p] || asked[p] {
				t.Errorf("%q is validated with: trained with %t, asked before %t", p, seen[p], asked[p])
			}
			asked[p] = true
		}
	}
	if n := len(seen); n < 270 || n > 290 {
		t.Errorf("%d of 350 prompts are trained with, want about four fifths", n)
	}
	for i, want := range []string{"math", "code", "others", "math"} {
		if got := train.Records[i].Target(); got != want {
			t.Errorf("record %d is of %s, want %s: batches should have all skills", i, got, want)
		}
	}

	// Another order of the lines changes neither part.
	again := loaded(t, skillsOf(contract.PartValidation, sets...))
	if diff := cmp.Diff(validation.Records, again.Records); diff != "" || validation.Digest != again.Digest {
		t.Errorf("loaded again it differs (-first +second):\n%s", diff)
	}
	if train.Digest == validation.Digest {
		t.Error("both parts have one digest")
	}
}

func TestSkillsDigestIsOfWhatIsRead(t *testing.T) {
	sets := []contract.SkillSet{{Skill: "math", Dataset: pairs(t, "sum", 10)}, {Skill: "code", Dataset: pairs(t, "program", 10)}}
	was := loaded(t, skillsOf(contract.PartTrain, sets...)).Digest
	for name, c := range map[string]struct {
		change func(*contract.DatasetSpec)
		same   bool
	}{
		"another path and name": {func(d *contract.DatasetSpec) {
			d.Skills.Sets[0].Dataset = pairs(t, "sum", 10)
			d.Skills.Sets[0].Dataset.Name = "ConfigMap math"
		}, true},
		"another content":     {func(d *contract.DatasetSpec) { d.Skills.Sets[0].Dataset = pairs(t, "sum", 11) }, false},
		"another limit":       {func(d *contract.DatasetSpec) { d.Skills.Sets[0].Dataset.Limit = 5 }, false},
		"another description": {func(d *contract.DatasetSpec) { d.Skills.Pass1.Skills[0].Description = "sums" }, false},
		"another template":    {func(d *contract.DatasetSpec) { d.Skills.Pass1.PromptTemplate = "{skills} {prompt}" }, false},
	} {
		spec := skillsOf(contract.PartTrain, append([]contract.SkillSet{}, sets...)...)
		c.change(&spec)
		if got := loaded(t, spec).Digest; (got == was) != c.same {
			t.Errorf("%s: same digest is %t, want %t", name, got == was, c.same)
		}
	}
}

func TestPromptsOfTwoSkillsAreLeftOut(t *testing.T) {
	shared := "{\"prompt\": \"What is 2+3?\", \"answer\": \"5\"}\n"
	set := func(name string) contract.DatasetSpec {
		d := pairs(t, name, 3)
		return contract.DatasetSpec{Path: write(t, shared+shared+"{\"prompt\": \""+name+"\", \"answer\": \"1\"}\n{\"prompt\": \"another "+name+"\", \"answer\": \"1\"}\n{\"answer\": \"1\"}\n"), Format: d.Format, Name: "set " + name}
	}
	got := loaded(t, skillsOf(contract.PartTrain, contract.SkillSet{Skill: "a", Dataset: set("a")}, contract.SkillSet{Skill: "b", Dataset: set("b")}))
	if len(got.Records) != 2 || len(got.Skipped) != 4 {
		t.Fatalf("%d records, skipped %v; want one of each skill, and of each a prompt that both have and one that is none", len(got.Records), got.Skipped)
	}
	for _, want := range []string{"set b, line 5: field \"prompt\" is missing", "set a, line 1: skills a and b have the same prompt"} {
		found := false
		for _, s := range got.Skipped {
			found = found || strings.Contains(s.Why, want)
		}
		if !found {
			t.Errorf("skipped %v, want one to say %q", got.Skipped, want)
		}
	}
	_, err := got.Fit(func(Record) error { return fmt.Errorf("too long") }, "shorten it")
	if err == nil || !strings.Contains(err.Error(), "set a, line") {
		t.Errorf("a record that does not fit: %v, want the file of it", err)
	}
}

func TestSkillsThatMakeNoSense(t *testing.T) {
	valid := func() contract.DatasetSpec {
		return skillsOf(contract.PartTrain, contract.SkillSet{Skill: "math", Dataset: pairs(t, "sum", 3)}, contract.SkillSet{Skill: "code", Dataset: pairs(t, "program", 3)})
	}
	for name, c := range map[string]struct {
		change       func(*contract.DatasetSpec)
		want, reason string
	}{
		"a file":           {func(d *contract.DatasetSpec) { d.Skills, d.Path = nil, "x" }, "give them in skills", contract.ReasonUsage},
		"a file beside":    {func(d *contract.DatasetSpec) { d.Path = "x" }, "takes no source", contract.ReasonUsage},
		"another format":   {func(d *contract.DatasetSpec) { d.Format = contract.FormatPairs }, "skills are of format Skills", contract.ReasonUsage},
		"no part":          {func(d *contract.DatasetSpec) { d.Skills.Part = "Test" }, `part "Test" is unknown`, contract.ReasonUsage},
		"one skill":        {func(d *contract.DatasetSpec) { d.Skills.Sets = d.Skills.Sets[:1] }, "nothing to tell apart", contract.ReasonUsage},
		"an unknown skill": {func(d *contract.DatasetSpec) { d.Skills.Sets[1].Skill = "law" }, `has skill "law", which is none`, contract.ReasonUsage},
		"twice":            {func(d *contract.DatasetSpec) { d.Skills.Sets[1].Skill = "math" }, `skill "math" twice`, contract.ReasonUsage},
		"nested":           {func(d *contract.DatasetSpec) { d.Skills.Sets[1].Dataset = valid() }, "made of skills itself", contract.ReasonUsage},
		"one prompt":       {func(d *contract.DatasetSpec) { d.Skills.Sets[1].Dataset = pairs(t, "program", 1) }, "skill code: it has 1 prompts of its own", contract.ReasonInvalidDataset},
		"no such file":     {func(d *contract.DatasetSpec) { d.Skills.Sets[1].Dataset.Path = "gone" }, "skill code: opening data set gone", contract.ReasonSourceNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			spec := valid()
			c.change(&spec)
			_, err := Load(t.Context(), spec, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want it to contain %q", err, c.want)
			}
			if reason, _ := failure.Of(err); reason != c.reason {
				t.Errorf("reason %s, want %s", reason, c.reason)
			}
		})
	}
}
