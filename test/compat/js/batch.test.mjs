import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { custom } from "@upstash/qstash";

import { Endpoint, newClient, raw, reaches, states, unique, verify } from "./lib/support.mjs";

const client = newClient();
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());

test("one item is a list, too", async () => {
  const { status, body } = await raw("POST", "/v2/batch", {
    body: JSON.stringify([{ destination: endpoint.url("/single") }]),
    headers: { "Content-Type": "application/json" },
  });
  assert.equal(status, 200);
  assert.ok(Array.isArray(body) && body.length === 1);
  assert.match(body[0].messageId, /^msg_/);
  const [request] = await endpoint.received("/single");
  assert.equal(request.headers["content-type"], undefined, "the batch's own type is not inherited");
  assert.deepEqual(await client.batch([]), []);
});

test("every item has options of its own", async () => {
  const responses = await client.batchJSON([
    { url: endpoint.url("/json"), body: { some: "body" }, headers: { "Test-Header": "test-value" }, label: ["a", "b"] },
    { url: "https://example.com/later", method: "PUT", delay: "1h", retries: 1, flowControl: { key: "batch", parallelism: 3 } },
    { url: endpoint.url("/json"), body: { other: "body" } },
  ]);
  assert.equal(responses.length, 3);
  assert.equal(new Set(responses.map(({ messageId }) => messageId)).size, 3);
  const requests = await endpoint.received("/json", 2);
  const bodies = requests.map(({ body }) => body.toString()).sort();
  assert.deepEqual(bodies, ['{"other":"body"}', '{"some":"body"}']);
  for (const request of requests) {
    assert.equal(request.headers["content-type"], "application/json");
    await verify(request);
  }
  const [first, second] = await Promise.all(responses.map(({ messageId }) => client.messages.get(messageId)));
  assert.deepEqual(first.header, { "Content-Type": ["application/json"], "Test-Header": ["test-value"] });
  assert.deepEqual(first.labels, ["a", "b"]);
  assert.equal(second.method, "PUT");
  assert.equal(second.notBefore - second.createdAt, 3600_000);
  assert.equal(second.maxRetries, 1);
  assert.equal(second.flowControlKey, "batch");
  assert.equal(second.parallelism, 3);
  await client.messages.cancel(second.messageId);
});

test("plain items are not made JSON", async () => {
  const [{ messageId }] = await client.batch([
    { url: endpoint.url("/plain"), body: "plain text", headers: { "Content-Type": "text/plain", "X-A": "1" } },
  ]);
  const [request] = await endpoint.received("/plain");
  assert.equal(request.body.toString(), "plain text");
  assert.equal(request.headers["content-type"], "text/plain");
  await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
});

test("global headers of the client apply to every item", async () => {
  const configured = newClient({ headers: { "X-Global": "global" } });
  await configured.batch([{ url: endpoint.url("/global") }, { url: endpoint.url("/global"), headers: { "X-Global": "own" } }]);
  const requests = await endpoint.received("/global", 2);
  assert.deepEqual(requests.map(({ headers }) => headers["x-global"]).sort(), ["global", "own"]);
});

test("items go through queues", async () => {
  const queueName = unique("queue");
  const responses = await client.batchJSON(
    [1, 2, 3].map((n) => ({ url: endpoint.url("/queue"), body: n, queueName })),
  );
  const requests = await endpoint.received("/queue", 3);
  assert.deepEqual(requests.map(({ body }) => body.toString()), ["1", "2", "3"]);
  for (const { messageId } of responses) assert.equal((await client.messages.get(messageId)).queueName, queueName);
  const queue = await client.queue({ queueName }).get();
  assert.equal(queue.parallelism, 1);
  await client.queue({ queueName }).delete();
});

test("items may be meant for a provider", async () => {
  const provider = custom({ baseUrl: endpoint.origin, token: "key" });
  await client.batchJSON([{ api: { name: "llm", provider }, callback: endpoint.url("/llm-callback"), body: { model: "m" } }]);
  const [request] = await endpoint.received("/v1/chat/completions");
  assert.equal(request.headers.authorization, "Bearer key");
});

test("duplicates within a batch and against earlier messages", async () => {
  const deduplicationId = unique("dedup");
  const item = { url: endpoint.url("/dedup"), deduplicationId };
  const responses = await client.batch([item, { url: endpoint.url("/dedup") }, item]);
  const [{ messageId }] = responses;
  assert.ok(!("deduplicated" in responses[0]) && !("deduplicated" in responses[1]));
  assert.deepEqual(responses[2], { messageId, deduplicated: true });
  assert.deepEqual(await client.batch([item]), [{ messageId, deduplicated: true }]);
  await endpoint.received("/dedup", 2);
});

test("a malformed item refuses the whole batch", async () => {
  const label = unique("malformed");
  const good = { url: endpoint.url("/malformed"), label };
  for (const bad of [
    { url: "nope://x" },
    { url: "https://example.com", retries: -1 },
    { url: "https://example.com", delay: "10" },
    { url: "https://example.com", deduplicationId: "a:b" },
    { url: "https://example.com", headers: { "Upstash-Method": "BREW" }, method: "BREW" },
    { url: "https://example.com", delay: 1, queueName: "q" },
    { urlGroup: unique("missing") },
  ]) {
    await assert.rejects(
      client.batch([good, bad]),
      (error) => error.name === "QstashError" && [400, 404].includes(error.status) && JSON.parse(error.message).error.length > 0,
      JSON.stringify(bad),
    );
  }
  assert.deepEqual((await client.logs({ filter: { label } })).logs, []);
  for (const body of ["{}", "nonsense", '"text"', '[{"body":"no destination"}]']) {
    const { status } = await raw("POST", "/v2/batch", { body });
    assert.equal(status, 400, body);
  }
});

test("a body that is no string is delivered as compact JSON, and headers may be lists", async () => {
  const { status, body } = await raw("POST", "/v2/batch", {
    body: JSON.stringify([
      { destination: endpoint.url("/value"), body: { a: [1, 2] }, headers: { "upstash-forward-x-list": ["1", "2"] }, queue: null },
      { destination: endpoint.url("/null"), body: null, queue: "" },
    ]),
  });
  assert.equal(status, 200);
  assert.equal(body.length, 2);
  const [value] = await endpoint.received("/value");
  assert.equal(value.body.toString(), '{"a":[1,2]}');
  assert.equal(value.headers["x-list"], "1, 2");
  const [nothing] = await endpoint.received("/null");
  assert.equal(nothing.body.length, 0);
  assert.equal((await states(client, body[1].messageId))[0], "CREATED");
});
