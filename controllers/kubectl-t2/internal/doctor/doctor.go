// Package doctor finds what would fail before it fails: rights, kinds, the operator,
// storage, GPUs and images. It changes nothing: what it creates are questions to the API
// server (access reviews), which are kept nowhere.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/version"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Level says how bad a finding is.
type Level string

// Levels.
const (
	// OK is as it should be.
	OK Level = "OK"
	// Note is worth knowing, and fails nothing.
	Note Level = "Note"
	// Unknown could not be looked at.
	Unknown Level = "Unknown"
	// Warning may fail.
	Warning Level = "Warning"
	// Failed fails.
	Failed Level = "Failed"
)

// Finding is what was found of one thing.
type Finding struct {
	Level Level `json:"level"`
	// Area is what it is about, in a word or two.
	Area string `json:"area"`
	// What was found, in one sentence.
	What string `json:"what"`
	// Do is what to do about it; empty where nothing is.
	Do string `json:"do,omitempty"`
}

// Patient is the cluster that is examined.
type Patient struct {
	client.Client
	// Namespace has the objects that are to work.
	Namespace string
	// Operator is the operator's namespace; empty searches it.
	Operator string
	// Version asks for the API server's.
	Version func(context.Context) (*version.Info, error)
}

// examination is one run of the doctor.
type examination struct {
	Patient
	findings []Finding
	operator *operator
}

// Examine looks at everything. An error is one of the connection: what could not be
// looked at for want of rights is a finding.
func Examine(ctx context.Context, p Patient) ([]Finding, error) {
	e := &examination{Patient: p}
	for _, look := range []func(context.Context) error{
		e.server, e.kinds, e.deployment, e.operatorRights, e.userRights, e.objects, e.images,
	} {
		if err := look(ctx); err != nil {
			return e.findings, err
		}
	}
	return e.findings, nil
}

// Worst is the worst level of findings.
func Worst(findings []Finding) Level {
	order := []Level{OK, Note, Unknown, Warning, Failed}
	worst := 0
	for _, f := range findings {
		for i, l := range order {
			if f.Level == l {
				worst = max(worst, i)
			}
		}
	}
	return order[worst]
}

func (e *examination) add(level Level, area, do, what string, args ...any) {
	e.findings = append(e.findings, Finding{Level: level, Area: area, What: fmt.Sprintf(what, args...), Do: do})
}

// unknown records what the user may not look at, and returns any other error.
func (e *examination) unknown(err error, area, doing string) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		e.add(Unknown, area, "ask somebody who may, or run it with their --context", "you may not look at it: %s", reason(err))
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// reason is the API server's own words.
func reason(err error) string {
	if s, ok := errors.AsType[*apierrors.StatusError](err); ok && s != nil {
		return s.ErrStatus.Message
	}
	return err.Error()
}

// MinMinor is the oldest minor version of Kubernetes 1 that the operator is meant for:
// what its Jobs, pods and CRDs use is in it and on.
const MinMinor = 33

// maxMinor is the newest that it was tested with.
const maxMinor = 37

func (e *examination) server(ctx context.Context) error {
	const area = "API server"
	v, err := e.Version(ctx)
	if err != nil {
		return fmt.Errorf("asking the API server for its version: %w", err)
	}
	var minor int
	if n, _ := fmt.Sscanf(v.Minor, "%d", &minor); n != 1 || v.Major != "1" { // Such as 37+.
		e.add(Unknown, area, "", "its version, %s, is none that is known", v.GitVersion)
		return nil
	}
	switch {
	case minor < MinMinor:
		e.add(Failed, area, fmt.Sprintf("upgrade the cluster to 1.%d or newer", MinMinor), "%s is older than 1.%d", v.GitVersion, MinMinor)
	case minor > maxMinor:
		e.add(Note, area, "", "%s is newer than 1.%d, the newest that was tested", v.GitVersion, maxMinor)
	default:
		e.add(OK, area, "", "%s", v.GitVersion)
	}
	return nil
}

// list writes names as a sentence does.
func list(names []string) string {
	const most = 6
	if len(names) > most {
		names = append(names[:most:most], fmt.Sprintf("%d more", len(names)-most))
	}
	return strings.Join(names, ", ")
}
