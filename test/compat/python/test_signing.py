from qstash import Receiver
from qstash.errors import SignatureError

from support import both, raw


@both
class Signing:
    async def request(self, path="/signed?a=b", **kwargs):
        name = path.split("?")[0]
        before = len(self.endpoint.sent(name))
        await self.client.message.publish(url=self.endpoint.url(path), **kwargs)
        return (await self.endpoint.received(name, before + 1))[-1]

    def verify(self, request, keys, **changed):
        Receiver(current_signing_key=keys[0], next_signing_key=keys[1]).verify(
            **{
                "signature": request.headers["upstash-signature"],
                "body": request.body.decode(),
                "url": request.url,
                **changed,
            }
        )

    async def keys(self):
        pair = await self.client.signing_key.get()
        return pair.current, pair.next

    async def test_receiver(self):
        keys = await self.keys()
        for kwargs in ({"body": "täxt"}, {}):
            request = await self.request(**kwargs)
            self.verify(request, keys)
            self.verify(request, keys, url=None)
            self.verify(request, ("sig_other", keys[0]))
            for wrong in (
                {"body": request.body.decode() + " "},
                {"url": self.endpoint.url("/signed")},
                {"signature": request.headers["upstash-signature"][:-4] + "AAAA"},
            ):
                with self.assertRaises(SignatureError):
                    self.verify(request, keys, **wrong)
            with self.assertRaises(SignatureError):
                self.verify(request, ("sig_other", "sig_another"))

    async def test_rotate(self):
        old = await self.keys()
        before = await self.request()
        self.verify(before, old)
        rotated = await self.client.signing_key.rotate()
        self.assertEqual(rotated.current, old[1])
        self.assertRegex(rotated.next, "^sig_[1-9A-HJ-NP-Za-km-z]{28}$")
        self.assertNotIn(rotated.next, old)
        self.assertEqual(await self.keys(), (rotated.current, rotated.next))
        after = await self.request()
        self.verify(after, old)
        self.verify(after, (rotated.current, rotated.next))
        with self.assertRaises(SignatureError):
            self.verify(after, (old[0], old[0]))
        with self.assertRaises(SignatureError):
            self.verify(before, (rotated.current, rotated.next))

    async def test_rotate_by_its_other_name(self):
        _, next_key = await self.keys()
        status, body = await raw("POST", "/v2/rotate")
        self.assertEqual((status, body["current"]), (200, next_key))
