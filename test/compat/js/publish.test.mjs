import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { anthropic, custom, openai, resend, upstash } from "@upstash/qstash";

import { baseUrl, deadLetter, Endpoint, newClient, raw, reaches, states, token, unique, verify } from "./lib/support.mjs";

const client = newClient();
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());

const decode = (base64) => Buffer.from(base64, "base64").toString();

test("a JSON message is delivered byte for byte, with nothing added but what the engine owns", async () => {
  const url = endpoint.url("/json/a%20b?x=1&y=%2F");
  const { messageId, ...rest } = await client.publishJSON({
    url,
    body: { hello: "wörld" },
    headers: { "Test-Header": "test-value", "Bypass-Tunnel-Reminder": "Bypass" },
  });
  assert.match(messageId, /^msg_[1-9A-HJ-NP-Za-km-z]{26,}$/);
  assert.deepEqual(rest, {});

  const [request] = await endpoint.received("/json/a%20b");
  assert.equal(request.url, url);
  assert.equal(request.method, "POST");
  assert.equal(request.body.toString(), '{"hello":"wörld"}');
  const { host, "content-length": length, "upstash-signature": signature, ...headers } = request.headers;
  assert.ok(host && signature);
  assert.equal(Number(length), request.body.length);
  assert.deepEqual(headers, {
    "user-agent": "Upstash-QStash",
    "content-type": "application/json",
    "test-header": "test-value",
    "bypass-tunnel-reminder": "Bypass",
    "upstash-message-id": messageId,
    "upstash-retried": "0",
    "upstash-caller-ip": "127.0.0.1",
    "upstash-region": "EU-CENTRAL-1",
  });
  await verify(request);

  const message = await client.messages.get(messageId);
  assert.deepEqual(message.header, {
    "Bypass-Tunnel-Reminder": ["Bypass"],
    "Content-Type": ["application/json"],
    "Test-Header": ["test-value"],
  });
  await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
});

test("a message says what it was published with, and nothing else", async () => {
  const from = Date.now();
  const { messageId } = await client.publish({ url: "https://example.com", delay: 3600 });
  const until = Date.now();
  const { body: message } = await raw("GET", `/v2/messages/${messageId}`);
  const { createdAt, notBefore } = message;
  assert.ok(createdAt >= from && createdAt <= until, `created at ${createdAt}, between ${from} and ${until}`);
  assert.equal(notBefore - createdAt, 3600_000);
  assert.deepEqual(message, {
    messageId,
    url: "https://example.com",
    method: "POST",
    header: {},
    maxRetries: 3,
    notBefore,
    createdAt,
    callerIP: "127.0.0.1",
    callerIp: "127.0.0.1",
  });
  await client.messages.cancel(messageId);
});

test("every option of a publish is kept", async () => {
  const { messageId } = await client.publishJSON({
    url: "https://example.com/path?foo=bar",
    body: { a: 1 },
    method: "PATCH",
    delay: "1d10h30m",
    retries: 7,
    retryDelay: "pow(2, retried) * 1000",
    timeout: 30,
    callback: "https://example.com/callback/?foo=bar",
    failureCallback: "https://example.com/failure/?foo=bar",
    headers: { "Upstash-Callback-Forward-A": "1", "Upstash-Failure-Callback-Forward-B": "2" },
    flowControl: { key: "options", parallelism: 3, rate: 5, period: "1m" },
    label: ["one", "two", "three"],
  });
  const message = await client.messages.get(messageId);
  assert.equal(message.url, "https://example.com/path?foo=bar");
  assert.equal(message.method, "PATCH");
  assert.equal(message.body, '{"a":1}');
  assert.equal(message.notBefore - message.createdAt, 124_200_000);
  assert.equal(message.maxRetries, 7);
  assert.equal(message.retryDelayExpression, "pow(2, retried) * 1000");
  assert.equal(message.callback, "https://example.com/callback/?foo=bar");
  assert.equal(message.failureCallback, "https://example.com/failure/?foo=bar");
  assert.deepEqual(message.callbackHeader, { A: ["1"] });
  assert.deepEqual(message.failureCallbackHeader, { B: ["2"] });
  assert.equal(message.flowControlKey, "options");
  assert.equal(message.parallelism, 3);
  assert.equal(message.rate, 5);
  assert.equal(message.ratePerSecond, 5);
  assert.equal(message.period, 60);
  assert.equal(message.label, "one");
  assert.deepEqual(message.labels, ["one", "two", "three"]);
  const { logs } = await client.logs({ messageIds: [messageId] });
  assert.equal(logs.length, 1);
  assert.equal(logs[0].timeout, 30_000);
  await client.messages.cancel(messageId);
});

