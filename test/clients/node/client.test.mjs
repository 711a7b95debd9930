// The API as OpenAI's Node client uses it. OPENAI_BASE_URL names a server of
// which demo is the policy, with the experts demo-math and demo-code.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ apiKey: "none", maxRetries: 0 });

const chat = {
  model: "demo",
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: [{ type: "text", text: "What is 3 plus 4?" }] },
  ],
  seed: 7,
  max_completion_tokens: 12,
  temperature: 0.8,
  top_p: 0.9,
  frequency_penalty: 0.5,
  presence_penalty: -0.5,
};

test("chats, with log-probabilities and what was adapted", async () => {
  const got = await client.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 3 });
  assert.equal(got.object, "chat.completion");
  assert.equal(got.choices.length, 1);
  const [choice] = got.choices;
  assert.equal(choice.message.role, "assistant");
  assert.ok(["stop", "length"].includes(choice.finish_reason));
  assert.ok(got.usage.completion_tokens > 0);
  assert.equal(got.usage.total_tokens, got.usage.prompt_tokens + got.usage.completion_tokens);
  assert.ok(choice.logprobs.content.length > 0);
  for (const p of choice.logprobs.content) {
    assert.ok(p.logprob <= 0);
    assert.equal(p.top_logprobs.length, 3);
  }
  const adaptation = got["t2"];
  assert.ok(adaptation.expert);
  assert.ok(adaptation.pass1Seconds > 0);
});

test("streams what it would get whole, with usage at the end", async () => {
  const whole = await client.chat.completions.create(chat);
  const stream = await client.chat.completions.create({
    ...chat,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let finish, usage;
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? "";
      finish = choice.finish_reason ?? finish;
    }
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(finish, whole.choices[0].finish_reason);
  assert.deepEqual(usage, whole.usage);
});

test("streams through the client's own accumulator", async () => {
  const whole = await client.chat.completions.create({ ...chat, n: 3 });
  assert.equal(whole.choices.length, 3);
  const final = await client.chat.completions.stream({ ...chat, n: 3 }).finalChatCompletion();
  assert.deepEqual(
    final.choices.map((c) => c.message.content),
    whole.choices.map((c) => c.message.content),
  );
});

test("gives the same answer for the same seed", async () => {
  const ask = async (seed) => (await client.chat.completions.create({ ...chat, seed })).choices[0].message.content;
  assert.equal(await ask(11), await ask(11));
});

test("completes text, stops at a text and tells where tokens begin", async () => {
  const base = { model: "demo:base", prompt: "3 + 4 =", temperature: 0, max_tokens: 12 };
  const got = await client.completions.create({ ...base, logprobs: 2 });
  assert.equal(got.object, "text_completion");
  const { text, logprobs } = got.choices[0];
  assert.ok(text.length > 1);
  assert.equal(logprobs.tokens.length, logprobs.text_offset.length);
  assert.equal(logprobs.text_offset[0], 0);
  const stop = text[1];
  const cut = await client.completions.create({ ...base, stop: [stop] });
  assert.equal(cut.choices[0].text, text.slice(0, text.indexOf(stop)));
  assert.equal(cut.choices[0].finish_reason, "stop");
});

test("has every field of log-probabilities, also where no alternatives were asked for", async () => {
  const { logprobs, message } = (await client.chat.completions.create({ ...chat, logprobs: true })).choices[0];
  assert.equal(logprobs.refusal, null);
  assert.ok(logprobs.content.length > 0);
  for (const p of logprobs.content) {
    assert.deepEqual(p.top_logprobs, []);
    assert.ok(p.bytes.length > 0);
  }
  // The tokens' bytes are the text's.
  const bytes = Buffer.from(logprobs.content.flatMap((p) => p.bytes));
  assert.equal(new TextDecoder().decode(bytes), message.content);
  const streamed = await client.chat.completions.stream({ ...chat, logprobs: true }).finalChatCompletion();
  assert.deepEqual(streamed.choices[0].logprobs, logprobs);
});

test("has usage as null in all pieces of a stream but the last", async () => {
  for (const include_usage of [true, false]) {
    const stream = await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage } });
    const usages = [];
    for await (const chunk of stream) usages.push(chunk.usage);
    const last = usages.pop();
    assert.equal(last?.total_tokens > 0, include_usage);
    assert.ok(usages.length > 1 && usages.every((u) => u === (include_usage ? null : undefined)));
  }
});

test("takes one prompt in any form, and an assistant who has said nothing", async () => {
  const base = { model: "demo:base", temperature: 0, max_tokens: 4 };
  const texts = [];
  for (const prompt of ["Once", ["Once"], [79, 110, 99, 101], [[79, 110, 99, 101]]]) {
    texts.push((await client.completions.create({ ...base, prompt })).choices[0].text);
  }
  assert.equal(new Set(texts).size, 1);
  const messages = [
    { role: "user", content: "hi" },
    { role: "assistant", content: null, tool_calls: [], refusal: null },
    { role: "user", content: "and?" },
  ];
  assert.ok(await client.chat.completions.create({ ...base, messages }));
});

