import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { Endpoint, eventually, fail, newClient, raw, reaches, unique, verify } from "./lib/support.mjs";

const client = newClient();
const { dlq } = client;
let endpoint;
before(async () => {
  endpoint = await Endpoint.start();
  endpoint.answer("/fail", { status: 400, headers: { "X-Why": "because" }, body: "Bad things" });
  endpoint.answer("/teapot", { status: 418 });
});
after(() => endpoint.close());
beforeEach(() => dlq.delete({ all: true }));

const dead = (request) => fail(client, { url: endpoint.url("/fail"), body: { a: 1 }, ...request });
const list = async (options) => (await dlq.listMessages(options)).messages.map(({ dlqId }) => dlqId);

test("a dead letter is the message and the answer to its last attempt", async () => {
  const letter = await dead({
    headers: { "X-A": "1" },
    retryDelay: "1000",
    callback: endpoint.url("/callback?foo=bar"),
    failureCallback: endpoint.url("/failure"),
    flowControl: { key: "dlq", parallelism: 4 },
    label: ["one", "two"],
  });
  const { dlqId, messageId, createdAt, notBefore, responseHeader, urlGroup, ratePerSecond, ...rest } = letter;
  assert.match(dlqId, /^\d{13}-\d+$/);
  assert.match(messageId, /^msg_/);
  assert.ok(Math.abs(createdAt - Date.now()) < 60_000 && notBefore >= createdAt);
  assert.deepEqual(responseHeader["X-Why"], ["because"]);
  assert.equal(urlGroup, undefined);
  assert.equal(ratePerSecond, undefined);
  assert.deepEqual(rest, {
    url: endpoint.url("/fail"),
    method: "POST",
    header: { "Content-Type": ["application/json"], "X-A": ["1"] },
    body: '{"a":1}',
    maxRetries: 0,
    retryDelayExpression: "1000",
    callback: endpoint.url("/callback?foo=bar"),
    failureCallback: endpoint.url("/failure"),
    callerIP: "127.0.0.1",
    callerIp: "127.0.0.1",
    flowControlKey: "dlq",
    parallelism: 4,
    period: 1,
    label: "one",
    labels: ["one", "two"],
    responseStatus: 400,
    responseBody: "Bad things",
  });
  const { status, body } = await raw("GET", `/v2/dlq/${dlqId}`);
  assert.equal(status, 200);
  const { urlGroup: _, ratePerSecond: __, ...listed } = letter;
  assert.deepEqual(body, listed);
});

test("an answer that is no UTF-8 is told as base64", async () => {
  const bytes = Buffer.from([0xff, 0xfe, 0x00]);
  endpoint.answer("/bytes", { status: 500, body: bytes });
  const letter = await dead({ url: endpoint.url("/bytes") });
  assert.equal(letter.responseBody, undefined);
  assert.equal(letter.responseBodyBase64, bytes.toString("base64"));
});

test("one is deleted, and then it is missing", async () => {
  const [{ dlqId }, kept] = [await dead(), await dead()];
  assert.deepEqual(await dlq.delete(dlqId), { deleted: 1 });
  assert.deepEqual(await list(), [kept.dlqId]);
  await assert.rejects(dlq.delete(dlqId), {
    name: "QstashError",
    status: 404,
    message: `{"error":"dlq message ${dlqId} not found"}`,
  });
});

test("many are deleted, and missing ones do not count", async () => {
  const ids = [await dead(), await dead(), await dead(), await dead()].map(({ dlqId }) => dlqId);
  assert.deepEqual(await dlq.delete([ids[0], "1-0"]), { deleted: 1 });
  assert.deepEqual(await dlq.delete({ dlqIds: ids[1] }), { deleted: 1 });
  assert.deepEqual(await dlq.deleteMany({ dlqIds: ids }), { deleted: 2 });
  assert.deepEqual(await dlq.delete(ids), { deleted: 0 });
  assert.deepEqual(await dlq.delete([]), { deleted: 0 });
  assert.deepEqual(await list(), []);
});

