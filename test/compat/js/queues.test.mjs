import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { custom } from "@upstash/qstash";

import { deadLetter, Endpoint, eventually, newClient, raw, reaches, states, unique, verify } from "./lib/support.mjs";

const client = newClient();
const newQueue = () => client.queue({ queueName: unique("queue") });
const name = ({ queueName }) => queueName;
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());

const bodies = (requests) => requests.map(({ body }) => body.toString());

test("a queue is created, changed and deleted", async () => {
  const queue = newQueue();
  const from = Date.now();
  await queue.upsert({ parallelism: 3 });
  const created = await queue.get();
  const { createdAt, updatedAt, ...rest } = created;
  assert.deepEqual(rest, { name: name(queue), parallelism: 3, lag: 0, paused: false });
  assert.ok(createdAt >= from && createdAt <= Date.now() && updatedAt >= createdAt);
  await queue.upsert({ parallelism: 2, paused: true });
  const changed = await queue.get();
  assert.deepEqual(changed, { ...created, parallelism: 2, paused: true, updatedAt: changed.updatedAt });
  assert.ok(changed.updatedAt >= updatedAt);
  await queue.upsert({});
  const reset = await queue.get();
  assert.equal(reset.parallelism, 1);
  assert.equal(reset.paused, false);
  assert.equal(await queue.delete(), undefined);
  await assert.rejects(queue.get(), {
    name: "QstashError",
    status: 404,
    message: `{"error":"queue ${name(queue)} not found"}`,
  });
});

test("queues are listed", async () => {
  assert.deepEqual(await client.queue().list(), []);
  const queues = [newQueue(), newQueue()];
  for (const queue of queues) await queue.upsert({ parallelism: 1 });
  const listed = await client.queue().list();
  assert.deepEqual(listed.map((queue) => queue.name).sort(), queues.map(name).sort());
  for (const queue of listed) {
    assert.deepEqual(Object.keys(queue).sort(), ["createdAt", "lag", "name", "parallelism", "paused", "updatedAt"]);
  }
  for (const queue of queues) await queue.delete();
  assert.deepEqual(await client.queue().list(), []);
});

test("deleting a queue that never was is no error", async () => {
  assert.equal(await newQueue().delete(), undefined);
});

test("an enqueued message creates its queue and is delivered", async () => {
  const queue = newQueue();
  const { messageId, ...rest } = await queue.enqueueJSON({
    url: endpoint.url("/enqueue?a=b"),
    body: { hello: "world" },
    headers: { "X-A": "1" },
    retries: 2,
    label: "queued",
    callback: endpoint.url("/enqueue-callback"),
  });
  assert.deepEqual(rest, {});
  const [request] = await endpoint.received("/enqueue");
  assert.equal(request.url, endpoint.url("/enqueue?a=b"));
  assert.equal(request.body.toString(), '{"hello":"world"}');
  assert.equal(request.headers["x-a"], "1");
  await verify(request);
  const [callback] = await endpoint.received("/enqueue-callback");
  assert.equal(JSON.parse(callback.body).sourceMessageId, messageId);
  const message = await client.messages.get(messageId);
  assert.equal(message.queueName, name(queue));
  assert.equal(message.maxRetries, 2);
  assert.equal(message.label, "queued");
  assert.equal((await queue.get()).parallelism, 1);
  await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  const { logs } = await client.logs({ messageIds: [messageId] });
  for (const log of logs) assert.equal(log.queueName, name(queue));
  await queue.delete();
});

test("messages are delivered in order, one at a time", async () => {
  const queue = newQueue();
  let open = 0;
  let most = 0;
  endpoint.answer("/fifo", async () => {
    most = Math.max(most, ++open);
    await new Promise((resolve) => setTimeout(resolve, 5)); // time for a second attempt to overlap, were there one
    open--;
    return {};
  });
  const want = Array.from({ length: 10 }, (_, i) => String(i));
  for (const body of want) await queue.enqueue({ url: endpoint.url("/fifo"), body });
  assert.deepEqual(bodies(await endpoint.received("/fifo", want.length)), want);
  assert.equal(most, 1);
  await queue.delete();
});

test("a message that is retried blocks those behind it", async () => {
  const queue = newQueue();
  endpoint.answer("/blocked", (request, number) => (number < 2 ? { status: 500 } : {}));
  await queue.enqueue({ url: endpoint.url("/blocked"), body: "first", retryDelay: "50" });
  await queue.enqueue({ url: endpoint.url("/blocked"), body: "second" });
  assert.deepEqual(bodies(await endpoint.received("/blocked", 4)), ["first", "first", "first", "second"]);
  await queue.delete();
});

test("a failed message lets the next one go", async () => {
  const queue = newQueue();
  endpoint.answer("/skip", (request) => (request.body.toString() === "bad" ? { status: 400 } : {}));
  const { messageId } = await queue.enqueue({ url: endpoint.url("/skip"), body: "bad", retries: 0 });
  await queue.enqueue({ url: endpoint.url("/skip"), body: "good" });
  assert.deepEqual(bodies(await endpoint.received("/skip", 2)), ["bad", "good"]);
  assert.equal((await deadLetter(client, messageId)).queueName, name(queue));
  await queue.delete();
});

