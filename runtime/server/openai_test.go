package server_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/transformersquared/operator/runtime/contract"
)

// client is OpenAI's own client, pointed at the house.
func (h *house) client() openai.Client {
	return openai.NewClient(option.WithBaseURL(h.api.URL+"/v1/"), option.WithAPIKey("none"), option.WithMaxRetries(0))
}

func chatParams() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: "demo",
		Messages: []openai.ChatCompletionMessageParamUnion{
			openai.SystemMessage("Be brief."),
			openai.UserMessage("What is 3 plus 4?"),
		},
		Seed: openai.Int(7), MaxTokens: openai.Int(12), Temperature: openai.Float(0.8), TopP: openai.Float(0.9),
		FrequencyPenalty: openai.Float(0.5), PresencePenalty: openai.Float(-0.5),
	}
}

func TestOpenAIsClientChats(t *testing.T) {
	h := open(t, nil)
	params := chatParams()
	params.Logprobs, params.TopLogprobs = openai.Bool(true), openai.Int(3)
	client := h.client()
	got, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if got.Model != "demo" || len(got.Choices) != 1 || got.Usage.CompletionTokens == 0 ||
		got.Usage.TotalTokens != got.Usage.PromptTokens+got.Usage.CompletionTokens {
		t.Errorf("answer %s", got.RawJSON())
	}
	choice := got.Choices[0]
	if !slices.Contains([]string{"stop", "length"}, choice.FinishReason) || choice.Message.Role != "assistant" {
		t.Errorf("choice %s", choice.RawJSON())
	}
	if len(choice.Logprobs.Content) == 0 {
		t.Error("no log-probabilities")
	}
	for _, p := range choice.Logprobs.Content {
		if p.Logprob > 0 || len(p.TopLogprobs) != 3 {
			t.Errorf("log-probability %s", p.RawJSON())
		}
	}
	var adaptation contract.Adaptation
	if err := json.Unmarshal([]byte(got.JSON.ExtraFields[contract.AdaptationField].Raw()), &adaptation); err != nil {
		t.Fatalf("the extension field: %v", err)
	}
	if adaptation.Expert == "" || len(adaptation.Probabilities) == 0 || adaptation.Pass1Seconds <= 0 {
		t.Errorf("adaptation %+v", adaptation)
	}
}

func TestOpenAIsClientForcesAndBansTokens(t *testing.T) {
	h := open(t, nil)
	client := h.client()
	ask := func(bias map[string]int64) string {
		t.Helper()
		got, err := client.Completions.New(t.Context(), openai.CompletionNewParams{
			Model: "demo:base", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("3 + 4 =")},
			MaxTokens: openai.Int(4), Temperature: openai.Float(0), LogitBias: bias,
		})
		if err != nil {
			t.Fatal(err)
		}
		return got.Choices[0].Text
	}
	_, _, tok := h.volume.Load(t)
	x, err := tok.Encode("x", false)
	if err != nil || len(x) != 1 {
		t.Fatalf("the token of x: %v, %v", x, err)
	}
	token := strconv.Itoa(int(x[0]))
	if got := ask(map[string]int64{token: 100}); got != "xxxx" {
		t.Errorf("with x forced the answer is %q", got)
	}
	if got := ask(map[string]int64{token: -100}); strings.Contains(got, "x") {
		t.Errorf("with x banned the answer is %q", got)
	}
}

