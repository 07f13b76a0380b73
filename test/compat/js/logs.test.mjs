import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { decodeBase64 } from "@upstash/qstash";

import { deadLetter, Endpoint, eventually, newClient, raw, reaches, states, unique } from "./lib/support.mjs";

const client = newClient();
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());

const delivered = ["CREATED", "ACTIVE", "DELIVERED"];

test("a delivered message has exactly three entries", async () => {
  const { messageId } = await client.publishJSON({
    url: endpoint.url("/three"),
    body: { a: "ü" },
    headers: { "X-A": "1" },
    timeout: 7,
    retries: 2,
    retryDelay: "1000 * (1 + retried)",
    callback: endpoint.url("/three-callback"),
    failureCallback: endpoint.url("/three-failure"),
    flowControl: { key: "logs", parallelism: 2, rate: 100, period: "2s" },
    label: ["l1", "l2"],
  });
  await reaches(client, messageId, delivered);
  const { body } = await raw("GET", `/v2/events?messageId=${messageId}`);
  assert.deepEqual(Object.keys(body), ["events"], "no cursor at the end");
  let earlier = Infinity;
  for (const entry of body.events) {
    assert.ok(Number.isInteger(entry.time) && entry.time <= earlier, "latest first");
    earlier = entry.time;
    const { time, state, ...rest } = entry;
    assert.deepEqual(rest, {
      messageId,
      url: endpoint.url("/three"),
      method: "POST",
      header: { "Content-Type": ["application/json"], "X-A": ["1"] },
      body: Buffer.from('{"a":"ü"}').toString("base64"),
      timeout: 7000,
      maxRetries: 2,
      retryDelayExpression: "1000 * (1 + retried)",
      retryDelayExpr: "1000 * (1 + retried)",
      callback: endpoint.url("/three-callback"),
      failureCallback: endpoint.url("/three-failure"),
      flowControlKey: "logs",
      parallelism: 2,
      rate: 100,
      period: 2,
      label: "l1",
      labels: ["l1", "l2"],
      callerIP: "127.0.0.1",
    });
    assert.equal(decodeBase64(entry.body), '{"a":"ü"}');
  }
});

test("a message that fails without a retry has exactly four entries", async () => {
  endpoint.answer("/four", { status: 400, headers: { "X-Why": "because" }, body: "Bad things" });
  const { messageId } = await client.publishJSON({ url: endpoint.url("/four"), retries: 0 });
  await reaches(client, messageId, ["CREATED", "ACTIVE", "ERROR", "FAILED"]);
  const { logs } = await client.logs({ messageIds: [messageId] });
  const [failed, error, active, created] = logs;
  for (const entry of [failed, error]) assert.equal(entry.error, "400 Bad Request");
  for (const entry of [active, created]) assert.ok(!("error" in entry) && !("responseStatus" in entry));
  assert.equal(error.responseStatus, 400);
  assert.equal(decodeBase64(error.responseBody), "Bad things");
  assert.deepEqual(error.responseHeader["X-Why"], ["because"]);
  assert.deepEqual(error.responseHeaders, error.responseHeader);
});

test("a retry says when", async () => {
  endpoint.answer("/when", { status: 500 });
  const { messageId } = await client.publishJSON({ url: endpoint.url("/when"), retryDelay: "3600000" });
  await reaches(client, messageId, ["CREATED", "ACTIVE", "ERROR", "RETRY"]);
  const { logs } = await client.logs({ messageIds: [messageId] });
  assert.ok(Math.abs(logs[0].nextDeliveryTime - logs[0].time - 3600_000) < 5000);
  await client.messages.cancel(messageId);
  await reaches(client, messageId, ["CREATED", "ACTIVE", "ERROR", "RETRY", "CANCEL_REQUESTED", "CANCELED"]);
});

test("a destination that nobody listens at is an error without a status", async () => {
  const gone = await Endpoint.start();
  gone.close();
  const { messageId } = await client.publishJSON({ url: gone.url("/gone"), retries: 0 });
  await deadLetter(client, messageId);
  const { logs } = await client.logs({ messageIds: [messageId], count: 2 });
  for (const { state, error, responseStatus } of logs) {
    assert.ok(["ERROR", "FAILED"].includes(state));
    assert.ok(error.length > 0);
    assert.ok(!responseStatus);
  }
});

