package engine

import "strings"

// stopper finds stop texts in a text that comes in pieces, and holds back what
// may still become one.
type stopper struct {
	texts []string
	held  string
}

// push takes the next piece and returns what is certain to be part of the
// answer. Once a stop text is complete it returns what came before and true.
func (s *stopper) push(piece string) (text string, stopped bool) {
	if len(s.texts) == 0 {
		return piece, false
	}
	all := s.held + piece
	first := -1
	for _, stop := range s.texts {
		if i := strings.Index(all, stop); i >= 0 && (first < 0 || i < first) {
			first = i
		}
	}
	if first >= 0 {
		s.held = ""
		return all[:first], true
	}
	hold := 0
	for _, stop := range s.texts {
		for n := min(len(stop)-1, len(all)); n > hold; n-- {
			if strings.HasSuffix(all, stop[:n]) {
				hold = n
				break
			}
		}
	}
	s.held = all[len(all)-hold:]
	return all[:len(all)-hold], false
}

// rest returns what is still held back, when no more comes.
func (s *stopper) rest() string {
	text := s.held
	s.held = ""
	return text
}
