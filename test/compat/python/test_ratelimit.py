"""The server of this module has the limits of the free plan: 500 messages a day, 100 management requests a second."""

import asyncio
import http.client
import time
import urllib.parse

from qstash.errors import DailyMessageLimitExceededError, RateLimitExceededError

from support import BASE_URL, TOKEN, both, eventually


def exhaust():
    """Makes as many management requests as the plan allows in a second."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(BASE_URL).netloc)
    for _ in range(100):
        connection.request("GET", "/v2/globalParallelism", headers={"Authorization": f"Bearer {TOKEN}"})
        connection.getresponse().read()
    connection.close()


@both
class RateLimit:
    async def test_burst(self):
        async def burst():
            await asyncio.to_thread(exhaust)
            with self.assertRaises(RateLimitExceededError) as raised:
                await self.client.flow_control.get_global_parallelism()
            return raised.exception

        refusal = await eventually(burst)  # a second may end in between
        self.assertEqual((refusal.limit, refusal.remaining), ("100", "0"))
        self.assertLess(abs(int(refusal.reset) - time.time()), 10)

    async def test_daily(self):
        batch = [{"url": "https://example.com", "delay": "1d"}] * 100
        with self.assertRaises(DailyMessageLimitExceededError) as raised:
            for _ in range(6):  # fewer, when the other client was here before
                await self.client.message.batch(batch)
        self.assertEqual((raised.exception.limit, raised.exception.remaining), ("500", "0"))
        self.assertEqual(int(raised.exception.reset) % 86400, 0)
        with self.assertRaises(DailyMessageLimitExceededError):
            await self.client.message.publish(url="https://example.com", delay="1d")
