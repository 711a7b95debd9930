package cli

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/server"
)

// defaultName is the model name that means two passes, where nobody gives one.
const defaultName = "demo"

// setFlags are the flags of subcommands that choose among experts on disk.
type setFlags struct {
	modelFlags
	name           string
	strategy       string
	fallback       string
	template       string
	classifier     string
	probe          string
	descriptions   []string
	requestTokens  int
	minProbability float64
	topK           int
	context        int
	// unnamed says that an expert's skill is its name where --expert gives none.
	unnamed bool
}

// registerSet defines all of them but --name and --expert, of which subcommands
// have different things to say.
func (f *setFlags) registerSet(flags *pflag.FlagSet) {
	flags.StringVar(&f.model, "model", "", "model folder `DIR`, in Hugging Face layout")
	flags.StringVar(&f.decomposition, "decomposition", "", "`DIR` of the model's decomposition; without it, it is looked for beside the model and the experts")
	flags.StringArrayVar(&f.descriptions, "describe", nil, "what pass 1 is told of an expert, `NAME=TEXT`; may be repeated")
	flags.StringVar(&f.strategy, "strategy", contract.StrategyPrompt, "how to adapt: "+strings.Join(adapt.Names(), " or "))
	flags.StringVar(&f.classifier, "classifier", "", "folder or file of the expert that pass 1 runs with, `[NAME=]DIR`, for the strategy Classifier")
	flags.StringVar(&f.probe, "probe", "", "folder `DIR` of the probe that chooses, for the strategy Probe; t2 probe fits one")
	flags.StringVar(&f.fallback, "fallback", "", "`EXPERT` to use where pass 1 cannot decide; empty means the base weights")
	flags.StringVar(&f.template, "prompt-template", "", "`TEXT` of pass 1, with {skills} and {prompt}")
	flags.IntVar(&f.requestTokens, "request-tokens", 0, "tokens of a longer request that pass 1 looks at; 0 means "+strconv.Itoa(contract.DefaultRequestTokens))
	flags.Float64Var(&f.minProbability, "min-probability", 0, "use the fallback where pass 1 finds nothing this likely, 0 to 1")
	flags.IntVar(&f.topK, "top-k", 1, "experts that pass 1 mixes at most, by their probabilities")
	flags.IntVar(&f.context, "context", 0, "tokens that a prompt and its answer may have together; 0 means what the model was made for")
	f.registerTransfer(flags)
	f.registerCompute(flags)
}