func TestOpenAIsClientStreamsWhatItWouldGetWhole(t *testing.T) {
	h := open(t, nil)
	client := h.client()
	whole, err := client.Chat.Completions.New(t.Context(), chatParams())
	if err != nil {
		t.Fatal(err)
	}
	params := chatParams()
	params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var all openai.ChatCompletionAccumulator
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Fatalf("the client cannot add %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all.Choices) != 1 || all.Choices[0].Message.Content != whole.Choices[0].Message.Content ||
		all.Choices[0].FinishReason != whole.Choices[0].FinishReason {
		t.Errorf("streamed %+v, whole %s", all.Choices, whole.RawJSON())
	}
	if all.Usage.CompletionTokens != whole.Usage.CompletionTokens {
		t.Errorf("streamed usage %+v, whole %+v", all.Usage, whole.Usage)
	}
}

func TestOpenAIsClientGetsSeveralChoices(t *testing.T) {
	h := open(t, nil)
	client := h.client()
	alone, err := client.Chat.Completions.New(t.Context(), chatParams())
	if err != nil {
		t.Fatal(err)
	}
	params := chatParams()
	params.N = openai.Int(4)
	whole, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.Choices) != 4 || whole.Choices[0].Message.Content != alone.Choices[0].Message.Content {
		t.Fatalf("four choices %s, alone %s", whole.RawJSON(), alone.RawJSON())
	}
	if whole.Usage.PromptTokens != alone.Usage.PromptTokens || whole.Usage.CompletionTokens <= alone.Usage.CompletionTokens {
		t.Errorf("usage %s, alone %s", whole.Usage.RawJSON(), alone.Usage.RawJSON())
	}
	texts := map[string]bool{}
	for i, c := range whole.Choices {
		texts[c.Message.Content] = true
		if c.Index != int64(i) || c.FinishReason == "" {
			t.Errorf("choice %d: %s", i, c.RawJSON())
		}
	}
	if len(texts) == 1 {
		t.Error("all choices are the same")
	}
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var all openai.ChatCompletionAccumulator
	adaptations := 0
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Fatalf("the client cannot add %s", stream.Current().RawJSON())
		}
		if stream.Current().JSON.ExtraFields[contract.AdaptationField].Raw() != "" {
			adaptations++
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all.Choices) != 4 || adaptations != 1 {
		t.Fatalf("streamed %d choices, and %d times what was chosen", len(all.Choices), adaptations)
	}
	for i, c := range all.Choices {
		if want := whole.Choices[i]; c.Message.Content != want.Message.Content || c.FinishReason != want.FinishReason {
			t.Errorf("choice %d: streamed %q (%s), whole %q (%s)", i, c.Message.Content, c.FinishReason, want.Message.Content, want.FinishReason)
		}
	}
	two, err := client.Completions.New(t.Context(), openai.CompletionNewParams{
		Model: "demo:base", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("3 + 4 =")},
		MaxTokens: openai.Int(8), N: openai.Int(2), Logprobs: openai.Int(1),
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(two.Choices) != 2 || two.Choices[1].Index != 1 || len(two.Choices[1].Logprobs.Tokens) == 0 {
		t.Errorf("completion %s", two.RawJSON())
	}
}

func TestOpenAIsClientCompletesAndLists(t *testing.T) {
	h := open(t, nil)
	client := h.client()
	got, err := client.Completions.New(t.Context(), openai.CompletionNewParams{
		Model:     "demo:demo-math",
		Prompt:    openai.CompletionNewParamsPromptUnion{OfString: openai.String("3 + 4 =")},
		MaxTokens: openai.Int(5), Seed: openai.Int(1), Logprobs: openai.Int(2),
		Stop: openai.CompletionNewParamsStopUnion{OfStringArray: []string{"\n\n", "####"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Choices) != 1 || len(got.Choices[0].Logprobs.Tokens) == 0 {
		t.Errorf("completion %s", got.RawJSON())
	}
	models, err := client.Models.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range models.Data {
		names = append(names, m.ID)
	}
	if want := []string{"demo", "demo:demo-math", "demo:demo-code", "demo:base"}; !slices.Equal(names, want) {
		t.Errorf("models %v, want %v", names, want)
	}
}

func TestOpenAIsClientUnderstandsErrors(t *testing.T) {
	h := open(t, nil)
	client := h.client()
	for _, c := range []struct {
		name        string
		change      func(*openai.ChatCompletionNewParams)
		status      int
		code, param string
	}{
		{"a model that is not there", func(p *openai.ChatCompletionNewParams) { p.Model = "gpt" }, http.StatusNotFound, "model_not_found", "model"},
		{"a temperature out of range", func(p *openai.ChatCompletionNewParams) { p.Temperature = openai.Float(3) }, http.StatusBadRequest, "invalid_value", "temperature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			params := chatParams()
			c.change(&params)
			_, err := client.Chat.Completions.New(t.Context(), params)
			var apiErr *openai.Error
			if !errors.As(err, &apiErr) {
				t.Fatalf("got %v", err)
			}
			if apiErr.StatusCode != c.status || apiErr.Code != c.code || apiErr.Param != c.param || apiErr.Message == "" {
				t.Errorf("status %d, code %q, param %q, message %q", apiErr.StatusCode, apiErr.Code, apiErr.Param, apiErr.Message)
			}
		})
	}
}
