import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { Endpoint, eventually, newClient, raw, reaches, states, unique, verify } from "./lib/support.mjs";

const client = newClient();
const { schedules } = client;
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());
afterEach(async () => {
  for (const { scheduleId } of await schedules.list()) await schedules.delete(scheduleId);
});

const yearly = "0 0 1 1 *"; // does not fire during a test
const create = async (request) => (await schedules.create({ destination: "https://example.com", cron: yearly, ...request })).scheduleId;

test("a schedule says what it was created with, and nothing else", async () => {
  const from = Date.now();
  const scheduleId = await create();
  assert.match(scheduleId, /^scd_[1-9A-HJ-NP-Za-km-z]{28}$/);
  const { createdAt, nextScheduleTime, nextScheduleTimes, ...rest } = await schedules.get(scheduleId);
  assert.ok(createdAt >= from && createdAt <= Date.now());
  const next = new Date(nextScheduleTime);
  assert.equal(next.toISOString(), `${new Date(createdAt).getUTCFullYear() + 1}-01-01T00:00:00.000Z`);
  if (nextScheduleTimes) assert.equal(nextScheduleTimes[0], nextScheduleTime); // not a field of the hosted service
  assert.deepEqual(rest, {
    scheduleId,
    cron: yearly,
    destination: "https://example.com",
    method: "POST",
    header: { "Content-Type": ["application/json"] }, // which the SDK adds
    retries: 3,
    isPaused: false,
    callerIP: "127.0.0.1",
    callerIp: "127.0.0.1",
  });
});

test("every option of a schedule is kept", async () => {
  const scheduleId = await create({
    destination: "https://example.com/path?a=b",
    cron: "*/10 * * * * ",
    body: JSON.stringify({ hello: "world" }),
    headers: { "Content-Type": "text/plain", "Test-Header": "test-value", "Upstash-Callback-Forward-A": "1" },
    method: "PUT",
    delay: 10,
    retries: 5,
    retryDelay: "7000 * retried",
    timeout: 60,
    callback: "https://example.com/callback/?foo=bar",
    failureCallback: "https://example.com/failure/?foo=bar",
    queueName: unique("queue"),
    flowControl: { key: "schedule", parallelism: 3, rate: 5, period: "1m" },
    label: ["one", "two"],
  });
  const schedule = await schedules.get(scheduleId);
  assert.equal(schedule.cron, "*/10 * * * *");
  assert.equal(schedule.destination, "https://example.com/path?a=b");
  assert.equal(schedule.body, '{"hello":"world"}');
  assert.deepEqual(schedule.header, { "Content-Type": ["text/plain"], "Test-Header": ["test-value"] });
  assert.deepEqual(schedule.callbackHeader, { A: ["1"] });
  assert.equal(schedule.method, "PUT");
  assert.equal(schedule.delay, 10);
  assert.equal(schedule.retries, 5);
  assert.equal(schedule.retryDelayExpression, "7000 * retried");
  assert.equal(schedule.timeout, 60_000);
  assert.equal(schedule.callback, "https://example.com/callback/?foo=bar");
  assert.equal(schedule.failureCallback, "https://example.com/failure/?foo=bar");
  assert.match(schedule.queueName, /^queue-/);
  assert.equal(schedule.flowControlKey, "schedule");
  assert.deepEqual([schedule.parallelism, schedule.rate, schedule.ratePerSecond, schedule.period], [3, 5, 5, 60]);
  assert.equal(schedule.label, "one");
  assert.deepEqual(schedule.labels, ["one", "two"]);
  assert.deepEqual((await schedules.list()).find((listed) => listed.scheduleId === scheduleId), schedule);
});

test("schedules are listed, the oldest first, and deleted", async () => {
  assert.deepEqual(await schedules.list(), []);
  const ids = [await create(), await create({ scheduleId: unique("named") }), await create()];
  assert.deepEqual((await schedules.list()).map(({ scheduleId }) => scheduleId), ids);
  assert.equal(await schedules.delete(ids[1]), undefined);
  assert.deepEqual((await schedules.list()).map(({ scheduleId }) => scheduleId), [ids[0], ids[2]]);
  const missing = { name: "QstashError", status: 404, message: `{"error":"schedule ${ids[1]} not found"}` };
  await assert.rejects(schedules.get(ids[1]), missing);
  await schedules.delete(ids[1]);
});

test("a schedule is overwritten as a whole", async () => {
  const scheduleId = unique("overwritten");
  const request = { scheduleId, body: "first", label: "first", delay: "1m", callback: "https://example.com/callback", retries: 1 };
  assert.equal(await create({ ...request, headers: { "X-A": "1" } }), scheduleId);
  const first = await schedules.get(scheduleId);
  assert.equal(first.body, "first");
  await schedules.pause({ schedule: scheduleId });
  assert.equal(await create({ scheduleId, cron: "@yearly", destination: "https://example.com/other" }), scheduleId);
  const second = await schedules.get(scheduleId);
  assert.equal(second.cron, "@yearly");
  assert.equal(second.destination, "https://example.com/other");
  assert.equal(second.createdAt, first.createdAt);
  assert.equal(second.isPaused, true);
  assert.equal(second.retries, 3);
  for (const absent of ["body", "bodyBase64", "label", "labels", "delay", "callback"]) {
    assert.ok(!(absent in second), `${absent} is ${second[absent]}`);
  }
  assert.deepEqual(second.header, { "Content-Type": ["application/json"] });
  assert.equal((await schedules.list()).length, 1);
});

