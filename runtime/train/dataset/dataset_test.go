package dataset

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/train/reward"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "set.jsonl")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func user(content string) []Message { return []Message{{Role: "user", Content: content}} }

func TestEachFormatIsRead(t *testing.T) {
	tests := []struct {
		name, format, template, line string
		want                         Record
	}{
		{
			name: "GSM8K", format: contract.FormatGSM8K,
			line: `{"question": "2+3?", "answer": "2+3=5\n#### 5"}`,
			want: Record{Messages: user("2+3?"), Reference: reward.Reference{Answer: "2+3=5\n#### 5"}},
		},
		{
			name: "a template surrounds the question, whose braces stay", format: contract.FormatGSM8K,
			template: "Q: {question}\nA:", line: `{"question": "{tests}?", "answer": "#### 5"}`,
			want: Record{Messages: user("Q: {tests}?\nA:"), Reference: reward.Reference{Answer: "#### 5"}},
		},
		{
			name: "MBPP", format: contract.FormatMBPP,
			line: `{"task_id": 1, "text": "Double x.", "code": "def f(x): return 2*x", "test_setup_code": "K = 1", "test_list": ["assert f(1) == 2", "assert f(0) == 0"]}`,
			want: Record{
				Messages: user("Double x.\nYour code should pass these tests:\nassert f(1) == 2\nassert f(0) == 0"),
				Reference: reward.Reference{
					Answer: "def f(x): return 2*x", Setup: "K = 1", Tests: []string{"assert f(1) == 2", "assert f(0) == 0"},
				},
			},
		},
		{
			name: "MBPP, sanitized edition", format: contract.FormatMBPP, template: "{question}",
			line: `{"prompt": "Double x.", "test_imports": ["import math"], "test_list": ["assert f(1) == 2"]}`,
			want: Record{
				Messages:  user("Double x."),
				Reference: reward.Reference{Setup: "import math", Tests: []string{"assert f(1) == 2"}},
			},
		},
		{
			name: "ARC", format: contract.FormatARC,
			line: `{"id": "x", "question": "Which?", "choices": {"text": ["cat", "dog"], "label": ["A", "B"]}, "answerKey": "B"}`,
			want: Record{Messages: user("Which?\nA. cat\nB. dog"), Reference: reward.Reference{Answer: "B", Choices: 2}},
		},
		{
			name: "ARC with numbers becomes letters", format: contract.FormatARC,
			line: `{"question": "Which?", "choices": {"text": ["cat", "dog", "cow"], "label": ["1", "2", "3"]}, "answerKey": "3"}`,
			want: Record{Messages: user("Which?\nA. cat\nB. dog\nC. cow"), Reference: reward.Reference{Answer: "C", Choices: 3}},
		},
		{
			name: "ARC in its original nesting", format: contract.FormatARC,
			line: `{"question": {"stem": "Which?", "choices": [{"text": "cat", "label": "A"}, {"text": "dog", "label": "B"}]}, "answerKey": "A"}`,
			want: Record{Messages: user("Which?\nA. cat\nB. dog"), Reference: reward.Reference{Answer: "A", Choices: 2}},
		},
		{
			name: "MATH with an answer", format: contract.FormatMATH,
			line: `{"problem": "x?", "solution": "so \\boxed{9}", "answer": "3"}`,
			want: Record{Messages: user("x?"), Reference: reward.Reference{Answer: "3"}},
		},
		{
			name: "MATH with a solution", format: contract.FormatMATH,
			line: `{"problem": "x?", "solution": "so \\boxed{\\frac{1}{2}}."}`,
			want: Record{Messages: user("x?"), Reference: reward.Reference{Answer: `\frac{1}{2}`}},
		},
		{
			name: "Pairs", format: contract.FormatPairs,
			line: `{"prompt": "Say hi.", "answer": "hi"}`,
			want: Record{Messages: user("Say hi."), Reference: reward.Reference{Answer: "hi"}},
		},
		{
			name: "Chat", format: contract.FormatChat,
			line: `{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}`,
			want: Record{
				Messages:  []Message{{Role: "system", Content: "Be brief."}, {Role: "user", Content: "hi"}},
				Reference: reward.Reference{Answer: "ho"},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			// A byte order mark, blank lines and Windows' line ends are tolerated.
			path := write(t, "\ufeff\r\n"+test.line+"\r\n\r\n")
			judge, err := reward.New(DefaultReward(test.format), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Load(t.Context(), contract.DatasetSpec{Path: path, Format: test.format, PromptTemplate: test.template}, judge)
			if err != nil {
				t.Fatal(err)
			}
			test.want.Line = 2
			if diff := cmp.Diff([]Record{test.want}, got.Records); diff != "" {
				t.Errorf("records differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadLinesAreNamedWithPlaceAndRemedy(t *testing.T) {
	good := map[string]string{
		contract.FormatGSM8K: `{"question": "q", "answer": "#### 1"}`,
		contract.FormatARC:   `{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}`,
		contract.FormatMBPP:  `{"text": "q", "test_list": ["assert f(1)"]}`,
		contract.FormatChat:  `{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}`,
		contract.FormatMATH:  `{"problem": "q", "answer": "1"}`,
		contract.FormatPairs: `{"prompt": "q", "answer": "1"}`,
	}
	tests := []struct{ name, format, line, want string }{
		{"no JSON", contract.FormatGSM8K, `{"question": `, "this is no JSON"},
		{"two objects", contract.FormatGSM8K, `{} {}`, "this is no JSON"},
		{"an array", contract.FormatGSM8K, `[1]`, "JSON array"},
		{"a wrong type", contract.FormatGSM8K, `{"question": 3, "answer": "#### 1"}`, `field "question" is a JSON number`},
		{"no question", contract.FormatGSM8K, `{"answer": "#### 1"}`, `field "question" is missing`},
		{"no number", contract.FormatGSM8K, `{"question": "q", "answer": "one"}`, "has no number"},
		{"no tests", contract.FormatMBPP, `{"text": "q", "test_list": []}`, `field "test_list" is missing`},
		{"no assertion", contract.FormatMBPP, `{"text": "q", "test_list": ["f(1)"]}`, "is no assertion"},
		{"one choice", contract.FormatARC, `{"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"}`, "1 texts"},
		{"fewer labels", contract.FormatARC, `{"question": "q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}`, "1 labels"},
		{"a key that is not offered", contract.FormatARC, `{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}`, `"C", which is not among`},
		{"no answer", contract.FormatMATH, `{"problem": "q", "solution": "dunno"}`, `boxed{answer}`},
		{"no prompt", contract.FormatPairs, `{"prompt": " ", "answer": "a"}`, `field "prompt" is missing`},
		{"the user last", contract.FormatChat, `{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]}`, "must end with"},
		{"a strange role", contract.FormatChat, `{"messages": [{"role": "root", "content": "x"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}`, `role "root"`},
		{"an empty message", contract.FormatChat, `{"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "a"}]}`, "message is empty"},
		{"a line beyond bounds", contract.FormatPairs, `{"prompt": "` + strings.Repeat("x", maxLine) + `"}`, "the line has"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, good[test.format]+"\n"+test.line+"\n")
			judge, err := reward.New(DefaultReward(test.format), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Load(t.Context(), contract.DatasetSpec{Path: path, Format: test.format}, judge)
			if err == nil {
				t.Fatal("the line was accepted")
			}
			reason, permanent := failure.Of(err)
			if reason != contract.ReasonInvalidDataset || !permanent {
				t.Errorf("classified as %s, permanent %v; want permanent %s", reason, permanent, contract.ReasonInvalidDataset)
			}
			if got := err.Error(); !strings.HasPrefix(got, path+":2: ") || !strings.Contains(got, test.want) || !strings.Contains(got, "correct or remove") {
				t.Errorf("error is %q, want %q at line 2, and a remedy", got, test.want)
			}
		})
	}
}

func TestLimitEndsReading(t *testing.T) {
	path := write(t, strings.Repeat(`{"prompt": "q", "answer": "a"}`+"\n", 3)+"broken\n")
	set, err := Load(t.Context(), contract.DatasetSpec{Path: path, Format: contract.FormatPairs, Limit: 3}, nil)
	if err != nil || len(set.Records) != 3 {
		t.Errorf("Load = %v, %v, want 3 records", set, err)
	}
}

func TestFewUnusableRecordsAreSkippedAndManyAreRefused(t *testing.T) {
	usable := `{"text": "q", "test_list": ["assert f(1)"]}` + "\n"
	unusable := `{"text": "q", "test_list": ["assert f({1, 2})"]}` + "\n"
	judge, err := reward.New(contract.RewardUnitTests, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := Load(t.Context(), contract.DatasetSpec{Path: write(t, strings.Repeat(usable, 9)+unusable), Format: contract.FormatMBPP}, judge)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Records) != 9 || len(set.Skipped) != 1 || !strings.HasPrefix(set.Skipped[0], "line 10: ") {
		t.Errorf("%d records, skipped %q; want 9 and line 10", len(set.Records), set.Skipped)
	}
	if _, err := Load(t.Context(), contract.DatasetSpec{Path: write(t, usable+unusable), Format: contract.FormatMBPP}, judge); err == nil {
		t.Error("a data set of which half cannot be used was accepted")
	}
}

func TestSourcesAndDigests(t *testing.T) {
	content := `{"prompt": "q", "answer": "a"}` + "\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/set.jsonl":
			_, _ = w.Write([]byte(content))
		case "/short.jsonl":
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(content))
		case "/private":
			w.WriteHeader(http.StatusForbidden)
		case "/broken":
			w.WriteHeader(http.StatusBadGateway)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	right := digest([]byte(content))
	tests := []struct {
		name          string
		spec          contract.DatasetSpec
		wantReason    string
		wantPermanent bool
	}{
		{name: "a file", spec: contract.DatasetSpec{Path: write(t, content), Digest: right}},
		{name: "an address", spec: contract.DatasetSpec{URL: server.URL + "/set.jsonl", Digest: right}},
		{name: "a wrong digest", spec: contract.DatasetSpec{Path: write(t, content+content), Digest: right},
			wantReason: contract.ReasonDigestMismatch, wantPermanent: true},
		{name: "a missing file", spec: contract.DatasetSpec{Path: "/nonexistent/set.jsonl"}, wantReason: contract.ReasonSourceNotFound},
		{name: "a missing page", spec: contract.DatasetSpec{URL: server.URL + "/x"}, wantReason: contract.ReasonSourceNotFound},
		{name: "a forbidden page", spec: contract.DatasetSpec{URL: server.URL + "/private"},
			wantReason: contract.ReasonUnauthorized, wantPermanent: true},
		{name: "a broken server", spec: contract.DatasetSpec{URL: server.URL + "/broken"}, wantReason: contract.ReasonSourceUnreachable},
		{name: "a connection cut off", spec: contract.DatasetSpec{URL: server.URL + "/short.jsonl"}, wantReason: contract.ReasonSourceUnreachable},
		{name: "a server that is gone", spec: contract.DatasetSpec{URL: gone.URL + "/set.jsonl"}, wantReason: contract.ReasonSourceUnreachable},
		{name: "a strange scheme", spec: contract.DatasetSpec{URL: "file:///etc/passwd"}, wantReason: contract.ReasonUsage, wantPermanent: true},
		{name: "both", spec: contract.DatasetSpec{URL: server.URL, Path: "x"}, wantReason: contract.ReasonUsage, wantPermanent: true},
		{name: "neither", wantReason: contract.ReasonUsage, wantPermanent: true},
		{name: "an empty file", spec: contract.DatasetSpec{Path: write(t, "\n\n")}, wantReason: contract.ReasonInvalidDataset, wantPermanent: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.spec.Format = contract.FormatPairs
			_, err := Load(t.Context(), test.spec, nil)
			reason, permanent := failure.Of(err)
			if reason != test.wantReason || permanent != test.wantPermanent {
				t.Errorf("%v is classified as %q, permanent %v; want %q, %v", err, reason, permanent, test.wantReason, test.wantPermanent)
			}
		})
	}
}

func TestSecretsOfAnAddressAreNotShown(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	address := strings.Replace(gone.URL, "http://", "http://me:hunter2@", 1) + "/set.jsonl?token=hunter2"
	_, err := Load(t.Context(), contract.DatasetSpec{URL: address, Format: contract.FormatPairs}, nil)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error is %v, want one without the secrets", err)
	}
}

func TestTemplatesWithoutAQuestionAreRefused(t *testing.T) {
	for format, template := range map[string]string{contract.FormatGSM8K: "Answer!", contract.FormatChat: "{question}"} {
		_, err := Load(t.Context(), contract.DatasetSpec{Path: "x", Format: format, PromptTemplate: template}, nil)
		if reason, _ := failure.Of(err); reason != contract.ReasonUsage {
			t.Errorf("template %q for %s: %v, want %s", template, format, err, contract.ReasonUsage)
		}
	}
}

// TestRealSets reads the published data sets.
func TestRealSets(t *testing.T) {
	shared := os.Getenv("T2_SHARED_DATA")
	if shared == "" {
		t.Skip("T2_SHARED_DATA is not set")
	}
	tests := []struct {
		file, format string
		want         int
	}{
		{"gsm8k/test.jsonl", contract.FormatGSM8K, 1319},
		{"gsm8k/train.jsonl", contract.FormatGSM8K, 7473},
		{"mbpp/mbpp.jsonl", contract.FormatMBPP, 965}, // 9 records use set displays or complex numbers
		{"arc/ARC-Easy-Train.jsonl", contract.FormatARC, 2251},
		{"arc/ARC-Challenge-Test.jsonl", contract.FormatARC, 1172},
		{"math/math500.jsonl", contract.FormatMATH, 500},
	}
	for _, test := range tests {
		t.Run(test.file, func(t *testing.T) {
			judge, err := reward.New(DefaultReward(test.format), nil)
			if err != nil {
				t.Fatal(err)
			}
			set, err := Load(t.Context(), contract.DatasetSpec{Path: filepath.Join(shared, "datasets", test.file), Format: test.format}, judge)
			if err != nil {
				t.Fatal(err)
			}
			if len(set.Records) != test.want {
				t.Errorf("%d records, want %d; skipped %q", len(set.Records), test.want, set.Skipped)
			}
		})
	}
}

func FuzzParsers(f *testing.F) {
	for _, line := range []string{
		`{"question": "q", "answer": "#### 1"}`, `{"text": "q", "test_list": ["assert f(1)"]}`,
		`{"question": {"stem": "q", "choices": [{"text": "a", "label": "A"}]}, "answerKey": "A"}`,
		`{"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}`,
		`{"problem": "p", "solution": "\\boxed{"}`, `{"messages": [{"role": "user", "content": "x"}]}`, `null`, `"x"`, `{"question": null}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, format := range Formats() {
			parse, err := parserOf(contract.DatasetSpec{Path: "x", Format: format})
			if err != nil {
				t.Fatal(err)
			}
			record, err := parseLine(line, parse)
			if err == nil && len(record.Messages) == 0 {
				t.Errorf("%s: %q has no message", format, line)
			}
		}
	})
}