test("flow control shows only what was asked for, and a period in any case", async () => {
  const cases = [
    [{ parallelism: 5 }, { parallelism: 5, rate: undefined, period: 1 }],
    [{ rate: 1 }, { parallelism: undefined, rate: 1, period: 1 }],
    [{ ratePerSecond: 4 }, { parallelism: undefined, rate: 4, period: 1 }],
    [{ rate: 10, period: 120 }, { parallelism: undefined, rate: 10, period: 120 }],
    [{ rate: 10, parallelism: 2, period: "1h30m3s" }, { parallelism: 2, rate: 10, period: 5403 }],
  ];
  for (const [flow, want] of cases) {
    const { messageId } = await client.publish({
      url: "https://example.com",
      delay: 3600,
      flowControl: { key: unique("flow"), ...flow },
    });
    const { parallelism, rate, period } = await client.messages.get(messageId);
    assert.deepEqual({ parallelism, rate, period }, want);
    await client.messages.cancel(messageId);
  }
});

test("a label is a single one or a list", async () => {
  for (const [label, want] of [
    ["single", ["single"]],
    [["a", "b"], ["a", "b"]],
    ["a, b,,c", ["a", "b", "c"]],
  ]) {
    const { messageId } = await client.publish({ url: "https://example.com", delay: 3600, label });
    const message = await client.messages.get(messageId);
    assert.equal(message.label, want[0]);
    assert.deepEqual(message.labels, want);
    await client.messages.cancel(messageId);
  }
});

test("a delayed message waits", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/delay"), delay: 1 });
  const { createdAt, notBefore } = await client.messages.get(messageId);
  assert.equal(notBefore - createdAt, 1000);
  const [request] = await endpoint.received("/delay");
  assert.ok(request.at >= notBefore, `delivered at ${request.at}, not before ${notBefore}`);
});

test("notBefore is unix seconds, and wins over delay", async () => {
  const seconds = Math.floor(Date.now() / 1000) + 2;
  const { messageId } = await client.publishJSON({ url: endpoint.url("/not-before"), notBefore: seconds, delay: "7d" });
  const { notBefore } = await client.messages.get(messageId);
  assert.equal(notBefore, seconds * 1000);
  const [request] = await endpoint.received("/not-before");
  assert.ok(request.at >= notBefore, `delivered at ${request.at}, not before ${notBefore}`);
});

test("a notBefore in the past is now", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/past"), notBefore: 1_000_000_000 });
  await endpoint.received("/past");
  await reaches(client, messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
});

test("methods and bodies travel as they are", async () => {
  for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE"]) {
    const path = `/method/${method}`;
    await client.publish({ url: endpoint.url(path), method, body: "raw text" });
    const [request] = await endpoint.received(path);
    assert.equal(request.method, method);
    assert.equal(request.body.toString(), "raw text");
    assert.equal(request.headers["content-type"], "text/plain;charset=UTF-8"); // which fetch adds to strings
    await verify(request);
  }
});

test("bytes that are no UTF-8 arrive, and are shown as base64", async () => {
  const bytes = Uint8Array.from([0x00, 0xff, 0xfe, 0x80, 0x0a]);
  const { messageId } = await client.publish({
    url: endpoint.url("/binary"),
    body: new Blob([bytes]),
    headers: { "Content-Type": "application/octet-stream" },
  });
  const [request] = await endpoint.received("/binary");
  assert.deepEqual(new Uint8Array(request.body), bytes);
  assert.equal(request.headers["content-type"], "application/octet-stream");
  const message = await client.messages.get(messageId);
  assert.equal(message.body, undefined);
  assert.equal(message.bodyBase64, Buffer.from(bytes).toString("base64"));
});

