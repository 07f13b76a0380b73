import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Endpoint, eventually, newClient, raw, reaches, states, unique } from "./lib/support.mjs";

const client = newClient();
const flow = client.flowControl;
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());

const publish = async (path, flowControl, request) =>
  (await client.publishJSON({ url: endpoint.url(path), flowControl, ...request })).messageId;
const delivered = ["CREATED", "ACTIVE", "DELIVERED"];

test("a key exists as soon as a message uses it", async () => {
  const key = unique("key");
  const messageId = await publish("/exists", { key, parallelism: 3, rate: 5, period: "1m" }, { delay: 3600 });
  const info = await flow.get(key);
  assert.deepEqual(info, {
    flowControlKey: key,
    waitListSize: 0,
    parallelismMax: 3,
    parallelismCount: 0,
    rateMax: 5,
    rateCount: 0,
    ratePeriod: 60,
    ratePeriodStart: info.ratePeriodStart,
    isPaused: false,
    isPinnedParallelism: false,
    isPinnedRate: false,
  });
  assert.equal(typeof info.ratePeriodStart, "number");
  await client.messages.cancel(messageId);
});

test("keys are listed and searched", async () => {
  const [a, b] = [unique("List-A"), unique("List-B")];
  for (const key of [a, b]) await publish("/list", { key, parallelism: 1 });
  const search = async (text) => {
    const { status, body } = await raw("GET", `/v2/flowControl${text ? `?search=${text}` : ""}`);
    assert.equal(status, 200);
    return body.map(({ flowControlKey }) => flowControlKey);
  };
  const all = await search("");
  assert.ok(all.includes(a) && all.includes(b));
  assert.deepEqual((await search("List-")).sort(), [a, b].sort());
  assert.deepEqual(await search(b.slice(2)), [b]);
  assert.deepEqual(await search("list-a"), []);
  const { body } = await raw("GET", `/v2/flowControl?search=${a}`);
  assert.deepEqual(body, [await flow.get(a)]);
});

test("an unknown key is not found", async () => {
  const key = unique("missing");
  await assert.rejects(flow.get(key), {
    name: "QstashError",
    status: 404,
    message: `{"error":"flow control key ${key} not found"}`,
  });
  await assert.rejects(flow.get(""), /cannot be empty/);
});

test("no more attempts than the parallelism run at a time", async () => {
  const key = unique("parallel");
  const release = endpoint.hold("/parallel");
  for (let i = 0; i < 4; i++) await publish("/parallel", { key, parallelism: 2 });
  await endpoint.received("/parallel", 2);
  await eventually(async () => {
    const { parallelismCount, parallelismMax, waitListSize } = await flow.get(key);
    assert.deepEqual({ parallelismCount, parallelismMax, waitListSize }, { parallelismCount: 2, parallelismMax: 2, waitListSize: 2 });
  });
  assert.equal((await flow.getGlobalParallelism()).parallelismCount, 2);
  assert.equal(endpoint.sent("/parallel").length, 2);
  release();
  await endpoint.received("/parallel", 4);
  await eventually(async () => assert.equal((await flow.get(key)).parallelismCount, 0));
});

test("the global parallelism is two numbers", async () => {
  const { status, body } = await raw("GET", "/v2/globalParallelism");
  assert.equal(status, 200);
  assert.deepEqual(Object.keys(body).sort(), ["parallelismCount", "parallelismMax"]);
  const info = await flow.getGlobalParallelism();
  assert.equal(typeof info.parallelismMax, "number");
  assert.equal(typeof info.parallelismCount, "number");
});

test("no more attempts than the rate start in a period", async () => {
  const key = unique("rate");
  const ids = [];
  for (let i = 0; i < 3; i++) ids.push(await publish("/rate", { key, rate: 2, period: 2 }));
  const requests = await endpoint.received("/rate", 3);
  const start = (await flow.get(key)).ratePeriodStart;
  assert.ok(Math.abs(start - Date.now() / 1000) < 10, `the period started at ${start}`);
  assert.ok(requests[1].at - requests[0].at < 1500, "two go at once");
  assert.ok(requests[2].at - requests[0].at > 1500, "the third waits for the next period");
  for (const id of ids) await reaches(client, id, delivered);
});

test("waiting is no state", async () => {
  const key = unique("waiting");
  await publish("/waiting", { key, rate: 1, period: "1h" });
  const waiting = await publish("/waiting", { key, rate: 1, period: "1h" });
  await endpoint.received("/waiting");
  await eventually(async () => {
    const { rateCount, rateMax, ratePeriod, waitListSize } = await flow.get(key);
    assert.deepEqual({ rateCount, rateMax, ratePeriod, waitListSize }, { rateCount: 1, rateMax: 1, ratePeriod: 3600, waitListSize: 1 });
  });
  assert.deepEqual(await states(client, waiting), ["CREATED"]);
  assert.equal(await flow.resetRate(key), undefined);
  await reaches(client, waiting, delivered);
});

