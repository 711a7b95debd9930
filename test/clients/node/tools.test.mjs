// Tools as OpenAI's Node client uses them. OPENAI_BASE_URL names a server of which demo is the
// policy, and whose model's chat template knows tools.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ apiKey: "none", maxRetries: 0 });

const tools = [
  {
    type: "function",
    function: {
      name: "switch",
      description: "Switches a lamp.",
      strict: true,
      parameters: {
        type: "object",
        properties: { on: { type: "boolean" }, lamp: { enum: ["hall", "desk"] } },
        required: ["on", "lamp"],
        additionalProperties: false,
      },
    },
  },
  { type: "function", function: { name: "now", description: "Tells the time." } },
];

const chat = {
  model: "demo",
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: "Lights, please." },
  ],
  seed: 7,
  max_completion_tokens: 300,
  tools,
};

test("makes a call, hears its result and answers", async () => {
  const choice = { type: "function", function: { name: "switch" } };
  const whole = await client.chat.completions.create({ ...chat, tool_choice: choice });
  const [{ message, finish_reason }] = whole.choices;
  assert.equal(finish_reason, "tool_calls");
  assert.equal(message.content, null);
  assert.equal(message.tool_calls.length, 1);
  const [call] = message.tool_calls;
  assert.equal(call.type, "function");
  assert.equal(call.function.name, "switch");
  const { on, lamp } = JSON.parse(call.function.arguments);
  assert.equal(typeof on, "boolean");
  assert.ok(["hall", "desk"].includes(lamp));

  const messages = [...chat.messages, message, { role: "tool", tool_call_id: call.id, content: "done" }];
  const next = await client.chat.completions.create({ ...chat, messages, max_completion_tokens: 5 });
  assert.ok(next.usage.prompt_tokens > whole.usage.prompt_tokens);
  assert.ok(next.usage.prompt_tokens_details.cached_tokens > 0);
  assert.equal(next.t2.expert, whole.t2.expert);
  assert.equal(next.t2.pass1Seconds, 0);
});

test("streams calls in pieces, with an index, and the id and name first", async () => {
  const asked = { ...chat, tool_choice: "required", parallel_tool_calls: false };
  const whole = await client.chat.completions.create(asked);
  const [wanted] = whole.choices[0].message.tool_calls;
  let got, finish;
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    for (const { delta, finish_reason } of chunk.choices) {
      assert.ok(!delta.content);
      finish = finish_reason ?? finish;
      for (const piece of delta.tool_calls ?? []) {
        assert.equal(piece.index, 0);
        if (!got) {
          assert.ok(piece.id && piece.type === "function");
          got = { id: piece.id, name: piece.function.name, arguments: "" };
        } else assert.ok(piece.id === undefined && piece.function.name === undefined);
        got.arguments += piece.function.arguments;
      }
    }
  }
  assert.equal(finish, "tool_calls");
  assert.equal(got.name, wanted.function.name);
  assert.equal(got.arguments, wanted.function.arguments);
});

test("streams through the client's own accumulator", async () => {
  const asked = { ...chat, tool_choice: "required", parallel_tool_calls: false };
  const whole = await client.chat.completions.create(asked);
  const final = await client.chat.completions.stream(asked).finalChatCompletion();
  const calls = (c) => c.choices[0].message.tool_calls.map(({ function: f }) => [f.name, f.arguments]);
  assert.deepEqual(calls(final), calls(whole));
  assert.equal(final.choices[0].finish_reason, "tool_calls");
});

test("runs a tool by the client's own loop", async () => {
  const heard = [];
  const runner = client.chat.completions.runTools({
    ...chat,
    max_completion_tokens: 200,
    tool_choice: { type: "function", function: { name: "switch" } },
    tools: [
      {
        type: "function",
        function: {
          ...tools[0].function,
          parse: JSON.parse,
          function: (args) => {
            heard.push(args);
            return "done";
          },
        },
      },
    ],
  });
  await runner.done();
  assert.equal(heard.length, 1);
  assert.equal(typeof heard[0].on, "boolean");
  assert.deepEqual(runner.messages.at(-1), { role: "tool", tool_call_id: runner.messages.at(-2).tool_calls[0].id, content: "done" });
});

test("calls some of the tools that it is shown", async () => {
  const allowed = { mode: "required", tools: [{ type: "function", function: { name: "now" } }] };
  const asked = { ...chat, tool_choice: { type: "allowed_tools", allowed_tools: allowed }, parallel_tool_calls: false };
  const whole = await client.chat.completions.create(asked);
  assert.deepEqual(whole.choices[0].message.tool_calls.map((c) => c.function.name), ["now"]);
  const all = await client.chat.completions.create({ ...chat, max_completion_tokens: 1 });
  assert.equal(whole.usage.prompt_tokens, all.usage.prompt_tokens);
});

test("gives a custom tool its text, and hears its result", async () => {
  const asked = { ...chat, tools: [...tools, { type: "custom", custom: { name: "note" } }], tool_choice: { type: "custom", custom: { name: "note" } }, logit_bias: { 34: 6 } };
  const whole = await client.chat.completions.create(asked);
  const [{ message }] = whole.choices;
  const [call] = message.tool_calls;
  assert.equal(call.type, "custom");
  assert.equal(call.custom.name, "note");
  assert.equal(typeof call.custom.input, "string");
  const messages = [...chat.messages, message, { role: "tool", tool_call_id: call.id, content: "done" }];
  const next = await client.chat.completions.create({ ...chat, tools: asked.tools, messages, max_completion_tokens: 5 });
  assert.ok(next.usage.prompt_tokens > whole.usage.prompt_tokens);
});

test("offers nothing where nothing may be called", async () => {
  const ask = async (more) => (await client.chat.completions.create({ ...chat, temperature: 0, max_completion_tokens: 12, tools: undefined, ...more })).choices[0];
  const plain = await ask({});
  assert.deepEqual(await ask({ tools, tool_choice: "none" }), plain);
  assert.deepEqual(await ask({ tools: [] }), plain);
});

test("says which tool is wrong, and where", async () => {
  const wrong = { type: "function", function: { name: "x", strict: true, parameters: { type: "object", properties: { a: { not: {} } } } } };
  await assert.rejects(client.chat.completions.create({ ...chat, tools: [...tools, wrong] }), (e) => {
    assert.ok(e instanceof OpenAI.BadRequestError);
    assert.equal(e.param, "tools[2].function.parameters");
    assert.match(e.message, /at \/properties\/a\/not/);
    return true;
  });
});
