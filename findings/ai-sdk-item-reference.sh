#!/usr/bin/env bash
# The AI SDK's provider for OpenAI tells a server of responses what the assistant
# said before either by its text or by a reference to an item that the server has
# stored. Which of the two, the server has no say in: that its answer says
# "store": false is not looked at. It hangs on the request's option store, where
# none means stored, and on the model's *name*: of one that looks like OpenAI's
# reasoning models ("gpt-5") text goes as text, of any other as item_reference.
# Calls of functions go in full in any case. So with a server that keeps nothing a
# conversation goes on under one name and not under another, and a loop of tools
# works until the model first writes a word beside a call.
# Only providerOptions: {openai: {store: false}} makes it send text always.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$dir" \
  ai@7.0.173 @ai-sdk/openai@4.0.118 zod@4.6.7 >/dev/null

cat >show.mjs <<'JS'
import { createServer } from "node:http";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, stepCountIs, tool } from "ai";

const message = (id, text) => ({
  id, type: "message", status: "completed", role: "assistant", content: [{ type: "output_text", text, annotations: [] }],
});
const call = {
  id: "fc_1", type: "function_call", status: "completed", call_id: "call_1", name: "light", arguments: '{"on":true}',
};
const outputs = [[message("msg_1", "I switch it on."), call], [message("msg_2", "It is on.")]];

let asked;
const server = createServer(async (request, response) => {
  let body = "";
  for await (const piece of request) body += piece;
  asked.push(JSON.parse(body));
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({
    id: `resp_${asked.length}`, object: "response", created_at: 1, status: "completed", background: false, error: null,
    incomplete_details: null, instructions: null, max_output_tokens: null, metadata: {}, model: asked.at(-1).model,
    output: outputs[asked.length - 1], parallel_tool_calls: true, previous_response_id: null, store: false,
    temperature: 1, text: { format: { type: "text" } }, tool_choice: "auto", tools: [], top_p: 1, truncation: "disabled",
    usage: {
      input_tokens: 9, input_tokens_details: { cached_tokens: 0 },
      output_tokens: 5, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 14,
    },
  }));
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const openai = createOpenAI({ apiKey: "none", baseURL: `http://127.0.0.1:${server.address().port}/v1` });
const light = tool({
  inputSchema: jsonSchema({
    type: "object", properties: { on: { type: "boolean" } }, required: ["on"], additionalProperties: false,
  }),
  execute: async () => "done",
});
for (const [name, options] of [["my-model"], ["gpt-5"], ["my-model", { store: false }]]) {
  asked = [];
  await generateText({
    model: openai.responses(name), prompt: "Light, please.", tools: { light }, stopWhen: stepCountIs(2),
    providerOptions: options && { openai: options }, maxRetries: 0, abortSignal: AbortSignal.timeout(30_000),
  });
  console.log(`${name}, ${options ? "" : "no "}store: false. Behind the question the second request has:`);
  for (const item of asked[1].input.slice(1)) console.log(`  ${JSON.stringify(item)}`);
}
server.close();
JS
cat >expected <<'TEXT'
my-model, no store: false. Behind the question the second request has:
  {"type":"item_reference","id":"msg_1"}
  {"type":"function_call","call_id":"call_1","name":"light","arguments":"{\"on\":true}"}
  {"type":"function_call_output","call_id":"call_1","output":"done"}
gpt-5, no store: false. Behind the question the second request has:
  {"role":"assistant","content":"I switch it on."}
  {"type":"function_call","call_id":"call_1","name":"light","arguments":"{\"on\":true}"}
  {"type":"function_call_output","call_id":"call_1","output":"done"}
my-model, store: false. Behind the question the second request has:
  {"role":"assistant","content":"I switch it on."}
  {"type":"function_call","call_id":"call_1","name":"light","arguments":"{\"on\":true}"}
  {"type":"function_call_output","call_id":"call_1","output":"done"}
TEXT
echo "@ai-sdk/openai $(node -p 'require("./node_modules/@ai-sdk/openai/package.json").version'), Node.js $(node --version)"
timeout 120 node show.mjs | tee seen
diff expected seen || { echo "The provider sends something else than it did." >&2; exit 1; }
