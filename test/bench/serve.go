package main

import (
	"bytes"
	stdcontext "context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
)

// way is one in which the runtime's server is asked.
type way struct{ flag, text string }

var (
	wayBase   = way{"base", "base"}
	wayPinned = way{"pinned", "8 experts, pinned"}
	wayPrompt = way{"prompt", "8 experts, pass 1 (Prompt)"}
	wayProbe  = way{"probe", "8 experts on answers (Probe)"}

	ways = []way{wayBase, wayPinned, wayPrompt, wayProbe}
)

// servingOptions are the flags that say what servers are asked.
type servingOptions struct {
	serve             bool
	llamaServer       []*peer
	requests, clients int
	limit             time.Duration
	ways              string
}

// registerServing defines them; what is returned is the list of peers, once it was given.
func (o *servingOptions) registerServing() (servers *string) {
	flag.BoolVar(&o.serve, "serve", false, "measure servers under load instead")
	flag.IntVar(&o.requests, "requests", 96, "requests to each server, for --serve")
	flag.IntVar(&o.clients, "clients", 32, "clients that ask at the same time, for --serve")
	flag.DurationVar(&o.limit, "limit", 10*time.Minute, "the longest that a server is asked in a round, for --serve: what is not answered then has failed")
	var names []string
	for _, each := range ways {
		names = append(names, each.flag)
	}
	flag.StringVar(&o.ways, "ways", strings.Join(names, ","), "ways in which the runtime is asked, for --serve")
	return flag.String("llama-server", "", "llama.cpp's llama-server, to compare with, or several such programs as NAME=PATH,NAME=PATH")
}

// checkServing refuses what cannot be measured.
func (o *servingOptions) checkServing(servers string) (err error) {
	if o.llamaServer, err = parsePeers(servers); err != nil {
		return fmt.Errorf("--llama-server: %w", err)
	}
	if o.requests < 1 || o.clients < 1 || o.limit <= 0 {
		return fmt.Errorf("%d requests of %d clients within %v: all must be positive", o.requests, o.clients, o.limit)
	}
	for asked := range strings.SplitSeq(o.ways, ",") {
		if !slices.ContainsFunc(ways, func(known way) bool { return known.flag == asked }) {
			return fmt.Errorf("--ways: %q is none of %v", asked, ways)
		}
	}
	return nil
}

// has reports whether the runtime is to be asked in this way.
func (o *servingOptions) has(w way) bool {
	return slices.Contains(strings.Split(o.ways, ","), w.flag)
}

// served are the figures of one server.
type served struct {
	Shape, DType, Server, Way string
	Rounds                    []*tally
}

// serving measures servers by turns, each started anew, so that none finds in a cache what it
// was asked before.
func serving(ctx stdcontext.Context, o options, s shape, r *report) error {
	v, err := servedVolume(ctx, o, s)
	if err != nil {
		return err
	}
	for _, p := range o.llamaServer {
		p.identify(ctx)
	}
	list := madeUp(o.requests, 1)
	for _, dtype := range o.dtypes {
		servers, err := v.servers(o, dtype)
		if err != nil {
			return err
		}
		rows := make([]*served, len(servers))
		for i, each := range servers {
			rows[i] = &served{Shape: s.Name, DType: dtype, Server: each.name, Way: each.way.text}
		}
		r.Served = append(r.Served, rows...)
		for round := range o.rounds {
			for i, each := range servers {
				t, err := each.measure(ctx, o, list)
				if err != nil {
					return fmt.Errorf("%s weights, %s, %s: %w", dtype, each.name, each.way.text, err)
				}
				fmt.Fprintf(os.Stderr, "%s %s, round %d of %d: %s, %s: %.2f requests/s in %.0f s\n", s.Name, dtype, round+1, o.rounds, each.name, each.way.text, t.perSecond(), t.Seconds)
				if t.Failed > 0 {
					fmt.Fprintf(os.Stderr, "  %d failed: %s\n", t.Failed, t.Why)
				}
				rows[i].Rounds = append(rows[i].Rounds, t)
			}
		}
	}
	return nil
}

// volume is a data volume with what is served.
type volume struct {
	shape               shape
	root                string
	base, decomposition string
	plain, onAnswers    []string // Folders of experts.
	probe               string
}

// servedVolume makes a shape's model, its decomposition, and made-up experts of both
// activations with a probe.
func servedVolume(ctx stdcontext.Context, o options, s shape) (*volume, error) {
	v := &volume{shape: s, root: filepath.Join(o.dir, s.Name+"-volume")}
	var err error
	if v.base, v.decomposition, err = prepareVolume(ctx, o, s, v.root); err != nil {
		return nil, err
	}
	if v.plain, err = v.experts(contract.ActivationPrompt); err != nil {
		return nil, err
	}
	if o.has(wayProbe) {
		if v.onAnswers, err = v.experts(contract.ActivationAnswer); err != nil {
			return nil, err
		}
		v.probe, err = v.fit(ctx, o)
	}
	return v, err
}

// nameOf an expert: two tokens, of which the first one is what its questions end with. A
// model of random weights thinks most of the token that it has just read, so that pass 1,
// too, finds whom a request is for.
func nameOf(i int) string { return markOf(i) + strconv.Itoa(i) }

func markOf(expert int) string { return string(rune('A' + expert)) }