test("a state and an id give exactly one entry", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/one") });
  await reaches(client, messageId, delivered);
  const { logs, events, cursor } = await client.logs({ filter: { state: "DELIVERED", messageId } });
  assert.equal(logs.length, 1);
  assert.equal(logs[0].messageId, messageId);
  assert.equal(cursor, undefined);
  assert.deepEqual(events, logs);
  assert.deepEqual((await client.events({ filter: { state: "DELIVERED", messageId } })).events, logs);
  for (const state of ["ERROR", "RETRY", "FAILED", "CANCELED"]) {
    assert.deepEqual((await client.logs({ filter: { state, messageId } })).logs, [], state);
  }
  const inProgress = await client.logs({ filter: { state: "IN_PROGRESS", messageId } });
  assert.deepEqual(inProgress.logs.map(({ state }) => state), ["ACTIVE"]);
});

test("an unknown state is refused, and another spelling of canceled is not", async () => {
  await assert.rejects(client.logs({ filter: { state: "SLEEPING" } }), { name: "QstashError", status: 400 });
  const { messageId } = await client.publishJSON({ url: "https://example.com", delay: 3600 });
  await client.messages.cancel(messageId);
  for (const state of ["CANCELED", "CANCELLED"]) {
    const { logs } = await client.logs({ filter: { state, messageId } });
    assert.deepEqual(logs.map((entry) => entry.state), ["CANCELED"]);
  }
});

test("pages follow each other without a gap, and the last one has no cursor", async () => {
  const label = unique("pages");
  const ids = [];
  for (let i = 0; i < 5; i++) {
    const { messageId } = await client.publishJSON({ url: endpoint.url("/pages"), label });
    ids.push(messageId);
  }
  for (const id of ids) await reaches(client, id, delivered);
  const short = ({ logs }) => logs.map(({ messageId, state }) => `${messageId} ${state}`);
  const whole = await client.logs({ filter: { label } });
  assert.equal(whole.logs.length, 15);
  assert.equal(whole.cursor, undefined);
  for (const count of [1, 4]) {
    const paged = [];
    let cursor;
    let pages = 0;
    do {
      const page = await client.logs({ filter: { label }, count, cursor });
      assert.ok(page.logs.length <= count);
      paged.push(...short(page));
      cursor = page.cursor;
    } while (cursor && ++pages < 20);
    assert.deepEqual(paged, short(whole), `pages of ${count}`);
  }
});

test("a cursor may be a time", async () => {
  const label = unique("time");
  const { messageId } = await client.publishJSON({ url: endpoint.url("/time"), label });
  await reaches(client, messageId, delivered);
  const { logs } = await client.logs({ cursor: Date.now() + 1000, filter: { label } });
  assert.equal(logs.length, 3);
  const { logs: none } = await client.logs({ cursor: Date.now() - 3600_000, filter: { label } });
  assert.deepEqual(none, []);
  await assert.rejects(client.logs({ cursor: "nonsense" }), { status: 400 });
});

