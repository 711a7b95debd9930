// The stand-in for a Hugging Face hub, asked by Hugging Face's own client: what our source
// is tested against is what that client understands, too. HUB_URL, HUB_REPO, HUB_REVISION
// and HUB_TOKEN say where; HUB_FILES is JSON of {path: {size, sha256}}.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { downloadFile, fileDownloadInfo, listFiles, modelInfo } from "@huggingface/hub";

const { HUB_URL: hubUrl, HUB_REPO: name, HUB_REVISION: revision, HUB_TOKEN: accessToken, HUB_COMMIT: commit } = process.env;
const files = JSON.parse(process.env.HUB_FILES);
const at = { repo: { type: "model", name }, hubUrl, revision, accessToken };

test("lists every file, over pages, with what LFS has of it", async () => {
  const seen = {};
  for await (const f of listFiles({ ...at, recursive: false })) {
    if (f.type !== "file") continue;
    seen[f.path] = { size: f.size, ...(f.lfs ? { sha256: f.lfs.oid } : {}) };
  }
  const want = {};
  for (const [path, f] of Object.entries(files)) {
    want[path] = { size: f.size, ...(f.lfs ? { sha256: f.sha256 } : {}) };
  }
  assert.deepEqual(seen, want);
});

test("knows the commit of a revision", async () => {
  const info = await modelInfo({ name, hubUrl, revision, accessToken, additionalFields: ["sha"] });
  assert.equal(info.sha, commit);
});

test("downloads what was listed, in and out of LFS", async () => {
  for (const [path, f] of Object.entries(files)) {
    const info = await fileDownloadInfo({ ...at, path });
    assert.equal(info.size, f.size, path);
    const blob = await downloadFile({ ...at, path, xet: false });
    const sum = createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
    assert.equal(sum, f.sha256, path);
  }
});

test("is refused without the token, and told of a revision that is not there", async () => {
  await assert.rejects(downloadFile({ ...at, accessToken: undefined, path: "config.json" }), (e) => e.statusCode === 401);
  await assert.rejects(
    async () => {
      for await (const f of listFiles({ ...at, revision: "v9" })) assert.fail(f.path);
    },
    (e) => e.statusCode === 404,
  );
});
