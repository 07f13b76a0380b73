from qstash.errors import QStashError
from qstash.flow_control_api import FlowControlInfo

from support import DELIVERED, both, eventually, unique


@both
class FlowControl:
    async def publish(self, path, key, **flow_control):
        published = await self.client.message.publish(
            url=self.endpoint.url(path), flow_control={"key": key, **flow_control}
        )
        return published.message_id

    async def test_get(self):
        key = unique("key")
        await self.client.message.publish(
            url="https://example.com", delay="1h", flow_control={"key": key, "parallelism": 3, "rate": 5, "period": 60}
        )
        info = await self.client.flow_control.get(key)
        self.assertIsInstance(info.rate_period_start, int)
        self.assertEqual(
            info,
            FlowControlInfo(
                key=key,
                wait_list_size=0,
                parallelism_max=3,
                parallelism_count=0,
                rate_max=5,
                rate_count=0,
                rate_period=60,
                rate_period_start=info.rate_period_start,
                is_paused=False,
                is_pinned_parallelism=False,
                is_pinned_rate=False,
            ),
        )
        with self.assertRaisesRegex(QStashError, "404, body: .*flow control key .* not found"):
            await self.client.flow_control.get(unique("missing"))

    async def test_parallelism(self):
        key = unique("key")
        release = self.endpoint.hold("/parallel")
        for _ in range(3):
            await self.publish("/parallel", key, parallelism=2)
        await self.endpoint.received("/parallel", 2)

        async def waiting():
            info = await self.client.flow_control.get(key)
            assert (info.parallelism_count, info.wait_list_size) == (2, 1), info
            overall = await self.client.flow_control.get_global_parallelism()
            assert overall.parallelism_count == 2, overall
            self.assertIsInstance(overall.parallelism_max, int)

        await eventually(waiting)
        release()
        await self.endpoint.received("/parallel", 3)

    async def test_pause(self):
        key = unique("key")
        self.assertIsNone(await self.client.flow_control.pause(key))
        self.assertIs((await self.client.flow_control.get(key)).is_paused, True)
        held = await self.publish("/held", key, parallelism=1)
        free = await self.publish("/free", unique("key"), parallelism=1)
        await self.reaches(free, DELIVERED)
        self.assertEqual(await self.states(held), ["CREATED"])
        self.assertIsNone(await self.client.flow_control.resume(key))
        self.assertIs((await self.client.flow_control.get(key)).is_paused, False)
        await self.reaches(held, DELIVERED)

    async def test_pin(self):
        key = unique("key")

        async def settings():
            info = await self.client.flow_control.get(key)
            return (info.parallelism_max, info.rate_max, info.rate_period, info.is_pinned_parallelism, info.is_pinned_rate)

        self.assertIsNone(await self.client.flow_control.pin(key, {"parallelism": 3, "rate": 20, "period": 120}))
        self.assertEqual(await settings(), (3, 20, 120, True, True))
        await self.publish("/pinned", key, parallelism=7, rate=9)
        self.assertEqual(await settings(), (3, 20, 120, True, True))
        self.assertIsNone(await self.client.flow_control.unpin(key, {"parallelism": True}))
        await self.publish("/pinned", key, parallelism=7, rate=9)
        self.assertEqual(await settings(), (7, 20, 120, False, True))
        await self.client.flow_control.unpin(key, {"parallelism": False, "rate": True})
        await self.publish("/pinned", key, parallelism=7, rate=9)
        self.assertEqual(await settings(), (7, 9, 1, False, False))
        with self.assertRaisesRegex(QStashError, "400"):
            await self.client.flow_control.pin(key, {"parallelism": 0})

    async def test_reset_rate(self):
        key = unique("key")
        first = await self.publish("/rate", key, rate=1, period="1h")
        second = await self.publish("/rate", key, rate=1, period="1h")
        await self.reaches(first, DELIVERED)

        async def waiting():
            info = await self.client.flow_control.get(key)
            assert (info.rate_count, info.wait_list_size) == (1, 1), info

        await eventually(waiting)
        self.assertEqual(await self.states(second), ["CREATED"])
        self.assertIsNone(await self.client.flow_control.reset_rate(key))
        await self.reaches(second, DELIVERED)