test("the next message waits for the callback of the one before", async () => {
  const queue = newQueue();
  const release = endpoint.hold("/wait-callback");
  const first = await queue.enqueue({ url: endpoint.url("/wait"), body: "1", callback: endpoint.url("/wait-callback") });
  const second = await queue.enqueue({ url: endpoint.url("/wait"), body: "2" });
  await endpoint.received("/wait-callback");
  await reaches(client, first.messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  assert.deepEqual(await states(client, second.messageId), ["CREATED"]);
  release();
  assert.deepEqual(bodies(await endpoint.received("/wait", 2)), ["1", "2"]);
  await queue.delete();
});

test("as many messages as the parallelism are open at a time", async () => {
  const queue = newQueue();
  await queue.upsert({ parallelism: 2 });
  const release = endpoint.hold("/parallel");
  for (const body of ["1", "2", "3"]) await queue.enqueue({ url: endpoint.url("/parallel"), body });
  assert.deepEqual(bodies(await endpoint.received("/parallel", 2)).sort(), ["1", "2"]);
  assert.equal((await queue.get()).lag, 3);
  assert.equal(endpoint.sent("/parallel").length, 2);
  await queue.upsert({ parallelism: 3 });
  await endpoint.received("/parallel", 3);
  release();
  await eventually(async () => assert.equal((await queue.get()).lag, 0));
  await queue.delete();
});

test("a paused queue accepts and does not deliver", async () => {
  const queue = newQueue();
  await queue.upsert({ parallelism: 1 });
  assert.equal(await queue.pause(), undefined);
  await queue.pause();
  assert.equal((await queue.get()).paused, true);
  const ids = [];
  for (const body of ["1", "2"]) ids.push((await queue.enqueue({ url: endpoint.url("/paused"), body })).messageId);
  // A message published later and delivered shows that the paused ones had their chance.
  await client.publish({ url: endpoint.url("/meanwhile") });
  await endpoint.received("/meanwhile");
  for (const id of ids) assert.deepEqual(await states(client, id), ["CREATED"]);
  assert.equal((await queue.get()).lag, 2);
  assert.equal(await queue.resume(), undefined);
  assert.equal((await queue.get()).paused, false);
  assert.deepEqual(bodies(await endpoint.received("/paused", 2)), ["1", "2"]);
  await queue.delete();
});

test("pausing a queue that is not there", async () => {
  await assert.rejects(newQueue().pause(), { status: 404 });
  await assert.rejects(newQueue().resume(), { status: 404 });
});

test("the messages of a deleted queue are cancelled", async () => {
  const queue = newQueue();
  await queue.upsert({ paused: true });
  const { messageId } = await queue.enqueue({ url: endpoint.url("/deleted") });
  await queue.delete();
  await eventually(async () => assert.equal((await states(client, messageId)).at(-1), "CANCELED"));
  const again = await queue.enqueue({ url: endpoint.url("/recreated") });
  await reaches(client, again.messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  assert.equal((await queue.get()).parallelism, 1);
  await queue.delete();
});

test("deduplication spans queues", async () => {
  const queue = newQueue();
  const deduplicationId = unique("dedup");
  const { messageId } = await queue.enqueue({ url: endpoint.url("/dedup"), deduplicationId });
  assert.deepEqual(await queue.enqueue({ url: endpoint.url("/dedup"), deduplicationId }), { messageId, deduplicated: true });
  assert.deepEqual(await client.publish({ url: endpoint.url("/dedup"), deduplicationId }), { messageId, deduplicated: true });
  await queue.delete();
});

test("a provider is reached through a queue, too", async () => {
  const queue = newQueue();
  const provider = custom({ baseUrl: endpoint.origin, token: "key" });
  await queue.enqueueJSON({ api: { name: "llm", provider }, callback: endpoint.url("/llm-callback"), body: { model: "m" } });
  const [request] = await endpoint.received("/v1/chat/completions");
  assert.equal(request.headers.authorization, "Bearer key");
  await queue.delete();
});

test("what queues do not take is refused", async () => {
  const queue = newQueue();
  for (const request of [{ delay: 1 }, { notBefore: Math.floor(Date.now() / 1000) + 60 }]) {
    await assert.rejects(queue.enqueue({ url: endpoint.url("/refused"), ...request }), { name: "QstashError", status: 400 });
  }
  await assert.rejects(queue.enqueue({ url: "nope://x" }), { status: 400 });
  await assert.rejects(client.queue({ queueName: "bad%20name" }).enqueue({ url: endpoint.url("/refused") }), { status: 400 });
  await assert.rejects(client.queue({ queueName: "bad name" }).upsert({ parallelism: 1 }), { status: 400 });
  await assert.rejects(queue.upsert({ parallelism: 0 }), { status: 400 });
  await assert.rejects(client.queue().get(), /provide a queue name/);
  for (const body of ["nonsense", "{}", '{"queueName":1}']) {
    assert.equal((await raw("POST", "/v2/queues", { body })).status, 400, body);
  }
  assert.equal(endpoint.sent("/refused").length, 0);
});

test("settings that are not sent stay", async () => {
  const queue = newQueue();
  await queue.upsert({ parallelism: 5, paused: true });
  const { status } = await raw("POST", "/v2/queues", { body: JSON.stringify({ queueName: name(queue) }) });
  assert.equal(status, 200);
  const { parallelism, paused } = await queue.get();
  assert.deepEqual({ parallelism, paused }, { parallelism: 5, paused: true });
  await queue.delete();
});
