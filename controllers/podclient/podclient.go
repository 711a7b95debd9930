// Package podclient asks the runtime's pods over HTTP: how far a Job is, and
// which expert set a serving pod uses. Every call is bounded in time and size.
package podclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/transformersquared/operator/runtime/contract"
)

const (
	// timeout of one call: pods answer at once, and one that does not is asked again
	// later.
	timeout = 2 * time.Second
	// maxBody and maxHeader bound what is read of an answer.
	maxBody   = 1 << 20
	maxHeader = 64 << 10
)

// ErrNoAddress says that a pod has no address yet.
var ErrNoAddress = errors.New("the pod has no address yet")

// StatusError is the answer of a pod that did not do what it was asked.
type StatusError struct {
	Pod string
	// Code is the HTTP status, Status the same with its text.
	Code   int
	Status string
	// Message is what the pod says about it.
	Message string
}

// Error names the pod, the status and what the pod says.
func (e *StatusError) Error() string {
	return fmt.Sprintf("pod %s answered %s: %s", e.Pod, e.Status, e.Message)
}

// Refused reports whether an error is a pod's refusal: it works, and does not take
// what it was given, or from whom. Asking it the same again changes nothing.
func Refused(err error) bool {
	e, ok := errors.AsType[*StatusError](err)
	return ok && e.Code >= 400 && e.Code < 500 && e.Code != http.StatusRequestTimeout && e.Code != http.StatusTooManyRequests
}

// Client asks pods.
type Client struct {
	// HTTP makes the calls, but those to pods that are asked by HTTPS.
	HTTP *http.Client
	// URL is where a pod's admin port answers to a path.
	URL func(pod *corev1.Pod, path string) (string, error)
	// Now is the time by which certificates are judged; nil means the clock's.
	Now func() time.Time

	trust trust
}

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// New returns a Client that asks pods by their address. It follows no
// redirects and uses no proxy: an answer comes from the pod itself or not at all.
func New() *Client {
	return &Client{HTTP: client(nil), URL: PodURL}
}

// client makes calls, by HTTPS as the configuration says.
func client(config *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    timeout,
			ResponseHeaderTimeout:  timeout,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// PodURL is the address of a path on a pod's admin port.
func PodURL(pod *corev1.Pod, path string) (string, error) {
	if pod.Status.PodIP == "" {
		return "", ErrNoAddress
	}
	scheme := "http"
	if Secured(pod) {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(contract.PortAdmin)) + path, nil
}

// Progress asks a Job's pod how far it is.
func (c *Client) Progress(ctx context.Context, pod *corev1.Pod) (contract.Progress, error) {
	var progress contract.Progress
	err := c.call(ctx, http.MethodGet, pod, contract.PathProgress, "", nil, &progress)
	return progress, err
}

// ServingStatus asks a serving pod which expert set it uses.
func (c *Client) ServingStatus(ctx context.Context, pod *corev1.Pod) (contract.ServingStatus, error) {
	return c.serving(ctx, http.MethodGet, pod, "", nil)
}

// PutExpertSet offers an expert set to a serving pod. The pod records it and
// answers with how it stands, long before it is loaded; one that refuses it
// answers with why, which is the error (see Refused).
func (c *Client) PutExpertSet(ctx context.Context, pod *corev1.Pod, token string, set contract.ExpertSet) (contract.ServingStatus, error) {
	set, err := set.Named()
	if err != nil {
		return contract.ServingStatus{}, err
	}
	body, err := json.Marshal(set)
	if err != nil {
		return contract.ServingStatus{}, fmt.Errorf("encoding the expert set: %w", err)
	}
	return c.serving(ctx, http.MethodPut, pod, token, body)
}

// serving makes a call that a ServingStatus answers. What it says goes into the
// status of objects, whose schema takes no other digests and counts.
func (c *Client) serving(ctx context.Context, method string, pod *corev1.Pod, token string, body []byte) (contract.ServingStatus, error) {
	var status contract.ServingStatus
	if err := c.call(ctx, method, pod, contract.PathExpertSet, token, body, &status); err != nil {
		return contract.ServingStatus{}, err
	}
	for _, digest := range []string{status.DesiredDigest, status.ExpertSetDigest} {
		if digest != "" && !contract.ValidDigest(digest) {
			return contract.ServingStatus{}, fmt.Errorf("pod %s reports the expert set %.80q, which is no digest", pod.Name, digest)
		}
	}
	least := min(status.Requests, status.Fallbacks)
	for _, e := range status.Experts {
		least = min(least, e.Requests)
	}
	if c := status.Candidate; c != nil {
		least = min(least, leastOf(c))
	}
	if least < 0 {
		return contract.ServingStatus{}, fmt.Errorf("pod %s reports a count of %d", pod.Name, least)
	}
	return status, nil
}

// leastOf is the least of what a candidate and its set have counted.
func leastOf(c *contract.ServingCandidate) int64 {
	least := int64(0)
	for _, s := range []contract.SideCounts{c.Stable, c.Candidate} {
		least = min(least, s.Requests, s.Requests-s.Errors, s.Errors, s.Fallbacks, s.Tokens, int64(s.FirstTokenSeconds))
	}
	if o := c.Observed; o != nil {
		least = min(least, o.Compared, o.Compared-o.Different, o.Different, o.Failed, o.Dropped)
		for _, p := range o.Pairs {
			least = min(least, p.Requests)
		}
	}
	return least
}

func (c *Client) call(ctx context.Context, method string, pod *corev1.Pod, path, token string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	address, err := c.URL(pod, path)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("asking pod %s: %w", pod.Name, err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	caller, err := c.caller(pod)
	if err != nil {
		return err
	}
	response, err := caller.Do(request)
	if err != nil {
		return fmt.Errorf("asking pod %s: %w", pod.Name, distrusted(err))
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return fmt.Errorf("reading the answer of pod %s: %w", pod.Name, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusAccepted {
		return &StatusError{Pod: pod.Name, Code: response.StatusCode, Status: response.Status, Message: why(answer)}
	}
	if len(answer) > maxBody {
		return fmt.Errorf("reading the answer of pod %s: it has more than %d bytes", pod.Name, maxBody)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("reading the answer of pod %s: %w", pod.Name, err)
	}
	return nil
}

// why finds the reason in the answer of a pod that refused: the message of an
// error object, as a ServingStatus and OpenAI have one, else the text.
func why(answer []byte) string {
	var object struct {
		Error json.RawMessage `json:"error"`
	}
	text := string(answer)
	if json.Unmarshal(answer, &object) == nil && len(object.Error) > 0 {
		var inner struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(object.Error, &inner) == nil && inner.Message != "" {
			text = inner.Message
		} else {
			_ = json.Unmarshal(object.Error, &text) // If it is a text.
		}
	}
	runes := []rune(strings.TrimSpace(strings.ToValidUTF8(text, "\uFFFD")))
	const most = 300
	return string(runes[:min(len(runes), most)])
}
