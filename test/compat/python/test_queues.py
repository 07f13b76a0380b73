from qstash.errors import QStashError

from support import both, eventually, now, unique


@both
class Queues:
    async def test_lifecycle(self):
        name = unique("queue")
        from_ = now()
        self.assertIsNone(await self.client.queue.upsert(name, parallelism=2))
        queue = await self.client.queue.get(name)
        self.assertEqual((queue.name, queue.parallelism, queue.lag, queue.paused), (name, 2, 0, False))
        self.assertTrue(from_ <= queue.created_at <= queue.updated_at <= now())
        await self.client.queue.upsert(name, parallelism=3, paused=True)
        changed = await self.client.queue.get(name)
        self.assertEqual((changed.parallelism, changed.paused, changed.created_at), (3, True, queue.created_at))
        await self.client.queue.upsert(name)
        reset = await self.client.queue.get(name)
        self.assertEqual((reset.parallelism, reset.paused), (1, False))
        self.assertEqual(await self.client.queue.list(), [reset])
        self.assertIsNone(await self.client.queue.delete(name))
        self.assertEqual(await self.client.queue.list(), [])
        with self.assertRaisesRegex(QStashError, f"404, body: .*queue {name} not found"):
            await self.client.queue.get(name)
        await self.client.queue.delete(name)

    async def test_pause(self):
        name = unique("queue")
        await self.client.queue.upsert(name)
        self.assertIsNone(await self.client.queue.pause(name))
        self.assertIs((await self.client.queue.get(name)).paused, True)
        published = await self.client.message.enqueue(queue=name, url=self.endpoint.url("/paused"))
        await self.client.message.publish(url=self.endpoint.url("/meanwhile"))
        await self.endpoint.received("/meanwhile")
        self.assertEqual(await self.states(published.message_id), ["CREATED"])
        self.assertEqual((await self.client.queue.get(name)).lag, 1)
        self.assertIsNone(await self.client.queue.resume(name))
        self.assertIs((await self.client.queue.get(name)).paused, False)
        await self.endpoint.received("/paused")

        async def drained():
            assert (await self.client.queue.get(name)).lag == 0

        await eventually(drained)
        await self.client.queue.delete(name)

    async def test_missing(self):
        for call in (self.client.queue.pause, self.client.queue.resume):
            with self.assertRaisesRegex(QStashError, "404"):
                await call(unique("missing"))
        with self.assertRaisesRegex(QStashError, "400"):
            await self.client.queue.upsert("bad name")
        with self.assertRaisesRegex(QStashError, "400"):
            await self.client.queue.upsert(unique("queue"), parallelism=0)
