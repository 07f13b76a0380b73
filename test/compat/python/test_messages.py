import json
import time

from qstash.chat import custom, openai
from qstash.errors import QStashError
from qstash.message import FlowControlProperties

from support import CANCELED, DELIVERED, FAILED, both, decode, dumps, now, raw, unique

LATER = {"url": "https://example.com", "delay": "1h"}


@both
class Publish:
    async def test_everything_travels_as_it_is(self):
        url = self.endpoint.url("/a%20b?x=1&y=%2F")
        published = await self.client.message.publish(
            url=url,
            body="räw",
            content_type="text/plain; charset=utf-8",
            method="PUT",
            headers={"Test-Header": "test-value", "Upstash-Forward-Other": "other"},
        )
        self.assertRegex(published.message_id, r"^msg_[1-9A-HJ-NP-Za-km-z]{26,}$")
        self.assertIs(published.deduplicated, False)
        (request,) = await self.endpoint.received("/a%20b")
        self.assertEqual(request.url, url)
        self.assertEqual(request.method, "PUT")
        self.assertEqual(request.body.decode(), "räw")
        self.assertTrue(request.headers.pop("upstash-signature"))
        self.assertTrue(request.headers.pop("host"))
        self.assertEqual(
            request.headers,
            {
                "user-agent": "Upstash-QStash",
                "content-length": "4",
                "content-type": "text/plain; charset=utf-8",
                "test-header": "test-value",
                "other": "other",
                "upstash-message-id": published.message_id,
                "upstash-retried": "0",
                "upstash-caller-ip": "127.0.0.1",
                "upstash-region": "EU-CENTRAL-1",
            },
        )
        await self.reaches(published.message_id, DELIVERED)
        message = await self.client.message.get(published.message_id)
        self.assertEqual(
            message.headers,
            {"Content-Type": ["text/plain; charset=utf-8"], "Test-Header": ["test-value"], "Other": ["other"]},
        )

    async def test_json(self):
        published = await self.client.message.publish_json(url=self.endpoint.url("/json"), body={"ex_key": "ex_value"})
        (request,) = await self.endpoint.received("/json")
        self.assertEqual(request.method, "POST")
        self.assertEqual(json.loads(request.body), {"ex_key": "ex_value"})
        self.assertEqual(request.headers["content-type"], "application/json")
        message = await self.client.message.get(published.message_id)
        self.assertEqual(message.body, '{"ex_key": "ex_value"}')
        self.assertEqual(message.headers, {"Content-Type": ["application/json"]})

    async def test_nothing_is_added(self):
        from_ = now()
        published = await self.client.message.publish(**LATER)
        message = await self.client.message.get(published.message_id)
        self.assertEqual(message.message_id, published.message_id)
        self.assertEqual(message.url, "https://example.com")
        self.assertEqual(message.method, "POST")
        self.assertEqual(message.max_retries, 3)
        self.assertEqual(message.caller_ip, "127.0.0.1")
        self.assertTrue(from_ <= message.created_at <= now())
        self.assertEqual(message.not_before - message.created_at, 3600_000)
        for absent in (
            "url_group endpoint queue body body_base64 callback_headers failure_callback_headers retry_delay_expression"
            " callback failure_callback schedule_id flow_control label"
        ).split():
            self.assertIsNone(getattr(message, absent), absent)
        self.assertFalse(message.headers)

    async def test_options(self):
        published = await self.client.message.publish_json(
            url="https://example.com/path?foo=bar",
            body={"a": 1},
            method="PATCH",
            headers={"A": "1"},
            callback_headers={"Forward-B": "2", "Upstash-Callback-Forward-C": "3", "Retries": "1"},
            failure_callback_headers={"Forward-D": "4"},
            retries=7,
            retry_delay="7000 * retried",
            callback="https://example.com/callback/?foo=bar",
            failure_callback="https://example.com/failure/?foo=bar",
            delay=60,
            timeout=30,
            label="test-label",
            flow_control={"key": "options", "parallelism": 3, "rate": 4, "period": 2},
        )
        message = await self.client.message.get(published.message_id)
        self.assertEqual(message.url, "https://example.com/path?foo=bar")
        self.assertEqual(message.method, "PATCH")
        self.assertEqual(message.headers, {"A": ["1"], "Content-Type": ["application/json"]})
        self.assertEqual(message.callback_headers, {"B": ["2"], "C": ["3"]})
        self.assertEqual(message.failure_callback_headers, {"D": ["4"]})
        self.assertEqual(message.max_retries, 7)
        self.assertEqual(message.retry_delay_expression, "7000 * retried")
        self.assertEqual(message.callback, "https://example.com/callback/?foo=bar")
        self.assertEqual(message.failure_callback, "https://example.com/failure/?foo=bar")
        self.assertEqual(message.not_before - message.created_at, 60_000)
        self.assertEqual(message.label, "test-label")
        self.assertEqual(message.flow_control, FlowControlProperties(key="options", parallelism=3, rate=4, period=2))

    async def test_flow_control(self):
        for flow_control, want in [
            ({"parallelism": 5}, (5, None, 1)),
            ({"rate": 3}, (None, 3, 1)),
            ({"rate": 3, "period": "1m"}, (None, 3, 60)),
            ({"parallelism": 5, "rate": 3, "period": 120}, (5, 3, 120)),
        ]:
            published = await self.client.message.publish(flow_control={"key": "flow", **flow_control}, **LATER)
            got = (await self.client.message.get(published.message_id)).flow_control
            self.assertEqual((got.key, got.parallelism, got.rate, got.period), ("flow", *want))

    async def test_not_before(self):
        at = int(time.time()) + 3600
        published = await self.client.message.publish(url="https://example.com", not_before=at, delay=1)
        message = await self.client.message.get(published.message_id)
        self.assertEqual(message.not_before, at * 1000)

    async def test_delay(self):
        published = await self.client.message.publish(url=self.endpoint.url("/delay"), delay=1)
        (request,) = await self.endpoint.received("/delay")
        message = await self.client.message.get(published.message_id)
        self.assertGreaterEqual(request.at, message.not_before)

    async def test_bytes(self):
        body = bytes([0x00, 0xFF, 0xFE, 0x80])
        published = await self.client.message.publish(url=self.endpoint.url("/bytes"), body=body)
        (request,) = await self.endpoint.received("/bytes")
        self.assertEqual(request.body, body)
        self.assertNotIn("content-type", request.headers)
        message = await self.client.message.get(published.message_id)
        self.assertIsNone(message.body)
        self.assertEqual(message.body_base64, "AP/+gA==")

    async def test_deduplication_id(self):
        id = unique("dedup")
        first = await self.client.message.publish(url=self.endpoint.url("/dedup"), deduplication_id=id)
        second = await self.client.message.publish(url=self.endpoint.url("/dedup"), deduplication_id=id, body="2")
        self.assertIs(first.deduplicated, False)
        self.assertIs(second.deduplicated, True)
        self.assertEqual(second.message_id, first.message_id)
        with self.assertRaisesRegex(QStashError, r"400.*DeduplicationId cannot contain ':'"):
            await self.client.message.publish(url=self.endpoint.url("/dedup"), deduplication_id="a:b")

    async def test_content_based_deduplication(self):
        content = unique("content")

        async def publish(body=content, on=True):
            return await self.client.message.publish_json(
                url=self.endpoint.url("/content"), body=body, content_based_deduplication=on
            )

        first = await publish()
        second = await publish()
        self.assertIs(first.deduplicated, False)
        self.assertIs(second.deduplicated, True)
        self.assertEqual(second.message_id, first.message_id)
        self.assertIs((await publish(body=content + "x")).deduplicated, False)
        self.assertIs((await publish(on=False)).deduplicated, False)

    async def test_retries(self):
        self.endpoint.answer("/flaky", status=200, once=500)
        published = await self.client.message.publish_json(
            url=self.endpoint.url("/flaky"), retries=2, retry_delay="10", callback=self.endpoint.url("/flaky-callback")
        )
        first, second = await self.endpoint.received("/flaky", 2)
        self.assertEqual([request.headers["upstash-retried"] for request in (first, second)], ["0", "1"])
        await self.reaches(published.message_id, ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"])
        told = [json.loads(request.body) for request in await self.endpoint.received("/flaky-callback", 2)]
        self.assertEqual(sorted(callback["status"] for callback in told), [200, 500])
        self.assertEqual(sorted(callback["retried"] for callback in told), [0, 1])
        for callback in told:
            self.assertEqual(callback["sourceMessageId"], published.message_id)
            self.assertEqual(callback["maxRetries"], 2)

    async def test_timeout(self):
        release = self.endpoint.hold("/slow")
        published = await self.client.message.publish(url=self.endpoint.url("/slow"), timeout=1, retries=0)
        dead = await self.dead_letter(published.message_id)
        release()
        self.assertEqual(dead.response_status, 0)
        logs = (await self.client.log.list(filter={"message_id": published.message_id})).logs
        self.assertEqual({log.timeout for log in logs}, {1000})

    async def test_failure_callback(self):
        dead = await self.fail_message(
            body={"hello": "world"},
            failure_callback=self.endpoint.url("/failure"),
            failure_callback_headers={"Forward-X-Failure": "yes", "Method": "PUT"},
        )
        (request,) = await self.endpoint.received("/failure")
        self.assertEqual(request.method, "PUT")
        self.assertEqual(request.headers["x-failure"], "yes")
        told = json.loads(request.body)
        self.assertEqual(told["dlqId"], dead.dlq_id)
        self.assertEqual(told["status"], 400)
        self.assertEqual(decode(told["body"]), "Bad things")
        self.assertEqual(json.loads(decode(told["sourceBody"])), {"hello": "world"})
        self.assertEqual(told["sourceMessageId"], dead.message_id)

    async def test_redact(self):
        secret = unique("secret")
        dead = await self.fail_message(
            body={"password": secret},
            headers={"Authorization": secret, "Open": "open"},
            redact={"body": True, "header": ["Authorization"]},
        )
        (request,) = self.endpoint.sent("/fail")
        self.assertEqual(json.loads(request.body), {"password": secret})
        self.assertEqual(request.headers["authorization"], secret)
        message = await self.client.message.get(dead.message_id)
        logs = (await self.client.log.list(filter={"message_id": dead.message_id})).logs
        self.assertEqual(len(logs), 4)
        for shown in (dead, message, *logs):
            self.assertNotIn(secret, repr(shown))
            self.assertRegex(shown.headers["Authorization"][0], "^REDACTED:[0-9a-f]{64}$")
            self.assertEqual(shown.headers["Open"], ["open"])
        self.assertRegex(message.body, "^REDACTED:[0-9a-f]{64}$")
        self.assertRegex(logs[0].body_base64, "^REDACTED:[0-9a-f]{64}$")

    async def test_redact_all_headers(self):
        published = await self.client.message.publish_json(headers={"A": "1"}, redact={"header": True}, **LATER)
        message = await self.client.message.get(published.message_id)
        for values in message.headers.values():
            self.assertRegex(values[0], "^REDACTED:")
        self.assertEqual(message.body, "null")

    async def test_providers(self):
        callback = self.endpoint.url("/callback")
        body = {"model": "m"}
        await self.client.message.publish_json(
            api={"name": "llm", "provider": custom(self.endpoint.url("/v1/chat/completions"), "key")},
            body=body,
            callback=callback,
        )
        (request,) = await self.endpoint.received("/v1/chat/completions")
        self.assertEqual(request.headers["authorization"], "Bearer key")
        await self.endpoint.received("/callback")
        published = await self.client.message.publish_json(
            api={"name": "llm", "provider": openai("key")}, body=body, callback=callback, delay="1h"
        )
        message = await self.client.message.get(published.message_id)
        self.assertEqual(message.url, "https://api.openai.com/v1/chat/completions")
        self.assertEqual(message.headers["Authorization"], ["Bearer key"])


@both
class Enqueue:
    async def test_enqueue(self):
        queue = unique("queue")
        published = await self.client.message.enqueue(
            queue=queue, url=self.endpoint.url("/enqueue"), body="text", content_type="text/plain", label="queued"
        )
        self.assertIs(published.deduplicated, False)
        (request,) = await self.endpoint.received("/enqueue")
        self.assertEqual(request.body, b"text")
        message = await self.client.message.get(published.message_id)
        self.assertEqual(message.queue, queue)
        self.assertEqual(message.label, "queued")
        await self.reaches(published.message_id, DELIVERED)
        logs = (await self.client.log.list(filter={"queue": queue})).logs
        self.assertEqual([log.queue for log in logs], [queue] * 3)
        await self.client.queue.delete(queue)

    async def test_enqueue_json(self):
        queue = unique("queue")
        for n in range(3):
            await self.client.message.enqueue_json(queue=queue, url=self.endpoint.url("/json"), body={"n": n})
        requests = await self.endpoint.received("/json", 3)
        self.assertEqual([json.loads(request.body)["n"] for request in requests], [0, 1, 2])
        self.assertEqual(requests[0].headers["content-type"], "application/json")
        await self.client.queue.delete(queue)

    async def test_deduplication(self):
        queue, id = unique("queue"), unique("dedup")
        first = await self.client.message.enqueue(queue=queue, url=self.endpoint.url("/dedup"), deduplication_id=id)
        second = await self.client.message.enqueue(queue=queue, url=self.endpoint.url("/dedup"), deduplication_id=id)
        self.assertEqual((second.message_id, second.deduplicated), (first.message_id, True))
        await self.client.queue.delete(queue)

    async def test_provider(self):
        queue = unique("queue")
        await self.client.message.enqueue_json(
            queue=queue,
            api={"name": "llm", "provider": custom(self.endpoint.origin, "key")},
            body={"model": "m"},
            callback=self.endpoint.url("/callback"),
        )
        (request,) = await self.endpoint.received("/v1/chat/completions")
        self.assertEqual(request.headers["authorization"], "Bearer key")
        await self.client.queue.delete(queue)


@both
class Batch:
    async def test_batch(self):
        queue = unique("queue")
        responses = await self.client.message.batch(
            [
                {"url": self.endpoint.url("/batch"), "body": "text", "content_type": "text/plain", "headers": {"A": "1"}},
                {"url": self.endpoint.url("/queued"), "queue": queue, "method": "PUT"},
                {**LATER, "retries": 1, "label": "batched", "flow_control": {"key": "batch", "rate": 2}},
            ]
        )
        self.assertEqual(len({response.message_id for response in responses}), 3)
        self.assertTrue(all(response.deduplicated is False for response in responses))
        (request,) = await self.endpoint.received("/batch")
        self.assertEqual((request.body, request.headers["a"]), (b"text", "1"))
        self.assertEqual(request.headers["content-type"], "text/plain")
        (request,) = await self.endpoint.received("/queued")
        self.assertEqual((request.method, request.body), ("PUT", b""))
        self.assertNotIn("content-type", request.headers)
        later = await self.client.message.get(responses[2].message_id)
        self.assertEqual((later.max_retries, later.label), (1, "batched"))
        self.assertEqual(later.flow_control, FlowControlProperties(key="batch", parallelism=None, rate=2, period=1))
        await self.client.queue.delete(queue)

    async def test_batch_json(self):
        responses = await self.client.message.batch_json(
            [
                {"url": self.endpoint.url("/json"), "body": {"hello": "world"}},
                {"url": self.endpoint.url("/json")},
                {
                    "api": {"name": "llm", "provider": custom(self.endpoint.origin, "key")},
                    "body": {"model": "m"},
                    "callback": self.endpoint.url("/callback"),
                },
            ]
        )
        self.assertEqual(len(responses), 3)
        requests = await self.endpoint.received("/json", 2)
        self.assertEqual(sorted(request.body for request in requests), [b"null", dumps({"hello": "world"})])
        self.assertEqual({request.headers["content-type"] for request in requests}, {"application/json"})
        (request,) = await self.endpoint.received("/v1/chat/completions")
        self.assertEqual(request.headers["authorization"], "Bearer key")

    async def test_one(self):
        (response,) = await self.client.message.batch([LATER])
        await self.reaches(response.message_id, ["CREATED"])

    async def test_malformed(self):
        label = unique("label")
        with self.assertRaisesRegex(QStashError, "400"):
            await self.client.message.batch([{**LATER, "label": label}, {"url": "nope://x"}])
        self.assertEqual((await self.client.log.list(filter={"label": label})).logs, [])


@both
class Messages:
    async def test_get_missing(self):
        with self.assertRaisesRegex(QStashError, "404, body: .*message msg_unknown not found"):
            await self.client.message.get("msg_unknown")

    async def test_cancel(self):
        published = await self.client.message.publish(**LATER)
        self.assertIsNone(await self.client.message.cancel(published.message_id))
        await self.reaches(published.message_id, CANCELED)
        with self.assertRaisesRegex(QStashError, "404"):
            await self.client.message.cancel(published.message_id)

    async def test_cancel_in_flight(self):
        release = self.endpoint.hold("/hold")
        published = await self.client.message.publish(url=self.endpoint.url("/hold"))
        await self.endpoint.received("/hold")
        await self.client.message.cancel(published.message_id)
        release()
        await self.reaches(published.message_id, ["CREATED", "ACTIVE", "CANCEL_REQUESTED", "DELIVERED"])

    async def test_cancel_many(self):
        ids = [(await self.client.message.publish(**LATER)).message_id for _ in range(3)]
        self.assertEqual(await self.client.message.cancel_many(ids[:1]), 1)
        self.assertEqual(await self.client.message.cancel_many([*ids, "msg_unknown"]), 2)
        self.assertEqual(await self.client.message.cancel_many(ids), 0)
        for id in ids:
            await self.reaches(id, CANCELED)

    async def test_cancel_all(self):
        dead = await self.fail_message()
        await self.reaches(dead.message_id, FAILED)
        ids = [(await self.client.message.publish(**LATER)).message_id for _ in range(2)]
        self.assertEqual(await self.client.message.cancel_all(), 2)
        self.assertEqual(await self.client.message.cancel_all(), 0)
        for id in ids:
            await self.reaches(id, CANCELED)

    async def test_cancel_by_body(self):
        ids = []
        for label in "ab":
            ids.append((await self.client.message.publish(url=f"https://{label}.example.com", delay="1h")).message_id)
        for body, want in [
            ({"url": "https://a.example.com"}, 1),
            ({"url": "https://c.example.com"}, 0),
            ({"queueName": unique("none")}, 0),
            ({"scheduleId": unique("none")}, 0),
            ({"topicName": unique("none")}, 0),
            ({"toDate": now() - 60_000}, 0),
            ({"callerIP": "192.0.2.1"}, 0),
            ({"fromDate": now() - 60_000, "callerIP": "127.0.0.1"}, 1),
            ({}, 0),
        ]:
            status, got = await raw("DELETE", "/v2/messages", body=dumps(body), headers={"Content-Type": "application/json"})
            self.assertEqual((status, got), (200, {"cancelled": want}), body)

    async def test_an_empty_list_of_ids_is_all(self):
        await self.client.message.publish(**LATER)
        self.assertEqual(await self.client.message.cancel_many([]), 1)
