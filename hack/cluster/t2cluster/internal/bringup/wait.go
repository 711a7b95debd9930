package bringup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/kubeapi"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
)

const (
	pollInterval = 100 * time.Millisecond
	// tailLines is how much of a log an error carries.
	tailLines = 15
	// silence is how long a wait may last before it says that it does.
	silence = 15 * time.Second
)

// waitFor polls probe until it succeeds. It gives up when ctx ends or any component does, and then says what it was
// waiting for, what was wrong last, and how the log of the component to blame ends. A long wait says what it is for.
func (r *run) waitFor(ctx context.Context, what, blame string, probe func(context.Context) error) error {
	spoke := time.Now()
	for {
		last := probe(ctx)
		if last == nil {
			return nil
		}
		for _, s := range r.started {
			select {
			case <-s.Exited:
				return fmt.Errorf("%s ended while waiting for %s: %w%s", s.Name, what, exit(s.Err), r.logTail(s.Name))
			default:
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w%s", what, context.Cause(ctx), last, r.logTail(blame))
		case <-time.After(pollInterval):
		}
		if time.Since(spoke) >= silence {
			r.say("still waiting for %s (usually seconds)", what)
			spoke = time.Now()
		}
	}
}

// exit gives a component's silent success a name: none of them is meant to end at all.
func exit(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (r *run) logTail(component string) string {
	path := r.c.Path("logs", component+".log")
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if len(text) == 0 {
		return fmt.Sprintf("\n%s is empty", path)
	}
	return fmt.Sprintf("\nthe last lines of %s:\n%s", path, tail(string(text), tailLines))
}

// tail returns the last n lines of text, indented.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "  " + strings.Join(lines, "\n  ")
}

// node is what readiness needs of a Node.
type node struct {
	Spec struct {
		Taints []struct {
			Key    string `json:"key"`
			Effect string `json:"effect"`
		} `json:"taints"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type    string `json:"type"`
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"conditions"`
	} `json:"status"`
}

// nodeReady succeeds when pods can be scheduled on the node: it is Ready, and the taint of a new node is gone.
func nodeReady(ctx context.Context, api *kubeapi.Client, name string) error {
	var n node
	if err := api.Get(ctx, "/api/v1/nodes/"+name, &n); err != nil {
		return err
	}
	return n.ready()
}

func (n node) ready() error {
	ready := false
	for _, condition := range n.Status.Conditions {
		if condition.Type != "Ready" {
			continue
		}
		if condition.Status != "True" {
			return fmt.Errorf("it is not Ready: %s", condition.Message)
		}
		ready = true
	}
	if !ready {
		return errors.New("it has not reported yet")
	}
	for _, taint := range n.Spec.Taints {
		if taint.Effect == "NoSchedule" && strings.HasPrefix(taint.Key, "node.kubernetes.io/") {
			return fmt.Errorf("it is still tainted with %s", taint.Key)
		}
	}
	return nil
}

// proxyHealthPort is where kube-proxy says that its rules are in place.
const proxyHealthPort = 10256

func proxyReady(ctx context.Context, n layout.Node) error {
	url := "http://" + net.JoinHostPort(n.IP.String(), strconv.Itoa(proxyHealthPort)) + "/healthz"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("asking kube-proxy: %w", err)
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking kube-proxy: %w", err)
	}
	if err := response.Body.Close(); err != nil {
		return fmt.Errorf("asking kube-proxy: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("kube-proxy on %s is not ready: HTTP %d", n.Name, response.StatusCode)
	}
	return nil
}
