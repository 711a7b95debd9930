// Package podclient asks the runtime's pods over HTTP: how far a Job is, and
// which expert set a serving pod uses. Every call is bounded in time and size.
package podclient

import (
	"bytes"
	"context"
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
	// timeout of one call: a pod that is slower is asked again later.
	timeout = 2 * time.Second
	// loadTimeout of offering an expert set, which the pod reads from its volume
	// before it answers.
	loadTimeout = 15 * time.Second
	// maxBody bounds what is read of an answer.
	maxBody = 1 << 20
)

// ErrNoAddress says that a pod has no address yet.
var ErrNoAddress = errors.New("the pod has no address yet")

// Client asks pods.
type Client struct {
	// HTTP makes the calls.
	HTTP *http.Client
	// URL is where a pod's admin port answers to a path.
	URL func(pod *corev1.Pod, path string) (string, error)
}

// New returns a Client that asks pods by their address. It follows no
// redirects and uses no proxy: an answer comes from the pod itself or not at all.
func New() *Client {
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: timeout}).DialContext,
		ResponseHeaderTimeout: loadTimeout,
		MaxIdleConnsPerHost:   1,
		IdleConnTimeout:       time.Minute,
	}
	return &Client{
		HTTP: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		URL: PodURL,
	}
}

// PodURL is the address of a path on a pod's admin port.
func PodURL(pod *corev1.Pod, path string) (string, error) {
	if pod.Status.PodIP == "" {
		return "", ErrNoAddress
	}
	return "http://" + net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(contract.PortAdmin)) + path, nil
}

// Progress asks a Job's pod how far it is.
func (c *Client) Progress(ctx context.Context, pod *corev1.Pod) (contract.Progress, error) {
	var progress contract.Progress
	err := c.call(ctx, timeout, http.MethodGet, pod, contract.PathProgress, "", nil, &progress)
	return progress, err
}

// ServingStatus asks a serving pod which expert set it uses.
func (c *Client) ServingStatus(ctx context.Context, pod *corev1.Pod) (contract.ServingStatus, error) {
	var status contract.ServingStatus
	err := c.call(ctx, timeout, http.MethodGet, pod, contract.PathExpertSet, "", nil, &status)
	return status, err
}

// PutExpertSet offers an expert set to a serving pod. A pod that refuses it
// answers with why, which is the error.
func (c *Client) PutExpertSet(ctx context.Context, pod *corev1.Pod, token string, set contract.ExpertSet) (contract.ServingStatus, error) {
	var status contract.ServingStatus
	body, err := json.Marshal(set)
	if err != nil {
		return status, fmt.Errorf("encoding the expert set: %w", err)
	}
	err = c.call(ctx, loadTimeout, http.MethodPut, pod, contract.PathExpertSet, token, body, &status)
	return status, err
}

func (c *Client) call(ctx context.Context, limit time.Duration, method string, pod *corev1.Pod, path, token string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
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
	response, err := c.HTTP.Do(request)
	if err != nil {
		return fmt.Errorf("asking pod %s: %w", pod.Name, err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return fmt.Errorf("reading the answer of pod %s: %w", pod.Name, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("pod %s answered %s: %s", pod.Name, response.Status, why(answer))
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("reading the answer of pod %s: %w", pod.Name, err)
	}
	return nil
}

// why finds the reason in the answer of a pod that refused: the error of a
// ServingStatus or of an OpenAI error object, else the text.
func why(answer []byte) string {
	var status struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(answer, &status) == nil && len(status.Error) > 0 {
		var text string
		if json.Unmarshal(status.Error, &text) == nil {
			return text
		}
		var object struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(status.Error, &object) == nil && object.Message != "" {
			return object.Message
		}
	}
	text := []rune(strings.TrimSpace(string(answer)))
	const most = 300
	return string(text[:min(len(text), most)])
}