test("a message without a body has none", async () => {
  const { messageId } = await client.publishJSON({ url: endpoint.url("/empty") });
  const [request] = await endpoint.received("/empty");
  assert.equal(request.body.length, 0);
  assert.equal(request.headers["content-length"], "0");
  await verify(request);
  const message = await client.messages.get(messageId);
  assert.ok(!("body" in message) && !("bodyBase64" in message));
});

test("headers of the client go along, and those of a request win", async () => {
  const configured = newClient({ headers: { "X-Global": "global", "X-Both": "global", "Upstash-Retries": "9" } });
  const { messageId } = await configured.publish({
    url: endpoint.url("/global"),
    headers: { "X-Both": "request", "x-case": "lower", "X-CASE": "upper" },
  });
  const [{ headers }] = await endpoint.received("/global");
  assert.equal(headers["x-global"], "global");
  assert.equal(headers["x-both"], "request");
  assert.equal(headers["x-case"], "lower, upper"); // merged by the SDK
  const { header, maxRetries } = await client.messages.get(messageId);
  assert.deepEqual(header, { "X-Global": ["global"], "X-Both": ["request"], "X-Case": ["lower, upper"] });
  assert.equal(maxRetries, 9);
});

test("telemetry of the SDK is neither stored nor forwarded", async () => {
  delete process.env.UPSTASH_DISABLE_TELEMETRY;
  const telling = newClient({ enableTelemetry: true });
  const { messageId } = await telling.publishJSON({ url: endpoint.url("/telemetry") });
  const [{ headers }] = await endpoint.received("/telemetry");
  assert.deepEqual(Object.keys(headers).filter((name) => name.includes("telemetry")), []);
  assert.deepEqual((await client.messages.get(messageId)).header, { "Content-Type": ["application/json"] });
});

test("a failing destination is retried until it succeeds", async () => {
  endpoint.answer("/flaky", (_, number) => (number < 2 ? { status: 500, body: "not yet" } : {}));
  const { messageId } = await client.publishJSON({
    url: endpoint.url("/flaky"),
    body: { a: 1 },
    retries: 5,
    retryDelay: "100 * (1 + retried)",
  });
  const requests = await endpoint.received("/flaky", 3);
  assert.deepEqual(requests.map(({ headers }) => headers["upstash-retried"]), ["0", "1", "2"]);
  assert.deepEqual(new Set(requests.map(({ headers }) => headers["upstash-message-id"])), new Set([messageId]));
  assert.equal(new Set(requests.map(({ headers }) => headers["upstash-signature"])).size, 3);
  for (const request of requests) await verify(request);
  assert.ok(requests[1].at - requests[0].at >= 90, "the first retry waits 100 ms");
  assert.ok(requests[2].at - requests[1].at >= 190, "the second retry waits 200 ms");
  const failed = ["ACTIVE", "ERROR", "RETRY"];
  await reaches(client, messageId, ["CREATED", ...failed, ...failed, "ACTIVE", "DELIVERED"]);
  const { messages } = await client.dlq.listMessages({ filter: { messageId } });
  assert.deepEqual(messages, []);
});

