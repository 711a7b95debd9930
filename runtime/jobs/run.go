// Package jobs is the frame in which the batch subcommands of t2 run (fetch,
// decompose, import, train): where the specification comes from, progress and
// metrics over HTTP or as a bar, the termination message, and the exit status.
package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Options say around a job what Run needs to know.
type Options struct {
	// Name is the subcommand's, for logs and errors.
	Name string
	// Managed says that the operator started the job (see the function
	// Managed): the termination message is written, the admin listener starts
	// on contract.PortAdmin, and the exit status tells permanent and
	// interrupted failures apart.
	Managed bool
	// AdminAddress, such as ":8081", starts the admin listener in a job that is
	// not managed too.
	AdminAddress string
	// JSON prints the contract.Termination on Stdout; otherwise a summary for
	// people is printed.
	JSON           bool
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// Func is a job. It returns what goes into the termination message; the device is
// filled in by Run as the job told p, and on an error Reason, Message and
// Permanent are. It should return
// soon after ctx is done, leaving a state from which it can go on.
type Func func(ctx context.Context, p *Progress) (contract.Termination, error)

// ExitError carries the exit status of a job that failed.
type ExitError struct {
	Code int
	Err  error
}

// Error returns the job's error.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the job's error.
func (e *ExitError) Unwrap() error { return e.Err }

// Run runs a job and reports how it went: termination message, JSON or summary
// on Stdout. It returns nil or an *ExitError; whoever prints errors prints it
// once. A cancelled ctx (SIGTERM, ctrl-C) ends a job as contract.ReasonInterrupted.
func Run(ctx context.Context, o Options, job Func) error {
	p := NewProgress()
	log := NewLogger(o.Stderr)
	address := o.AdminAddress
	if o.Managed && address == "" {
		address = fmt.Sprintf(":%d", contract.PortAdmin)
	}
	if address != "" {
		defer serveAdmin(ctx, address, p, log)()
	}
	stopBar := showBar(o.Stderr, p)
	result, err := job(withLogger(ctx, log), p)
	stopBar()

	result.Device = p.Snapshot().Device
	if remedy := failure.Remedy(err); remedy != "" {
		err = fmt.Errorf("%w: %s", err, remedy)
	}
	if err != nil {
		result.Reason, result.Permanent = classify(ctx, err)
		result.Message = err.Error()
	}
	if o.Managed {
		// The job's own outcome matters more than whether it could be told.
		if werr := WriteTermination(result, o.Getenv); werr != nil {
			log.Error("Termination message was not written", "error", werr)
		}
	}
	if perr := printResult(o, result); perr != nil && err == nil {
		return &ExitError{Code: contract.ExitFailed, Err: perr}
	}
	if err != nil {
		return &ExitError{
			Code: exitCode(o.Managed, result),
			Err:  fmt.Errorf("%s: %w", result.Reason, err),
		}
	}
	return nil
}

// classify is failure.Of, except that after ctx was cancelled an error that is
// not permanent by itself is the interruption's doing.
func classify(ctx context.Context, err error) (reason string, permanent bool) {
	reason, permanent = failure.Of(err)
	if !permanent && ctx.Err() != nil {
		return contract.ReasonInterrupted, false
	}
	return reason, permanent
}

func exitCode(managed bool, t contract.Termination) int {
	switch {
	case managed && t.Permanent:
		return contract.ExitPermanent
	case managed && t.Reason == contract.ReasonInterrupted:
		return contract.ExitInterrupted
	case !managed && t.Reason == contract.ReasonUsage:
		return contract.ExitUsage
	default:
		return contract.ExitFailed
	}
}

func printResult(o Options, t contract.Termination) error {
	if o.JSON {
		if t.Decomposition != nil {
			d := *t.Decomposition
			d.Files = nil
			t.Decomposition = &d
		}
		enc := json.NewEncoder(o.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(t)
	}
	return summarize(o.Stdout, t)
}

// summarize says in a few lines what a job has made.
func summarize(w io.Writer, t contract.Termination) error {
	var errs []error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		errs = append(errs, err)
	}
	if m := t.Model; m != nil {
		line("Model          %s", m.Digest)
		line("               %s, %d layers, %d parameters, %d files, %d bytes",
			m.Architecture.Family, m.Architecture.Layers, m.Architecture.Parameters, m.FileCount, m.SizeBytes)
	}
	if d := t.Decomposition; d != nil {
		line("Decomposition  %s", d.Digest)
		line("               %d matrices, %d singular values, largest relative error %.2g",
			d.Matrices, d.SingularValues, d.MaxRelativeError)
	}
	if e := t.Expert; e != nil {
		line("Expert         %s", e.Digest)
		if tr := e.Training; tr != nil {
			line("               validation score %.4f (base %.4f) after %d iterations",
				tr.BestScore, tr.BaselineScore, tr.Iteration)
		}
	}
	if f := t.FewShot; f != nil {
		line("Score          %.4f (base %.4f, equal weights %.4f) on %d examples, after %d evaluations in %.1f s",
			f.Score, f.BaselineScore, f.UniformScore, f.Examples, f.Evaluations, f.Seconds)
		for i, w := range f.Weights {
			line("Expert %-3d     %.4f (alone: score %.4f)", i, w.Weight, w.Score)
		}
	}
	if e := t.Evaluation; e != nil {
		line("Evaluation     %s", e.Digest)
		for i, s := range e.Sets {
			gain, low, high := s.Gain()
			line("Data set %-5d  %d questions: base %d right, stable set %d, candidate %d; gain %+.4f (%+.4f to %+.4f)",
				i, s.Questions, s.Base, s.Stable, s.Candidate, gain, low, high)
		}
	}
	return errors.Join(errs...)
}

type loggerKey struct{}

func withLogger(ctx context.Context, log *slog.Logger) context.Context {
	return context.WithValue(ctx, loggerKey{}, log)
}

// Logger returns the logger that Run gave to a job's context, or one that
// discards where there is none.
func Logger(ctx context.Context) *slog.Logger {
	if log, ok := ctx.Value(loggerKey{}).(*slog.Logger); ok {
		return log
	}
	return slog.New(slog.DiscardHandler)
}
