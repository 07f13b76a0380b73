// Loaded before every test file. It keeps the tests honest in two ways: nothing but this machine can be reached, so that a
// library which would rather download something fails instead; and every public method of the SDK that a test calls is
// written down, so that the run can tell which ones no test drives.

import dns from "node:dns";
import { appendFileSync, writeFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { isIP } from "node:net";

const lookup = dns.lookup;
dns.lookup = (host, ...rest) => {
  if (host === "localhost" || isIP(host)) return lookup(host, ...rest);
  const error = new Error(`lookup of ${host}: the tests reach this machine only`);
  error.code = "ENOTFOUND";
  process.nextTick(rest.at(-1), error);
};
syncBuiltinESMExports();

const { Client, Receiver } = await import("@upstash/qstash");

const probe = new Client({ baseUrl: "http://127.0.0.1", token: "token", devMode: false });
const classes = {
  Client,
  Receiver,
  UrlGroups: probe.urlGroups.constructor,
  DLQ: probe.dlq.constructor,
  Messages: probe.messages.constructor,
  Schedules: probe.schedules.constructor,
  FlowControlApi: probe.flowControl.constructor,
  Queue: probe.queue().constructor,
};
// TypeScript hides these two; JavaScript does not.
const hidden = ["Receiver.verifyWithKey", "Receiver.verifyBodyAndUrl"];
const surface = [];
const called = new Set();
for (const [name, { prototype }] of Object.entries(classes)) {
  for (const [method, { value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
    const label = `${name}.${method}`;
    if (method === "constructor" || typeof value !== "function" || hidden.includes(label)) continue;
    surface.push(label);
    prototype[method] = function (...args) {
      called.add(label);
      return value.apply(this, args);
    };
  }
}

const directory = process.env.COMPAT_CALLS;
if (directory) {
  writeFileSync(`${directory}/surface`, surface.join("\n") + "\n");
  process.on("exit", () => appendFileSync(`${directory}/called`, [...called, ""].join("\n")));
}
