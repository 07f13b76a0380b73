import datetime
import json
import time
import unittest
import urllib.request

from qstash import QStash, Receiver

from support import BASE_URL, unique


def dev(method, path, body=None):
    """Asks what only the development server has."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{BASE_URL}/dev/{path}", data=data, method=method)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


class Time(unittest.TestCase):
    def test_retries_until_the_dead_letter(self):
        """The story that the tests in Go and JavaScript tell, too: a destination that fails, retries that are not waited
        for, four attempts, a dead letter; in less than a second. It may be told three times, since other tests run
        beside it."""
        self.assertLess(min(self.story() for _ in range(3)), 1)

    def story(self):
        begin = time.monotonic()
        tenant = dev("POST", "tenants", {"name": "story"})
        client = QStash(tenant["token"], retry=False, base_url=BASE_URL)
        inbox = unique("story")
        dev("PUT", f"inbox/{inbox}/behaviour", {"failNext": 3, "status": 503, "body": "closed"})
        message_id = client.message.publish_json(
            url=f"{BASE_URL}/dev/inbox/{inbox}", body={"hello": "world"}, retries=3
        ).message_id
        dev("POST", "clock", {"advance": "1h"})

        entries = dev("GET", f"inbox/{inbox}")["entries"]
        self.assertEqual(
            [(e["attempt"], e["answeredWith"]) for e in entries], [(1, 500), (2, 500), (3, 500), (4, 503)]
        )
        receiver = Receiver(tenant["currentSigningKey"], tenant["nextSigningKey"])
        for e in entries:
            self.assertEqual(e["messageId"], message_id)
            self.assertEqual(e["signature"], {"valid": True})
            receiver.verify(signature=e["headers"]["Upstash-Signature"][0], body=e["body"], url=e["url"])
        at = [datetime.datetime.fromisoformat(e["at"][:19]).timestamp() for e in entries]
        for wait, want in zip((b - a for a, b in zip(at, at[1:])), (10, 30, 60)):
            self.assertAlmostEqual(wait, want, delta=2)

        dead = client.dlq.list().messages
        self.assertEqual(
            [(d.message_id, d.response_status, d.response_body) for d in dead], [(message_id, 503, "closed")]
        )
        return time.monotonic() - begin


if __name__ == "__main__":
    unittest.main()
