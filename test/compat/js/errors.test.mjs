import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import {
  Client,
  QstashChatRatelimitError,
  QstashDailyRatelimitError,
  QstashError,
  QstashRatelimitError,
} from "@upstash/qstash";

import { baseUrl, Endpoint, newClient, raw, token } from "./lib/support.mjs";

const client = newClient();
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());

/** Rejects with the error that the SDK makes of an answer. */
const refused = (promise, status, text) =>
  assert.rejects(promise, (error) => {
    assert.ok(error instanceof QstashError, error);
    assert.equal(error.name, "QstashError");
    assert.equal(error.status, status);
    const body = JSON.parse(error.message);
    assert.deepEqual(Object.keys(body), ["error"]);
    if (text instanceof RegExp) assert.match(body.error, text);
    else assert.equal(body.error, text);
    return true;
  });

test("a wrong token is 401 on every route", async () => {
  const stranger = newClient({ token: "wrong" });
  const text = "unable to authenticate: invalid token";
  await refused(stranger.publishJSON({ url: endpoint.url("/401") }), 401, text);
  await refused(stranger.batch([]), 401, text);
  await refused(stranger.queue({ queueName: "q" }).enqueue({ url: endpoint.url("/401") }), 401, text);
  await refused(stranger.queue().list(), 401, text);
  await refused(stranger.messages.get("msg_a"), 401, text);
  await refused(stranger.messages.cancel({ all: true }), 401, text);
  await refused(stranger.logs(), 401, text);
  await refused(stranger.dlq.listMessages(), 401, text);
  await refused(stranger.dlq.retry({ all: true }), 401, text);
  await refused(stranger.schedules.list(), 401, text);
  await refused(stranger.urlGroups.list(), 401, text);
  await refused(stranger.flowControl.get("key"), 401, text);
  await refused(stranger.flowControl.getGlobalParallelism(), 401, text);
  assert.equal(endpoint.requests.length, 0);
});

test("no token at all is 401, too", async () => {
  const response = await fetch(`${baseUrl}/v2/keys`);
  assert.equal(response.status, 401);
  assert.match((await response.json()).error, /^unable to authenticate: /);
});

test("another user sees nothing", async () => {
  const other = newClient({ token: "eyJVc2VySUQiOiJ0ZXN0VXNlcjEiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9" });
  const { messageId } = await client.publishJSON({ url: "https://example.com", delay: 3600, flowControl: { key: "mine", rate: 1 } });
  await client.queue({ queueName: "mine" }).upsert({});
  await refused(other.messages.get(messageId), 404, `message ${messageId} not found`);
  await refused(other.messages.cancel(messageId), 404, /not found/);
  await refused(other.queue({ queueName: "mine" }).get(), 404, "queue mine not found");
  await refused(other.flowControl.get("mine"), 404, "flow control key mine not found");
  assert.deepEqual((await other.logs()).logs, []);
  assert.deepEqual(await other.messages.cancel({ all: true }), { cancelled: 0 });
  assert.deepEqual(await client.messages.cancel(messageId), { cancelled: 1 });
});

test("each user signs with keys of its own", async () => {
  const { body } = await raw("GET", "/v2/keys", { as: "eyJVc2VySUQiOiJ0ZXN0VXNlcjIiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9" });
  assert.deepEqual(body, { current: "sig_6jWGaWRxHsw4vMSPJprXadyvrybF", next: "sig_7qHbvhmahe5GwfePDiS5Lg3pi6Qx" });
});

test("what cannot be delivered is refused with the reason", async () => {
  const url = "https://example.com";
  for (const [request, status, text] of [
    [{ url: "ftp://example.com" }, 400, "invalid destination url: endpoint has invalid scheme, add http:// or https://"],
    [{ url: "example.com/path" }, 400, "invalid destination url: endpoint has invalid scheme, add http:// or https://"],
    [{ url: "example.com" }, 404, "topic example.com not found"],
    [{ urlGroup: "no-group" }, 404, "topic no-group not found"],
    [{ url, delay: "1" }, 400, 'invalid Upstash-Delay header: time: missing unit in duration "1"'],
    [{ url, delay: "abc" }, 400, /^invalid Upstash-Delay header: /],
    [{ url, delay: "-5s" }, 400, /^invalid Upstash-Delay header: /],
    [{ url, deduplicationId: "a:b" }, 400, "DeduplicationId cannot contain ':'"],
    [{ url, retries: -1 }, 400, /^invalid Upstash-Retries header: /],
    [{ url, retries: 1000 }, 400, "quota maxRetries exceeded, current limit: 999"],
    [{ url, retryDelay: "pow(2)" }, 400, /^invalid Upstash-Retry-Delay header: /],
    [{ url, retryDelay: "retries * 2" }, 400, /^invalid Upstash-Retry-Delay header: /],
    [{ url, timeout: "soon" }, 400, /^invalid Upstash-Timeout header: /],
    [{ url, method: "BREW" }, 400, /^invalid Upstash-Method header: /],
    [{ url, callback: "nope://x" }, 400, /callback/i],
    [{ url, failureCallback: "example.com" }, 400, /callback/i],
  ]) {
    await refused(client.publish(request), status, text);
  }
  await assert.rejects(client.publish({}), /Failed to infer request path/);
  const { logs } = await client.logs({ filter: { host: "example.com", toDate: Date.now() } });
  assert.ok(logs.every(({ state }) => state !== "ACTIVE"));
});

