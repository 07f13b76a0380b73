// In dev mode the SDK looks for a local server by itself, with credentials that it knows. The preload keeps it from
// downloading another one.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, symlinkSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as listen } from "node:net";
import { homedir } from "node:os";
import { after, before, test } from "node:test";

import { Client, Receiver, startDevServer } from "@upstash/qstash";

import { baseUrl, Endpoint, eventually } from "./lib/support.mjs";

const cache = `${homedir()}/.cache/upstash`;
const here = { QSTASH_DEV: "true", QSTASH_DEV_PORT: new URL(baseUrl).port };
let endpoint;
before(async () => {
  endpoint = await Endpoint.start();
  // What an application finds without a .env file.
  for (const name of Object.keys(process.env)) if (name.startsWith("QSTASH_")) delete process.env[name];
});
after(() => endpoint.close());

/** Runs a part of a test with an environment of its own. */
async function withEnvironment(variables, run) {
  Object.assign(process.env, variables);
  try {
    return await run();
  } finally {
    for (const name of Object.keys(variables)) delete process.env[name];
  }
}

async function freePort() {
  const server = listen();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return String(port);
}

test("a running server is found, and used by client and receiver", async () => {
  await withEnvironment(here, async () => {
    await startDevServer();
    await new Client().publishJSON({ url: endpoint.url("/found"), body: { dev: true } });
    const [request] = await endpoint.received("/found");
    const signature = request.headers["upstash-signature"];
    const body = request.body.toString();
    assert.equal(await new Receiver().verify({ signature, body, url: request.url }), true);
    await assert.rejects(new Receiver().verify({ signature, body: `${body} `, url: request.url }));
  });
  assert.ok(!existsSync(cache), "nothing was downloaded, nor was a place made for it");
});

test("the mode may be asked for in code", async () => {
  await withEnvironment({ QSTASH_DEV_PORT: here.QSTASH_DEV_PORT }, async () => {
    await new Client({ devMode: true }).publishJSON({ url: endpoint.url("/code") });
    const [request] = await endpoint.received("/code");
    const receiver = new Receiver({ devMode: true });
    await receiver.verify({ signature: request.headers["upstash-signature"], body: "", url: request.url });
  });
  assert.ok(!existsSync(cache));
});

/** Runs a program that uses the SDK in a process of its own, for the SDK ends what it started only when its process ends. */
function execute(program, port) {
  const args = ["--import", "./lib/preload.mjs", "--input-type=module", "--eval", `import { Client } from "@upstash/qstash";${program}`];
  const child = spawn(process.execPath, args, { env: { ...process.env, QSTASH_DEV: "1", QSTASH_DEV_PORT: port } });
  const output = [];
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => output.push(data));
  return new Promise((resolve) =>
    child.on("close", (status) => resolve({ status, output: Buffer.concat(output).toString() })),
  );
}

test("another program on the port is not taken for the server", async () => {
  const stranger = createServer((_, response) => response.end('{"current":"a","next":"b"}'));
  await new Promise((resolve) => stranger.listen(0, "127.0.0.1", resolve));
  const { status, output } = await execute(
    `await new Client().messages.get("msg_a")`,
    stranger.address().port,
  );
  stranger.close();
  assert.notEqual(status, 0);
  assert.match(output, /the tests reach this machine only/, "it would have downloaded the hosted service's server");
});

test("a server in the SDK's cache is started as it is, and stopped", async () => {
  mkdirSync(`${cache}/qstash-dev`, { recursive: true });
  symlinkSync(process.env.POSTHASTE_BINARY, `${cache}/qstash-dev/qstash`);
  const port = await freePort();
  const { status, output } = await execute(
    `const client = new Client();
    await client.publishJSON({ url: ${JSON.stringify(endpoint.url("/started"))}, body: process.env.QSTASH_DEV_PORT });
    for (const deadline = Date.now() + 15_000; Date.now() < deadline; await new Promise((resolve) => setTimeout(resolve, 20))) {
      const { logs } = await client.logs({ filter: { state: "DELIVERED" } });
      if (logs.length === 1) process.exit(0);
    }
    process.exit(1);`,
    port,
  );
  assert.equal(status, 0, output);
  const [request] = await endpoint.received("/started");
  assert.equal(request.body.toString(), JSON.stringify(port));
  await eventually(() => assert.rejects(fetch(`http://127.0.0.1:${port}/healthz`)));
});

test("a port that is taken is said to be", () => {
  assert.throws(
    () => execFileSync(process.env.POSTHASTE_BINARY, ["dev", "--port", here.QSTASH_DEV_PORT], { stdio: "pipe", encoding: "utf8" }),
    ({ stdout, stderr }) => {
      const text = `${stdout}${stderr}`.trim();
      assert.match(text, /address already in use/i);
      assert.match(text, new RegExp(`:${here.QSTASH_DEV_PORT}$`));
      return true;
    },
  );
});

test("the help is recognised", () => {
  const help = execFileSync(process.env.POSTHASTE_BINARY, ["--help"], { encoding: "utf8" });
  assert.match(help, /qstash/i);
});