test("Retry-After of the destination wins over the message's own delay", async () => {
  endpoint.answer("/retry-after", (_, number) => (number === 0 ? { status: 503, headers: { "Retry-After": "0" } } : {}));
  const { messageId } = await client.publishJSON({ url: endpoint.url("/retry-after"), retryDelay: "3600000" });
  await endpoint.received("/retry-after", 2);
  await reaches(client, messageId, ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"]);
});

test("a message that may not be retried fails at once", async () => {
  endpoint.answer("/no-retry", { status: 489, headers: { "Upstash-NonRetryable-Error": "true", "Retry-After": "0" } });
  const { messageId } = await client.publishJSON({ url: endpoint.url("/no-retry"), retries: 5 });
  const dead = await deadLetter(client, messageId);
  assert.equal(dead.responseStatus, 489);
  assert.deepEqual(await states(client, messageId), ["CREATED", "ACTIVE", "ERROR", "FAILED"]);
  assert.equal(endpoint.sent("/no-retry").length, 1);
});

test("an attempt ends at its timeout", async () => {
  const release = endpoint.hold("/slow");
  const { messageId } = await client.publishJSON({ url: endpoint.url("/slow"), timeout: "1s", retries: 0 });
  const dead = await deadLetter(client, messageId);
  release();
  assert.equal(dead.responseStatus, 0);
  assert.equal(dead.responseHeader, undefined);
  const { logs } = await client.logs({ messageIds: [messageId], count: 1 });
  assert.equal(logs[0].state, "FAILED");
  assert.ok(logs[0].error);
});

test("a callback tells of every attempt", async () => {
  endpoint.answer("/called", (_, number) =>
    number === 0 ? { status: 500, body: "no" } : { status: 201, headers: { "X-Answer": "42" }, body: "yes" },
  );
  const { messageId } = await client.publishJSON({
    url: endpoint.url("/called"),
    body: { hello: "world" },
    headers: {
      "X-Source": "source",
      "Upstash-Callback-Forward-X-Callback": "forwarded",
      "Upstash-Callback-Method": "PUT",
    },
    retries: 1,
    retryDelay: "1",
    callback: endpoint.url("/callback?foo=bar"),
  });
  const [first, second] = await endpoint.received("/callback", 2);
  for (const request of [first, second]) {
    assert.equal(request.url, endpoint.url("/callback?foo=bar"));
    assert.equal(request.method, "PUT");
    assert.equal(request.headers["content-type"], "application/json");
    assert.equal(request.headers["x-callback"], "forwarded");
    assert.equal(request.headers["x-source"], undefined);
    assert.notEqual(request.headers["upstash-message-id"], messageId);
    await verify(request);
  }
  const [failure, success] = [first, second]
    .map(({ body }) => JSON.parse(body))
    .sort((a, b) => a.retried - b.retried);
  const { createdAt, notBefore } = await client.messages.get(messageId);
  const common = {
    maxRetries: 1,
    sourceMessageId: messageId,
    url: endpoint.url("/called"),
    method: "POST",
    sourceHeader: { "Content-Type": ["application/json"], "X-Source": ["source"] },
    sourceBody: Buffer.from('{"hello":"world"}').toString("base64"),
    createdAt,
    callerIP: "127.0.0.1",
  };
  for (const told of [failure, success]) {
    assert.ok(told.header.Date, "the headers of the answer are told");
    assert.ok(told.notBefore >= notBefore);
  }
  assert.deepEqual(success.header["X-Answer"], ["42"]);
  delete failure.header, delete failure.notBefore, delete success.header, delete success.notBefore;
  assert.deepEqual(failure, { status: 500, body: Buffer.from("no").toString("base64"), retried: 0, ...common });
  assert.deepEqual(success, { status: 201, body: Buffer.from("yes").toString("base64"), retried: 1, ...common });

  const callbackId = second.headers["upstash-message-id"];
  const callback = await client.messages.get(callbackId);
  assert.equal(callback.url, endpoint.url("/callback?foo=bar"));
  assert.equal(callback.callback, undefined);
  await reaches(client, callbackId, ["CREATED", "ACTIVE", "DELIVERED"]);
});

test("a failure callback tells of the dead letter, once", async () => {
  endpoint.answer("/failing", { status: 400, body: "Bad things" });
  const { messageId } = await client.publishJSON({
    url: endpoint.url("/failing"),
    body: { hello: "world" },
    headers: { "Upstash-Failure-Callback-Forward-X-Failure": "forwarded" },
    retries: 1,
    retryDelay: "1",
    callback: endpoint.url("/failing-callback"),
    failureCallback: endpoint.url("/failure-callback"),
  });
  const [request] = await endpoint.received("/failure-callback");
  assert.equal(request.method, "POST");
  assert.equal(request.headers["x-failure"], "forwarded");
  await verify(request);
  const told = JSON.parse(request.body);
  const dead = await deadLetter(client, messageId);
  assert.equal(told.dlqId, dead.dlqId);
  assert.equal(told.sourceMessageId, messageId);
  assert.equal(told.status, 400);
  assert.equal(decode(told.body), "Bad things");
  assert.equal(decode(told.sourceBody), '{"hello":"world"}');
  assert.equal(told.retried, 1);
  assert.equal(told.maxRetries, 1);
  assert.equal(told.url, endpoint.url("/failing"));
  await endpoint.received("/failing-callback", 2);
  assert.equal(endpoint.sent("/failure-callback").length, 1);
  for (const { body } of endpoint.sent("/failing-callback")) assert.ok(!("dlqId" in JSON.parse(body)));
  await reaches(client, messageId, ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "FAILED"]);
});

