from qstash.errors import QStashError
from qstash.message import FlowControlProperties

from support import both, eventually, now, raw, unique


@both
class Dlq:
    async def list(self, **filter):
        return [message.dlq_id for message in (await self.client.dlq.list(filter=filter)).messages]

    async def test_entry(self):
        dead = await self.fail_message(
            body={"a": 1},
            headers={"A": "1"},
            callback_headers={"Forward-B": "2"},
            failure_callback_headers={"Forward-C": "3"},
            callback=self.endpoint.url("/callback"),
            failure_callback=self.endpoint.url("/failure"),
            retry_delay="7000 * retried",
            flow_control={"key": "dlq", "parallelism": 3},
            label="test-label",
        )
        self.assertRegex(dead.dlq_id, r"^\d{13}-\d+$")
        self.assertRegex(dead.message_id, "^msg_")
        self.assertEqual(dead.response_status, 400)
        self.assertEqual(dead.response_body, "Bad things")
        self.assertIsNone(dead.response_body_base64)
        self.assertEqual(dead.response_headers["X-Why"], ["because"])
        self.assertEqual(dead.url, self.endpoint.url("/fail"))
        self.assertEqual(dead.method, "POST")
        self.assertEqual(dead.body, '{"a": 1}')
        self.assertEqual(dead.headers, {"A": ["1"], "Content-Type": ["application/json"]})
        self.assertEqual(dead.callback_headers, {"B": ["2"]})
        self.assertEqual(dead.failure_callback_headers, {"C": ["3"]})
        self.assertEqual(dead.callback, self.endpoint.url("/callback"))
        self.assertEqual(dead.failure_callback, self.endpoint.url("/failure"))
        self.assertEqual(dead.max_retries, 0)
        self.assertEqual(dead.retry_delay_expression, "7000 * retried")
        self.assertEqual(dead.caller_ip, "127.0.0.1")
        self.assertEqual(dead.label, "test-label")
        self.assertEqual(dead.flow_control, FlowControlProperties(key="dlq", parallelism=3, rate=None, period=1))
        self.assertAround(dead.created_at)
        for absent in "url_group endpoint queue schedule_id body_base64".split():
            self.assertIsNone(getattr(dead, absent), absent)
        self.assertEqual(await self.client.dlq.get(dead.dlq_id), dead)

    async def test_delete(self):
        dead, kept = await self.fail_message(), await self.fail_message()
        self.assertIsNone(await self.client.dlq.delete(dead.dlq_id))
        self.assertEqual(await self.list(), [kept.dlq_id])
        for call in (self.client.dlq.delete, self.client.dlq.get):
            with self.assertRaisesRegex(QStashError, f"404, body: .*dlq message {dead.dlq_id} not found"):
                await call(dead.dlq_id)

    async def test_delete_many(self):
        ids = [(await self.fail_message()).dlq_id for _ in range(3)]
        self.assertEqual(await self.client.dlq.delete_many([ids[0], "1-0"]), 1)
        self.assertEqual(await self.client.dlq.delete_many(ids), 2)
        self.assertEqual(await self.client.dlq.delete_many(ids), 0)

    async def test_an_empty_list_of_ids_deletes_nothing(self):
        dead = await self.fail_message()
        self.assertEqual(await self.client.dlq.delete_many([]), 0)
        self.assertEqual(await self.list(), [dead.dlq_id])

    async def test_pages(self):
        ids = [(await self.fail_message()).dlq_id for _ in range(3)]
        first = await self.client.dlq.list(count=2)
        self.assertEqual([message.dlq_id for message in first.messages], ids[:2])
        self.assertIsNotNone(first.cursor)
        second = await self.client.dlq.list(count=2, cursor=first.cursor)
        self.assertEqual([message.dlq_id for message in second.messages], ids[2:])
        self.assertIsNone(second.cursor)

    async def test_filters(self):
        from_ = now()
        label, queue = unique("label"), unique("queue")
        a = await self.fail_message(label=label)
        self.endpoint.answer("/teapot", status=418)
        published = await self.client.message.enqueue(queue=queue, url=self.endpoint.url("/teapot"), retries=0)
        b = await self.dead_letter(published.message_id)
        self.assertEqual(b.queue, queue)
        for filter, want in [
            ({"message_id": a.message_id}, [a]),
            ({"url": self.endpoint.url("/teapot")}, [b]),
            ({"queue": queue}, [b]),
            ({"label": label}, [a]),
            ({"response_status": 418}, [b]),
            ({"response_status": 500}, []),
            ({"caller_ip": "127.0.0.1"}, [a, b]),
            ({"caller_ip": "192.0.2.1"}, []),
            ({"url_group": unique("none")}, []),
            ({"schedule_id": unique("none")}, []),
            ({"from_time": from_}, [a, b]),
            ({"from_time": from_ + 3600_000}, []),
            ({"to_time": from_ - 1}, []),
            ({"label": label, "response_status": 418}, []),
        ]:
            self.assertEqual(await self.list(**filter), [dead.dlq_id for dead in want], filter)
        await self.client.queue.delete(queue)

    async def test_retry(self):
        self.endpoint.answer("/retry", status=200, once=500)
        published = await self.client.message.publish(url=self.endpoint.url("/retry"), retries=0, body="body")
        dead = await self.dead_letter(published.message_id)
        status, body = await raw("POST", f"/v2/dlq/retry/{dead.dlq_id}")
        self.assertEqual(status, 201)
        self.assertEqual(list(body), ["messageId"])
        _, request = await self.endpoint.received("/retry", 2)
        self.assertEqual((request.body, request.headers["upstash-message-id"]), (b"body", body["messageId"]))

        async def empty():
            assert await self.list() == []

        await eventually(empty)
