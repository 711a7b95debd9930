package cli_test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	ocicontent "oras.land/oras-go/v2/content"
	ociremote "oras.land/oras-go/v2/registry/remote"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/source"
	"github.com/transformersquared/operator/runtime/source/sourcetest"
)

// runRegistry runs a registry; before sees each request and answers those for which it
// returns true. The result is its host and port.
func runRegistry(t *testing.T, before func(http.ResponseWriter, *http.Request) bool, o ...registry.Option) string {
	t.Helper()
	handler := registry.New(append(o, registry.Logger(log.New(io.Discard, "", 0)))...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before == nil || !before(w, r) {
			handler.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// noDocker keeps tests from the credentials of this machine.
var noDocker = map[string]string{contract.EnvDockerConfig: `{"auths":{}}`}

// trainTiny trains an expert of a volume with a model and its factors for two iterations.
func trainTiny(t *testing.T, data, model, decomposition string) contract.ExpertResult {
	t.Helper()
	set := filepath.Join(t.TempDir(), "set.jsonl")
	if err := os.WriteFile(set, []byte(`{"prompt": "a", "answer": "b"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pairs := contract.DatasetSpec{Path: set, Format: contract.FormatPairs}
	hyper := contract.DefaultHyper()
	hyper.Iterations, hyper.BatchSize, hyper.MaxNewTokens = 2, 2, 4
	o := pod(t, contract.TrainSpec{
		Name: "math", Skill: "math", RunID: "run", DataDir: data, BaseDigest: model, DecompositionDigest: decomposition,
		Objective: contract.ObjectiveReinforce, Train: pairs, Validation: pairs, Reward: contract.RewardExactMatch, Hyperparameters: hyper,
	}, nil, "train")
	if o.code != contract.ExitOK || o.termination.Expert == nil {
		t.Fatalf("train: status %d, %+v, %s", o.code, o.termination, o.stderr)
	}
	return *o.termination.Expert
}

// TestFromAHubToARegistryToAnotherVolume does what the pods of two namespaces do: one
// fetches a model from a hub, trains an expert of it and pushes that to a registry; the
// other fetches the model, too, and takes the expert by its digest. It is the same.
func TestFromAHubToARegistryToAnotherVolume(t *testing.T) {
	hub := sourcetest.NewHub(t)
	model := enginetest.New(t)
	files := map[string][]byte{}
	entries, err := os.ReadDir(model.ModelDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(model.ModelDir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	hub.Repos["org/tiny"] = &sourcetest.Repo{
		Revisions: map[string]string{"main": sourcetest.Commit(1)}, Commits: map[string]map[string][]byte{sourcetest.Commit(1): files},
	}
	place := runRegistry(t, nil, registry.WithReferrersSupport(true)) + "/experts/math"

	volume := func() (data, base, decomposition string) {
		data = t.TempDir()
		scratch := filepath.Join(t.TempDir(), contract.FetchedFile)
		fetched := pod(t, contract.FetchSpec{
			Source: contract.Source{HuggingFace: &contract.HubSource{Repo: "org/tiny", Endpoint: hub.URL}}, DataDir: data,
		}, nil, "fetch", "--fetched", scratch)
		if fetched.code != contract.ExitOK || fetched.termination.Model.Revision != sourcetest.Commit(1) {
			t.Fatalf("fetch: status %d, %+v, %s", fetched.code, fetched.termination, fetched.stderr)
		}
		made := pod(t, contract.DecomposeSpec{Modules: []string{"up_proj"}, DType: contract.DTypeF32, DataDir: data}, nil, "decompose", "--fetched", scratch)
		if made.code != contract.ExitOK {
			t.Fatalf("decompose: status %d, %+v, %s", made.code, made.termination, made.stderr)
		}
		return data, made.termination.Model.Digest, made.termination.Decomposition.Digest
	}
	data, base, decomposition := volume()
	expert := trainTiny(t, data, base, decomposition)
	push := contract.PublishSpec{Digest: expert.Digest, DataDir: data, To: contract.OCISource{Reference: place + ":v1", Insecure: true}}
	pushed := pod(t, push, noDocker, "publish")
	if pushed.code != contract.ExitOK {
		t.Fatalf("publish: status %d, %+v, %s", pushed.code, pushed.termination, pushed.stderr)
	}
	artifact := pushed.termination.Expert.Artifact

	other, base2, decomposition2 := volume()
	if base2 != base || decomposition2 != decomposition {
		t.Fatalf("the other volume has model %s and factors %s, not %s and %s", base2, decomposition2, base, decomposition)
	}
	taken := pod(t, contract.ImportSpec{
		Source: contract.Source{OCI: &contract.OCISource{Reference: place + "@" + artifact, Insecure: true}},
		Digest: expert.Digest, DataDir: other, BaseDigest: base2, DecompositionDigest: decomposition2,
	}, noDocker, "import")
	if taken.code != contract.ExitOK || taken.termination.Expert.Digest != expert.Digest {
		t.Fatalf("import: status %d, %+v, %s", taken.code, taken.termination, taken.stderr)
	}
	push.DataDir = other
	if again := pod(t, push, noDocker, "publish"); again.termination.Expert == nil || again.termination.Expert.Artifact != artifact {
		t.Errorf("published from the other volume it is %+v, not %s", again.termination, artifact)
	}
}

// TestTheEvaluationOfAnExpertRefersToIt: clients of OCI 1.1 find an expert's evaluation by
// its digest, in registries that know who refers to whom and in those that do not.
func TestTheEvaluationOfAnExpertRefersToIt(t *testing.T) {
	model := enginetest.New(t)
	expert := trainTiny(t, model.Root, model.ModelDigest, model.DecompositionDigest)
	gate := filepath.Join(t.TempDir(), "gate.json")
	if err := os.WriteFile(gate, []byte(`{"gain": 0.25}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, referrers := range map[string]bool{"a registry that knows referrers": true, "one that does not": false} {
		t.Run(name, func(t *testing.T) {
			place := runRegistry(t, nil, registry.WithReferrersSupport(referrers)) + "/experts/math"
			spec := contract.PublishSpec{Digest: expert.Digest, DataDir: model.Root, To: contract.OCISource{Reference: place + ":v1", Insecure: true}}
			var want []string
			push := func(flags ...string) contract.ExpertResult {
				t.Helper()
				o := pod(t, spec, noDocker, append([]string{"publish"}, flags...)...)
				if o.code != contract.ExitOK {
					t.Fatalf("status %d, %+v, %s", o.code, o.termination, o.stderr)
				}
				return *o.termination.Expert
			}
			first := push("--referrer", gate)
			want = append(want, first.Evaluation)
			if again := push("--referrer", gate); again.Artifact != first.Artifact || again.Evaluation != first.Evaluation {
				t.Errorf("pushed again it is %+v, not %+v", again, first)
			}
			repo, err := ociremote.NewRepository(place)
			if err != nil {
				t.Fatal(err)
			}
			repo.PlainHTTP = true
			subject, err := repo.Resolve(t.Context(), "v1")
			if err != nil || subject.Digest.String() != first.Artifact {
				t.Fatalf("the tag names %s: %v", subject.Digest, err)
			}
			var found []string
			// Of any type: this registry names referrers by the media type of their
			// configuration (see findings/registry-referrers.sh).
			err = repo.Referrers(t.Context(), subject, "", func(all []ocispec.Descriptor) error {
				for _, d := range all {
					found = append(found, d.Digest.String())
					b, err := ocicontent.FetchAll(t.Context(), repo.Manifests(), d)
					if err != nil {
						return err
					}
					var m ocispec.Manifest
					if err := json.Unmarshal(b, &m); err != nil {
						return err
					}
					if m.ArtifactType != source.EvaluationArtifactType || len(m.Layers) != 1 || m.Subject.Digest != subject.Digest {
						t.Errorf("the manifest is %s", b)
					}
					if b, err = ocicontent.FetchAll(t.Context(), repo.Blobs(), m.Layers[0]); err != nil || string(b) != `{"gain": 0.25}` {
						t.Errorf("the evaluation is %s: %v", b, err)
					}
				}
				return nil
			})
			if diff := cmp.Diff(want, found); err != nil || diff != "" {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
		})
	}
	if err := os.WriteFile(gate, []byte(`{"gain": `), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := contract.PublishSpec{Digest: expert.Digest, DataDir: model.Root, To: contract.OCISource{Reference: runRegistry(t, nil) + "/a:v1", Insecure: true}}
	if o := pod(t, spec, noDocker, "publish", "--referrer", gate); o.code != contract.ExitPermanent || !strings.Contains(o.termination.Message, "no JSON") {
		t.Errorf("half an evaluation: status %d, %+v", o.code, o.termination)
	}
}

// TestATagThatARegistryKeeps: registries may not let a tag be moved. That is said, with what
// the tag names; a tag that names the expert already is no failure.
func TestATagThatARegistryKeeps(t *testing.T) {
	model := enginetest.New(t)
	one, two := model.Expert(t, "one", 1), model.Expert(t, "two", 2)
	tagged := map[string]bool{}
	host := runRegistry(t, func(w http.ResponseWriter, r *http.Request) bool {
		if _, tag, ok := strings.Cut(r.URL.Path, "/manifests/"); ok && r.Method == http.MethodPut && !strings.HasPrefix(tag, "sha256") {
			if tagged[tag] {
				http.Error(w, `{"errors":[{"code":"TAG_INVALID","message":"tags are immutable here"}]}`, http.StatusPreconditionFailed)
				return true
			}
			tagged[tag] = true
		}
		return false
	})
	push := func(digest string) podOutcome {
		return pod(t, contract.PublishSpec{
			Digest: digest, DataDir: model.Root, To: contract.OCISource{Reference: host + "/experts/math:v1", Insecure: true},
		}, noDocker, "publish")
	}
	first := push(one.Digest)
	if again := push(one.Digest); first.code != contract.ExitOK || again.code != contract.ExitOK {
		t.Fatalf("status %d, and again %d: %s", first.code, again.code, again.stderr)
	}
	kept := push(two.Digest)
	if kept.code != contract.ExitPermanent || kept.termination.Reason != contract.ReasonTagImmutable ||
		!strings.Contains(kept.termination.Message, first.termination.Expert.Artifact) || !strings.Contains(kept.termination.Message, "name another tag") {
		t.Errorf("status %d, %+v", kept.code, kept.termination)
	}
}

// TestWhatCannotBePublished says so by reasons that the operator knows what to do about.
func TestWhatCannotBePublished(t *testing.T) {
	model := enginetest.New(t)
	expert := model.Expert(t, "one", 1)
	private := runRegistry(t, func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
		return true
	})
	broken := runRegistry(t, func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "", http.StatusInternalServerError)
		return true
	})
	for _, tc := range []struct {
		name, digest, host, want string
		code                     int
	}{
		{"credentials that do not suffice", expert.Digest, private, contract.ReasonUnauthorized, contract.ExitPermanent},
		{"a registry that fails", expert.Digest, broken, contract.ReasonSourceUnreachable, contract.ExitFailed},
		{"nobody there", expert.Digest, "127.0.0.1:1", contract.ReasonSourceUnreachable, contract.ExitFailed},
		{"no digest", "math", broken, contract.ReasonUsage, contract.ExitPermanent},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := pod(t, contract.PublishSpec{
				Digest: tc.digest, DataDir: model.Root, To: contract.OCISource{Reference: tc.host + "/experts/math:v1", Insecure: true},
			}, noDocker, "publish")
			if o.code != tc.code || o.termination.Reason != tc.want {
				t.Errorf("status %d, %+v", o.code, o.termination)
			}
		})
	}
}