test("honours what other servers' clients add, and refuses the rest by name", async () => {
  const greedy = (await client.chat.completions.create({ ...chat, temperature: 0 })).choices[0].message.content;
  const only = await client.chat.completions.create({ ...chat, temperature: 2, top_p: 1, min_p: 1, repetition_penalty: 1 });
  assert.equal(only.choices[0].message.content, greedy);
  const nothing = { tools: [], tool_choice: "none", response_format: { type: "text" }, user: "me", metadata: {}, store: false };
  assert.equal((await client.chat.completions.create({ ...chat, ...nothing, temperature: 0 })).choices[0].message.content, greedy);
  for (const [name, value] of Object.entries({
    tools: [{ type: "function", function: { name: "f" } }],
    guided_json: { type: "object" },
    reasoning_effort: "low",
    temperatur: 0.5,
  })) {
    await assert.rejects(client.chat.completions.create({ ...chat, [name]: value }), (e) => {
      assert.ok(e instanceof OpenAI.BadRequestError);
      assert.equal(e.param, name);
      assert.equal(e.code, "unsupported_parameter");
      return true;
    });
  }
});

test("says how long an answer may be, which history it does not take, and what there is instead of embeddings", async () => {
  for (const name of ["max_tokens", "max_completion_tokens"]) {
    const body = { ...chat, max_completion_tokens: undefined };
    let largest;
    await assert.rejects(client.chat.completions.create({ ...body, [name]: 1e6 }), (e) => {
      assert.equal(e.param, name);
      largest = Number(e.message.match(/at most (\d+)/)[1]);
      return true;
    });
    await assert.rejects(client.chat.completions.create({ ...body, [name]: largest + 1 }), OpenAI.BadRequestError);
    assert.ok(await client.chat.completions.create({ ...body, [name]: largest }));
  }
  const messages = [
    { role: "user", content: "2+2?" },
    { role: "assistant", tool_calls: [{ id: "1", type: "function", function: { name: "add", arguments: "{}" } }] },
    { role: "tool", tool_call_id: "1", content: "4" },
  ];
  await assert.rejects(client.chat.completions.create({ ...chat, messages }), /messages\[1\]\.tool_calls/);
  await assert.rejects(client.embeddings.create({ model: "demo", input: "x" }), (e) => {
    assert.ok(e instanceof OpenAI.NotFoundError);
    assert.match(e.message, /\/v1\/chat\/completions/);
    return true;
  });
});

test("lists policy, base and experts, and shows one", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  for (const id of ["demo", "demo:base", "demo:demo-math", "demo:demo-code"]) assert.ok(ids.includes(id), `${id} of ${ids}`);
  assert.equal((await client.models.retrieve("demo:demo-math")).id, "demo:demo-math");
});

test("reads errors as the client's own classes", async () => {
  await assert.rejects(client.chat.completions.create({ ...chat, model: "gpt" }), (e) => {
    assert.ok(e instanceof OpenAI.NotFoundError);
    assert.equal(e.status, 404);
    assert.equal(e.param, "model");
    assert.match(e.message, /gpt/);
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...chat, temperature: 9 }), (e) => {
    assert.ok(e instanceof OpenAI.BadRequestError);
    assert.equal(e.type, "invalid_request_error");
    assert.equal(e.param, "temperature");
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...chat, messages: [] }), OpenAI.BadRequestError);
});

test("gives up a stream that it no longer wants", async () => {
  const stream = await client.chat.completions.create({ ...chat, stream: true });
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    break;
  }
  assert.ok(stream.controller.signal.aborted);
  assert.ok(await client.chat.completions.create(chat));
});

test("gets answers of a structure, whole and streamed", async () => {
  const structured = {
    ...chat,
    max_completion_tokens: 100,
    response_format: {
      type: "json_schema",
      json_schema: {
        name: "answer",
        strict: true,
        schema: {
          type: "object",
          properties: {
            sum: { type: "integer", minimum: 0, maximum: 99 },
            sure: { type: "boolean" },
            unit: { enum: ["apples", "pears"] },
          },
          required: ["sum", "sure", "unit"],
          additionalProperties: false,
        },
      },
    },
  };
  const whole = await client.chat.completions.create(structured);
  const [choice] = whole.choices;
  assert.equal(choice.finish_reason, "stop");
  const answer = JSON.parse(choice.message.content);
  assert.deepEqual(Object.keys(answer), ["sum", "sure", "unit"]);
  assert.ok(Number.isInteger(answer.sum) && answer.sum >= 0 && answer.sum <= 99);
  const final = await client.chat.completions.stream(structured).finalChatCompletion();
  assert.equal(final.choices[0].message.content, choice.message.content);
});