test("each filter selects its entries, a list any of them, and two filters both", async () => {
  const [label, flow, queue] = [unique("label"), unique("flow"), unique("queue")];
  const publish = async (request) => (await client.publishJSON({ delay: 3600, ...request })).messageId;
  const from = Date.now();
  const ids = {
    a: await publish({ url: "https://a.logs.example/one", label: [label, `${label}-x`] }),
    b: await publish({ url: "https://b.logs.example:8443/two?q=1,2", flowControl: { key: flow, rate: 1 } }),
    c: await publish({ url: "https://a.logs.example/two", label: `${label}-x` }),
  };
  await client.queue({ queueName: queue }).upsert({ paused: true });
  ids.q = (await client.queue({ queueName: queue }).enqueue({ url: "https://queue.logs.example/q" })).messageId;
  const all = Object.values(ids);
  const cases = [
    [{ url: "https://a.logs.example/one" }, "a"],
    [{ url: "https://b.logs.example:8443/two?q=1,2" }, "b"],
    [{ url: ["https://a.logs.example/one", "https://a.logs.example/two"] }, "ac"],
    [{ host: "a.logs.example" }, "ac"],
    [{ host: ["b.logs.example:8443", "queue.logs.example"] }, "bq"],
    [{ path: "/two" }, "bc"],
    [{ path: ["/one", "/q"] }, "aq"],
    [{ label }, "a"],
    [{ label: [label, `${label}-x`] }, "ac"],
    [{ label: `${label}-x`, path: "/two" }, "c"],
    [{ flowControlKey: flow }, "b"],
    [{ flowControlKey: [flow, "other"] }, "b"],
    [{ queueName: queue }, "q"],
    [{ queueName: ["other", queue] }, "q"],
    [{ callerIp: "127.0.0.1", host: "a.logs.example" }, "ac"],
    [{ callerIp: "192.0.2.1" }, ""],
    [{ scheduleId: "other" }, ""],
    [{ urlGroup: "other" }, ""],
    [{ topicName: "other" }, ""],
    [{ state: "CREATED" }, "abcq"],
    [{ state: "ACTIVE" }, ""],
    [{ fromDate: new Date(from) }, "abcq"],
    [{ fromDate: from + 3600_000 }, ""],
    [{ toDate: from - 1 }, ""],
    [{ fromDate: from, toDate: new Date(from + 3600_000) }, "abcq"],
    [{ api: "llm", label }, "a"], // a filter that was removed is ignored
    [{ messageId: ids.c }, "c"],
  ];
  for (const [filter, want] of cases) {
    const { logs } = await client.logs({ filter });
    const found = Object.keys(ids).filter((key) => logs.some(({ messageId }) => messageId === ids[key]));
    assert.equal(found.join(""), want, JSON.stringify(filter));
    for (const { messageId } of logs) if (want === "") assert.ok(!all.includes(messageId));
  }
  const { logs } = await client.logs({ messageIds: [ids.a, ids.q, "msg_unknown"] });
  assert.deepEqual(logs.map(({ messageId }) => messageId).sort(), [ids.a, ids.q].sort());
  assert.deepEqual((await client.logs({ messageIds: ["msg_unknown"] })).logs, []);
  await assert.rejects(client.logs({ messageIds: [] }), { name: "QstashEmptyArrayError" });
  await client.messages.cancel(all);
  await client.queue({ queueName: queue }).delete();
});

test("time bounds are inclusive", async () => {
  const { messageId } = await client.publishJSON({ url: "https://example.com", delay: 3600, label: unique("bounds") });
  const { logs } = await client.logs({ messageIds: [messageId] });
  const { time } = logs[0];
  const label = logs[0].label;
  const count = async (filter) => (await client.logs({ filter: { label, ...filter } })).logs.length;
  assert.equal(await count({ fromDate: time, toDate: time }), 1);
  assert.equal(await count({ fromDate: time + 1 }), 0);
  assert.equal(await count({ toDate: time - 1 }), 0);
  await client.messages.cancel(messageId);
});

test("the order can be turned round", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/order") });
  await reaches(client, messageId, delivered);
  const { body } = await raw("GET", `/v2/events?messageId=${messageId}&order=earliestFirst`);
  assert.deepEqual(body.events.map(({ state }) => state), delivered);
});

test("the documented route tells the same as the one of the SDKs", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/routes") });
  await reaches(client, messageId, delivered);
  const { body: events } = await raw("GET", `/v2/events?messageId=${messageId}`);
  const { body: logs } = await raw("GET", `/v2/logs?messageId=${messageId}`);
  assert.deepEqual(logs, { logs: events.events, events: events.events });
});

test("entries are visible at once", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/visible") });
  assert.equal((await states(client, messageId))[0], "CREATED");
  await endpoint.received("/visible");
  const seen = async () => assert.deepEqual(await states(client, messageId), delivered);
  await eventually(seen, 1000);
});