test("a schedule is paused and resumed", async () => {
  const schedule = await create();
  assert.equal(await schedules.pause({ schedule }), undefined);
  await schedules.pause({ schedule });
  const paused = await schedules.get(schedule);
  assert.equal(paused.isPaused, true);
  assert.ok(!("nextScheduleTime" in paused));
  assert.equal(await schedules.resume({ schedule }), undefined);
  await schedules.resume({ schedule });
  const resumed = await schedules.get(schedule);
  assert.equal(resumed.isPaused, false);
  assert.ok(resumed.nextScheduleTime > Date.now());
  await assert.rejects(schedules.pause({ schedule: unique("missing") }), { status: 404 });
  await assert.rejects(schedules.resume({ schedule: unique("missing") }), { status: 404 });
});

test("a schedule fires, and tells of its last messages", async () => {
  const schedule = await create({
    destination: endpoint.url("/fire?a=b"),
    cron: "@every 1s",
    body: "tick",
    headers: { "Content-Type": "text/plain", "X-A": "1" },
    label: ["fired", "often"],
    method: "PUT",
    callback: endpoint.url("/fire-callback"),
  });
  const [request] = await endpoint.received("/fire", 2);
  assert.equal(request.url, endpoint.url("/fire?a=b"));
  assert.equal(request.method, "PUT");
  assert.equal(request.body.toString(), "tick");
  assert.equal(request.headers["content-type"], "text/plain");
  assert.equal(request.headers["x-a"], "1");
  assert.equal(request.headers["upstash-schedule-id"], schedule);
  assert.equal(request.headers["upstash-caller-ip"], "127.0.0.1");
  await verify(request);
  await schedules.pause({ schedule });

  const messageId = request.headers["upstash-message-id"];
  const message = await client.messages.get(messageId);
  assert.equal(message.scheduleId, schedule);
  assert.deepEqual(message.labels, ["fired", "often"]);
  await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
  const { logs } = await client.logs({ filter: { scheduleId: schedule, state: "DELIVERED" } });
  assert.ok(logs.some((log) => log.messageId === messageId && log.scheduleId === schedule));
  const [callback] = await endpoint.received("/fire-callback");
  assert.equal(JSON.parse(callback.body).scheduleId, schedule);
  assert.equal(callback.headers["upstash-schedule-id"], undefined);

  const fired = await eventually(async () => {
    const { lastScheduleTime, lastScheduleStates, error } = await schedules.get(schedule);
    assert.deepEqual(Object.values(lastScheduleStates), ["SUCCESS"]);
    assert.equal(error, undefined);
    assert.ok(Math.abs(Date.now() - lastScheduleTime) < 30_000);
    return Object.keys(lastScheduleStates)[0];
  });
  assert.equal((await states(client, fired)).at(-1), "DELIVERED");
});

test("a failed message is a failed state, and its dead letter names the schedule", async () => {
  endpoint.answer("/fire-badly", { status: 400 });
  const schedule = await create({ destination: endpoint.url("/fire-badly"), cron: "@every 1s", retries: 0 });
  await endpoint.received("/fire-badly");
  await schedules.pause({ schedule });
  await eventually(async () => {
    const { lastScheduleStates } = await schedules.get(schedule);
    assert.deepEqual(Object.values(lastScheduleStates), ["FAIL"]);
  });
  const { messages } = await client.dlq.listMessages({ filter: { scheduleId: [schedule, "other"] } });
  assert.ok(messages.length >= 1);
  for (const { scheduleId } of messages) assert.equal(scheduleId, schedule);
  const { deleted } = await client.dlq.delete({ filter: { scheduleId: schedule } });
  assert.equal(deleted, messages.length);
});

test("a paused schedule does not fire", async () => {
  const paused = await create({ destination: endpoint.url("/paused"), scheduleId: unique("paused") });
  await schedules.pause({ schedule: paused });
  await create({ destination: endpoint.url("/paused"), cron: "@every 1s", scheduleId: paused });
  await create({ destination: endpoint.url("/running"), cron: "@every 1s" });
  await endpoint.received("/running", 2); // two ticks later
  assert.equal(endpoint.sent("/paused").length, 0);
  await schedules.resume({ schedule: paused });
  await endpoint.received("/paused");
});

test("a schedule may go through a queue, with a delay", async () => {
  const queue = client.queue({ queueName: unique("queue") });
  await queue.upsert({ parallelism: 4 });
  const schedule = await create({
    destination: endpoint.url("/queued"),
    cron: "@every 1s",
    queueName: queue.queueName,
    delay: 1,
  });
  const [request] = await endpoint.received("/queued");
  await schedules.delete(schedule);
  const message = await client.messages.get(request.headers["upstash-message-id"]);
  assert.equal(message.queueName, queue.queueName);
  assert.equal(message.scheduleId, schedule);
  assert.ok(message.notBefore >= message.createdAt + 900, `notBefore ${message.notBefore}, created ${message.createdAt}`);
  assert.equal((await queue.get()).parallelism, 4);
  await client.messages.cancel({ filter: { scheduleId: schedule } });
  await queue.delete();
});

