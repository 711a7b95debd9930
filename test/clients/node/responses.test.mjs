// POST /v1/responses as OpenAI's Node client uses it. OPENAI_BASE_URL names a server of which
// demo is the policy, and whose model's chat template knows tools.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ apiKey: "none", maxRetries: 0 });

const request = { model: "demo", instructions: "Be brief.", input: "Lights, please.", seed: 7, max_output_tokens: 300 };

const lamp = {
  type: "function",
  name: "switch",
  description: "Switches a lamp.",
  strict: true,
  parameters: {
    type: "object",
    properties: { on: { type: "boolean" }, lamp: { enum: ["hall", "desk"] } },
    required: ["on", "lamp"],
    additionalProperties: false,
  },
};

test("responds, with what was adapted and nothing kept", async () => {
  const got = await client.responses.create({ ...request, max_output_tokens: 12, metadata: { a: "b" } });
  assert.equal(got.object, "response");
  assert.equal(got.store, false);
  assert.deepEqual(got.metadata, { a: "b" });
  assert.ok(["completed", "incomplete"].includes(got.status));
  assert.equal(typeof got.output_text, "string");
  assert.equal(got.usage.total_tokens, got.usage.input_tokens + got.usage.output_tokens);
  assert.ok(got.t2.expert && got.t2.pass1Seconds > 0);
});

test("streams through the client's own accumulator, events in their order", async () => {
  const whole = await client.responses.create({ ...request, max_output_tokens: 12 });
  const stream = client.responses.stream({ ...request, max_output_tokens: 12 });
  const kinds = [];
  let text = "";
  for await (const event of stream) {
    assert.equal(event.sequence_number, kinds.length);
    kinds.push(event.type);
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  const final = await stream.finalResponse();
  assert.equal(final.output_text, whole.output_text);
  assert.equal(text, whole.output_text);
  assert.deepEqual(kinds.slice(0, 4), [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
  ]);
  assert.equal(kinds.at(-1), "response." + whole.status);
});

test("parses answers of a structure, whole and streamed", async () => {
  const format = zodTextFormat(z.object({ sum: z.int().min(0).max(99), unit: z.enum(["apples", "pears"]) }), "answer");
  const whole = await client.responses.parse({ ...request, text: { format } });
  assert.equal(whole.status, "completed");
  assert.ok(["apples", "pears"].includes(whole.output_parsed.unit));
  const final = await client.responses.stream({ ...request, text: { format } }).finalResponse();
  assert.deepEqual(final.output_parsed, whole.output_parsed);
});

test("calls a function, hears its output and goes on", async () => {
  const asked = { ...request, tools: [lamp], tool_choice: { type: "function", name: "switch" } };
  const whole = await client.responses.create(asked);
  assert.equal(whole.output.length, 1);
  const [call] = whole.output;
  assert.equal(call.type, "function_call");
  assert.equal(call.name, "switch");
  assert.equal(typeof JSON.parse(call.arguments).on, "boolean");
  const final = await client.responses.stream(asked).finalResponse();
  assert.equal(final.output[0].arguments, call.arguments);

  const input = [{ role: "user", content: request.input }, ...whole.output, { type: "function_call_output", call_id: call.call_id, output: "done" }];
  const next = await client.responses.create({ ...request, input, tools: [lamp], max_output_tokens: 5 });
  assert.ok(next.usage.input_tokens > whole.usage.input_tokens);
  assert.ok(next.usage.input_tokens_details.cached_tokens > 0);
  assert.equal(next.t2.pass1Seconds, 0);
});

test("calls some of the tools that it is shown, and custom ones", async () => {
  const now = { type: "function", name: "now", strict: null, parameters: null };
  const note = { type: "custom", name: "note" };
  const asked = { ...request, tools: [lamp, now, note], parallel_tool_calls: false, logit_bias: { 34: 6 } };
  const whole = await client.responses.create({ ...asked, tool_choice: { type: "allowed_tools", mode: "required", tools: [{ type: "function", name: "now" }] } });
  assert.deepEqual(whole.output.map((o) => [o.type, o.name]), [["function_call", "now"]]);

  const custom = { ...asked, tool_choice: { type: "custom", name: "note" } };
  const [call] = (await client.responses.create(custom)).output;
  assert.equal(call.type, "custom_tool_call");
  let input = "";
  const stream = client.responses.stream(custom);
  for await (const event of stream) {
    if (event.type === "response.custom_tool_call_input.delta") input += event.delta;
    if (event.type === "response.custom_tool_call_input.done") assert.equal(event.input, input);
  }
  assert.equal(input, call.input);
  assert.deepEqual((await stream.finalResponse()).output[0].input, call.input);

  const items = [{ role: "user", content: request.input }, call, { type: "custom_tool_call_output", call_id: call.call_id, output: "done" }];
  const next = await client.responses.create({ ...request, input: items, tools: [note], max_output_tokens: 5 });
  assert.ok(next.usage.total_tokens > 0);
});

test("refuses what has to be kept, and says what to do", async () => {
  for (const [name, value] of Object.entries({ store: true, background: true, previous_response_id: "resp_1", conversation: "conv_1" })) {
    await assert.rejects(client.responses.create({ ...request, [name]: value }), (e) => {
      assert.ok(e instanceof OpenAI.BadRequestError);
      assert.equal(e.param, name);
      assert.match(e.message, /keeps no answers/);
      return true;
    });
  }
  await assert.rejects(client.responses.retrieve("resp_1"), OpenAI.NotFoundError);
});

test("gives up a stream that it no longer wants", async () => {
  const stream = await client.responses.create({ ...request, stream: true });
  for await (const event of stream) {
    assert.ok(event.type);
    break;
  }
  assert.ok(stream.controller.signal.aborted);
});
