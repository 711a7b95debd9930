// The API as frameworks for agents use it: LangChain, OpenAI's Agents, Mastra, and autoevals,
// which judges answers by calls. OPENAI_BASE_URL names a server of which demo is the policy,
// and whose model's chat template knows tools.
import assert from "node:assert/strict";
import { test } from "node:test";
import { tool as langTool } from "@langchain/core/tools";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { Agent as MastraAgent } from "@mastra/core/agent";
import { createTool } from "@mastra/core/tools";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, setTracingDisabled, tool } from "@openai/agents";
import { LLMClassifierFromTemplate } from "autoevals";
import OpenAI from "openai";
import { z } from "zod";

process.env.OPENAI_API_KEY = "none";
setTracingDisabled(true);
const baseURL = process.env.OPENAI_BASE_URL.replace(/\/$/, "");
const client = new OpenAI({ apiKey: "none", baseURL, maxRetries: 0 });

const input = z.object({ on: z.boolean(), lamp: z.enum(["hall", "desk"]) });
const answer = z.object({ sum: z.int().min(0).max(99), unit: z.enum(["apples", "pears"]) });

for (const useResponsesApi of [false, true]) {
  const api = useResponsesApi ? "responses" : "chat";
  const model = (more) =>
    new ChatOpenAI({ model: "demo", apiKey: "none", configuration: { baseURL }, maxRetries: 0, useResponsesApi, maxTokens: 300, ...more });

  test(`LangChain, ${api}: answers, and streams the same`, async () => {
    const m = model({ temperature: 0, maxTokens: 12 });
    const whole = await m.invoke("What is 3 plus 4?");
    assert.ok(whole.usage_metadata.output_tokens > 0);
    let text = "";
    for await (const chunk of await m.stream("What is 3 plus 4?")) text += chunk.text;
    assert.equal(text, whole.text);
  });

  test(`LangChain, ${api}: gets objects of a schema`, async () => {
    const got = await model().withStructuredOutput(answer, { name: "answer", method: "jsonSchema", strict: true }).invoke("How many?");
    assert.ok(["apples", "pears"].includes(got.unit));
  });

  test(`LangChain, ${api}: calls a tool, and goes on with its result`, async () => {
    const lamp = langTool(async () => "done", { name: "switch", description: "Switches a lamp.", schema: input });
    const asks = [new HumanMessage("Lights, please.")];
    const call = await model().bindTools([lamp], { tool_choice: "switch", strict: true }).invoke(asks);
    assert.equal(call.tool_calls.length, 1);
    const [{ id, name, args }] = call.tool_calls;
    assert.equal(name, "switch");
    assert.equal(typeof args.on, "boolean");
    const next = await model({ maxTokens: 5 })
      .bindTools([lamp])
      .invoke([...asks, call, new ToolMessage({ tool_call_id: id, content: "done" })]);
    assert.ok(next.usage_metadata.input_tokens > call.usage_metadata.input_tokens);
  });
}

for (const [api, Model] of Object.entries({ chat: OpenAIChatCompletionsModel, responses: OpenAIResponsesModel })) {
  const agent = (more) => new Agent({ name: "helper", instructions: "Be brief.", model: new Model(client, "demo"), modelSettings: { maxTokens: 300 }, ...more });
  const runner = new Runner({ tracingDisabled: true });

  test(`OpenAI's Agents, ${api}: answers, and streams`, async () => {
    const brief = agent({ modelSettings: { temperature: 0, maxTokens: 12 } });
    if (api === "responses") {
      // This client takes no answer that max_output_tokens cuts off.
      await assert.rejects(runner.run(brief, "What is 3 plus 4?"), /response\.incomplete/);
      return;
    }
    const whole = await runner.run(brief, "What is 3 plus 4?");
    const streamed = await runner.run(brief, "What is 3 plus 4?", { stream: true });
    let text = "";
    for await (const piece of streamed.toTextStream()) text += piece;
    await streamed.completed;
    assert.equal(text, whole.finalOutput);
  });

  test(`OpenAI's Agents, ${api}: gets objects of a schema`, async () => {
    const sums = agent({ outputType: answer, modelSettings: { temperature: 0, maxTokens: 300 } });
    const got = await runner.run(sums, "How many?");
    assert.ok(["apples", "pears"].includes(got.finalOutput.unit));
    const streamed = await runner.run(sums, "How many?", { stream: true });
    let text = "";
    for await (const piece of streamed.toTextStream()) text += piece;
    await streamed.completed;
    assert.deepEqual(JSON.parse(text), got.finalOutput);
  });

  test(`OpenAI's Agents, ${api}: calls a tool, and goes on with its result`, async () => {
    for (const stream of [false, true]) {
      const heard = [];
      const lamp = tool({
        name: "switch",
        description: "Switches a lamp.",
        parameters: input,
        execute: async (got) => {
          heard.push(got);
          return "done";
        },
      });
      const asked = agent({ tools: [lamp], modelSettings: { maxTokens: 300, toolChoice: "switch", parallelToolCalls: false }, toolUseBehavior: "stop_on_first_tool" });
      const got = await runner.run(asked, "Lights, please.", { stream });
      if (stream) await got.completed;
      assert.equal(got.finalOutput, "done");
      assert.equal(heard.length, 1);
      const asks = [...got.history, { role: "user", content: "Thanks." }];
      const next = await runner.run(agent({ outputType: answer, tools: [lamp], modelSettings: { maxTokens: 300, toolChoice: "none" } }), asks);
      assert.ok(["apples", "pears"].includes(next.finalOutput.unit));
    }
  });
}

test("Mastra: answers, streams, and calls a tool", async () => {
  const model = createOpenAICompatible({ name: "t2", baseURL, supportsStructuredOutputs: true })("demo");
  const heard = [];
  const lamp = createTool({
    id: "switch",
    description: "Switches a lamp.",
    inputSchema: input,
    execute: async (got) => {
      heard.push(got);
      return { done: true };
    },
  });
  const agent = new MastraAgent({ id: "helper", name: "helper", instructions: "Be brief.", model, tools: { switch: lamp } });
  const brief = { modelSettings: { temperature: 0, maxOutputTokens: 12, maxRetries: 0 }, toolChoice: "none", maxSteps: 1 };
  const whole = await agent.generate("What is 3 plus 4?", brief);
  const stream = await agent.stream("What is 3 plus 4?", brief);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  await agent.generate("Lights, please.", { toolChoice: { type: "tool", toolName: "switch" }, maxSteps: 1, modelSettings: { maxOutputTokens: 300, maxRetries: 0 } });
  assert.equal(heard.length, 1);
  const { object } = await agent.generate("How many?", { toolChoice: "none", structuredOutput: { schema: answer }, modelSettings: { maxOutputTokens: 300, maxRetries: 0 } });
  assert.ok(["apples", "pears"].includes(object.unit));
});

test("autoevals: judges by a call", async () => {
  const judge = LLMClassifierFromTemplate({ name: "same", promptTemplate: "Are {{output}} and {{expected}} the same?", choiceScores: { yes: 1, no: 0 }, model: "demo" });
  for (const useCoT of [false, true]) {
    const { score, metadata } = await judge({ output: "7", expected: "seven", client, useCoT, maxTokens: 1000, temperature: 0 });
    assert.ok([0, 1].includes(score), JSON.stringify(metadata));
  }
});
