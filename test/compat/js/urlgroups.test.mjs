import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { deadLetter, Endpoint, newClient, raw, reaches, unique, verify } from "./lib/support.mjs";

const client = newClient();
const groups = client.urlGroups;
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());

const newGroup = async (...endpoints) => {
  const name = unique("group");
  await groups.addEndpoints({ name, endpoints });
  return name;
};
const names = async () => (await groups.list()).map(({ name }) => name);

test("a group has its endpoints in the order in which they were added", async () => {
  const from = Date.now();
  const endpoints = [
    { name: "First endpoint", url: "https://example.com/1" },
    { name: "second", url: "https://example.com/2" },
    { url: "https://example.com/unnamed" },
  ];
  const name = await newGroup(...endpoints);
  const { createdAt, updatedAt, ...rest } = await groups.get(name);
  assert.deepEqual(rest, { name, endpoints });
  assert.ok(createdAt >= from && createdAt <= Date.now(), `created at ${createdAt}, after ${from}`);
  assert.ok(updatedAt >= createdAt);
  await groups.addEndpoints({ name, endpoints: [{ url: "https://example.com/4" }] });
  assert.deepEqual((await groups.get(name)).endpoints, [...endpoints, { url: "https://example.com/4" }]);
  assert.deepEqual((await groups.get(name)).createdAt, createdAt);
  await groups.delete(name);
});

test("an endpoint is renamed by its URL and moved by its name", async () => {
  const name = await newGroup({ name: "a", url: "https://example.com/a" }, { name: "b", url: "https://example.com/b" });
  await groups.addEndpoints({ name, endpoints: [{ name: "A", url: "https://example.com/a" }] });
  await groups.addEndpoints({ name, endpoints: [{ name: "b", url: "https://example.com/B" }] });
  assert.deepEqual((await groups.get(name)).endpoints, [
    { name: "A", url: "https://example.com/a" },
    { name: "b", url: "https://example.com/B" },
  ]);
  await groups.delete(name);
});

test("endpoints are removed by name or URL, and the group with the last one", async () => {
  const name = await newGroup(
    { name: "first", url: "https://example.com/1" },
    { name: "second", url: "https://example.com/2" },
    { url: "https://example.com/3" },
  );
  await groups.removeEndpoints({ name, endpoints: [{ name: "first" }] });
  assert.deepEqual((await groups.get(name)).endpoints, [
    { name: "second", url: "https://example.com/2" },
    { url: "https://example.com/3" },
  ]);
  await groups.removeEndpoints({ name, endpoints: [{ url: "https://example.com/3" }, { name: "missing" }] });
  assert.deepEqual((await groups.get(name)).endpoints, [{ name: "second", url: "https://example.com/2" }]);
  await groups.removeEndpoints({ name, endpoints: [{ name: "second", url: "https://example.com/2" }] });
  await assert.rejects(groups.get(name), { status: 404, message: `{"error":"topic ${name} not found"}` });
  assert.ok(!(await names()).includes(name));
});

test("groups are listed", async () => {
  const [a, b] = [await newGroup({ url: "https://example.com/a" }), await newGroup({ url: "https://example.com/b" })];
  const listed = await names();
  assert.ok(listed.includes(a) && listed.includes(b));
  assert.deepEqual(await client.topics.list(), await groups.list());
  assert.deepEqual((await groups.list()).find(({ name }) => name === a), await groups.get(a));
  assert.equal(await groups.delete(a), undefined);
  await groups.delete(b);
  assert.deepEqual(await names(), []);
});

test("deleting a group that never was is no error, and getting it is", async () => {
  const name = unique("group");
  assert.equal(await groups.delete(name), undefined);
  await assert.rejects(groups.get(name), { name: "QstashError", status: 404 });
  await assert.rejects(groups.removeEndpoints({ name, endpoints: [{ name: "a" }] }), { status: 404 });
});