test("all are deleted page by page", async () => {
  for (let i = 0; i < 3; i++) await dead();
  const first = await dlq.delete({ all: true, count: 2 });
  assert.equal(first.deleted, 2);
  assert.ok(first.cursor, "a cursor tells that there are more");
  const second = await dlq.delete({ all: true, count: 2, cursor: first.cursor });
  assert.deepEqual(second, { deleted: 1 });
});

test("a list is paged, the earliest first", async () => {
  const ids = [];
  for (let i = 0; i < 5; i++) ids.push((await dead()).dlqId);
  assert.deepEqual(await list(), ids);
  const paged = [];
  let cursor;
  do {
    const page = await dlq.listMessages({ count: 2, cursor });
    assert.ok(page.messages.length <= 2);
    paged.push(...page.messages.map(({ dlqId }) => dlqId));
    cursor = page.cursor;
    assert.ok(paged.length <= 5);
  } while (cursor);
  assert.deepEqual(paged, ids);
  assert.deepEqual(Object.keys((await raw("GET", "/v2/dlq")).body), ["messages"], "no cursor at the end");
  assert.deepEqual(await list({ dlqIds: [ids[3], ids[1], "1-0"] }), [ids[1], ids[3]]);
  assert.deepEqual(await list({ dlqIds: ids[2] }), [ids[2]]);
});

test("each filter selects its dead letters, a list any of them, and two filters both", async () => {
  const [label, flow, queue] = [unique("label"), unique("flow"), unique("queue")];
  const query = unique("url");
  const from = Date.now();
  const letters = {
    a: await dead({ url: endpoint.url(`/fail?${query}`), label: [label, `${label}-x`] }),
    b: await dead({ url: endpoint.url("/teapot"), flowControl: { key: flow, parallelism: 1 } }),
    c: await dead({ label: `${label}-x` }),
  };
  const { messageId } = await client
    .queue({ queueName: queue })
    .enqueue({ url: endpoint.url("/fail"), retries: 0 });
  letters.q = await eventually(async () => {
    const { messages } = await dlq.listMessages({ filter: { messageId } });
    assert.equal(messages.length, 1);
    return messages[0];
  });
  assert.equal(letters.q.queueName, queue);
  const cases = [
    [{ messageId: letters.a.messageId }, "a"],
    [{ url: endpoint.url(`/fail?${query}`) }, "a"],
    [{ url: [endpoint.url(`/fail?${query}`), endpoint.url("/teapot")] }, "ab"],
    [{ label }, "a"],
    [{ label: [label, `${label}-x`] }, "ac"],
    [{ label: `${label}-x`, url: endpoint.url("/fail") }, "c"],
    [{ flowControlKey: flow }, "b"],
    [{ flowControlKey: [flow, "other"] }, "b"],
    [{ queueName: queue }, "q"],
    [{ queueName: [queue, "other"] }, "q"],
    [{ responseStatus: 418 }, "b"],
    [{ responseStatus: [418, 400], label }, "a"],
    [{ responseStatus: [418, 500] }, "b"],
    [{ callerIp: "127.0.0.1", label }, "a"],
    [{ callerIp: ["192.0.2.1"] }, ""],
    [{ scheduleId: "other" }, ""],
    [{ urlGroup: "other" }, ""],
    [{ fromDate: new Date(from) }, "abcq"],
    [{ fromDate: from + 3600_000 }, ""],
    [{ toDate: new Date(from - 1) }, ""],
    [{ fromDate: from, toDate: from + 3600_000, label }, "a"],
    [{ api: "llm", label }, "a"], // a filter that was removed is ignored
  ];
  for (const [filter, want] of cases) {
    const got = await list({ filter });
    const found = Object.keys(letters).filter((key) => got.includes(letters[key].dlqId));
    assert.equal(found.join(""), want, JSON.stringify(filter));
    assert.equal(got.length, want.length, JSON.stringify(filter));
  }
  assert.deepEqual(await dlq.delete({ filter: { label: "other" } }), { deleted: 0 });
  assert.deepEqual(await dlq.delete({ filter: { label, url: endpoint.url("/teapot") } }), { deleted: 0 });
  assert.deepEqual(await dlq.delete({ filter: { responseStatus: 418 } }), { deleted: 1 });
  assert.deepEqual(await dlq.delete({ filter: { label: [label, `${label}-x`] }, count: 1 }).then(({ deleted }) => deleted), 1);
  assert.deepEqual(await dlq.delete({ filter: { label: [label, `${label}-x`] } }), { deleted: 1 });
  assert.deepEqual(await list(), [letters.q.dlqId]);
});

