package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/transformersquared/operator/runtime/contract"
)

// byRequest says how a request was answered, and why so: the pod that answered it
// remembers it for a while, and the others know nothing of it, so that all are asked.
func (f *explainFlags) byRequest(ctx context.Context, s *session, policy string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	apis, err := f.everybody(ctx, s, policy)
	if err != nil {
		return err
	}
	record, err := ask(ctx, apis, f.request)
	if err != nil {
		return fmt.Errorf("request %s of policy %s: %w", f.request, policy, err)
	}
	if f.output == formJSON {
		return printJSON(s.env.Stdout, record)
	}
	_, err = io.WriteString(s.env.Stdout, remembered(*record))
	return err
}

// everybody is the address that --url names, or all running pods of a policy, or one.
func (f *podFlags) everybody(ctx context.Context, s *session, policy string) ([]*endpoint, error) {
	if f.url != "" || f.pod != "" {
		api, err := f.api(ctx, s, policy)
		return []*endpoint{api}, err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := servingPods(ctx, c, policy)
	if err != nil {
		return nil, err
	}
	var apis []*endpoint
	for _, p := range pods {
		if p.Status.Phase == corev1.PodRunning {
			apis = append(apis, c.endpoint(&p, contract.PortAPI))
		}
	}
	if len(apis) == 0 {
		return nil, fmt.Errorf("no pod of policy %s runs (%s)", policy, names(pods))
	}
	return apis, nil
}

// ask asks all at once; the first that knows the request has answered it.
func ask(ctx context.Context, apis []*endpoint, id string) (*contract.RequestRecord, error) {
	var mu sync.Mutex
	var found *contract.RequestRecord
	var unknown, failed []error
	var wg sync.WaitGroup
	for _, api := range apis {
		wg.Go(func() {
			var r contract.RequestRecord
			err := api.call(ctx, http.MethodGet, contract.PathRequests+"/"+url.PathEscape(id), nil, &r)
			mu.Lock()
			defer mu.Unlock()
			refused, ok := errors.AsType[*statusError](err)
			switch {
			case err == nil:
				found = &r
			case ok && refused.code == http.StatusNotFound:
				unknown = append(unknown, err)
			default:
				failed = append(failed, err)
			}
		})
	}
	wg.Wait()
	switch {
	case found != nil:
		return found, nil
	case len(failed) > 0:
		return nil, fmt.Errorf("%d of %d pods do not know it, and the others could not be asked: %w", len(unknown), len(apis), errors.Join(failed...))
	default:
		return nil, fmt.Errorf("none of %d pods knows it: %w", len(apis), unknown[0])
	}
}

// remembered words how a request was answered.
func remembered(r contract.RequestRecord) string {
	var f facts
	f.add("Request", "%s, answered as %s", r.ID, r.AnswerID)
	if r.Pod != "" {
		f.add("Pod", "%s", r.Pod)
	}
	f.add("Time", "%s", r.Time.UTC().Format(time.RFC3339))
	f.add("Model", "%s", r.Model)
	f.add("Answered by", "%s", r.Adaptation.Expert)
	f.add("Why", "%s", r.Why)
	f.add("Strategy", "%s", r.Adaptation.Strategy)
	if r.Adaptation.Fallback != "" {
		f.add("Fallback", "%s", r.Adaptation.Fallback)
	}
	f.weights(r.Adaptation.Weights)
	name := "Pass 1"
	for _, expert := range byValue(r.Adaptation.Probabilities) {
		p := r.Adaptation.Probabilities[expert]
		f.add(name, "%s %.4f  %s", share(p), p, expert)
		name = ""
	}
	f.add("Tokens", "%d of the prompt (%d known), %d of pass 1, %d of the answer", r.PromptTokens, r.CachedTokens, r.Pass1Tokens, r.Tokens)
	f.add("Took", "pass 1 %.3f s, waiting %.3f s, to the first token %.3f s, pass 2 %.3f s", r.Adaptation.Pass1Seconds, r.QueuedSeconds, r.FirstTokenSeconds, r.Adaptation.Pass2Seconds)
	if len(r.Finish) > 0 {
		f.add("Ended", "%s", strings.Join(r.Finish, ", "))
	}
	if r.Error != "" {
		f.add("Error", "%s", r.Error)
	}
	if o := r.Outcome; o != nil {
		marked := "wrong"
		if o.Right {
			marked = "right"
		}
		if o.Comment != "" {
			marked += ": " + o.Comment
		}
		f.add("Marked", "%s", marked)
	}
	if r.TraceID != "" {
		f.add("Trace", "%s", r.TraceID)
	}
	f.add("Expert set", "%s", r.Adaptation.ExpertSetDigest)
	return f.String()
}
