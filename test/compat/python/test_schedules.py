from qstash.errors import QStashError
from qstash.message import FlowControlProperties
from qstash.schedule import ScheduleState

from support import DELIVERED, both, eventually, now, unique

YEARLY = "0 0 1 1 *"  # does not fire during a test


@both
class Schedules:
    async def asyncTearDown(self):
        for schedule in await self.client.schedule.list():
            await self.client.schedule.delete(schedule.schedule_id)

    async def create(self, **kwargs):
        return await self.client.schedule.create(**{"destination": "https://example.com", "cron": YEARLY, **kwargs})

    async def test_nothing_is_added(self):
        from_ = now()
        id = await self.create()
        self.assertRegex(id, "^scd_[1-9A-HJ-NP-Za-km-z]{28}$")
        schedule = await self.client.schedule.get(id)
        self.assertEqual(schedule.schedule_id, id)
        self.assertEqual(schedule.cron, YEARLY)
        self.assertEqual(schedule.destination, "https://example.com")
        self.assertEqual(schedule.method, "POST")
        self.assertEqual(schedule.retries, 3)
        self.assertEqual(schedule.caller_ip, "127.0.0.1")
        self.assertIs(schedule.paused, False)
        self.assertTrue(from_ <= schedule.created_at <= now())
        self.assertGreater(schedule.next_schedule_time, now())
        for absent in (
            "body body_base64 headers callback_headers failure_callback_headers retry_delay_expression callback"
            " failure_callback queue delay timeout flow_control last_schedule_time last_schedule_states error label"
        ).split():
            self.assertIsNone(getattr(schedule, absent), absent)

    async def test_options(self):
        queue = unique("queue")
        id = await self.client.schedule.create_json(
            destination="https://example.com/path?a=b",
            cron="*/10 * * * *",
            body={"ex_key": "ex_value"},
            method="PUT",
            headers={"A": "1"},
            callback_headers={"Forward-B": "2"},
            failure_callback_headers={"Forward-C": "3"},
            retries=5,
            retry_delay="7000 * retried",
            callback="https://example.com/callback/?foo=bar",
            failure_callback="https://example.com/failure/?foo=bar",
            delay=10,
            timeout="1m",
            schedule_id=unique("schedule"),
            queue=queue,
            flow_control={"key": "schedule", "parallelism": 3, "rate": 4, "period": "1m"},
            label="test-label",
        )
        schedule = await self.client.schedule.get(id)
        self.assertEqual(schedule.cron, "*/10 * * * *")
        self.assertEqual(schedule.destination, "https://example.com/path?a=b")
        self.assertEqual(schedule.body, '{"ex_key": "ex_value"}')
        self.assertEqual(schedule.method, "PUT")
        self.assertEqual(schedule.headers, {"A": ["1"], "Content-Type": ["application/json"]})
        self.assertEqual(schedule.callback_headers, {"B": ["2"]})
        self.assertEqual(schedule.failure_callback_headers, {"C": ["3"]})
        self.assertEqual(schedule.retries, 5)
        self.assertEqual(schedule.retry_delay_expression, "7000 * retried")
        self.assertEqual(schedule.callback, "https://example.com/callback/?foo=bar")
        self.assertEqual(schedule.failure_callback, "https://example.com/failure/?foo=bar")
        self.assertEqual(schedule.delay, 10)
        self.assertEqual(schedule.timeout, 60_000)
        self.assertEqual(schedule.queue, queue)
        self.assertEqual(schedule.label, "test-label")
        self.assertEqual(schedule.flow_control, FlowControlProperties(key="schedule", parallelism=3, rate=4, period=60))
        self.assertEqual(await self.client.schedule.list(), [schedule])

    async def test_lifecycle(self):
        ids = [await self.create(), await self.create(schedule_id=unique("named"))]
        self.assertEqual([schedule.schedule_id for schedule in await self.client.schedule.list()], ids)
        self.assertIsNone(await self.client.schedule.pause(ids[0]))
        self.assertIs((await self.client.schedule.get(ids[0])).paused, True)
        self.assertIsNone(await self.client.schedule.resume(ids[0]))
        self.assertIs((await self.client.schedule.get(ids[0])).paused, False)
        self.assertIsNone(await self.client.schedule.delete(ids[0]))
        self.assertEqual([schedule.schedule_id for schedule in await self.client.schedule.list()], ids[1:])
        with self.assertRaisesRegex(QStashError, f"404, body: .*schedule {ids[0]} not found"):
            await self.client.schedule.get(ids[0])

    async def test_overwrite(self):
        id = unique("schedule")
        self.assertEqual(await self.create(schedule_id=id, body="first", label="first", delay="1m"), id)
        self.assertEqual((await self.client.schedule.get(id)).body, "first")
        await self.create(schedule_id=id, cron="@daily", destination="https://example.com/other")
        schedule = await self.client.schedule.get(id)
        self.assertEqual((schedule.cron, schedule.destination), ("@daily", "https://example.com/other"))
        self.assertEqual((schedule.body, schedule.label, schedule.delay), (None, None, None))
        self.assertEqual(len(await self.client.schedule.list()), 1)

    async def test_fires(self):
        id = await self.create(
            destination=self.endpoint.url("/fire"),
            cron="@every 1s",
            body="tick",
            content_type="text/plain",
            headers={"A": "1"},
            label="fired",
        )
        request, *_ = await self.endpoint.received("/fire")
        await self.client.schedule.pause(id)
        self.assertEqual(request.body, b"tick")
        self.assertEqual(request.headers["content-type"], "text/plain")
        self.assertEqual(request.headers["a"], "1")
        self.assertEqual(request.headers["upstash-schedule-id"], id)
        message = await self.client.message.get(request.headers["upstash-message-id"])
        self.assertEqual((message.schedule_id, message.label), (id, "fired"))
        await self.reaches(message.message_id, DELIVERED)
        logs = (await self.client.log.list(filter={"schedule_id": id})).logs
        self.assertIn(message.message_id, {log.message_id for log in logs})
        self.assertEqual({log.schedule_id for log in logs}, {id})

        async def told():
            schedule = await self.client.schedule.get(id)
            assert list(schedule.last_schedule_states.values()) == [ScheduleState.SUCCESS]
            self.assertAround(schedule.last_schedule_time)

        await eventually(told)

    async def test_fires_at_a_queue_that_fails(self):
        queue = unique("queue")
        self.endpoint.answer("/fail", status=400)
        id = await self.create(destination=self.endpoint.url("/fail"), cron="@every 1s", queue=queue, retries=0)
        request, *_ = await self.endpoint.received("/fail")
        await self.client.schedule.pause(id)
        dead = await self.dead_letter(request.headers["upstash-message-id"])
        self.assertEqual((dead.queue, dead.schedule_id), (queue, id))

        async def told():
            schedule = await self.client.schedule.get(id)
            assert list(schedule.last_schedule_states.values()) == [ScheduleState.FAIL]

        await eventually(told)
        await self.client.queue.delete(queue)

    async def test_redact(self):
        secret = unique("secret")
        id = await self.create(body=secret, headers={"Authorization": secret}, redact={"body": True, "header": True})
        schedule = await self.client.schedule.get(id)
        self.assertNotIn(secret, repr(schedule))
        self.assertRegex(schedule.body, "^REDACTED:[0-9a-f]{64}$")
        self.assertRegex(schedule.headers["Authorization"][0], "^REDACTED:")

    async def test_refused(self):
        for kwargs, text in [
            ({"cron": "nonsense"}, "400.*Invalid cron expression"),
            ({"destination": "nope://x"}, "400.*invalid scheme"),
            ({"destination": "no-group"}, "404.*topic no-group not found"),
            ({"schedule_id": "a b"}, "400"),
        ]:
            with self.assertRaisesRegex(QStashError, text):
                await self.create(**kwargs)
        self.assertEqual(await self.client.schedule.list(), [])