test("a paused key holds everything back", async () => {
  const key = unique("paused");
  assert.equal(await flow.pause(key), undefined);
  assert.equal((await flow.get(key)).isPaused, true);
  const held = await publish("/paused", { key, parallelism: 5 });
  const free = await publish("/free", { key: unique("free"), parallelism: 5 });
  await reaches(client, free, delivered);
  assert.deepEqual(await states(client, held), ["CREATED"]);
  const { waitListSize, parallelismMax } = await flow.get(key);
  assert.deepEqual({ waitListSize, parallelismMax }, { waitListSize: 1, parallelismMax: 5 });
  assert.equal(await flow.resume(key), undefined);
  assert.equal((await flow.get(key)).isPaused, false);
  await reaches(client, held, delivered);
});

test("a pin wins over messages until it is taken away", async () => {
  const key = unique("pinned");
  assert.equal(await flow.pin(key, { parallelism: 3, rate: 20, period: 120 }), undefined);
  const settings = async () => {
    const { parallelismMax, rateMax, ratePeriod, isPinnedParallelism, isPinnedRate } = await flow.get(key);
    return [parallelismMax, rateMax, ratePeriod, isPinnedParallelism, isPinnedRate];
  };
  assert.deepEqual(await settings(), [3, 20, 120, true, true]);
  const newer = async () => reaches(client, await publish("/pinned", { key, parallelism: 7, rate: 9, period: 60 }), delivered);
  await newer();
  assert.deepEqual(await settings(), [3, 20, 120, true, true]);
  assert.equal(await flow.unpin(key, { parallelism: true }), undefined);
  assert.deepEqual(await settings(), [3, 20, 120, false, true]);
  await newer();
  assert.deepEqual(await settings(), [7, 20, 120, false, true]);
  await flow.unpin(key, { parallelism: false, rate: true });
  assert.deepEqual(await settings(), [7, 20, 120, false, false]);
  await newer();
  assert.deepEqual(await settings(), [7, 9, 60, false, false]);
});

test("a pin takes effect on what waits already", async () => {
  const key = unique("repinned");
  const release = endpoint.hold("/repinned");
  for (let i = 0; i < 2; i++) await publish("/repinned", { key, parallelism: 1 });
  await endpoint.received("/repinned");
  await flow.pin(key, { parallelism: 2 });
  await endpoint.received("/repinned", 2);
  release();
});

test("values that cannot be pinned are refused", async () => {
  const key = unique("refused");
  for (const options of [{ parallelism: 0 }, { rate: -1 }, { period: 60 }, { rate: 1, period: 8 * 86400 }, { rate: "x" }]) {
    await assert.rejects(flow.pin(key, options), { name: "QstashError", status: 400 }, JSON.stringify(options));
  }
});

test("the newest message sets the limits of all", async () => {
  const key = unique("newest");
  const first = await publish("/newest", { key, rate: 1, period: "1h" }, { delay: 3600 });
  await publish("/newest", { key, parallelism: 6 }, { delay: 3600 });
  const { parallelismMax, rateMax } = await flow.get(key);
  assert.deepEqual({ parallelismMax, rateMax }, { parallelismMax: 6, rateMax: 0 });
  const message = await client.messages.get(first);
  assert.equal(message.rate, 1);
  assert.ok(!("parallelism" in message));
  await client.messages.cancel({ filter: { flowControlKey: key } });
});

test("keys may have any characters, and come raw or escaped", async () => {
  // The SDK puts the key into the URL as it is, and what makes URLs escapes blanks and umlauts, but neither "%" nor "/".
  for (const [key, inURL] of [
    [`${unique("a")}/b c`],
    [`${unique("a")}/pause`],
    [`${unique("a")}:b@c;d=e`],
    [`${unique("a")} 100% ?#`, encodeURIComponent],
    [`${unique("a")}/b`, encodeURIComponent],
  ]) {
    const name = inURL ? inURL(key) : key;
    await publish("/characters", { key, parallelism: 2 });
    assert.equal((await flow.get(name)).flowControlKey, key);
    await flow.pin(name, { parallelism: 9 });
    assert.equal((await flow.get(name)).parallelismMax, 9);
    await flow.pause(name);
    assert.equal((await flow.get(name)).isPaused, true);
    await flow.resume(name);
    await flow.resetRate(name);
    await flow.unpin(name, { parallelism: true });
    assert.equal((await flow.get(name)).isPinnedParallelism, false);
  }
});

test("flow control without a limit is refused by the SDK, and a bad one by the server", async () => {
  await assert.rejects(publish("/bad", { key: "k" }), /at least one of parallelism/);
  for (const flowControl of [{ rate: -1 }, { rate: 1, period: "8d" }, { parallelism: 1.5 }]) {
    await assert.rejects(publish("/bad", { key: "k", ...flowControl }), { status: 400 }, JSON.stringify(flowControl));
  }
  for (const headers of [{ "Upstash-Flow-Control-Key": "k" }, { "Upstash-Flow-Control-Value": "rate=1" }]) {
    const { status } = await raw("POST", "/v2/publish/https://example.com", { headers });
    assert.equal(status, 400);
  }
});
