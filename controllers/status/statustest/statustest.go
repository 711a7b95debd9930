// Package statustest checks, for the tests of the controllers, what they say to
// people: every message of a condition or an event is in a golden file, has the
// form of a sentence that can be acted on, and none that the code can produce is
// left out.
package statustest

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
)

// update rewrites the golden files: go test ./controllers/… -update, then read
// the difference.
var update = flag.Bool("update-messages", false, "rewrite testdata/messages.txt")

// maxEvent is the size to which the API server bounds an event's note.
const maxEvent = 1024

// Message is what a controller says in one case.
type Message struct {
	// Case says when.
	Case string
	// Ready, Reason and Text are what is said; Stalled says that somebody must act.
	Ready, Stalled bool
	Reason, Text   string
}

// Of is the message by which Ready, or an error, ends a reconciliation.
func Of(name string, ready status.Ready, err error) Message {
	v := status.Judge(ready, err)
	return Message{Case: name, Ready: v.Ready, Stalled: v.Stalled, Reason: v.Reason, Text: status.Tidy(v.Message)}
}

// Verdict is an error of a step in short: "Stalled Reason", "Waiting Reason", the
// text of one that is neither, and nothing for none.
func Verdict(err error) string {
	var stalled *status.Stalled
	var waiting *status.Waiting
	switch {
	case err == nil:
		return ""
	case errors.As(err, &stalled):
		return "Stalled " + stalled.Reason
	case errors.As(err, &waiting):
		return "Waiting " + waiting.Reason
	}
	return err.Error()
}

// Client is a cluster in memory that has the given objects, of Kubernetes' and of
// the API's kinds.
func Client(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

// Check compares the messages with testdata/messages.txt, checks their form, and
// makes sure that each text in the calling package's code is in one of them.
// Files that are named by except are not searched.
func Check(t *testing.T, messages []Message, except ...string) {
	t.Helper()
	var golden strings.Builder
	for _, m := range messages {
		state := "False"
		if m.Ready {
			state = "True"
		}
		if m.Stalled {
			state = "Stalled"
		}
		fmt.Fprintf(&golden, "# %s\n%s %s: %s\n\n", m.Case, state, m.Reason, m.Text)
		for _, fault := range Faults(m) {
			t.Errorf("%s: %s\n\t%s", m.Case, fault, m.Text)
		}
	}
	compare(t, filepath.Join("testdata", "messages.txt"), golden.String())
	for _, text := range texts(t, except) {
		if !slices.ContainsFunc(messages, func(m Message) bool { return text.pattern.MatchString(m.Text) }) {
			t.Errorf("%s: no case of this test produces %q: add one", text.place, text.format)
		}
	}
}

// remedies are the words by which a message says what to do.
var remedies = regexp.MustCompile(`(?i)\b(make|correct|change|delete|take|set|add|raise|rename|name|give|lower|select|another version)\b`)

// Faults are what is wrong with the form of a message.
func Faults(m Message) []string {
	var faults []string
	check := func(good bool, fault string, args ...any) {
		if !good {
			faults = append(faults, fmt.Sprintf(fault, args...))
		}
	}
	text := m.Text
	check(text != "", "it says nothing")
	check(len(text) <= status.MaxMessage, "it has %d bytes", len(text))
	check(m.Ready || len(text) <= maxEvent, "it has %d bytes, more than an event takes", len(text))
	check(text == status.Tidy(text), "it does not end properly, or has blanks that it should not have")
	check(!strings.Contains(text, "%!"), "it has a verb without an argument, or one of another type")
	for _, bad := range []string{"..", ". .", ",.", ":.", ";.", ". ,", ": :", "()", "<nil>", "map[", "&v1", "{"} {
		check(!strings.Contains(text, bad), "it has %q", bad)
	}
	lower := strings.ToLower(text)
	check(!strings.Contains(lower, "given up") || !regexp.MustCompile(`tried again|tries again|goes on`).MatchString(lower),
		"it was given up and is tried again")
	check(!regexp.MustCompile(`\b0 of \d+ failed|after 0 failed`).MatchString(lower), "it failed, and none failed")
	if of := regexp.MustCompile(`\b(\d+) of (\d+)\b`).FindStringSubmatch(lower); !m.Ready && of != nil {
		check(of[1] != of[2], "it is not Ready for all of %s", of[2])
	}
	check(m.Ready || !strings.Contains(text, "Succeeded"), "it is not Ready because something succeeded")
	check(!m.Stalled || remedies.MatchString(text), "somebody must act, and it does not say how")
	return faults
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what is said now; go test -update-messages rewrites it (-want +got):\n%s", file, diff)
	}
}

// text is one that the code may say: a format, and what it may become.
type text struct {
	place, format string
	pattern       *regexp.Regexp
}

// speakers are the functions whose texts people read.
var speakers = []string{"Wait", "Stall", "Set", "Sprintf"}

// texts finds what the calling package's code may say: every literal of more than
// one word that is given to one of the speakers.
func texts(t *testing.T, except []string) []text {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var found []text
	set := token.NewFileSet()
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || slices.Contains(except, file) {
			continue
		}
		tree, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !slices.Contains(speakers, name(call.Fun)) {
				return true
			}
			for _, argument := range call.Args {
				if format, ok := literal(argument); ok && strings.Contains(strings.TrimSpace(format), " ") {
					found = append(found, text{set.Position(call.Pos()).String(), format, pattern(format)})
				}
			}
			return true
		})
	}
	return found
}

func name(function ast.Expr) string {
	switch f := function.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// literal is the value of a literal, or of several that are added; what else is
// added to them may be anything.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		value, err := strconv.Unquote(e.Value)
		return value, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, leftOK := literal(e.X)
		right, rightOK := literal(e.Y)
		if !leftOK {
			left = "%s"
		}
		if !rightOK {
			right = "%s"
		}
		return left + right, e.Op == token.ADD && (leftOK || rightOK)
	}
	return "", false
}

var verb = regexp.MustCompile(`%[a-z]`)

// pattern is what a format may become. What is cut from the end of a message is
// not asked for.
func pattern(format string) *regexp.Regexp {
	parts := verb.Split(status.Tidy(format), -1)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(strings.Join(parts, "(?s:.*)"))
}