test("messages of a schedule are cancelled together, and outlive it", async () => {
  const schedule = await create({ destination: endpoint.url("/outlive"), cron: "@every 1s", delay: "1h" });
  await eventually(async () => {
    const { logs } = await client.logs({ filter: { scheduleId: schedule } });
    assert.ok(logs.length > 0);
  });
  await schedules.delete(schedule);
  const { logs } = await client.logs({ filter: { scheduleId: schedule } });
  assert.deepEqual(await client.messages.cancel({ filter: { scheduleId: schedule } }), { cancelled: logs.length });
  assert.deepEqual(await client.messages.cancel({ filter: { scheduleId: schedule } }), { cancelled: 0 });
});

test("a schedule may fire at a group", async () => {
  const group = unique("group");
  await assert.rejects(create({ destination: group }), { status: 404, message: `{"error":"topic ${group} not found"}` });
  await client.urlGroups.addEndpoints({
    name: group,
    endpoints: [{ name: "a", url: endpoint.url("/group-a") }, { url: endpoint.url("/group-b") }],
  });
  const schedule = await create({ destination: group, cron: "@every 1s" });
  assert.equal((await schedules.get(schedule)).destination, group);
  for (const path of ["/group-a", "/group-b"]) {
    const [request] = await endpoint.received(path);
    assert.equal(request.headers["upstash-topic-name"], group);
    assert.equal(request.headers["upstash-schedule-id"], schedule);
  }
  await eventually(async () => {
    const { lastScheduleStates } = await schedules.get(schedule);
    assert.equal(Object.keys(lastScheduleStates).length, 2, "a message for every endpoint");
  });
  await client.urlGroups.delete(group);
  await eventually(async () => assert.match((await schedules.get(schedule)).error, new RegExp(`topic ${group} not found`)));
});

test("redacted fields of a schedule are not shown, and fire", async () => {
  const secret = unique("secret");
  const schedule = await create({
    destination: endpoint.url("/redact"),
    cron: "@every 1s",
    body: secret,
    headers: { Authorization: `Bearer ${secret}`, "X-Open": "open" },
    redact: { body: true, header: ["Authorization"] },
  });
  const shown = await schedules.get(schedule);
  assert.match(shown.body, /^REDACTED:[0-9a-f]{64}$/);
  assert.match(shown.header.Authorization[0], /^REDACTED:/);
  assert.deepEqual(shown.header["X-Open"], ["open"]);
  assert.ok(!JSON.stringify(shown).includes(secret));
  const [request] = await endpoint.received("/redact");
  assert.equal(request.body.toString(), secret);
  assert.equal(request.headers.authorization, `Bearer ${secret}`);
  const message = await client.messages.get(request.headers["upstash-message-id"]);
  assert.ok(!JSON.stringify(message).includes(secret));
});

test("cron expressions have time zones, names and descriptors", async () => {
  for (const cron of [
    "CRON_TZ=America/New_York 0 4 * * *",
    "0 0 1 JAN *",
    "0 0 * * SUN-TUE/2",
    "@every 1h30m",
    "@daily",
    "0 0 ? * MON",
  ]) {
    const schedule = await schedules.get(await create({ cron }));
    assert.equal(schedule.cron, cron);
    assert.ok(schedule.nextScheduleTime > Date.now());
  }
});

test("what cannot be a schedule is refused", async () => {
  for (const [request, status, text] of [
    [{ cron: "" }, 400, "Invalid cron expression empty spec string"],
    [{ cron: "nonsense" }, 400, "Invalid cron expression"],
    [{ cron: "61 * * * *" }, 400, "Invalid cron expression"],
    [{ scheduleId: "a b" }, 400, ""],
    [{ destination: "nope://x" }, 400, "invalid scheme"],
    [{ retries: -1 }, 400, ""],
    [{ delay: "10" }, 400, "invalid Upstash-Delay header"],
  ]) {
    await assert.rejects(create(request), (error) => {
      assert.equal(error.name, "QstashError");
      assert.equal(error.status, status, `${JSON.stringify(request)}: ${error.message}`);
      assert.ok(JSON.parse(error.message).error.includes(text), error.message);
      return true;
    });
  }
  assert.deepEqual(await schedules.list(), []);
  await assert.rejects(schedules.get(""), /cannot be empty/);
  await assert.rejects(schedules.delete(""), /cannot be empty/);
});

test("publishing with a cron expression creates a schedule", async () => {
  const { status, body } = await raw("POST", "/v2/publish/https://example.com/a", { headers: { "Upstash-Cron": yearly } });
  assert.equal(status, 200);
  assert.deepEqual(Object.keys(body), ["scheduleId"]);
  assert.equal((await schedules.get(body.scheduleId)).destination, "https://example.com/a");
});