test("an empty destination is refused", async () => {
  for (const path of ["/v2/publish/", "/v2/publish", "/v2/enqueue/queue/", "/v2/enqueue/queue"]) {
    const { status, body } = await raw("POST", path);
    assert.equal(status, 400, path);
    assert.deepEqual(body, { error: "a non-empty destination must be provided" }, path);
  }
});

test("unknown routes and methods are JSON errors", async () => {
  for (const [method, path, want] of [
    ["GET", "/nothing", 404],
    ["POST", "/", 405],
    ["GET", "/v2", 404],
    ["GET", "/v2/nothing", 404],
    ["GET", "/v3/keys", 404],
    ["POST", "/v2/workflows/runs", 404],
    ["GET", "/v2/publish/https://example.com", 405],
    ["POST", "/v2/keys", 405],
    ["GET", "/v2/keys/rotate", 405],
    ["PUT", "/v2/queues", 405],
  ]) {
    const { status, headers, body } = await raw(method, path);
    assert.equal(status, want, `${method} ${path}`);
    assert.match(headers.get("content-type"), /^application\/json/);
    assert.ok(body.error.length > 0);
    if (want === 405) assert.ok(headers.get("allow"));
  }
  await refused(client.workflow.cancel("wfr_a"), 404, /./);
});

test("a message larger than the server takes is refused", async () => {
  const body = "x".repeat((512 << 10) + 1);
  await refused(client.publish({ url: endpoint.url("/large"), body }), 412, /^quota maxMessageSize exceeded, current limit: 524288/);
  await refused(client.batch([{ url: endpoint.url("/large") }, { url: endpoint.url("/large"), body }]), 412, /maxMessageSize/);
  const { messageId } = await client.publish({ url: endpoint.url("/fits"), body: body.slice(1) });
  assert.ok(messageId);
  const [request] = await endpoint.received("/fits");
  assert.equal(request.body.length, 512 << 10);
  assert.equal(endpoint.sent("/large").length, 0);
});

test("the token may come in the query, and is not passed on", async () => {
  const response = await fetch(`${baseUrl}/v2/publish/${endpoint.url("/query")}?a=b&qstash_token=${encodeURIComponent(token)}&c=d`, {
    method: "POST",
    headers: { Authorization: "Bearer of-the-destination", "Upstash-Header-Forward": "true", "X-A": "1" },
  });
  assert.equal(response.status, 401, "the header wins over the query");
  const forwarded = await fetch(`${baseUrl}/v2/publish/${endpoint.url("/query")}?a=b&qstash_token=${encodeURIComponent(token)}&c=d`, {
    method: "POST",
    headers: { "Upstash-Header-Forward": "true", "X-A": "1" },
  });
  assert.equal(forwarded.status, 200);
  const [request] = await endpoint.received("/query");
  assert.equal(request.url, endpoint.url("/query?a=b&c=d"));
  assert.equal(request.headers["x-a"], "1");
});

test("a server that is away is an error after the retries of the client", async () => {
  const gone = await Endpoint.start();
  gone.close();
  let attempts = 0;
  const persistent = new Client({ baseUrl: gone.origin, token, retry: { retries: 2, backoff: () => (attempts++, 1) } });
  await assert.rejects(persistent.messages.get("msg_a"), (error) => !(error instanceof QstashError));
  assert.equal(attempts, 2);
});

test("the SDK tells rate limits apart by the headers of the answer", async () => {
  let headers;
  const limited = createServer((_, response) => response.writeHead(429, headers).end("{}"));
  await new Promise((resolve) => limited.listen(0, "127.0.0.1", resolve));
  const to = newClient({ baseUrl: `http://127.0.0.1:${limited.address().port}` });
  try {
    headers = { "Burst-RateLimit-Limit": "100", "Burst-RateLimit-Remaining": "0", "Burst-RateLimit-Reset": "1700000000" };
    await assert.rejects(to.logs(), (error) => error instanceof QstashRatelimitError && error.limit === "100");
    headers = { "RateLimit-Limit": "500", "RateLimit-Remaining": "0", "RateLimit-Reset": "1700000000" };
    await assert.rejects(to.logs(), (error) => error instanceof QstashDailyRatelimitError && error.limit === "500");
    headers = { "x-ratelimit-limit-requests": "7" };
    await assert.rejects(to.logs(), (error) => error instanceof QstashChatRatelimitError && error.limitRequests === "7");
  } finally {
    limited.close();
  }
});
