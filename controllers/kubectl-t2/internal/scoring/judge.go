package scoring

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// Rewards that are judged here, in a simpler way than the runtime judges in training: no
// boxes of LaTeX and no sentences that state the answer are looked for.
var Rewards = []string{contract.RewardExactMatch, contract.RewardNumeric}

// maxDigits bounds the numbers that are compared.
const maxDigits = 400

// Judge returns what decides whether an answer is right. Whatever is before "</think>" is
// no part of it. ExactMatch compares the text, blanks aside; Numeric the last number, or
// the one behind "####" at the start of a line.
func Judge(reward string) (func(answer, want string) bool, error) {
	switch reward {
	case contract.RewardExactMatch:
		return func(answer, want string) bool { return blanks(said(answer)) == blanks(want) }, nil
	case contract.RewardNumeric:
		return func(answer, want string) bool {
			a, b := number(said(answer)), number(want)
			return a != nil && b != nil && a.Cmp(b) == 0
		}, nil
	default:
		return nil, fmt.Errorf("reward %q is none of %s: others are for t2 eval", reward, strings.Join(Rewards, " and "))
	}
}

// Check reports whether an answer can be right at all.
func Check(reward, want string) error {
	if reward == contract.RewardNumeric && number(want) == nil {
		return fmt.Errorf("the right answer %.60q has no number, which the reward Numeric compares", want)
	}
	return nil
}

func said(answer string) string {
	if i := strings.LastIndex(answer, "</think>"); i >= 0 {
		return answer[i+len("</think>"):]
	}
	return answer
}

func blanks(s string) string { return strings.Join(strings.Fields(s), " ") }

var (
	numbers = regexp.MustCompile(`(^|[^\w.])([-−]?)[$€£]?(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)`)
	mark    = regexp.MustCompile(`(?m)^\s*####\s*(.*)$`)
)

// number is the one that a text gives; nil if it has none.
func number(text string) *big.Rat {
	if m := mark.FindStringSubmatch(text); m != nil && numbers.MatchString(m[1]) {
		text = numbers.FindString(m[1])
	}
	all := numbers.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return nil
	}
	last := all[len(all)-1]
	digits := strings.ReplaceAll(last[3], ",", "")
	if len(digits) > maxDigits {
		return nil
	}
	n, ok := new(big.Rat).SetString(digits)
	if !ok {
		return nil
	}
	if last[2] != "" {
		n.Neg(n)
	}
	return n
}
