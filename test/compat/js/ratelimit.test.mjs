// The server of this file has the limits of the free plan: 500 messages a day, 100 management requests a second, 10 queues.

import assert from "node:assert/strict";
import { test } from "node:test";

import { QstashDailyRatelimitError, QstashRatelimitError } from "@upstash/qstash";

import { eventually, newClient, raw } from "./lib/support.mjs";

const client = newClient();

test("numbers over the plan are refused, and name the limit", async () => {
  const url = "https://example.com";
  for (const [request, status, text] of [
    [{ url, retries: 6 }, 400, "quota maxRetries exceeded, current limit: 5"],
    [{ url, delay: "8d" }, 400, "quota maxDelay exceeded, current limit: 604800"],
  ]) {
    await assert.rejects(client.publish(request), { name: "QstashError", status, message: JSON.stringify({ error: text }) });
  }
  for (let i = 0; i < 10; i++) await client.queue({ queueName: `queue-${i}` }).upsert({});
  await assert.rejects(client.queue({ queueName: "one-more" }).upsert({}), { status: 412 });
  await assert.rejects(client.queue({ queueName: "one-more" }).enqueue({ url }), { status: 412 });
  await client.queue({ queueName: "queue-0" }).upsert({ parallelism: 2 });
  await assert.rejects(client.queue({ queueName: "queue-0" }).upsert({ parallelism: 3 }), { status: 412 });
});

test("too many management requests in a second are a burst", async () => {
  const { headers } = await raw("GET", "/v2/queues");
  assert.equal(headers.get("burst-ratelimit-limit"), "100");
  await eventually(async () => {
    const results = await Promise.allSettled(Array.from({ length: 150 }, () => client.flowControl.getGlobalParallelism()));
    const { reason } = results.find(({ status }) => status === "rejected") ?? {};
    assert.ok(reason instanceof QstashRatelimitError, `got ${reason}`);
    assert.equal(reason.status, 429);
    assert.equal(reason.limit, "100");
    assert.equal(reason.remaining, "0");
    assert.ok(Math.abs(Number(reason.reset) - Date.now() / 1000) < 10);
  });
});

test("publishing knows no burst, and a day's messages are counted", async () => {
  const midnight = (Math.floor(Date.now() / 86400_000) + 1) * 86400;
  const batch = Array.from({ length: 100 }, () => ({ url: "https://example.com", delay: "1d" }));
  let accepted = 0;
  let refusal;
  while (!refusal && accepted <= 500) {
    await client.batch(batch).then(
      () => (accepted += batch.length),
      (error) => (refusal = error),
    );
  }
  assert.equal(accepted, 500);
  assert.ok(refusal instanceof QstashDailyRatelimitError, `got ${refusal}`);
  assert.equal(refusal.limit, "500");
  assert.equal(refusal.remaining, "0");
  assert.ok([midnight, midnight + 86400].includes(Number(refusal.reset)), `resets at ${refusal.reset}, want ${midnight}`);
  await assert.rejects(client.publish({ url: "https://example.com", delay: "1d" }), QstashDailyRatelimitError);
});
