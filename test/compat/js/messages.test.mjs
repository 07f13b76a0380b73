import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { Endpoint, newClient, raw, reaches, unique } from "./lib/support.mjs";

const client = newClient();
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());
beforeEach(() => client.messages.cancel({ all: true }));

const delayed = async (request) => {
  const { messageId } = await client.publishJSON({ url: "https://example.com/a", delay: "1h", ...request });
  return messageId;
};
const canceled = ["CREATED", "CANCEL_REQUESTED", "CANCELED"];

test("a delivered message can still be read", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/get"), body: { a: 1 } });
  await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  const message = await client.messages.get(messageId);
  assert.equal(message.messageId, messageId);
  assert.equal(message.body, '{"a":1}');
  for (const absent of ["flowControlKey", "topicName", "endpointName", "queueName", "scheduleId", "label", "labels", "api"]) {
    assert.ok(!(absent in message), `${absent} is ${message[absent]}`);
  }
});

test("an unknown message is not found", async () => {
  const want = { name: "QstashError", status: 404, message: /^\{"error":"message msg_unknown not found/ };
  await assert.rejects(client.messages.get("msg_unknown"), want);
  await assert.rejects(client.messages.cancel("msg_unknown"), want);
  await assert.rejects(client.messages.delete("msg_unknown"), want);
});

test("an empty id is refused by the SDK and means all to the server", async () => {
  await assert.rejects(client.messages.get(""), /cannot be empty/);
  await assert.rejects(client.messages.cancel(""), /cannot be empty/);
  await assert.rejects(client.messages.delete(""), /cannot be empty/);
  await delayed();
  assert.deepEqual(await raw("DELETE", "/v2/messages/").then(({ body }) => body), { cancelled: 1 });
});

test("one message is cancelled", async () => {
  const [id, kept] = [await delayed(), await delayed()];
  assert.deepEqual(await client.messages.cancel(id), { cancelled: 1 });
  await reaches(client, id, canceled);
  await assert.rejects(client.messages.cancel(id), { status: 404 });
  await reaches(client, kept, ["CREATED"]);
  assert.equal(await client.messages.delete(kept), undefined);
  await reaches(client, kept, canceled);
});

test("the attempt of a message that is cancelled in flight may still succeed", async () => {
  const release = endpoint.hold("/in-flight");
  const { messageId } = await client.publishJSON({ url: endpoint.url("/in-flight") });
  await endpoint.received("/in-flight");
  assert.deepEqual(await client.messages.cancel(messageId), { cancelled: 1 });
  release();
  await reaches(client, messageId, ["CREATED", "ACTIVE", "CANCEL_REQUESTED", "DELIVERED"]);
});

test("if it fails, nothing follows: no retry, no callback, no dead letter", async () => {
  let release;
  endpoint.answer("/fails", () => new Promise((resolve) => (release = () => resolve({ status: 500 }))));
  const { messageId } = await client.publishJSON({
    url: endpoint.url("/fails"),
    retryDelay: "1",
    callback: endpoint.url("/fails-callback"),
    failureCallback: endpoint.url("/fails-failure"),
  });
  await endpoint.received("/fails");
  await client.messages.cancel(messageId);
  release();
  await reaches(client, messageId, ["CREATED", "ACTIVE", "CANCEL_REQUESTED", "ERROR", "CANCELED"]);
  const { messages } = await client.dlq.listMessages({ filter: { messageId } });
  assert.deepEqual(messages, []);
  assert.equal(endpoint.sent("/fails").length, 1);
  assert.equal(endpoint.sent("/fails-callback").length + endpoint.sent("/fails-failure").length, 0);
});

test("many messages are cancelled, and only what could be counts", async () => {
  const ids = [await delayed(), await delayed(), await delayed()];
  assert.deepEqual(await client.messages.cancel([ids[0]]), { cancelled: 1 });
  assert.deepEqual(await client.messages.cancel([...ids, "msg_unknown"]), { cancelled: 2 });
  assert.deepEqual(await client.messages.cancel({ messageIds: ids }), { cancelled: 0 });
  for (const id of ids) await reaches(client, id, canceled);

  const more = [await delayed(), await delayed()];
  assert.equal(await client.messages.deleteMany(more), 2);
  assert.deepEqual(await client.messages.cancel([]), { cancelled: 0 });
});

test("all messages are cancelled, delivered ones not", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/all") });
  await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  await delayed();
  await delayed();
  assert.deepEqual(await client.messages.cancel({ all: true }), { cancelled: 2 });
  await delayed();
  assert.equal(await client.messages.deleteAll(), 1);
  assert.equal(await client.messages.deleteAll(), 0);
});

test("an explicit count bounds a cancellation", async () => {
  const ids = [await delayed(), await delayed(), await delayed()];
  assert.deepEqual(await client.messages.cancel({ all: true, count: 2 }), { cancelled: 2 });
  await reaches(client, ids[0], canceled); // the oldest first
  await reaches(client, ids[2], ["CREATED"]);
});

test("each filter selects its messages, a list any of them, and two filters both", async () => {
  const [label, flow, queue] = [unique("label"), unique("flow"), unique("queue")];
  await client.queue({ queueName: queue }).upsert({ paused: true });
  const cases = [
    [{ url: "https://a.example.com/one" }, "a"],
    [{ url: ["https://a.example.com/one", "https://a.example.com/two"] }, "ac"],
    [{ host: "a.example.com" }, "ac"],
    [{ host: ["b.example.com:8443", "queue.example.com"] }, "bq"],
    [{ path: "/two" }, "bc"],
    [{ path: ["/one", "/q"] }, "aq"],
    [{ label }, "a"],
    [{ label: [label, "x"] }, "ac"],
    [{ label: "x", path: "/two" }, "c"],
    [{ flowControlKey: flow }, "b"],
    [{ flowControlKey: [flow, "other"] }, "b"],
    [{ queueName: queue }, "q"],
    [{ queueName: [queue, "other"] }, "q"],
    [{ queueName: queue, host: "other.example.com" }, ""],
    [{ callerIp: "127.0.0.1", host: "a.example.com" }, "ac"],
    [{ callerIp: ["192.0.2.1", "192.0.2.2"] }, ""],
    [{ scheduleId: "other" }, ""],
    [{ urlGroup: "other" }, ""],
    [{ fromDate: new Date(Date.now() + 60_000) }, ""],
    [{ toDate: Date.now() - 60_000 }, ""],
    [{ fromDate: Date.now() - 60_000, toDate: new Date(Date.now() + 60_000), path: "/one" }, "a"],
  ];
  for (const [filter, want] of cases) {
    const { messageId: q } = await client.queue({ queueName: queue }).enqueue({ url: "https://queue.example.com/q" });
    const ids = {
      a: await delayed({ url: "https://a.example.com/one", label: [label, "x"] }),
      b: await delayed({ url: "https://b.example.com:8443/two?q=1", flowControl: { key: flow, rate: 1 } }),
      c: await delayed({ url: "https://a.example.com/two", label: "x" }),
      q,
    };
    assert.deepEqual(await client.messages.cancel({ filter }), { cancelled: want.length }, JSON.stringify(filter));
    const { logs } = await client.logs({ messageIds: Object.values(ids) });
    const cancelled = Object.keys(ids).filter((key) =>
      logs.some(({ messageId, state }) => messageId === ids[key] && state === "CANCELED"),
    );
    assert.equal(cancelled.join(""), want, JSON.stringify(filter));
    await client.messages.cancel({ all: true });
  }
  await client.queue({ queueName: queue }).delete();
});

test("a misspelt filter cancels nothing", async () => {
  const id = await delayed();
  await assert.rejects(client.messages.cancel({ filter: { labeel: "x" } }), {
    status: 400,
    message: '{"error":"invalid query parameter: labeel"}',
  });
  await assert.rejects(client.messages.cancel({ filter: { label: [] } }), { name: "QstashEmptyArrayError" });
  await assert.rejects(client.messages.cancel({ messageIds: [] }), /Empty messageIds/);
  await reaches(client, id, ["CREATED"]);
});
