#!/usr/bin/env bash
# An answer that the limit of tokens cuts off is text to OpenAI's Agents for
# JavaScript where it comes by chat completions, even with the status "completed",
# and an error where it comes by responses, which is their default: same agent, same
# text, other outcome. The error has neither the text nor the reason
# (max_output_tokens), so a program cannot tell a small limit from a content filter,
# nor use what was written. Chats are no safer: the end of a text may be
# missing, and the item that the run returns says that it is complete.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$dir" \
  @openai/agents@0.20.0 openai@7.59.0 zod@4.6.7 >/dev/null

cat >show.mjs <<'JS'
import { createServer } from "node:http";
import { inspect } from "node:util";
import { Agent, OpenAIProvider, Runner } from "@openai/agents";

const text = "Once upon a";
const answers = {
  "/v1/chat/completions": {
    id: "chatcmpl-1", object: "chat.completion", created: 1, model: "my-model",
    choices: [{
      index: 0, message: { role: "assistant", content: text, refusal: null }, logprobs: null, finish_reason: "length",
    }],
    usage: { prompt_tokens: 9, completion_tokens: 3, total_tokens: 12 },
  },
  "/v1/responses": {
    id: "resp_1", object: "response", created_at: 1, status: "incomplete", background: false, error: null,
    incomplete_details: { reason: "max_output_tokens" }, instructions: null, max_output_tokens: 3, metadata: {},
    model: "my-model",
    output: [{
      id: "msg_1", type: "message", status: "incomplete", role: "assistant",
      content: [{ type: "output_text", text, annotations: [] }],
    }],
    parallel_tool_calls: true, previous_response_id: null, store: true,
    temperature: 1, text: { format: { type: "text" } }, tool_choice: "auto", tools: [], top_p: 1, truncation: "disabled",
    usage: {
      input_tokens: 9, input_tokens_details: { cached_tokens: 0 },
      output_tokens: 3, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 12,
    },
  },
};
const server = createServer((request, response) => {
  request.resume();
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(answers[request.url]));
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const baseURL = `http://127.0.0.1:${server.address().port}/v1`;
const agent = new Agent({ name: "teller", model: "my-model", modelSettings: { maxTokens: 3 } });
for (const useResponses of [false, true]) {
  const modelProvider = new OpenAIProvider({ apiKey: "none", baseURL, useResponses });
  const runner = new Runner({ modelProvider, tracingDisabled: true });
  const api = useResponses ? "responses" : "chat completions";
  try {
    const got = await runner.run(agent, "Tell a story.", { signal: AbortSignal.timeout(30_000) });
    console.log(`${api}: returns ${JSON.stringify(got.finalOutput)}, status ${got.newItems[0].rawItem.status}`);
  } catch (e) {
    const all = inspect(e, { depth: null, showHidden: true });
    console.log(`${api}: throws ${e.name}: ${e.message}`);
    console.log(`  in which are the text: ${all.includes(text)}, the reason: ${all.includes("max_output_tokens")}`);
  }
}
server.close();
JS
cat >expected <<'TEXT'
chat completions: returns "Once upon a", status completed
responses: throws ModelBehaviorError: OpenAI Responses request ended with unsuccessful terminal state "response.incomplete".
  in which are the text: false, the reason: false
TEXT
echo "@openai/agents $(node -p 'require("./node_modules/@openai/agents/package.json").version'), Node.js $(node --version)"
timeout 120 node show.mjs | tee seen
diff expected seen || { echo "The agents treat answers that are cut off otherwise than they did." >&2; exit 1; }