test("a second message with the same deduplication id is not delivered", async () => {
  const deduplicationId = unique("dedup");
  const request = { url: endpoint.url("/dedup"), body: { a: 1 }, deduplicationId };
  const first = await client.publishJSON(request);
  assert.ok(!("deduplicated" in first));
  const second = await client.publishJSON({ ...request, body: { a: 2 } });
  assert.deepEqual(second, { messageId: first.messageId, deduplicated: true });
  const other = await client.publishJSON({ ...request, deduplicationId: unique("dedup") });
  assert.notEqual(other.messageId, first.messageId);
  await endpoint.received("/dedup", 2);
  await reaches(client, first.messageId, ["CREATED", "ACTIVE", "DELIVERED"]);
});

test("content-based deduplication looks at destination, body and forwarded headers", async () => {
  const request = {
    url: endpoint.url("/content"),
    body: { a: 1 },
    headers: { "X-A": "1" },
    contentBasedDeduplication: true,
  };
  const first = await client.publishJSON({ ...request, retries: 3 });
  const second = await client.publishJSON({ ...request, retries: 2, label: "other" });
  assert.deepEqual(second, { messageId: first.messageId, deduplicated: true });
  for (const change of [{ body: { a: 2 } }, { headers: { "X-A": "2" } }, { url: endpoint.url("/content?x=1") }]) {
    const other = await client.publishJSON({ ...request, ...change });
    assert.ok(!other.deduplicated, `deduplicated in spite of ${JSON.stringify(change)}`);
  }
  await endpoint.received("/content", 4);
});

test("redacted fields are delivered and not shown", async () => {
  const secret = unique("secret");
  endpoint.answer("/redact", { status: 400 });
  const { messageId } = await client.publishJSON({
    url: endpoint.url("/redact"),
    body: { password: secret },
    headers: { Authorization: `Bearer ${secret}`, "X-Open": "open" },
    redact: { body: true, header: ["Authorization"] },
    retries: 0,
  });
  const [request] = await endpoint.received("/redact");
  assert.equal(JSON.parse(request.body).password, secret);
  assert.equal(request.headers.authorization, `Bearer ${secret}`);
  await verify(request);

  const dead = await deadLetter(client, messageId);
  const message = await client.messages.get(messageId);
  const { logs } = await client.logs({ messageIds: [messageId] });
  assert.equal(logs.length, 4);
  const marker = /^REDACTED:[0-9a-f]{64}$/;
  for (const shown of [dead, message, ...logs]) {
    assert.match(shown.body, marker);
    assert.equal(shown.header.Authorization.length, 1);
    assert.match(shown.header.Authorization[0], marker);
    assert.deepEqual(shown.header["X-Open"], ["open"]);
    const text = JSON.stringify(shown);
    assert.ok(!text.includes(secret) && !text.includes(Buffer.from(secret).toString("base64").slice(0, 8)));
  }
});

test("all headers can be redacted", async () => {
  const { messageId } = await client.publishJSON({
    url: "https://example.com",
    delay: 3600,
    body: { open: true },
    headers: { "X-A": "1", "X-B": "2" },
    redact: { header: true },
  });
  const message = await client.messages.get(messageId);
  assert.equal(message.body, '{"open":true}');
  assert.deepEqual(Object.keys(message.header).sort(), ["Content-Type", "X-A", "X-B"]);
  for (const values of Object.values(message.header)) assert.match(values[0], /^REDACTED:/);
  await client.messages.cancel(messageId);
});