// experts makes them up: z near 1.
func (v *volume) experts(activation string) ([]string, error) {
	dir, err := contract.ArtifactDir(v.root, contract.DirDecompositions, v.decomposition)
	if err != nil {
		return nil, err
	}
	d, err := expert.OpenDecomposition(dir)
	if err != nil {
		return nil, err
	}
	var folders []string
	for i := range servedExperts {
		r := rand.New(rand.NewPCG(uint64(i), 11)) //nolint:gosec // The same numbers each time.
		a := expert.Adapter{
			Manifest: contract.ExpertManifest{BaseDigest: v.base, DecompositionDigest: v.decomposition, Skill: nameOf(i)},
			Z:        map[string][]float32{},
		}
		if activation != contract.ActivationPrompt { // Which no manifest says.
			a.Manifest.Activation = activation
		}
		for _, name := range d.Matrices() {
			z := make([]float32, d.Rank(name))
			for k := range z {
				z[k] = float32(1 + 0.1*r.NormFloat64())
			}
			a.Z[name] = z
		}
		m, err := expert.Write(v.root, a, nil)
		if err != nil {
			return nil, err
		}
		folder, err := contract.ArtifactDir(v.root, contract.DirExperts, m.Digest)
		if err != nil {
			return nil, err
		}
		folders = append(folders, folder)
	}
	return folders, nil
}

// fit has t2 probe learn which expert a request is for.
func (v *volume) fit(ctx stdcontext.Context, o options) (string, error) {
	const prompts, length = 12, 32 // Of an expert: the base reads them in seconds.
	spec := contract.ProbeSpec{Name: "bench", DataDir: v.root, BaseDigest: v.base, DType: contract.DTypeBF16}
	r := rand.New(rand.NewPCG(2, 12)) //nolint:gosec // The same numbers each time.
	for i := range servedExperts {
		var lines bytes.Buffer
		for range prompts {
			if err := json.NewEncoder(&lines).Encode(map[string]string{"prompt": asked(r, length, i), "answer": "-"}); err != nil {
				return "", err
			}
		}
		path := filepath.Join(v.root, "questions-"+nameOf(i)+".jsonl")
		if err := os.WriteFile(path, lines.Bytes(), 0o600); err != nil {
			return "", err
		}
		spec.Sets = append(spec.Sets, contract.SkillSet{Skill: nameOf(i), Dataset: contract.DatasetSpec{Path: path, Format: contract.FormatPairs}})
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	path := filepath.Join(v.root, "probe.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", err
	}
	var done contract.Termination
	if err := t2(ctx, o, &done, "probe", "--spec", path); err != nil {
		return "", err
	}
	return contract.ArtifactDir(v.root, contract.DirProbes, done.Probe.Digest)
}

// contender is a server to be measured.
type contender struct {
	name      string
	way       way
	program   string
	arguments func(api, admin string) []string
	ready     func(api, admin string) string // The URL that says so.
	model     func(request) string
}

// servers are those to be measured, peers first.
func (v *volume) servers(o options, dtype string) ([]contender, error) {
	var all []contender
	if len(o.llamaServer) > 0 {
		if err := v.shape.writeGGUF(v.shape.ggufPath(o.dir, dtype), dtype); err != nil {
			return nil, err
		}
	}
	for _, p := range o.llamaServer {
		all = append(all, contender{
			name: p.String(), way: wayBase, program: p.program,
			arguments: func(api, _ string) []string {
				host, port, _ := net.SplitHostPort(api) // Of freeAddress.
				threads, clients := strconv.Itoa(o.threads), strconv.Itoa(o.clients)
				return []string{"-m", v.shape.ggufPath(o.dir, dtype), "--host", host, "--port", port, "-t", threads, "-tb", threads,
					"-np", clients, "-c", strconv.Itoa(o.clients * servedContext)}
			},
			ready: func(api, _ string) string { return "http://" + api + "/health" },
			model: func(request) string { return "model" },
		})
	}
	for _, w := range ways {
		if o.has(w) {
			all = append(all, v.ours(o, dtype, w))
		}
	}
	return all, nil
}

// ours is our server, asked in one of the ways.
func (v *volume) ours(o options, dtype string, w way) contender {
	const name = "bench"
	experts := map[way][]string{wayPinned: v.plain, wayPrompt: v.plain, wayProbe: v.onAnswers}[w]
	c := contender{
		name: "runtime", way: w, program: o.t2,
		ready: func(_, admin string) string { return "http://" + admin + contract.PathReady },
		model: func(q request) string {
			switch w {
			case wayBase:
				return name + ":" + contract.BaseName
			case wayPinned:
				return name + ":" + nameOf(q.expert)
			default:
				return name
			}
		},
	}
	c.arguments = func(api, admin string) []string {
		model, _ := contract.ArtifactDir(v.root, contract.DirModels, v.base) // A digest that fetching has made.
		arguments := []string{"serve", "--listen", api, "--admin", admin, "--model", model, "--name", name, "--dtype", dtype,
			"--threads", strconv.Itoa(o.threads), "--max-batch", strconv.Itoa(o.clients), "--context", strconv.Itoa(servedContext),
			"--prompt-template", passOneTemplate}
		for i, folder := range experts {
			arguments = append(arguments, "--expert", nameOf(i)+"="+folder)
		}
		if w == wayProbe {
			arguments = append(arguments, "--strategy", contract.StrategyProbe, "--probe", v.probe)
		}
		return arguments
	}
	return c
}

// passOneTemplate makes, with the names of eight experts, an instruction as long as that of
// four skills is in a usual tokenizer's tokens (see instructionTokens): here one is a byte.
const passOneTemplate = "Which of these has to answer the request that follows? Say its name and nothing else.\n{skills}\n\n{prompt}"