test("a publish makes a message for every endpoint", async () => {
  const name = await newGroup({ name: "one", url: endpoint.url("/one?a=b") }, { url: endpoint.url("/two") });
  const responses = await client.publishJSON({ urlGroup: name, body: { hello: "group" }, label: ["g", "h"] });
  assert.ok(Array.isArray(responses));
  assert.deepEqual(responses.map(({ url }) => url), [endpoint.url("/one?a=b"), endpoint.url("/two")]);
  assert.equal(new Set(responses.map(({ messageId }) => messageId)).size, 2);
  for (const response of responses) assert.deepEqual(Object.keys(response).sort(), ["messageId", "url"]);
  for (const [path, i] of [["/one", 0], ["/two", 1]]) {
    const [request] = await endpoint.received(path);
    assert.equal(request.headers["upstash-topic-name"], name);
    assert.equal(request.headers["upstash-message-id"], responses[i].messageId);
    assert.equal(request.body.toString(), '{"hello":"group"}');
    await verify(request);
  }
  const [first, second] = await Promise.all(responses.map(({ messageId }) => client.messages.get(messageId)));
  assert.equal(first.urlGroup, name);
  assert.equal(first.topicName, name);
  assert.equal(first.endpointName, "one");
  assert.equal(second.topicName, name);
  assert.ok(!("endpointName" in second));
  assert.deepEqual(second.labels, ["g", "h"]);
  for (const { messageId } of responses) await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  const { logs } = await client.logs({ filter: { urlGroup: name, state: "DELIVERED" } });
  assert.deepEqual(logs.map(({ urlGroup }) => urlGroup), [name, name]);
  assert.deepEqual(logs.map(({ endpointName }) => endpointName).sort(), ["one", undefined]);
  await groups.delete(name);
});

test("a topic is a group by its old name", async () => {
  const name = await newGroup({ url: endpoint.url("/topic") });
  const responses = await client.publish({ topic: name });
  assert.equal(responses.length, 1);
  await endpoint.received("/topic");
  await groups.delete(name);
});

test("a batch may mix groups and URLs", async () => {
  const name = await newGroup({ url: endpoint.url("/batch-1") }, { url: endpoint.url("/batch-2") });
  const responses = await client.batchJSON([{ urlGroup: name, body: 1 }, { url: endpoint.url("/batch-3"), body: 2 }]);
  assert.equal(responses.length, 2);
  assert.deepEqual(responses[0].map(({ url }) => url), [endpoint.url("/batch-1"), endpoint.url("/batch-2")]);
  assert.match(responses[1].messageId, /^msg_/);
  for (const path of ["/batch-1", "/batch-2", "/batch-3"]) await endpoint.received(path);
  const single = await client.batch([{ urlGroup: name }]);
  assert.equal(single.length, 1);
  assert.equal(single[0].length, 2);
  await groups.delete(name);
});

test("a group is enqueued in its own order", async () => {
  const name = await newGroup({ url: endpoint.url("/queue?1") }, { url: endpoint.url("/queue?2") }, { url: endpoint.url("/queue?3") });
  const queue = client.queue({ queueName: unique("queue") });
  const responses = await queue.enqueueJSON({ urlGroup: name, body: 1 });
  assert.equal(responses.length, 3);
  const requests = await endpoint.received("/queue", 3);
  assert.deepEqual(requests.map(({ url }) => url.slice(-1)), ["1", "2", "3"]);
  await queue.delete();
  await groups.delete(name);
});

test("deduplication goes by endpoint", async () => {
  const name = await newGroup({ url: endpoint.url("/dedup-1") }, { url: endpoint.url("/dedup-2") });
  const deduplicationId = unique("dedup");
  const first = await client.publish({ urlGroup: name, deduplicationId });
  assert.deepEqual(first.map(({ deduplicated }) => deduplicated), [undefined, undefined]);
  const again = await client.publish({ urlGroup: name, deduplicationId });
  assert.deepEqual(again, first.map((response) => ({ ...response, deduplicated: true })));
  await groups.addEndpoints({ name, endpoints: [{ url: endpoint.url("/dedup-3") }] });
  const grown = await client.publish({ urlGroup: name, deduplicationId });
  assert.deepEqual(grown.map(({ deduplicated }) => deduplicated), [true, true, undefined]);
  await endpoint.received("/dedup-3");
  assert.equal(endpoint.sent("/dedup-1").length, 1);
  await groups.delete(name);
});

