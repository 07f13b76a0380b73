from qstash.errors import QStashError

from support import BASE_URL, CURRENT_KEY, NEXT_KEY, both


@both
class Errors:
    async def test_wrong_token(self):
        client = self.connect(token="wrong")
        for call in (
            lambda: client.message.publish(url="https://example.com"),
            lambda: client.message.cancel_all(),
            lambda: client.log.list(),
            lambda: client.dlq.list(),
            lambda: client.queue.list(),
            lambda: client.schedule.list(),
            lambda: client.url_group.list(),
            lambda: client.flow_control.get("key"),
            lambda: client.signing_key.get(),
        ):
            with self.assertRaises(QStashError) as raised:
                await call()
            self.assertEqual(
                str(raised.exception),
                'Request failed with status: 401, body: {"error":"unable to authenticate: invalid token"}',
            )

    async def test_keys(self):
        keys = await self.client.signing_key.get()
        self.assertEqual((keys.current, keys.next), (CURRENT_KEY, NEXT_KEY))

    async def test_refused(self):
        url = "https://example.com"
        for kwargs, text in [
            ({"url": "ftp://example.com"}, "400.*endpoint has invalid scheme, add http:// or https://"),
            ({"url": "example.com"}, "404.*topic example.com not found"),
            ({"url": ""}, "400.*a non-empty destination must be provided"),
            ({"url": url, "delay": "10"}, r"400.*invalid Upstash-Delay header: time: missing unit in duration"),
            ({"url": url, "retries": 1000}, "400.*quota maxRetries exceeded, current limit: 999"),
            ({"url": url, "retry_delay": "pow("}, "400.*invalid Upstash-Retry-Delay header"),
            ({"url": url, "flow_control": {"key": "key"}}, "400.*Upstash-Flow-Control-Value"),
            ({"url": url, "flow_control": {"key": "key", "rate": 0}}, "400.*Upstash-Flow-Control-Value"),
            ({"url": url, "callback": "nope"}, "400.*[Cc]allback"),
        ]:
            with self.assertRaisesRegex(QStashError, text, msg=kwargs):
                await self.client.message.publish(**kwargs)
        with self.assertRaisesRegex(QStashError, "400"):
            await self.client.message.enqueue(queue="bad%20name", url=url)

    async def test_a_server_with_a_slash_at_its_end(self):
        client = self.connect(base_url=f"{BASE_URL}/")
        await client.message.publish(url=self.endpoint.url("/slash"))
        await self.endpoint.received("/slash")

    async def test_a_server_that_is_away(self):
        waits = []
        retry = {"retries": 2, "backoff": lambda n: waits.append(n) or 1}
        client = self.connect(base_url="http://127.0.0.1:1", retry=retry)
        with self.assertRaises(Exception) as raised:
            await client.queue.list()
        self.assertNotIsInstance(raised.exception, QStashError)
        self.assertEqual(waits, [0, 1, 2])
