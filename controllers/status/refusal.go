package status

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// maxCause bounds what is said of one field that the API server refused.
const maxCause = 256

// dump matches the value that the API server prints of a refused field, where
// that is a Go structure rather than a word.
var dump = regexp.MustCompile(`(?s)Invalid value: (\w+\.)?\w*\{.*\}: `)

// Refusal says why the API server refused an object: its words by field, without
// the structures that it prints, which hide them.
func Refusal(err error) string {
	var refused apierrors.APIStatus
	if !errors.As(err, &refused) {
		return err.Error()
	}
	s := refused.Status()
	if s.Details == nil || len(s.Details.Causes) == 0 {
		return dump.ReplaceAllString(s.Message, "")
	}
	causes := make([]string, 0, len(s.Details.Causes))
	for _, cause := range s.Details.Causes {
		text := dump.ReplaceAllString(cause.Message, "")
		if cause.Field != "" {
			text = cause.Field + ": " + text
		}
		causes = append(causes, Clip(text, maxCause))
	}
	return fmt.Sprintf("%s %s is refused: %s", s.Details.Kind, s.Details.Name, strings.Join(causes, "; "))
}
