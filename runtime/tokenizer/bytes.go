package tokenizer

import "strings"

// Byte-level BPE works on printable characters only: each byte is spelled as
// one character, itself where that is printable, else one from U+0100 on. This
// is GPT-2's mapping.
var (
	byteToRune = byteAlphabet()
	runeToByte = invert(byteToRune)
)

func byteAlphabet() (table [256]rune) {
	next := rune(0x100)
	for b := range 256 {
		switch {
		case b >= '!' && b <= '~', b >= 0xA1 && b <= 0xAC, b >= 0xAE:
			table[b] = rune(b)
		default:
			table[b] = next
			next++
		}
	}
	return table
}

func invert(table [256]rune) map[rune]byte {
	m := make(map[rune]byte, len(table))
	for b, r := range table {
		m[r] = byte(b)
	}
	return m
}

// spellBytes spells the bytes of s in that alphabet.
func spellBytes(s string) string {
	var b strings.Builder
	b.Grow(2 * len(s))
	for i := range len(s) {
		b.WriteRune(byteToRune[s[i]])
	}
	return b.String()
}

// appendSpelled appends the bytes that a token spells. A token with a character
// outside of the alphabet (an added token) stands for itself.
func appendSpelled(dst []byte, token string) []byte {
	n := len(dst)
	for _, r := range token {
		b, ok := runeToByte[r]
		if !ok {
			return append(dst[:n], token...)
		}
		dst = append(dst, b)
	}
	return dst
}
