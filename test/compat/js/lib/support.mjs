// What the test files share: clients of the server under test, an endpoint for it to deliver to, and waiting for conditions.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, Receiver } from "@upstash/qstash";

export const baseUrl = process.env.QSTASH_URL;
export const token = process.env.QSTASH_TOKEN;
export const keys = {
  current: process.env.QSTASH_CURRENT_SIGNING_KEY,
  next: process.env.QSTASH_NEXT_SIGNING_KEY,
};

/** A client that finds server and token in the environment, as an application does. */
export const newClient = (config) => new Client({ retry: false, ...config });

/** A name that no other test uses. */
export const unique = (prefix) => `${prefix}-${randomUUID().slice(0, 8)}`;

/** Calls check until it throws no more, and returns what it returned. */
export async function eventually(check, within = 15_000) {
  for (const deadline = Date.now() + within; ; await sleep(20)) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

/** Makes a request that the SDK has no method for. */
export async function raw(method, path, { body, headers, as = token } = {}) {
  const response = await fetch(baseUrl + path, { method, body, headers: { Authorization: `Bearer ${as}`, ...headers } });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: text === "" ? undefined : JSON.parse(text) };
}

/** An HTTP server on this machine that writes down what it is sent. */
export class Endpoint {
  requests = [];
  #answers = new Map();
  #server;

  static async start() {
    const endpoint = new Endpoint();
    endpoint.#server = createServer((request, response) => endpoint.#serve(request, response));
    await new Promise((resolve) => endpoint.#server.listen(0, "127.0.0.1", resolve));
    endpoint.origin = `http://127.0.0.1:${endpoint.#server.address().port}`;
    return endpoint;
  }

  close() {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  url(path) {
    return this.origin + path;
  }

  /** Sets what a path answers: a response, or a function of the request and its number that returns one. Default: 200. */
  answer(path, answer) {
    this.#answers.set(path, answer);
  }

  /** Lets requests to a path wait until the returned function is called. */
  hold(path) {
    let release;
    const released = new Promise((resolve) => (release = resolve));
    this.answer(path, () => released);
    return () => release({});
  }

  /** Waits until a path was sent count requests, and returns all it was sent. */
  received(path, count = 1, within = undefined) {
    return eventually(() => {
      const got = this.sent(path);
      assert.ok(got.length >= count, `got ${got.length} requests to ${path}, want ${count}`);
      return got;
    }, within);
  }

  sent(path) {
    return this.requests.filter((request) => request.path === path);
  }

  async #serve(request, response) {
    const at = Date.now();
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const [path] = request.url.split("?", 1);
    const received = { at, method: request.method, url: this.origin + request.url, path, headers: request.headers, body };
    const number = this.sent(path).length;
    this.requests.push(received);
    let answer = this.#answers.get(path);
    if (typeof answer === "function") answer = await answer(received, number);
    const { status = 200, headers = {}, body: text = "" } = answer ?? {};
    response.writeHead(status, headers).end(text);
  }
}

/** The states of a message in the order in which it went through them. */
export async function states(client, messageId) {
  const { logs } = await client.logs({ messageIds: [messageId] });
  return logs.map((log) => log.state).reverse();
}

/** Waits until a message went through exactly these states. */
export async function reaches(client, messageId, want) {
  await eventually(async () => assert.deepEqual(await states(client, messageId), want));
}

/** Waits for the dead letter of a message. */
export async function deadLetter(client, messageId) {
  return await eventually(async () => {
    const { messages } = await client.dlq.listMessages({ filter: { messageId } });
    assert.equal(messages.length, 1);
    return messages[0];
  });
}

/** Publishes a message that fails at its only attempt, and waits for its dead letter. */
export async function fail(client, request) {
  const { messageId } = await client.publishJSON({ retries: 0, ...request });
  return await deadLetter(client, messageId);
}

/** Rejects unless the Receiver of the SDK accepts a delivered request; its URL is checked, too. */
export async function verify({ headers, body, url }, { current, next } = keys) {
  const receiver = new Receiver({ currentSigningKey: current, nextSigningKey: next });
  const signature = headers["upstash-signature"];
  const request = { signature, body: body.toString(), url, upstashRegion: headers["upstash-region"] };
  assert.equal(await receiver.verify(request), true);
}

/** What a signature says, not verified. */
export const claims = ({ headers }) =>
  JSON.parse(Buffer.from(headers["upstash-signature"].split(".")[1], "base64url").toString());
