package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/transformersquared/operator/runtime/contract"
)

// answer is the part of a chat completion that the demo shows.
type answer struct {
	Text       string
	Adaptation contract.Adaptation
}

// asker sends chat completions to a policy's Service through the API server's
// proxy, so it needs neither DNS nor a port-forward.
type asker struct {
	clients   kubernetes.Interface
	namespace string
	policy    string
}

// ask sends one question to a model name: the policy, "<policy>:<expert>" or
// "<policy>:base". Answers are greedy, so they can be compared.
func (a asker) ask(ctx context.Context, model, question string, maxTokens int) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"model":       model,
		"messages":    []map[string]string{{"role": "user", "content": question}},
		"temperature": 0,
		"max_tokens":  maxTokens,
	})
	if err != nil {
		return answer{}, fmt.Errorf("encoding the request: %w", err)
	}
	raw, err := a.clients.CoreV1().RESTClient().Post().
		Namespace(a.namespace).Resource("services").Name("http:"+a.policy+":80").SubResource("proxy").
		Suffix(contract.PathChatCompletions).
		SetHeader("Content-Type", "application/json").Body(body).
		DoRaw(ctx)
	if err != nil {
		return answer{}, fmt.Errorf("asking %s: %w: %s", model, err, raw)
	}
	var reply struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
		} `json:"choices"`
		T2 contract.Adaptation `json:"t2"`
	}
	if err := json.Unmarshal(raw, &reply); err != nil {
		return answer{}, fmt.Errorf("reading the answer of %s: %w", model, err)
	}
	if len(reply.Choices) != 1 {
		return answer{}, fmt.Errorf("the answer of %s has %d choices, not 1", model, len(reply.Choices))
	}
	return answer{Text: reply.Choices[0].Message.Content, Adaptation: reply.T2}, nil
}
