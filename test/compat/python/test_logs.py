from qstash.errors import QStashError
from qstash.log import LogState
from qstash.message import FlowControlProperties

from support import DELIVERED, FAILED, both, decode, now, unique


@both
class Logs:
    async def list(self, **filter):
        return (await self.client.log.list(filter=filter)).logs

    async def test_delivered(self):
        published = await self.client.message.publish_json(
            url=self.endpoint.url("/logged"),
            body={"a": 1},
            headers={"A": "1"},
            callback_headers={"Forward-B": "2"},
            failure_callback_headers={"Forward-C": "3"},
            callback=self.endpoint.url("/callback"),
            failure_callback=self.endpoint.url("/failure"),
            retries=2,
            retry_delay="7000 * retried",
            timeout="7s",
            flow_control={"key": "logged", "parallelism": 3, "rate": 100},
            label="test-label",
        )
        await self.reaches(published.message_id, DELIVERED)
        response = await self.client.log.list(filter={"message_id": published.message_id})
        self.assertIsNone(response.cursor)
        self.assertEqual([log.state for log in response.logs], [LogState.DELIVERED, LogState.ACTIVE, LogState.CREATED])
        for log in response.logs:
            self.assertEqual(log.message_id, published.message_id)
            self.assertAround(log.time)
            self.assertEqual(log.url, self.endpoint.url("/logged"))
            self.assertEqual(log.method, "POST")
            self.assertEqual(decode(log.body_base64), '{"a": 1}')
            self.assertEqual(log.headers, {"A": ["1"], "Content-Type": ["application/json"]})
            self.assertEqual(log.callback, self.endpoint.url("/callback"))
            self.assertEqual(log.failure_callback, self.endpoint.url("/failure"))
            self.assertEqual(log.callback_headers, {"B": ["2"]})
            self.assertEqual(log.failure_callback_headers, {"C": ["3"]})
            self.assertEqual(log.max_retries, 2)
            self.assertEqual(log.retry_delay_expression, "7000 * retried")
            self.assertEqual(log.timeout, 7000)
            self.assertEqual(log.label, "test-label")
            self.assertEqual(log.flow_control, FlowControlProperties(key="logged", parallelism=3, rate=100, period=1))
            for absent in "error next_delivery_time url_group endpoint queue schedule_id response_status".split():
                self.assertIsNone(getattr(log, absent), absent)

    async def test_failed(self):
        dead = await self.fail_message()
        await self.reaches(dead.message_id, FAILED)
        failed, error, active, created = await self.list(message_id=dead.message_id)
        self.assertEqual((failed.error, error.error), ("400 Bad Request", "400 Bad Request"))
        self.assertEqual(error.response_status, 400)
        self.assertEqual(decode(error.response_body), "Bad things")
        self.assertEqual(error.response_headers["X-Why"], ["because"])
        for log in (active, created):
            self.assertEqual((log.error, log.response_status, log.flow_control, log.label), (None, None, None, None))

    async def test_retry(self):
        self.endpoint.answer("/retry", status=500)
        published = await self.client.message.publish(url=self.endpoint.url("/retry"), retry_delay="3600000")
        await self.reaches(published.message_id, ["CREATED", "ACTIVE", "ERROR", "RETRY"])
        (log,) = await self.list(message_id=published.message_id, state=LogState.RETRY)
        self.assertAround(log.next_delivery_time - 3600_000)

    async def test_canceled(self):
        published = await self.client.message.publish(url="https://example.com", delay=60)
        await self.client.message.cancel(published.message_id)
        (log,) = await self.list(message_id=published.message_id, state=LogState.CANCELED)
        self.assertIs(log.state, LogState.CANCELED)
        (log,) = await self.list(message_id=published.message_id, state=LogState.CANCEL_REQUESTED)
        self.assertIs(log.state, LogState.CANCEL_REQUESTED)

    async def test_state(self):
        published = await self.client.message.publish(url=self.endpoint.url("/state"))
        await self.reaches(published.message_id, DELIVERED)
        (log,) = await self.list(message_id=published.message_id, state=LogState.DELIVERED)
        self.assertEqual(log.message_id, published.message_id)
        self.assertEqual(await self.list(message_id=published.message_id, state=LogState.FAILED), [])
        (log,) = await self.list(message_id=published.message_id, state=LogState.IN_PROGRESS)
        self.assertIs(log.state, LogState.ACTIVE)

    async def test_filters(self):
        from_ = now()
        labels = {name: unique(name) for name in ("a", "b")}
        queue = unique("queue")
        await self.client.queue.upsert(queue, paused=True)
        ids = {}
        for name, label in labels.items():
            url = f"https://{label}.example.com/"
            ids[name] = (await self.client.message.publish(url=url, delay=60, label=label)).message_id
        url = "https://queue.example.com/"
        ids["q"] = (await self.client.message.enqueue(queue=queue, url=url)).message_id
        for filter, want in [
            ({"message_ids": [ids["a"], ids["q"]]}, "aq"),
            ({"message_ids": [ids["b"], "msg_unknown"]}, "b"),
            ({"url": f"https://{labels['a']}.example.com/"}, "a"),
            ({"label": labels["b"]}, "b"),
            ({"queue": queue}, "q"),
            ({"url_group": unique("none")}, ""),
            ({"schedule_id": unique("none")}, ""),
            ({"from_time": from_}, "abq"),
            ({"from_time": from_ + 3600_000}, ""),
            ({"to_time": from_ - 1}, ""),
            ({"from_time": from_, "to_time": from_ + 3600_000, "label": labels["a"]}, "a"),
            ({"queue": queue, "label": labels["a"]}, ""),
        ]:
            found = {log.message_id for log in await self.list(**filter)}
            self.assertEqual("".join(name for name, id in ids.items() if id in found), want, filter)
        await self.client.queue.delete(queue)

    async def test_pages(self):
        label = unique("label")
        for _ in range(3):
            published = await self.client.message.publish(url=self.endpoint.url("/pages"), label=label)
            await self.reaches(published.message_id, DELIVERED)
        whole = await self.client.log.list(filter={"label": label})
        self.assertIsNone(whole.cursor)
        self.assertEqual(len(whole.logs), 9)
        paged, cursor = [], None
        for _ in range(5):
            page = await self.client.log.list(count=2, cursor=cursor, filter={"label": label})
            self.assertLessEqual(len(page.logs), 2)
            paged += page.logs
            cursor = page.cursor
            if cursor is None:
                break
        self.assertIsNone(cursor)
        self.assertEqual(
            [(log.message_id, log.state) for log in paged], [(log.message_id, log.state) for log in whole.logs]
        )

    async def test_bad(self):
        for kwargs in ({"count": 0}, {"cursor": "nonsense"}):
            with self.assertRaisesRegex(QStashError, "400"):
                await self.client.log.list(**kwargs)
