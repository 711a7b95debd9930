package reward

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// finalMark precedes the final number of an answer in GSM8K's format.
const finalMark = "####"

// number matches an integer or a decimal, with or without thousands' commas.
// A sign belongs to it only where it does not follow a digit or a letter: in
// "7-4" the last number is 4.
var number = regexp.MustCompile(`(?:^|[^\w.)])([-−+]?[$€£]?(?:\d[\d,]*(?:\.\d+)?|\.\d+))`)

// bare matches the same without looking at what stands before.
var bare = regexp.MustCompile(`\d[\d,]*(?:\.\d+)?|\.\d+`)

// maxDigits bounds the numbers compared; longer ones are no numbers.
const maxDigits = 400

// Number returns the number that an answer gives: the first after its last
// "####", or its last one where there is no such mark.
func Number(answer string) (*big.Rat, bool) {
	if i := strings.LastIndex(answer, finalMark); i >= 0 {
		return firstNumber(answer[i+len(finalMark):])
	}
	return lastNumber(answer)
}

func firstNumber(s string) (*big.Rat, bool) {
	if m := number.FindStringSubmatch(s); m != nil {
		return parseNumber(m[1])
	}
	return nil, false
}

func lastNumber(s string) (*big.Rat, bool) {
	spots := bare.FindAllStringIndex(s, -1)
	if len(spots) == 0 {
		return nil, false
	}
	from, to := spots[len(spots)-1][0], spots[len(spots)-1][1]
	// Take the sign and the currency along, as number does.
	for _, prefix := range []string{"$", "€", "£"} {
		if head, ok := strings.CutSuffix(s[:from], prefix); ok {
			from = len(head)
		}
	}
	for _, sign := range []string{"-", "−", "+"} {
		head, ok := strings.CutSuffix(s[:from], sign)
		if ok && !endsInOperand(head) {
			from = len(head)
			break
		}
	}
	return parseNumber(s[from:to])
}

// endsInOperand reports whether a minus after s subtracts instead of negating:
// it does in "7-4", "7 -4" and "x-4", not in "it is -4".
func endsInOperand(s string) bool {
	trimmed := strings.TrimRight(s, " ")
	if trimmed == "" {
		return false
	}
	c := trimmed[len(trimmed)-1]
	if c == ')' || c >= '0' && c <= '9' {
		return true
	}
	return len(trimmed) == len(s) && (c == '.' || c|0x20 >= 'a' && c|0x20 <= 'z')
}

func parseNumber(s string) (*big.Rat, bool) {
	s = strings.NewReplacer("−", "-", ",", "", "$", "", "€", "", "£", "").Replace(s)
	if len(s) > maxDigits {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

func checkNumeric(ref Reference) error {
	if _, ok := Number(ref.Answer); !ok {
		return fmt.Errorf("the reference answer %q has no number, which the reward Numeric compares", clip(ref.Answer))
	}
	return nil
}

func numericCorrect(answer string, ref Reference) bool {
	want, okWant := Number(ref.Answer)
	got, okGot := Number(answer)
	return okWant && okGot && got.Cmp(want) == 0
}

// clip keeps error messages short.
func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
