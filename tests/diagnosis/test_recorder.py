"""The flight recorder: the last callbacks, and the trace for Perfetto."""

import asyncio
import json
import time

import aioloop

SLOTS = 4096
CLOCKS_DIFFER = 5e-6


def sleeper():
    time.sleep(0.02)


def test_what_ran_last_and_for_how_long():
    async def main():
        loop = asyncio.get_running_loop()
        assert loop.recent_callbacks() == []
        loop.metering = True
        await asyncio.sleep(0)
        before = loop.time()
        loop.call_soon(sleeper)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        step, slept, waited = loop.recent_callbacks()[-3:]
        assert "sleeper" in slept["name"]
        assert slept["file"] == __file__
        assert slept["line"] == sleeper.__code__.co_firstlineno
        assert slept["kind"] == "callback"
        assert slept["duration"] >= 0.02
        assert before - 1 < step["when"] <= slept["when"] <= waited["when"]
        assert waited["when"] <= loop.time()
        assert waited["queue_delay"] >= 0.02
        assert (step["kind"], step["name"]) == ("task", waited["name"])

    aioloop.run(main())


def test_its_clock_is_that_of_the_loop():
    """Whatever clock the recorder reads, callbacks that read loop.time() agree."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.metering = True
        await asyncio.sleep(0)
        times = []
        done = loop.create_future()

        def read():
            times.append(loop.time())
            if times[-1] > times[0] + 0.02:
                done.set_result(None)
            else:
                loop.call_soon(read)

        loop.call_soon(read)
        await done
        slots = [slot for slot in loop.recent_callbacks() if "read" in slot["name"]]
        assert slots
        for slot, seen in zip(reversed(slots), reversed(times), strict=False):
            assert slot["when"] - CLOCKS_DIFFER < seen
            assert seen < slot["when"] + slot["duration"] + CLOCKS_DIFFER

    aioloop.run(main())


def test_it_keeps_the_last_4096():
    async def main():
        loop = asyncio.get_running_loop()
        loop.metering = True
        await asyncio.sleep(0)
        loop.call_soon(sleeper)
        for _ in range(SLOTS + 100):
            await asyncio.sleep(0)
        recent = loop.recent_callbacks()
        assert len(recent) == SLOTS
        assert not any("sleeper" in slot["name"] for slot in recent)
        whens = [slot["when"] for slot in recent]
        assert whens == sorted(whens)

    aioloop.run(main())


def test_the_trace_is_what_perfetto_reads():
    async def main():
        loop = asyncio.get_running_loop()
        loop.metering = True
        await asyncio.sleep(0)
        loop.call_soon(sleeper)
        await asyncio.sleep(0.01)
        trace = json.loads(loop.chrome_trace())
        name, *slots = trace["traceEvents"]
        assert name["ph"] == "M"
        slept = next(slot for slot in slots if "sleeper" in slot["name"])
        assert slept["ph"] == "X"
        assert slept["dur"] >= 20_000
        assert {"ts", "pid", "tid", "cat", "args"} <= set(slept)

    aioloop.run(main())


def test_the_timeline_of_the_times():
    async def main():
        loop = asyncio.get_running_loop()
        loop.metering = True
        for _ in range(4):
            time.sleep(0.11)
            await asyncio.sleep(0)
        timeline = loop._read_timeline()
        assert len(timeline) >= 3
        first, last = timeline[0], timeline[-1]
        assert last[1] - first[1] >= 0.2e9
        assert last[2] - first[2] < 0.1e9

    aioloop.run(main())
