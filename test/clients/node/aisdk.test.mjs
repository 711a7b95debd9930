// The API as the AI SDK uses it, by its provider for compatible servers (chats) and by its
// provider for OpenAI (responses). OPENAI_BASE_URL names a server of which demo is the policy,
// and whose model's chat template knows tools.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.env.OPENAI_BASE_URL.replace(/\/$/, "");
const openai = createOpenAI({ apiKey: "none", baseURL });
const compatible = createOpenAICompatible({ name: "t2", baseURL, supportsStructuredOutputs: true, includeUsage: true });

// Of OpenAI's provider: it believes that answers are kept unless it is told.
const providerOptions = { openai: { store: false } };
const models = { chat: compatible("demo"), "OpenAI's chat": openai.chat("demo"), responses: openai.responses("demo") };
const limits = { maxRetries: 0, maxOutputTokens: 300, providerOptions };

const switchLamp = (heard) =>
  tool({
    description: "Switches a lamp.",
    strict: true,
    inputSchema: jsonSchema({
      type: "object",
      properties: { on: { type: "boolean" }, lamp: { enum: ["hall", "desk"] } },
      required: ["on", "lamp"],
      additionalProperties: false,
    }),
    execute: async (input) => {
      heard.push(input);
      return "done";
    },
  });

for (const [name, model] of Object.entries(models)) {
  test(`${name}: answers, and streams the same`, async () => {
    const asked = { ...limits, model, instructions: "Be brief.", prompt: "What is 3 plus 4?", temperature: 0, maxOutputTokens: 12 };
    const whole = await generateText(asked);
    assert.ok(["stop", "length"].includes(whole.finishReason));
    assert.ok(whole.usage.outputTokens > 0 && whole.usage.inputTokens > 0);
    const stream = streamText({ ...asked, onError: ({ error }) => assert.fail(error) });
    let text = "";
    for await (const piece of stream.textStream) text += piece;
    assert.equal(text, whole.text);
    assert.equal(await stream.finishReason, whole.finishReason);
    assert.deepEqual((await stream.usage).outputTokens, whole.usage.outputTokens);
  });

  test(`${name}: gets objects of a schema`, async () => {
    const schema = z.object({ sum: z.int().min(0).max(99), unit: z.enum(["apples", "pears"]) });
    const { output } = await generateText({ ...limits, model, prompt: "How many?", output: Output.object({ schema }) });
    assert.ok(["apples", "pears"].includes(output.unit));
  });

  test(`${name}: calls a tool, and goes on with its result`, async () => {
    const heard = [];
    const asked = {
      ...limits,
      model,
      prompt: "Lights, please.",
      tools: { switch: switchLamp(heard) },
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? { type: "tool", toolName: "switch" } : "none" }),
      stopWhen: stepCountIs(2),
    };
    const whole = await generateText(asked);
    assert.equal(whole.steps.length, 2);
    assert.equal(whole.steps[0].finishReason, "tool-calls");
    assert.equal(heard.length, 1);
    assert.equal(typeof heard[0].on, "boolean");
    const stream = streamText({ ...asked, onError: ({ error }) => assert.fail(error) });
    await stream.consumeStream();
    assert.equal((await stream.steps).length, 2);
    assert.equal(heard.length, 2);
  });

  test(`${name}: reads errors`, async () => {
    const bad = { ...limits, model, prompt: "x", topP: 7 };
    await assert.rejects(generateText(bad), (e) => {
      assert.ok(APICallError.isInstance(e), String(e));
      assert.equal(e.statusCode, 400);
      assert.match(e.message, /top_p/);
      return true;
    });
  });
}

test("responses: is told what to do where it believes that answers are kept", async () => {
  const asked = { model: models.responses, maxRetries: 0, maxOutputTokens: 12, temperature: 0 };
  const question = { role: "user", content: "What is 3 plus 4?" };
  for (const store of [false, true]) {
    const settings = { ...asked, providerOptions: store ? undefined : providerOptions };
    const first = await generateText({ ...settings, messages: [question] });
    const next = generateText({ ...settings, messages: [question, ...first.response.messages, { role: "user", content: "and 5 more?" }] });
    // It sends a reference to the answer in the answer's place.
    if (store) await assert.rejects(next, /item_reference.*store is false/);
    else assert.ok((await next).usage.inputTokens > first.usage.inputTokens);
  }
});