test("a misspelt filter deletes nothing", async () => {
  const { dlqId } = await dead();
  const want = { name: "QstashError", status: 400, message: '{"error":"invalid query parameter: labeel"}' };
  await assert.rejects(dlq.delete({ filter: { labeel: "x" } }), want);
  await assert.rejects(dlq.retry({ filter: { labeel: "x" } }), want);
  await assert.rejects(dlq.listMessages({ filter: { labeel: "x" } }), want);
  for (const filter of [{ host: "127.0.0.1" }, { path: "/fail" }]) {
    await assert.rejects(dlq.listMessages({ filter }), { status: 400 });
  }
  await assert.rejects(dlq.delete({ dlqIds: [] }), /Empty dlqIds/);
  assert.deepEqual(await list(), [dlqId]);
});

test("a retry is a new message with everything the old one had", async () => {
  endpoint.answer("/recover", (_, number) => (number === 0 ? { status: 500 } : {}));
  const letter = await dead({
    url: endpoint.url("/recover"),
    body: { secret: "kept" },
    headers: { "X-A": "1" },
    method: "PUT",
    label: ["retried", "twice"],
    redact: { body: true },
    callback: endpoint.url("/recover-callback"),
  });
  const { responses, cursor } = await dlq.retry(letter.dlqId);
  assert.equal(responses.length, 1);
  assert.equal(cursor, undefined);
  const [{ messageId }] = responses;
  assert.notEqual(messageId, letter.messageId);
  const [, request] = await endpoint.received("/recover", 2);
  assert.equal(request.method, "PUT");
  assert.equal(request.headers["x-a"], "1");
  assert.equal(request.headers["upstash-retried"], "0");
  assert.equal(request.headers["upstash-message-id"], messageId);
  assert.equal(request.body.toString(), '{"secret":"kept"}');
  await verify(request);
  await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  assert.deepEqual((await client.messages.get(messageId)).labels, ["retried", "twice"]);
  assert.deepEqual(await list(), []);
  await endpoint.received("/recover-callback", 2);
});

test("retries by ids, by filter, and of all", async () => {
  const label = unique("retry");
  const ids = [];
  for (let i = 0; i < 4; i++) ids.push((await dead({ label: i < 3 ? label : undefined })).dlqId);
  const retried = async (request) => {
    const { responses } = await dlq.retry(request);
    const messageIds = responses.map(({ messageId }) => messageId);
    assert.equal(new Set(messageIds).size, messageIds.length);
    // They fail again; the test goes on when they have.
    await eventually(async () => {
      const { messages } = await dlq.listMessages();
      for (const id of messageIds) assert.ok(messages.some(({ messageId }) => messageId === id));
    });
    return messageIds.length;
  };
  assert.equal(await retried([ids[0]]), 1);
  assert.equal(await retried({ dlqIds: [ids[1]] }), 1);
  assert.equal(await retried({ filter: { label } }), 3);
  assert.equal(await retried({ filter: { label }, count: 2 }), 2);
  assert.equal(await retried({ all: true }), 4);
  assert.deepEqual(await dlq.retry([]), { responses: [] });
  assert.deepEqual((await list()).length, 4);
});

test("a retry of nothing is no error, and of a missing one it is", async () => {
  const { dlqId } = await dead();
  const { status, body } = await raw("POST", "/v2/dlq/retry?label=none");
  assert.equal(status, 201);
  assert.deepEqual(body.responses, []);
  assert.ok(!body.cursor);
  assert.deepEqual(await dlq.retry({ filter: { label: "none" } }), { responses: [], cursor: undefined });
  await assert.rejects(dlq.retry([dlqId, "1-0"]), { status: 404 });
  await assert.rejects(dlq.retry("1-0"), { status: 404 });
  assert.deepEqual(await list(), [dlqId], "nothing was retried");
});

test("a dead letter is there well within ten seconds", async () => {
  const begin = Date.now();
  await dead();
  assert.ok(Date.now() - begin < 10_000);
});
