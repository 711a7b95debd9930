package dataset

import (
	"bytes"
	"compress/gzip"
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
			name: "HumanEval", format: contract.FormatHumanEval,
			line: `{"task_id": "HumanEval/0", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x", "test": "def check(c):\n    assert c(1) == 1"}`,
			want: Record{Messages: user("def f(x):\n"), Reference: reward.Reference{
				Answer: "    return x", Tests: []string{"def check(c):\n    assert c(1) == 1"}, EntryPoint: "f", Prompt: "def f(x):\n",
			}},
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
			want: Record{Messages: user("x?"), Reference: reward.Reference{Answer: "3"}, Solution: `so \boxed{9}`},
		},
		{
			name: "MATH with a solution", format: contract.FormatMATH,
			line: `{"problem": "x?", "solution": "so \\boxed{\\frac{1}{2}}."}`,
			want: Record{Messages: user("x?"), Reference: reward.Reference{Answer: `\frac{1}{2}`}, Solution: `so \boxed{\frac{1}{2}}.`},
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
			if DefaultReward(test.format) == contract.RewardUnitTests {
				judge = nil // parsing is what is tested here
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

func TestBadRecordsAreNamedWithPlaceAndRemedy(t *testing.T) {
	good := map[string]string{
		contract.FormatGSM8K:     `{"question": "q", "answer": "#### 1"}`,
		contract.FormatARC:       `{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}`,
		contract.FormatMBPP:      `{"text": "q", "test_list": ["assert f(1)"]}`,
		contract.FormatChat:      `{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}`,
		contract.FormatMATH:      `{"problem": "q", "answer": "1"}`,
		contract.FormatPairs:     `{"prompt": "q", "answer": "1"}`,
		contract.FormatHumanEval: `{"prompt": "def f():", "entry_point": "f", "test": "def check(f): pass"}`,
	}
	tests := []struct{ name, format, line, want string }{
		{"no JSON", contract.FormatGSM8K, `{"question": `, "this is no JSON"},
		{"two objects", contract.FormatGSM8K, `{} {}`, "this is no JSON"},
		{"an array", contract.FormatGSM8K, `[1]`, "this is a JSON array, not an object"},
		{"no UTF-8", contract.FormatPairs, "{\"prompt\": \"q\xff\", \"answer\": \"1\"}", "no UTF-8"},
		{"a reference without a letter", contract.FormatChat, `{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}`, `field "messages": the reference answer is empty`},
		{"no entry point", contract.FormatHumanEval, `{"prompt": "def f():", "test": "def check(f): pass"}`, `field "entry_point" is missing`},
		{"a wrong type", contract.FormatGSM8K, `{"question": 3, "answer": "#### 1"}`, `field "question" is a JSON number`},
		{"no question", contract.FormatGSM8K, `{"answer": "#### 1"}`, `field "question" is missing`},
		{"no number", contract.FormatGSM8K, `{"question": "q", "answer": "one"}`, `field "answer": "one" has no number, which the reward Numeric compares`},
		{"no tests", contract.FormatMBPP, `{"text": "q", "test_list": []}`, `field "test_list" is missing`},
		{"no tests", contract.FormatMBPP, `{"text": "q", "test_list": [" "]}`, `there are no tests, which the reward UnitTests runs`},
		{"one choice", contract.FormatARC, `{"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"}`, "1 texts"},
		{"fewer labels", contract.FormatARC, `{"question": "q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}`, "1 labels"},
		{"a key that is not offered", contract.FormatARC, `{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}`, `"C", which is not among`},
		{"no answer", contract.FormatMATH, `{"problem": "q", "solution": "dunno"}`, `boxed{answer}`},
		{"no prompt", contract.FormatPairs, `{"prompt": " ", "answer": "a"}`, `field "prompt" is missing`},
		{"the user last", contract.FormatChat, `{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]}`, "must end with"},
		{"a strange role", contract.FormatChat, `{"messages": [{"role": "root", "content": "x"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}`, `role "root"`},
		{"an empty message", contract.FormatChat, `{"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "a"}]}`, "message is empty"},
		{"a record beyond bounds", contract.FormatPairs, `{"prompt": "` + strings.Repeat("x", maxRecord) + `"}`, "more than 4194304"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, good[test.format]+"\n"+test.line+"\n"+test.line+"\n")
			judge, err := reward.New(DefaultReward(test.format), nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.format == contract.FormatHumanEval {
				judge = nil
			}
			spec := contract.DatasetSpec{Name: "ConfigMap math, key train.jsonl", Path: path, Format: test.format}
			_, err = Load(t.Context(), spec, judge)
			if err == nil {
				t.Fatal("the lines were accepted")
			}
			reason, permanent := failure.Of(err)
			if reason != contract.ReasonInvalidDataset || !permanent {
				t.Errorf("classified as %s, permanent %v; want permanent %s", reason, permanent, contract.ReasonInvalidDataset)
			}
			got := err.Error()
			for _, want := range []string{spec.Name, "line 2", test.want, "correct "} {
				if !strings.Contains(got, want) {
					t.Errorf("error is %q, want %q in it", got, want)
				}
			}
			if strings.Contains(got, path) {
				t.Errorf("error %q names the path in the pod", got)
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
	usable, unusable := `{"question": "q", "answer": "#### 1"}`+"\n", `{"question": "q", "answer": "one"}`+"\n"
	other := `{"text": "q"}` + "\n"
	judge, err := reward.New(contract.RewardNumeric, nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, content string
		wantRecords   int
		wantSkipped   []Skip
		wantErr       string
	}{
		{name: "the first", content: unusable + strings.Repeat(usable, 2), wantRecords: 2,
			wantSkipped: []Skip{{0, `line 1, field "answer": "one" has no number, which the reward Numeric compares`}}},
		{name: "half", content: usable + unusable, wantRecords: 1,
			wantSkipped: []Skip{{1, `line 2, field "answer": "one" has no number, which the reward Numeric compares`}}},
		{name: "a record of another format", content: usable + "\n" + other, wantRecords: 1,
			wantSkipped: []Skip{{1, `line 3: field "question" is missing or empty`}}},
		{name: "an array", content: "[" + strings.ReplaceAll(unusable+usable+usable, "}\n{", "},\n{") + "]", wantRecords: 2,
			wantSkipped: []Skip{{0, `record 1, field "answer": "one" has no number, which the reward Numeric compares`}}},
		{name: "most", content: usable + unusable + unusable, wantErr: `set: 2 of 3 records cannot be used, the first at line 2, ` +
			`field "answer": "one" has no number, which the reward Numeric compares: correct the reward or the data set`},
		{name: "the only one", content: unusable, wantErr: `set, line 1, field "answer": "one" has no number, ` +
			`which the reward Numeric compares: correct the reward or the data set`},
		{name: "another format", content: other + other, wantErr: `set: 2 of 2 records cannot be used, the first at line 1: ` +
			`field "question" is missing or empty: correct the format, which is GSM8K, or the data set`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := contract.DatasetSpec{Name: "set", Path: write(t, test.content), Format: contract.FormatGSM8K}
			set, err := Load(t.Context(), spec, judge)
			if test.wantErr != "" {
				if err == nil || err.Error() != test.wantErr {
					t.Errorf("error is %v,\nwant %s", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(set.Records) != test.wantRecords || !cmp.Equal(test.wantSkipped, set.Skipped) {
				t.Errorf("%d records, skipped %v; want %d, %v", len(set.Records), set.Skipped, test.wantRecords, test.wantSkipped)
			}
		})
	}
}

func packed(t *testing.T, content string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFilesAreReadByTheirContent(t *testing.T) {
	one, two := `{"prompt": "q", "answer": "a"}`, `{"prompt": "r", "answer": "b"}`
	lines := one + "\n" + two + "\n"
	tests := []struct {
		name, content string
		wantLines     []int
	}{
		{"lines", lines, []int{1, 2}},
		{"lines, compressed", packed(t, lines), []int{1, 2}},
		{"lines, compressed in two members", packed(t, one+"\n") + packed(t, two+"\n"), []int{1, 2}},
		{"an array", "[" + one + ", " + two + "]", []int{1, 2}},
		{"an array over lines", "\ufeff\n[\n  " + one + ",\n\n  " + two + "\n]\n", []int{1, 2}},
		{"an array, compressed", packed(t, "["+one+","+two+"]"), []int{1, 2}},
		{"blank lines", "\n" + one + "\n \n" + two, []int{2, 4}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set, err := Load(t.Context(), contract.DatasetSpec{Path: write(t, test.content), Format: contract.FormatPairs}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if set.Digest != digest([]byte(test.content)) {
				t.Errorf("the digest is not that of the file as it is stored")
			}
			want := []Record{
				{Messages: user("q"), Reference: reward.Reference{Answer: "a"}, Line: test.wantLines[0]},
				{Messages: user("r"), Reference: reward.Reference{Answer: "b"}, Line: test.wantLines[1], Index: 1},
			}
			if diff := cmp.Diff(want, set.Records); diff != "" {
				t.Errorf("records differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFilesThatAreSomethingElseAreNamed(t *testing.T) {
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("0", 64) + "\nsize 12345\n"
	tests := []struct{ name, content, want string }{
		{"a Git LFS pointer", pointer, "this is a Git LFS pointer, not the file itself: fetch the file of 12345 bytes"},
		{"a Git LFS pointer, compressed", packed(t, pointer), "a Git LFS pointer"},
		{"Parquet", "PAR1\x15\x04", "a Parquet file: convert it"},
		{"a ZIP archive", "PK\x03\x04\x14", "a ZIP archive: unpack it"},
		{"Zstandard", "\x28\xb5\x2f\xfd\x04", "by Zstandard"},
		{"UTF-16", "\xff\xfe{\x00", "UTF-16: save it as UTF-8"},
		{"a page", "\n<!DOCTYPE html><html>", "a page in HTML"},
		{"gzip cut off", packed(t, strings.Repeat("x", 1000))[:20], "compressed by gzip, and damaged"},
		{"an array cut off", `[{"prompt": "q", "answer": "a"}, {"prompt": "q"`, ", record 2: this is no JSON"},
		{"an array without an end", `[{"prompt": "q", "answer": "a"}`, ", record 2: this is no JSON"},
		{"text after an array", `[{"prompt": "q", "answer": "a"}] x`, "text after the array"},
		{"an array of numbers", `[1, 2]`, "record 1: this is a JSON number, not an object"},
		{"an empty array", `[]`, "the file has no records"},
		{"an empty file", "", "the file has no records"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Load(t.Context(), contract.DatasetSpec{Name: "set", Path: write(t, test.content), Format: contract.FormatPairs}, nil)
			reason, permanent := failure.Of(err)
			if err == nil || reason != contract.ReasonInvalidDataset || !permanent || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v (%s, permanent %v), want %q in it", err, reason, permanent, test.want)
			}
		})
	}
}

func TestWhatUnpacksToTooMuchIsRefused(t *testing.T) {
	content := packed(t, strings.Repeat("\n", 10_001))
	if _, err := unpack([]byte(content), 10_000); err == nil || !strings.Contains(err.Error(), "more than 10000 bytes") {
		t.Errorf("error is %v, want the bound", err)
	}
	if text, err := unpack([]byte(content), 10_001); err != nil || len(text) != 10_001 {
		t.Errorf("%d bytes, %v, want all", len(text), err)
	}
}

func TestAnswersAreRead(t *testing.T) {
	want := []string{"42", "", "a\nb"}
	lines := `{"answer": "42", "line": 1}` + "\n" + `{"answer": ""}` + "\n\n" + `{"answer": "a\nb"}` + "\n"
	for name, content := range map[string]string{"lines": lines, "gzip": packed(t, lines)} {
		got, err := LoadAnswers(t.Context(), write(t, content))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, answers differ (-want +got):\n%s", name, err, diff)
		}
	}
	for line, want := range map[string]string{
		`{"text": "42"}`: `line 2: field "answer" is missing: each must be an object such as {"answer": "42"}`,
		`{"answer": 42}`: `line 2: field "answer" is a JSON number, not a string`,
		`"42"`:           "line 2: this is a JSON string, not an object",
		`42, 43`:         "line 2: this is no JSON",
	} {
		path := write(t, `{"answer": "1"}`+"\n"+line+"\n")
		if _, err := LoadAnswers(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error is %v, want %q in it", line, err, want)
		}
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
		{"mbpp/mbpp.jsonl", contract.FormatMBPP, 974},
		{"humaneval/HumanEval.jsonl.gz", contract.FormatHumanEval, 164},
		{"arc/ARC-Easy-Train.jsonl", contract.FormatARC, 2251},
		{"arc/ARC-Easy-Test.jsonl", contract.FormatARC, 2376},
		{"arc/ARC-Challenge-Test.jsonl", contract.FormatARC, 1172},
		{"math/math500.jsonl", contract.FormatMATH, 500},
	}
	for _, test := range tests {
		t.Run(test.file, func(t *testing.T) {
			judge, err := reward.New(DefaultReward(test.format), nil)
			if err != nil {
				t.Fatal(err)
			}
			if DefaultReward(test.format) == contract.RewardUnitTests {
				judge = nil // programs have tests of their own
			}
			set, err := Load(t.Context(), contract.DatasetSpec{Path: filepath.Join(shared, "datasets", test.file), Format: test.format}, judge)
			if err != nil {
				t.Fatal(err)
			}
			if len(set.Records) != test.want || len(set.Skipped) > 0 {
				t.Errorf("%d records, want %d; skipped %v", len(set.Records), test.want, set.Skipped)
			}
		})
	}
}

func FuzzFiles(f *testing.F) {
	for _, s := range []string{
		`{"prompt": "q", "answer": "a"}`, `[{"prompt": "q", "answer": "a"}, 1]`, "[", "\x1f\x8b\x08", "\n\n[\n]x", "\ufeff{}\r\n",
		"version https://git-lfs.github.com/spec/v1\n", `[[[[`, "{\"prompt\": \"\xff\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		spec := contract.DatasetSpec{Path: "x", Format: contract.FormatPairs}
		parse, err := parserOf(spec)
		if err != nil {
			t.Fatal(err)
		}
		set, err := build("x", content, spec, parse, nil)
		if err == nil && len(set.Records) < len(set.Skipped) {
			t.Errorf("%d records of %d were accepted", len(set.Records), len(set.Records)+len(set.Skipped))
		}
	})
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
			record, err := parseRecord(line, parse)
			if err == nil && len(record.Messages) == 0 {
				t.Errorf("%s: %q has no message", format, line)
			}
		}
	})
}
