package server_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/shared"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/toolcall/toolcalltest"
)

// openCalling is open on a model whose template knows tools.
func openCalling(t testing.TB) *house {
	t.Helper()
	kind := enginetest.Usual
	kind.Template, kind.Context = toolcalltest.Templates["hermes"], 2048
	return openOn(t, enginetest.NewOf(t, kind), func(c *server.Config) { c.ContextLength = kind.Context })
}

// parametersOf is a tool's schema as OpenAI's client takes it.
func parametersOf(t *testing.T, schema string) shared.FunctionParameters {
	t.Helper()
	var p shared.FunctionParameters
	if err := json.Unmarshal([]byte(schema), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOpenAIsClientCallsTools(t *testing.T) {
	h := openCalling(t)
	client := h.client()
	params := chatParams()
	params.MaxTokens, params.Temperature = openai.Int(300), openai.Float(1)
	params.FrequencyPenalty, params.PresencePenalty = openai.Float(0), openai.Float(0)
	params.Tools = []openai.ChatCompletionToolUnionParam{
		openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "file_ticket", Strict: openai.Bool(true), Parameters: parametersOf(t, ticket)}),
		openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "now", Description: openai.String("Tells the time.")}),
	}
	params.ToolChoice = openai.ToolChoiceOptionFunctionToolChoice(openai.ChatCompletionNamedToolChoiceFunctionParam{Name: "file_ticket"})
	whole, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	_, validate := schemaOf(t, ticket)
	choice := whole.Choices[0]
	if choice.FinishReason != "tool_calls" || len(choice.Message.ToolCalls) != 1 || !choice.Message.JSON.Content.Valid() == (choice.Message.Content != "") {
		t.Fatalf("choice %s", choice.RawJSON())
	}
	call := choice.Message.ToolCalls[0]
	if call.Type != "function" || call.Function.Name != "file_ticket" {
		t.Errorf("call %s", call.RawJSON())
	}
	validates(t, validate, call.Function.Arguments, "stop")

	params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var all openai.ChatCompletionAccumulator
	var finished openai.FinishedChatCompletionToolCall
	chunks := 0
	for stream.Next() {
		if chunks++; !all.AddChunk(stream.Current()) {
			t.Fatalf("the client cannot add %s", stream.Current().RawJSON())
		}
		if c, ok := all.JustFinishedToolCall(); ok {
			finished = c
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	streamed := all.Choices[0]
	if streamed.FinishReason != "tool_calls" || len(streamed.Message.ToolCalls) != 1 || streamed.Message.ToolCalls[0].Function.Arguments != call.Function.Arguments ||
		finished.Name != "file_ticket" || finished.Arguments != call.Function.Arguments || chunks < 10 {
		t.Errorf("streamed in %d chunks %s, want %s", chunks, streamed.Message.RawJSON(), choice.RawJSON())
	}
	if all.Usage.CompletionTokens != whole.Usage.CompletionTokens || all.Usage.PromptTokens != whole.Usage.PromptTokens {
		t.Errorf("usage %+v streamed, %+v whole", all.Usage, whole.Usage)
	}

	// The conversation goes on with what the tool says.
	params.StreamOptions, params.ToolChoice = openai.ChatCompletionStreamOptionsParam{}, openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("auto")}
	params.Messages = append(params.Messages, choice.Message.ToParam(), openai.ToolMessage("ticket 7", call.ID))
	params.MaxTokens = openai.Int(5)
	answered, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if answered.Usage.PromptTokens <= whole.Usage.PromptTokens || answered.Choices[0].Message.Role != "assistant" {
		t.Errorf("answer %s", answered.RawJSON())
	}
}

// TestToolsLeavePass1Alone asks the same with tools and without: the same expert answers, as
// likely, and it stays when a tool's result comes. What the tools are is in the cache.
func TestToolsLeavePass1Alone(t *testing.T) {
	h := openCalling(t)
	set := h.rivals("otherb", "otherc")
	set.Conversation = &contract.Conversation{Mode: contract.ConversationEachTurn}
	h.swap(t, set)
	ask := func(body fields) answer {
		t.Helper()
		got, r := h.ask(t, contract.PathChatCompletions, body)
		if r.StatusCode != http.StatusOK {
			t.Fatalf("status %s: %+v", r.Status, got.Error)
		}
		return got
	}
	without := ask(chat("demo", "What is 2+3?", fields{"cache_salt": "other"}))
	body := chat("demo", "What is 2+3?", fields{"tools": []any{json.RawMessage(switchTool)}, "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 200})
	first := ask(body)
	if diff := cmp.Diff(without.Adaptation.Probabilities, first.Adaptation.Probabilities); diff != "" || first.Adaptation.Expert != without.Adaptation.Expert || first.Adaptation.Pass1Seconds == 0 {
		t.Errorf("with tools pass 1 finds %+v, without %+v", first.Adaptation, without.Adaptation)
	}
	prompt := func(messages []fields) int {
		t.Helper()
		shown := 0
		for _, m := range messages {
			shown += len(m["content"].(string))
		}
		return shown
	}
	if least := prompt(body["messages"].([]fields)); first.Usage.Prompt < least+100 || first.Usage.Total != first.Usage.Prompt+first.Usage.Completion {
		t.Errorf("usage %+v of a prompt with tools", first.Usage)
	}
	calls := first.Choices[0].Message.Calls
	if len(calls) != 1 {
		t.Fatalf("%+v", first.Choices[0])
	}
	messages := append(body["messages"].([]fields), fields{"role": "assistant", "content": nil, "tool_calls": []fields{
		{"id": calls[0].ID, "type": "function", "function": fields{"name": calls[0].Function.Name, "arguments": calls[0].Function.Arguments}},
	}}, fields{"role": "tool", "tool_call_id": calls[0].ID, "content": "rain"})
	body["messages"], body["tool_choice"] = messages, "auto"
	second := ask(body)
	if a := second.Adaptation; a.Expert != first.Adaptation.Expert || a.Turn != 1 || a.Pass1Seconds != 0 {
		t.Errorf("after a tool's result: %+v, want the expert of before", a)
	}
	// The answer is part of the prompt now, as the template writes it.
	if cached := second.Usage.Details.Cached; cached < first.Usage.Prompt-16 || cached >= second.Usage.Prompt {
		t.Errorf("%d of %d tokens were in the cache, and %d had been read", cached, second.Usage.Prompt, first.Usage.Prompt)
	}
	// Another conversation with the same tools begins alike.
	other := ask(chat("demo", "Another?", fields{"tools": []any{json.RawMessage(switchTool)}}))
	if cached := other.Usage.Details.Cached; other.Adaptation.Expert == first.Adaptation.Expert && cached < 100 {
		t.Errorf("%d tokens of the same tools were in the cache", cached)
	}
}

// TestOpenAIsNodeClientCallsTools runs test/clients/node/tools.test.mjs against a server whose
// model can call tools.
func TestOpenAIsNodeClientCallsTools(t *testing.T) {
	dir := os.Getenv("T2_NODE_CLIENT")
	if dir == "" {
		t.Skip("T2_NODE_CLIENT is not set: it names test/clients/node with its packages installed, as make unit does")
	}
	h := openCalling(t)
	node := exec.CommandContext(t.Context(), "node", "--test", filepath.Join(dir, "tools.test.mjs"))
	node.Env = append(os.Environ(), "OPENAI_BASE_URL="+h.api.URL+"/v1/")
	if out, err := node.CombinedOutput(); err != nil || !strings.Contains(string(out), "# fail 0") {
		t.Fatalf("%v\n%s", err, out)
	}
}