test("language model and e-mail providers are ordinary destinations", async () => {
  const callback = "https://example.com/callback";
  const delay = 3600;
  const cases = [
    {
      request: { api: { name: "llm", provider: openai({ token: "key", organization: "org" }) }, callback },
      url: "https://api.openai.com/v1/chat/completions",
      header: { Authorization: ["Bearer key"], "Openai-Organization": ["org"] },
    },
    {
      request: { api: { name: "llm", provider: anthropic({ token: "key" }) }, callback },
      url: "https://api.anthropic.com/v1/messages",
      header: { "X-Api-Key": ["key"], "Anthropic-Version": ["2023-06-01"] },
    },
    {
      request: {
        api: { name: "llm", provider: openai({ token: "key" }), analytics: { name: "helicone", token: "tell" } },
        callback,
      },
      url: "https://gateway.helicone.ai/v1/chat/completions",
      header: {
        Authorization: ["Bearer key"],
        "Helicone-Auth": ["Bearer tell"],
        "Helicone-Target-Url": ["https://api.openai.com"],
      },
    },
    {
      request: { api: { name: "email", provider: resend({ token: "key" }) } },
      url: "https://api.resend.com/emails",
      header: { Authorization: ["Bearer key"] },
    },
    {
      request: { api: { name: "email", provider: resend({ token: "key", batch: true }) } },
      url: "https://api.resend.com/emails/batch",
      header: { Authorization: ["Bearer key"] },
    },
  ];
  for (const { request, url, header } of cases) {
    const { messageId } = await client.publishJSON({ ...request, delay, body: { a: 1 } });
    const message = await client.messages.get(messageId);
    assert.equal(message.url, url);
    assert.equal(message.method, "POST");
    assert.deepEqual(message.header, { "Content-Type": ["application/json"], ...header });
    await client.messages.cancel(messageId);
  }

  await client.publishJSON({
    api: { name: "llm", provider: custom({ baseUrl: endpoint.url("/llm/v1/chat/completions"), token: "key" }) },
    callback: endpoint.url("/llm-callback"),
    body: { model: "m" },
  });
  const [request] = await endpoint.received("/llm/v1/chat/completions");
  assert.equal(request.headers.authorization, "Bearer key");
  assert.equal(request.body.toString(), '{"model":"m"}');
  await endpoint.received("/llm-callback");
});

test("the model of the hosted service is refused unless the server has one", async () => {
  await assert.rejects(
    client.publishJSON({ api: { name: "llm", provider: upstash() }, callback: "https://example.com", body: {} }),
    { name: "QstashError", status: 400, message: /^\{"error":"api llm is not enabled/ },
  );
  await assert.rejects(
    client.chat().prompt({ provider: upstash(), model: "m", system: "s", user: "u" }),
    (error) => error.name === "QstashError" && error.status >= 400 && JSON.parse(error.message).error.length > 0,
  );
});

test("server and token can be given instead of found, with a slash at the end", async () => {
  const given = newClient({ baseUrl: `${baseUrl}/`, token });
  await given.publishJSON({ url: endpoint.url("/given") });
  await endpoint.received("/given");
});

test("a region of its own environment is used", async () => {
  const { QSTASH_URL, QSTASH_TOKEN } = process.env;
  Object.assign(process.env, { QSTASH_REGION: "EU_CENTRAL_1", EU_CENTRAL_1_QSTASH_URL: QSTASH_URL, EU_CENTRAL_1_QSTASH_TOKEN: QSTASH_TOKEN });
  delete process.env.QSTASH_URL;
  delete process.env.QSTASH_TOKEN;
  try {
    await newClient().publishJSON({ url: endpoint.url("/region") });
    await endpoint.received("/region");
  } finally {
    Object.assign(process.env, { QSTASH_URL, QSTASH_TOKEN });
    delete process.env.QSTASH_REGION;
  }
});
