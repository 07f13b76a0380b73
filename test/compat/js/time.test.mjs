import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, Receiver } from "@upstash/qstash";

import { baseUrl, unique } from "./lib/support.mjs";

/** Asks what only the development server has. */
async function dev(method, path, body) {
  const response = await fetch(`${baseUrl}/dev/${path}`, { method, body: body && JSON.stringify(body) });
  const answer = await response.json();
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
  return answer;
}

// The story that the tests in Go and Python tell, too: a destination that fails, retries that are not waited for, four attempts,
// a dead letter; in less than a second. It may be told three times, since other tests run beside it.
test("retries until the dead letter, without waiting", async () => {
  const took = [];
  do took.push(await story());
  while (took.at(-1) > 1000 && took.length < 3);
  assert.ok(took.at(-1) <= 1000, `took ${took} ms`);
});

async function story() {
  const begin = performance.now();
  const tenant = await dev("POST", "tenants", { name: "story" });
  const client = new Client({ baseUrl, token: tenant.token, retry: false });
  const inbox = unique("story");
  await dev("PUT", `inbox/${inbox}/behaviour`, { failNext: 3, status: 503, body: "closed" });
  const { messageId } = await client.publishJSON({ url: `${baseUrl}/dev/inbox/${inbox}`, body: { hello: "world" }, retries: 3 });
  await dev("POST", "clock", { advance: "1h" });

  const { entries } = await dev("GET", `inbox/${inbox}`);
  assert.deepEqual(
    entries.map(({ attempt, answeredWith }) => [attempt, answeredWith]),
    [[1, 500], [2, 500], [3, 500], [4, 503]],
  );
  const receiver = new Receiver({ currentSigningKey: tenant.currentSigningKey, nextSigningKey: tenant.nextSigningKey });
  for (const { body, headers, messageId: id, signature, url } of entries) {
    assert.equal(id, messageId);
    assert.deepEqual(signature, { valid: true });
    assert.equal(await receiver.verify({ signature: headers["Upstash-Signature"][0], body, url }), true);
  }
  const waits = entries.slice(1).map(({ at }, i) => Math.round((Date.parse(at) - Date.parse(entries[i].at)) / 1000));
  assert.deepEqual(waits, [10, 30, 60]);

  const { messages } = await client.dlq.listMessages();
  assert.deepEqual(messages.map((dead) => [dead.messageId, dead.responseStatus, dead.responseBody]), [[messageId, 503, "closed"]]);
  return performance.now() - begin;
}

test("another tenant sees nothing of it", async () => {
  const tenants = await Promise.all([1, 2].map(() => dev("POST", "tenants")));
  const [a, b] = tenants.map(({ token }) => new Client({ baseUrl, token, retry: false }));
  const { messageId } = await a.publishJSON({ url: `${baseUrl}/dev/inbox/${unique("own")}`, body: {}, delay: 60 });
  await assert.rejects(b.messages.get(messageId), { status: 404 });
  assert.equal((await a.messages.get(messageId)).messageId, messageId);
});

test("a test waits for a delivery with one request", async () => {
  const { token } = await dev("POST", "tenants");
  const inbox = unique("polled");
  const waiting = dev("GET", `inbox/${inbox}?wait=10s&count=2`);
  const client = new Client({ baseUrl, token, retry: false });
  for (const n of [1, 2]) await client.publish({ url: `${baseUrl}/dev/inbox/${inbox}`, body: String(n) });
  const { entries } = await waiting;
  assert.deepEqual(entries.map(({ body }) => body).sort(), ["1", "2"]);
  assert.equal((await dev("GET", "drained?timeout=10s")).drained, true);
});
