package plugin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

const (
	// answerTimeout bounds one answer, its time in a queue included.
	answerTimeout = 10 * time.Minute
	// adminTimeout bounds an answer of the admin port, which computes nothing.
	adminTimeout = 20 * time.Second
	// maxAnswer bounds what a server may send in one piece.
	maxAnswer = 8 << 20
)

// podFlags say whom to ask.
type podFlags struct{ pod, url string }

func (f *podFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.pod, "pod", "", "ask this `POD` of the policy instead of the first that is ready")
	flags.StringVar(&f.url, "url", "", "ask the API at this `URL`, such as http://localhost:8000, instead of a pod through the API server")
}

// endpoint is an API that answers.
type endpoint struct {
	// root has no path.
	root string
	http *http.Client
	// name is whom an error is about.
	name string
}

// api finds who answers for a policy. An address is asked without a cluster.
func (f *podFlags) api(ctx context.Context, s *session, policy string) (*endpoint, error) {
	if f.url != "" {
		u, err := url.Parse(f.url)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, usagef("--url %q is no address, such as http://localhost:8000", f.url)
		}
		root := strings.TrimSuffix(strings.TrimSuffix(u.String(), "/"), "/v1")
		return &endpoint{root: root, http: &http.Client{}, name: u.Host}, nil
	}
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := servingPods(ctx, c, policy)
	if err != nil {
		return nil, err
	}
	if f.pod != "" {
		for _, p := range pods {
			if p.Name == f.pod {
				return c.endpoint(&p, contract.PortAPI), nil
			}
		}
		return nil, fmt.Errorf("policy %s has no pod %s: it has %s", policy, f.pod, names(pods))
	}
	for _, p := range pods {
		if isReady(&p) {
			return c.endpoint(&p, contract.PortAPI), nil
		}
	}
	return nil, fmt.Errorf("no pod of policy %s is ready (%s): see kubectl t2 status policy/%[1]s", policy, names(pods))
}

func names(pods []corev1.Pod) string {
	list := make([]string, len(pods))
	for i, p := range pods {
		list[i] = p.Name
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// servingPods are those of a policy, which must be there.
func servingPods(ctx context.Context, c *Cluster, policy string) ([]corev1.Pod, error) {
	var p v1alpha1.AdaptivePolicy
	if err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: policy}, &p); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("there is no AdaptivePolicy %s in namespace %s", policy, c.Namespace)
		}
		return nil, fmt.Errorf("reading AdaptivePolicy %s: %w", policy, err)
	}
	return podsOf(ctx, c, v1alpha1.LabelPolicy, policy, v1alpha1.ComponentServe)
}

// podsOf are the pods with a label that are not being deleted, by name.
func podsOf(ctx context.Context, c *Cluster, label, value, component string) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := c.List(ctx, &list, client.InNamespace(c.Namespace), client.MatchingLabels{label: value, v1alpha1.LabelComponent: component}); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !p.DeletionTimestamp.IsZero() })
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, nil
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// endpoint is a port of a pod.
func (c *Cluster) endpoint(pod *corev1.Pod, port int) *endpoint {
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	transport := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx, name, port) },
		MaxIdleConnsPerHost: 64,
		// The tunnel ends in the pod's own network namespace: the API server and the
		// kubelet say who answers, and a certificate for another name can add nothing.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // See above.
	}
	return &endpoint{root: "http://" + pod.Name, http: &http.Client{Transport: transport}, name: "pod " + pod.Name}
}

// statusError is a refusal.
type statusError struct {
	name, path, status, message string
	code                        int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answers %s to %s: %s", e.name, e.status, e.path, e.message)
}

// send makes a request, whose answer is a success.
func (e *endpoint) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, e.root+path, strings.NewReader(string(body)))
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", e.name, err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.http.Do(r)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok && u != nil {
			err = u.Err // Its address is no address that anybody knows.
		}
		return nil, fmt.Errorf("asking %s: %w", e.name, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // What was read is told.
	message := strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
	var refusal struct{ Error struct{ Message string } }
	if json.Unmarshal(b, &refusal) == nil && refusal.Error.Message != "" {
		message = refusal.Error.Message
	}
	return nil, &statusError{name: e.name, path: path, status: resp.Status, message: message, code: resp.StatusCode}
}

// call makes a request and decodes its answer.
func (e *endpoint) call(ctx context.Context, method, path string, body []byte, into any) error {
	resp, err := e.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", e.name, err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("%s answers with more than %d bytes to %s", e.name, maxAnswer, path)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s does not answer as t2 does to %s: %w", e.name, path, err)
	}
	return nil
}

// admin asks a pod's admin port, by https where it speaks that.
func (c *Cluster) admin(ctx context.Context, pod *corev1.Pod, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	e := c.endpoint(pod, contract.PortAdmin)
	err := e.call(ctx, http.MethodGet, path, nil, into)
	if refused, ok := errors.AsType[*statusError](err); ok && refused.code == http.StatusBadRequest && strings.Contains(refused.message, "HTTPS server") {
		e.root = strings.Replace(e.root, "http:", "https:", 1)
		return e.call(ctx, http.MethodGet, path, nil, into)
	}
	return err
}

// message is one of a conversation.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// modelOf is the model name by which a policy is asked for an expert: the policy's, or
// that with an expert, or base, behind a colon.
func modelOf(policy, expert string) string {
	if expert == "" {
		return policy
	}
	return policy + ":" + expert
}