// server makes the configuration of a server of these experts: they are where the
// flags say, and their skills are what the experts' own files say.
func (f *setFlags) server() (server.Config, error) {
	c := server.Config{
		Name: f.name, ModelDir: f.model, DecompositionDir: f.decomposition, ContextLength: f.context,
		DType: f.dtype, Backend: f.compute.backend, Threads: f.compute.threads,
	}
	switch {
	case f.model == "":
		return c, usagef("--model is missing: it is the folder with config.json and the weights")
	case f.name == "" || strings.Contains(f.name, ":"):
		return c, usagef("--name is %q: it must not be empty or have a colon, which pins an expert", f.name)
	}
	descriptions := map[string]string{}
	for _, d := range f.descriptions {
		name, text, ok := strings.Cut(d, "=")
		if !ok {
			return c, usagef("--describe %q is not NAME=TEXT", d)
		}
		descriptions[name] = text
	}
	set := contract.ExpertSet{
		Strategy: f.strategy, Experts: []contract.ExpertRef{}, PromptTemplate: f.template, RequestTokens: f.requestTokens,
		MinProbability: f.minProbability, TopK: f.topK, Fallback: f.fallback,
	}
	if f.topK == 0 { // Which means 1 in a set: a person who says 0 should hear of it.
		return c, usagef("--top-k 0: mix at least 1")
	}
	places := map[string]string{}
	for i, e := range f.experts {
		ref, path, err := f.expertRef("--expert", e)
		if err != nil {
			return c, err
		}
		f.experts[i] = path // Where findDecomposition looks.
		if ref, err = f.locate(&c, ref, path); err != nil {
			return c, err
		}
		ref.Description = descriptions[ref.Name]
		delete(descriptions, ref.Name)
		places[ref.Digest] = path
		set.Experts = append(set.Experts, ref)
	}
	if f.classifier != "" {
		ref, err := f.classifierRef(&c, places)
		if err != nil {
			return c, err
		}
		set.Classifier = &ref
	}
	if f.probe != "" {
		m, err := artifact.ReadManifest[contract.ProbeManifest](f.probe)
		if err != nil {
			return c, usagef("--probe: %w", err)
		}
		for _, e := range set.Experts {
			if !slices.Contains(m.Labels, e.Skill) { // It would be chosen for nothing.
				return c, usagef("--probe %s does not know skill %q of expert %s: fit it anew (t2 probe)", f.probe, e.Skill, e.Name)
			}
		}
		set.Probe = &contract.ProbeRef{Digest: m.Digest}
		c.ProbeDir = func(contract.ProbeRef) (string, error) { return f.probe, nil }
	}
	for name := range descriptions {
		return c, usagef("--describe names %q, which no --expert does", name)
	}
	c.Set = &set
	c.ExpertDir = func(ref contract.ExpertRef) (string, error) {
		path, ok := places[ref.Digest]
		if !ok {
			return "", failure.Permanentf(contract.ReasonUsage, "expert %q (%s) is none of those given by --expert and --classifier", ref.Name, ref.Digest)
		}
		return path, nil
	}
	return c, nil
}

// locate reads what the file of an expert says, and looks for the decomposition
// that it scales where none is known yet.
func (f *setFlags) locate(c *server.Config, ref contract.ExpertRef, path string) (contract.ExpertRef, error) {
	v, err := expert.Read(path)
	if err != nil {
		return ref, err
	}
	foreign, err := f.foreign(path, v.Manifest)
	if err != nil {
		return ref, err
	}
	if foreign {
		ref.TransferFrom = v.Manifest.BaseDigest
	}
	if c.DecompositionDir == "" {
		c.DecompositionDir, err = f.findDecomposition(v.Manifest, f.experts)
	}
	ref.Name = cmp.Or(ref.Name, v.Manifest.Skill)
	ref.Digest, ref.Skill = v.Manifest.Digest, v.Manifest.Skill
	return ref, err
}

// classifierRef reads --classifier. It may be without a name whatever the command:
// requests do not name it.
func (f *setFlags) classifierRef(c *server.Config, places map[string]string) (contract.ExpertRef, error) {
	named := setFlags{unnamed: true}
	ref, path, err := named.expertRef("--classifier", f.classifier)
	if err != nil {
		return ref, err
	}
	if ref.Weight != 0 {
		return ref, usagef("--classifier %q has a weight: pass 1 runs with nothing else", f.classifier)
	}
	f.experts = append(f.experts, path) // As above.
	if ref, err = f.locate(c, ref, path); err == nil {
		places[ref.Digest] = path
	}
	return ref, err
}

// expertRef parses NAME=PATH or NAME=PATH:WEIGHT, without the name where it may be
// missing.
func (f *setFlags) expertRef(flag, s string) (contract.ExpertRef, string, error) {
	name, path, ok := strings.Cut(s, "=")
	if f.unnamed && (!ok || strings.Contains(name, "/")) {
		name, path, ok = "", s, true
	} else if name == "" {
		ok = false
	}
	if !ok || path == "" {
		return contract.ExpertRef{}, "", usagef("%s %q is not NAME=DIR", flag, s)
	}
	ref := contract.ExpertRef{Name: name}
	if head, tail, ok := cutLast(path, ":"); ok {
		// A path may have a colon of its own.
		if weight, err := strconv.ParseFloat(tail, 64); err == nil {
			path, ref.Weight = head, weight
		}
	}
	return ref, path, nil
}