test("every endpoint fails by itself, and its dead letter names the group", async () => {
  endpoint.answer("/bad", { status: 400 });
  const name = await newGroup({ name: "bad", url: endpoint.url("/bad") }, { name: "good", url: endpoint.url("/good") });
  const [bad, good] = await client.publish({ urlGroup: name, retries: 0, failureCallback: endpoint.url("/group-failure") });
  const dead = await deadLetter(client, bad.messageId);
  assert.equal(dead.urlGroup, name);
  assert.equal(dead.endpointName, "bad");
  await reaches(client, good.messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  const [callback] = await endpoint.received("/group-failure");
  const told = JSON.parse(callback.body);
  assert.equal(told.topicName, name);
  assert.equal(told.endpointName, "bad");
  assert.equal(callback.headers["upstash-topic-name"], undefined);

  const listed = async (urlGroup) => (await client.dlq.listMessages({ filter: { urlGroup } })).messages.length;
  assert.equal(await listed(name), 1);
  assert.equal(await listed([name, "other"]), 1);
  assert.equal(await listed("other"), 0);
  assert.deepEqual(await client.dlq.delete({ filter: { urlGroup: name } }), { deleted: 1 });
  await groups.delete(name);
});

test("messages of a group are cancelled together, and outlive it", async () => {
  const name = await newGroup({ url: "https://example.com/1" }, { url: "https://example.com/2" });
  const other = await newGroup({ url: "https://example.com/1" });
  const responses = await client.publish({ urlGroup: name, delay: 3600 });
  const [kept] = await client.publish({ urlGroup: other, delay: 3600 });
  await groups.delete(name);
  assert.deepEqual(await client.messages.cancel({ filter: { urlGroup: name } }), { cancelled: 2 });
  for (const { messageId } of responses) await reaches(client, messageId, ["CREATED", "CANCEL_REQUESTED", "CANCELED"]);
  await reaches(client, kept.messageId, ["CREATED"]);
  assert.deepEqual(await client.messages.cancel({ filter: { urlGroup: [other, name] } }), { cancelled: 1 });
  await groups.delete(other);
});

test("defaults of a group apply unless the request says otherwise", async () => {
  const name = await newGroup({ url: "https://example.com" });
  const { status } = await raw("PATCH", `/v2/topics/${name}`, {
    body: JSON.stringify({ headers: { "Upstash-Retries": "7", "Upstash-Forward-X-Default": ["default"] } }),
  });
  assert.equal(status, 200);
  const [plain] = await client.publish({ urlGroup: name, delay: 3600 });
  const message = await client.messages.get(plain.messageId);
  assert.equal(message.maxRetries, 7);
  assert.deepEqual(message.header, { "X-Default": ["default"] });
  const [own] = await client.publish({ urlGroup: name, delay: 3600, retries: 1, headers: { "X-Default": "own" } });
  const overridden = await client.messages.get(own.messageId);
  assert.equal(overridden.maxRetries, 1);
  assert.deepEqual(overridden.header, { "X-Default": ["own"] });
  await client.messages.cancel([plain.messageId, own.messageId]);
  await groups.delete(name);
});

test("what cannot be a group is refused", async () => {
  await assert.rejects(client.publish({ urlGroup: unique("missing") }), (error) => {
    assert.equal(error.status, 404);
    assert.match(error.message, /^\{"error":"topic missing-\w+ not found"\}$/);
    return true;
  });
  await assert.rejects(groups.addEndpoints({ name: "bad name", endpoints: [{ url: "https://example.com" }] }), { status: 400 });
  for (const url of ["nope://x", "example.com", ""]) {
    await assert.rejects(groups.addEndpoints({ name: unique("bad"), endpoints: [{ url }] }), { status: 400 }, url);
  }
  assert.deepEqual(await names(), []);
  await assert.rejects(groups.get(""), /cannot be empty/);
});
