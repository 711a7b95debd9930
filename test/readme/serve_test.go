package readme_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/test/readme"
)

// reply is what README speaks of in a chat completion.
type reply struct {
	Model   string `json:"model"`
	Choices []struct {
		Message struct {
			Content string `json:"content"`
		} `json:"message"`
	} `json:"choices"`
	T2 contract.Adaptation `json:"t2"`
}

// TestTheQuestionIsAnsweredAsPrinted sends README's curl request to a real
// t2 serve with the demo's model and skills. The experts are untrained (z = 1):
// pass 1 runs on the base weights, and it is pass 1 that the example shows; the
// end-to-end tests ask trained ones the same.
func TestTheQuestionIsAnsweredAsPrinted(t *testing.T) {
	block, err := readme.Find(root, "Two commands", "sh", "curl")
	if err != nil {
		t.Fatal(err)
	}
	forward := regexp.MustCompile(`port-forward service/(\S+) (\d+):80\b`).FindStringSubmatch(block.Text)
	curl := regexp.MustCompile(`(?m)^curl localhost:(\d+)(/\S+) -d '([^']*)'$`).FindStringSubmatch(block.Text)
	if forward == nil || curl == nil {
		t.Fatalf("README's example is no port-forward to port 80 and a curl:\n%s", block.Text)
	}
	policy, path, body := forward[1], curl[2], curl[3]
	if forward[2] != curl[1] {
		t.Errorf("curl asks port %s, and port %s is forwarded", curl[1], forward[2])
	}
	address := serve(t, policy)

	asked := ask(t, address+path, body)
	if asked.T2.Expert != "math" || asked.T2.Pass1Seconds <= 0 || asked.T2.Pass2Seconds <= 0 {
		t.Errorf("pass 1 chose %+v, want the expert math", asked.T2)
	}
	if p := asked.T2.Probabilities["math"]; p < 0.9 {
		t.Errorf("math has probability %.2f: the example shows a clear choice", p)
	}
	text := strings.Join(strings.Fields(read(t, "README.md")), " ")
	for _, model := range []string{"math", contract.BaseName} {
		name := policy + ":" + model
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("README does not name the model %s", name)
		}
		pinned := ask(t, address+path, strings.Replace(body, `"`+policy+`"`, `"`+name+`"`, 1))
		if pinned.T2.Expert != model {
			t.Errorf("%s is answered by %q", name, pinned.T2.Expert)
		}
		if model == contract.BaseName && strings.Contains(pinned.Choices[0].Message.Content, "7") {
			t.Errorf("the base answers %q: README says that it guesses", pinned.Choices[0].Message.Content)
		}
	}
}

// ask posts as curl -d does.
func ask(t *testing.T, url, body string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "*/*")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var r reply
	if err := json.Unmarshal(text, &r); err != nil || response.StatusCode != http.StatusOK || len(r.Choices) != 1 {
		t.Fatalf("status %d: %s (%v)", response.StatusCode, text, err)
	}
	return r
}

// serve starts t2 serve with the demo's model and experts under a policy's name
// and returns the address of its API.
func serve(t *testing.T, policy string) string {
	t.Helper()
	t2 := filepath.Join(t.TempDir(), "t2")
	run(t, "go", "build", "-o", t2, "github.com/transformersquared/operator/runtime")
	model, err := filepath.Abs(filepath.Join(root, "config", "samples", "demo", "model"))
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	run(t, t2, "decompose", "--model", model, "--data-dir", data)
	args := []string{"serve", "--model", model, "--decomposition", only(t, filepath.Join(data, contract.DirDecompositions)),
		"--name", policy, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
	for _, e := range sampleExperts(t) {
		args = append(args, "--expert", e.Metadata.Name+"="+untrained(t, data, e.Spec.Skill),
			"--describe", e.Metadata.Name+"="+e.Spec.Description)
	}
	cmd := exec.CommandContext(t.Context(), t2, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return listening(t, cmd, log)
}

// listening reads a server's log until it serves, and the rest beside the test,
// until the server has ended.
func listening(t *testing.T, cmd *exec.Cmd, log io.Reader) string {
	t.Helper()
	lines, seen := bufio.NewScanner(log), ""
	address := ""
	for lines.Scan() {
		seen += lines.Text() + "\n"
		var entry struct{ Msg, API string }
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			t.Fatalf("t2 serve printed no JSON: %s", lines.Text())
		}
		if entry.API != "" {
			address = "http://" + entry.API
		}
		if entry.Msg == "Took expert set into use" {
			drained := make(chan struct{})
			go func() { // Ends with the server.
				defer close(drained)
				for lines.Scan() {
				}
			}()
			t.Cleanup(func() {
				<-drained
				if err := cmd.Wait(); err != nil {
					t.Logf("t2 serve: %v", err)
				}
			})
			return address
		}
	}
	t.Fatalf("t2 serve ended before it served: %v\n%s", cmd.Wait(), seen)
	return ""
}

// sampleExpert is what the tests need of an ExpertVector.
type sampleExpert struct {
	object
	Spec struct {
		Skill       string `json:"skill"`
		Description string `json:"description"`
	} `json:"spec"`
}

// sampleExperts are the demo's.
func sampleExperts(t *testing.T) []sampleExpert {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "config", "samples", "expertvector-*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no ExpertVectors among the samples (%v)", err)
	}
	experts := make([]sampleExpert, len(files))
	for i, file := range files {
		if err := yaml.Unmarshal([]byte(read(t, "config", "samples", filepath.Base(file))), &experts[i]); err != nil {
			t.Fatal(err)
		}
	}
	return experts
}

// untrained writes an expert that changes nothing and returns its folder.
func untrained(t *testing.T, data, skill string) string {
	t.Helper()
	base, err := checkpoint.BuildManifest(filepath.Join(root, "config", "samples", "demo", "model"))
	if err != nil {
		t.Fatal(err)
	}
	decomposition := only(t, filepath.Join(data, contract.DirDecompositions))
	d, err := expert.OpenDecomposition(decomposition)
	if err != nil {
		t.Fatal(err)
	}
	v := expert.Adapter{Z: map[string][]float32{}, Manifest: contract.ExpertManifest{
		BaseDigest: base.Digest, DecompositionDigest: strings.Replace(filepath.Base(decomposition), "-", ":", 1), Skill: skill,
	}}
	for _, name := range d.Matrices() {
		v.Z[name] = ones(d.Rank(name))
	}
	m, err := expert.Write(data, v, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := contract.ArtifactDir(data, contract.DirExperts, m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func ones(n int) []float32 {
	z := make([]float32, n)
	for i := range z {
		z[i] = 1
	}
	return z
}

// only is the one folder in a folder.
func only(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%s has %d entries, want one (%v)", dir, len(entries), err)
	}
	return filepath.Join(dir, entries[0].Name())
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatal(fmt.Errorf("%v: %w\n%s", argv, err, out.String()))
	}
}
