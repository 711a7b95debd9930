package scoring

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/train/reward"
)

func TestQuestionsOfEachFormat(t *testing.T) {
	for _, test := range []struct {
		name, text, format string
		most               int
		want               []Question
		wantFormat, says   string
	}{
		{name: "pairs", text: `{"prompt":"1+1?","answer":"2"}` + "\n\n" + `{"prompt":"2+2?","answer":"4"}`, wantFormat: contract.FormatPairs,
			want: []Question{{1, []Message{{"user", "1+1?"}}, "2"}, {3, []Message{{"user", "2+2?"}}, "4"}}},
		{name: "at most", text: `{"prompt":"1+1?","answer":"2"}` + "\n" + `{"prompt":"2+2?","answer":"4"}`, most: 1, wantFormat: contract.FormatPairs,
			want: []Question{{1, []Message{{"user", "1+1?"}}, "2"}}},
		{name: "GSM8K", text: `{"question":"1+1?","answer":"so\n#### 2"}`, wantFormat: contract.FormatGSM8K,
			want: []Question{{1, []Message{{"user", "1+1?"}}, "so\n#### 2"}}},
		{name: "chat", text: `{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}`,
			wantFormat: contract.FormatChat, want: []Question{{1, []Message{{"system", "s"}, {"user", "u"}}, "a"}}},
		{name: "nothing", text: "\n", says: "no questions"},
		{name: "no JSON", text: "{\"prompt\":\"a\",\"answer\":\"b\"}\nx", says: "line 2 is no JSON object"},
		{name: "other fields", text: `{"text":"x"}`, says: "line 1 has neither prompt, question nor messages"},
		{name: "no answer", text: `{"prompt":"x"}`, says: "line 1: the right answer is missing"},
		{name: "another format", text: `{"prompt":"x","answer":"y"}`, format: contract.FormatGSM8K, says: `field "question" is missing`},
		{name: "an unknown format", text: `{"prompt":"x","answer":"y"}`, format: "CSV", says: `format "CSV" is none of`},
		{name: "a chat that the user ends", text: `{"messages":[{"role":"assistant","content":"a"},{"role":"user","content":"u"}]}`, says: "must end with a user's and the assistant's"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, format, err := Read(strings.NewReader(test.text), test.format, test.most)
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" || format != test.wantFormat {
				t.Errorf("format %s\n%s", format, diff)
			}
		})
	}
}

// TestJudgesAgreeWithTheRuntimes on answers that state nothing in boxes or sentences.
func TestJudgesAgreeWithTheRuntimes(t *testing.T) {
	for _, test := range []struct {
		reward, answer, want string
		right                bool
	}{
		{contract.RewardExactMatch, " a  b\n", "a b", true},
		{contract.RewardExactMatch, "a c", "a b", false},
		{contract.RewardExactMatch, "<think>hm</think> b", "b", true},
		{contract.RewardNumeric, "3 + 4 = 7", "7", true},
		{contract.RewardNumeric, "3 + 4 = 8", "7", false},
		{contract.RewardNumeric, "so 3\n#### 72\nand 5", "#### 72", true},
		{contract.RewardNumeric, "1,000 apples", "1000", true},
		{contract.RewardNumeric, "it is -4.50", "-4.5", true},
		{contract.RewardNumeric, "$1.20", "1.2", true},
		{contract.RewardNumeric, "none", "7", false},
		{contract.RewardNumeric, "H2O", "2", false},
	} {
		judge, err := Judge(test.reward)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := reward.New(test.reward, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := theirs.Judge(t.Context(), test.answer, reward.Reference{Answer: test.want})
		if err != nil {
			t.Fatal(err)
		}
		if got := judge(test.answer, test.want); got != test.right || v.Right != test.right {
			t.Errorf("%s of %q for %q: %v, the runtime %v, want %v", test.reward, test.answer, test.want, got, v.Right, test.right)
		}
	}
	if _, err := Judge(contract.RewardUnitTests); err == nil {
		t.Error("UnitTests is judged by nobody here")
	}
	if Check(contract.RewardNumeric, "none") == nil || Check(contract.RewardNumeric, "7") != nil {
		t.Error("a right answer needs a number")
	}
}

func TestIntervalsOfShares(t *testing.T) {
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 5e-5 {
			t.Errorf("%s is %.5f, want %.5f", what, got, want)
		}
	}
	// Newcombe 1998 (Statistics in Medicine 17, 857-872), table I: 81 of 263, 0 of 20.
	w := Wilson(81, 263)
	near("low", w.Low, 0.2553)
	near("high", w.High, 0.3662)
	w = Wilson(0, 20)
	near("low", w.Low, 0)
	near("high", w.High, 0.1611)
	if w := Wilson(0, 0); w != (Interval{0, 1}) {
		t.Errorf("of nothing %v", w)
	}
}

// TestTheGainsIntervalCovers in about 95 of 100 experiments, also where shares are extreme.
func TestTheGainsIntervalCovers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, chances := range [][4]float64{{0.4, 0.2, 0.1, 0.3}, {0.9, 0.06, 0.02, 0.02}, {0.02, 0.9, 0.01, 0.07}, {0.25, 0.25, 0.25, 0.25}} {
		const runs, n = 2000, 60
		covered := 0
		for range runs {
			var p Pairs
			for range n {
				switch x := random.Float64(); {
				case x < chances[0]:
					p.Both++
				case x < chances[0]+chances[1]:
					p.Better++
				case x < chances[0]+chances[1]+chances[2]:
					p.Worse++
				default:
					p.Neither++
				}
			}
			gain, in := p.Gain()
			if in.Low > gain || gain > in.High || in.Low < -1 || in.High > 1 {
				t.Fatalf("%+v: %v in %v", p, gain, in)
			}
			if truth := chances[1] - chances[2]; in.Low <= truth && truth <= in.High {
				covered++
			}
		}
		if share := float64(covered) / runs; share < 0.93 || share > 0.995 {
			t.Errorf("chances %v: covered in %.3f", chances, share)
		}
	}
	if gain, in := (Pairs{}).Gain(); gain != 0 || in != (Interval{-1, 1}) {
		t.Errorf("of nothing %v in %v", gain, in)
	}
}
