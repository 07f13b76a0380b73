import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";

import { Receiver, SignatureError } from "@upstash/qstash";
import { verifySignatureAppRouter, verifySignatureEdge } from "@upstash/qstash/nextjs";
import { verifySignatureSolidjs } from "@upstash/qstash/solidjs";
import { verifySignatureSvelte } from "@upstash/qstash/svelte";

import { claims, Endpoint, keys, newClient, raw, verify } from "./lib/support.mjs";

const client = newClient();
let endpoint;
before(async () => (endpoint = await Endpoint.start()));
after(() => endpoint.close());

const other = "sig_111111111111111111111111111X";
const delivered = async (path, request) => {
  await client.publishJSON({ url: endpoint.url(path), ...request });
  return (await endpoint.received(path.split("?")[0]))[0];
};

test("the keys are those that the server said", async () => {
  const { status, body } = await raw("GET", "/v2/keys");
  assert.equal(status, 200);
  assert.deepEqual(body, keys);
});

test("a Receiver accepts what was sent, with either key, and nothing else", async () => {
  const request = await delivered("/verify?a=b", { body: { hello: "wörld" } });
  await verify(request);
  await verify(request, { current: other, next: keys.current }); // as after a rotation that only the application knows
  const wrong = [
    [{ ...request, body: Buffer.from('{"hello":"world"}') }],
    [{ ...request, body: Buffer.from("") }],
    [{ ...request, url: endpoint.url("/verify") }],
    [{ ...request, headers: { "upstash-signature": request.headers["upstash-signature"].slice(0, -2) + "AA" } }],
    [request, { current: other, next: other }],
    [request, { current: keys.next, next: other }],
  ];
  for (const args of wrong) await assert.rejects(verify(...args), SignatureError);
});

test("a Receiver finds the keys in the environment", async () => {
  const { headers, body, url } = await delivered("/environment", { body: 1 });
  const signature = headers["upstash-signature"];
  assert.equal(await new Receiver().verify({ signature, body: body.toString(), url }), true);
});

test("a Receiver picks the keys of the region that the server names", async () => {
  const { headers, body, url } = await delivered("/region", { body: 1 });
  Object.assign(process.env, {
    QSTASH_REGION: "US_EAST_1",
    US_EAST_1_QSTASH_CURRENT_SIGNING_KEY: other,
    US_EAST_1_QSTASH_NEXT_SIGNING_KEY: other,
    EU_CENTRAL_1_QSTASH_CURRENT_SIGNING_KEY: keys.current,
    EU_CENTRAL_1_QSTASH_NEXT_SIGNING_KEY: keys.next,
  });
  try {
    const signature = headers["upstash-signature"];
    const request = { signature, body: body.toString(), url };
    const receiver = new Receiver();
    assert.equal(await receiver.verify({ ...request, upstashRegion: headers["upstash-region"] }), true);
    await assert.rejects(receiver.verify({ ...request, upstashRegion: "us-east-1" }), SignatureError);
  } finally {
    delete process.env.QSTASH_REGION;
  }
});

test("the helpers for web frameworks accept what was sent, and nothing else", async () => {
  const { method, url, headers, body } = await delivered("/frameworks", { body: { hello: "wörld" } });
  const { connection, host, "content-length": _, ...forwarded } = headers;
  const made = (content, names = forwarded) => new Request(url, { method, headers: names, body: content });
  const { "upstash-signature": __, ...unsigned } = forwarded;
  const answer = () => new Response(null, { status: 201 });
  for (const [name, handle] of Object.entries({
    appRouter: verifySignatureAppRouter(answer),
    edge: verifySignatureEdge(answer),
    svelte: ((handler) => (request) => handler({ request }))(verifySignatureSvelte(answer)),
    solidjs: ((handler) => (request) => handler({ request }))(verifySignatureSolidjs(answer)),
  })) {
    assert.equal((await handle(made(body))).status, 201, name);
    assert.equal((await handle(made(body, unsigned))).status, 403, name);
    await assert.rejects(async () => handle(made("{}")), SignatureError, name);
  }
});

test("a signature says who, where, when and what", async () => {
  const request = await delivered("/claims?a=b", { body: { a: 1 } });
  const [head] = request.headers["upstash-signature"].split(".");
  assert.deepEqual(JSON.parse(Buffer.from(head, "base64url")), { alg: "HS256", typ: "JWT" });
  const { iat, exp, jti, ...rest } = claims(request);
  assert.ok(Number.isInteger(iat) && iat <= request.at / 1000 && iat > request.at / 1000 - 5, `iat ${iat}`);
  assert.equal(exp, iat + 300);
  assert.match(jti, /^jwt_[1-9A-HJ-NP-Za-km-z]{28}$/);
  const hash = createHash("sha256").update(request.body).digest("base64").replaceAll("+", "-").replaceAll("/", "_");
  assert.deepEqual(rest, { iss: "Upstash", sub: endpoint.url("/claims?a=b"), nbf: 0, body: hash });
});

test("an empty body is signed, too", async () => {
  const request = await delivered("/empty");
  assert.equal(claims(request).body, "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=");
  await verify(request);
});

test("the URL is signed as it was published", async () => {
  for (const target of ["/raw/a%20b?q=%2F&z", "/raw//double//slash", "/raw/%E2%82%AC?x=a+b"]) {
    const request = await delivered(target);
    assert.equal(claims(request).sub, endpoint.url(target));
    await verify(request);
  }
});

test("after a rotation next is current, and signs", async () => {
  const before = await delivered("/before", { body: 1 });
  const { status, body: rotated } = await raw("POST", "/v2/keys/rotate");
  assert.equal(status, 200);
  assert.deepEqual(Object.keys(rotated).sort(), ["current", "next"]);
  assert.equal(rotated.current, keys.next);
  assert.match(rotated.next, /^sig_[1-9A-HJ-NP-Za-km-z]{28}$/);
  assert.ok(rotated.next !== keys.current && rotated.next !== keys.next);
  assert.deepEqual((await raw("GET", "/v2/keys")).body, rotated);

  const after = await delivered("/after", { body: 2 });
  await verify(after, keys); // an application that does not know of the rotation yet has the key as its next one
  await verify(after, rotated);
  await assert.rejects(verify(after, { current: keys.current, next: keys.current }), SignatureError);
  await assert.rejects(verify(before, rotated), SignatureError);
});

test("a retry is signed with the key of its own time", async () => {
  const { body: old } = await raw("GET", "/v2/keys");
  let release;
  endpoint.answer("/retry", (_, number) =>
    number > 0 ? {} : new Promise((resolve) => (release = () => resolve({ status: 500 }))),
  );
  await client.publishJSON({ url: endpoint.url("/retry"), body: 1, retryDelay: "1" });
  await endpoint.received("/retry");
  const { body: rotated } = await raw("POST", "/v2/keys/rotate");
  release();
  const [first, second] = await endpoint.received("/retry", 2);
  await verify(first, old);
  await verify(second, rotated);
  await assert.rejects(verify(second, { current: old.current, next: old.current }), SignatureError);
  assert.notEqual(claims(first).jti, claims(second).jti);
});
