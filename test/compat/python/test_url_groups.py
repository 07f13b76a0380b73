from qstash.errors import QStashError
from qstash.url_group import Endpoint

from support import CANCELED, DELIVERED, both, now, unique


@both
class UrlGroups:
    async def group(self, *endpoints):
        name = unique("group")
        await self.client.url_group.upsert_endpoints(name, list(endpoints))
        return name

    async def test_lifecycle(self):
        from_ = now()
        name = await self.group(
            {"name": "First endpoint", "url": "https://example.com/1"},
            {"name": "second", "url": "https://example.com/2"},
            {"url": "https://example.com/3"},
        )
        group = await self.client.url_group.get(name)
        self.assertEqual(group.name, name)
        self.assertTrue(from_ <= group.created_at <= group.updated_at <= now())
        self.assertEqual(
            group.endpoints,
            [
                Endpoint(name="First endpoint", url="https://example.com/1"),
                Endpoint(name="second", url="https://example.com/2"),
                Endpoint(name=None, url="https://example.com/3"),
            ],
        )
        self.assertIn(group, await self.client.url_group.list())
        removed = [{"name": "First endpoint"}, {"url": "https://example.com/3"}]
        self.assertIsNone(await self.client.url_group.remove_endpoints(name, removed))
        group = await self.client.url_group.get(name)
        self.assertEqual(group.endpoints, [Endpoint(name="second", url="https://example.com/2")])
        self.assertIsNone(await self.client.url_group.delete(name))
        self.assertNotIn(name, [group.name for group in await self.client.url_group.list()])
        with self.assertRaisesRegex(QStashError, f"404, body: .*topic {name} not found"):
            await self.client.url_group.get(name)
        await self.client.url_group.delete(name)

    async def test_the_last_endpoint_takes_the_group_along(self):
        name = await self.group({"name": "only", "url": "https://example.com"})
        await self.client.url_group.remove_endpoints(name, [{"name": "only"}])
        self.assertNotIn(name, [group.name for group in await self.client.url_group.list()])

    async def test_publish(self):
        name = await self.group(
            {"name": "one", "url": self.endpoint.url("/one")}, {"url": self.endpoint.url("/two")}
        )
        queue = unique("queue")
        for publish, kwargs in ((self.client.message.publish_json, {}), (self.client.message.enqueue_json, {"queue": queue})):
            id = unique("dedup")
            first, second = await publish(url_group=name, body=1, deduplication_id=id, **kwargs)
            self.assertEqual([first.url, second.url], [self.endpoint.url("/one"), self.endpoint.url("/two")])
            self.assertNotEqual(first.message_id, second.message_id)
            self.assertEqual([first.deduplicated, second.deduplicated], [False, False])
            again = await publish(url_group=name, body=1, deduplication_id=id, **kwargs)
            self.assertEqual([response.deduplicated for response in again], [True, True])
            self.assertEqual([response.message_id for response in again], [first.message_id, second.message_id])
            for response, endpoint in ((first, "one"), (second, None)):
                await self.reaches(response.message_id, DELIVERED)
                message = await self.client.message.get(response.message_id)
                self.assertEqual((message.url_group, message.endpoint), (name, endpoint))
        (request, _) = await self.endpoint.received("/one", 2)
        self.assertEqual(request.headers["upstash-topic-name"], name)
        logs = (await self.client.log.list(filter={"url_group": name})).logs
        self.assertEqual(len(logs), 12)
        self.assertEqual({(log.url_group, log.endpoint) for log in logs}, {(name, "one"), (name, None)})
        await self.client.url_group.delete(name)
        await self.client.queue.delete(queue)

    async def test_enqueue_with_content(self):
        name = await self.group({"url": self.endpoint.url("/a")}, {"url": self.endpoint.url("/b")})
        queue = unique("queue")
        responses = await self.client.message.enqueue(queue=queue, url_group=name, content_based_deduplication=True)
        self.assertEqual([response.deduplicated for response in responses], [False, False])
        for path in ("/a", "/b"):
            await self.endpoint.received(path)
        await self.client.queue.delete(queue)
        await self.client.url_group.delete(name)

    async def test_batch(self):
        name = await self.group({"url": "https://example.com/1"}, {"url": "https://example.com/2"})
        for batch in (self.client.message.batch, self.client.message.batch_json):
            group, single = await batch(
                [{"url_group": name, "delay": "1h"}, {"url": "https://example.com/3", "delay": "1h"}]
            )
            self.assertEqual([response.url for response in group], ["https://example.com/1", "https://example.com/2"])
            ids = [response.message_id for response in (*group, single)]
            self.assertEqual(await self.client.message.cancel_many(ids), 3)
            for id in ids:
                await self.reaches(id, CANCELED)
        await self.client.url_group.delete(name)

    async def test_dead_letter(self):
        self.endpoint.answer("/bad", status=400)
        name = await self.group({"name": "bad", "url": self.endpoint.url("/bad")})
        (response,) = await self.client.message.publish(url_group=name, retries=0)
        dead = await self.dead_letter(response.message_id)
        self.assertEqual((dead.url_group, dead.endpoint), (name, "bad"))
        (listed,) = (await self.client.dlq.list(filter={"url_group": name})).messages
        self.assertEqual(listed.dlq_id, dead.dlq_id)
        await self.client.url_group.delete(name)

    async def test_missing(self):
        name = unique("missing")
        with self.assertRaisesRegex(QStashError, f"404, body: .*topic {name} not found"):
            await self.client.message.publish(url_group=name)
        with self.assertRaisesRegex(QStashError, "404"):
            await self.client.url_group.remove_endpoints(name, [{"name": "a"}])
        with self.assertRaisesRegex(QStashError, "400"):
            await self.group({"url": "nope://x"})
