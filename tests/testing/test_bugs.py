"""Ten classic bugs of asyncio programs, which asyncio's own order hides.

Each program passes first in, first out, always. Other orders of the same program fail,
and are found within so many seeds; the seed repeats it.
"""

import asyncio

import pytest

from aioloop import testing

SEEDS = 40


async def steps(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def lost_update():
    balance = 100

    async def deposit(later, amount):
        nonlocal balance
        await steps(later)
        before = balance
        await steps(1)  # the database
        balance = before + amount

    await asyncio.gather(deposit(0, 10), deposit(1, 20))
    assert balance == 130


async def check_then_act_on_a_dict():
    values = {}

    async def load():
        await asyncio.sleep(1)
        values["key"] = 7

    async def get():
        if "key" not in values:
            await asyncio.create_task(load())
        return values["key"]

    async def expire():
        await asyncio.sleep(1)
        values.clear()

    await asyncio.gather(expire(), get())


async def cancellation_that_leaks_a_connection():
    free = ["a connection"]

    async def query():
        connection = free.pop()
        await asyncio.sleep(1)
        free.append(connection)  # not in a `finally`

    await asyncio.wait([asyncio.create_task(query())])
    assert free


async def timeout_that_races_with_the_result():
    answers = []

    async def fetch():
        await asyncio.sleep(30)
        answers.append("result")

    async def give_up():
        await asyncio.sleep(30)
        if not answers:
            answers.append("timeout")

    await asyncio.gather(fetch(), give_up())
    assert answers == ["result"]


async def event_set_before_anybody_waits():
    event = asyncio.Event()

    async def wait():
        await event.wait()

    async def pulse():
        event.set()
        event.clear()

    await asyncio.gather(wait(), pulse())


async def iteration_over_a_changing_set():
    clients = {"a", "b"}

    async def broadcast():
        for _ in clients:
            await steps(1)  # send

    async def join():
        await steps(2)
        clients.add("c")

    await asyncio.gather(broadcast(), join())


async def double_close():
    closed = []
    is_open = True

    async def close(later):
        nonlocal is_open
        await steps(later)
        if is_open:
            await steps(1)  # flush
            is_open = False
            closed.append(later)

    await asyncio.gather(close(0), close(1))
    assert len(closed) == 1


async def retry_storm():
    expired = True
    refreshes = 0

    async def request(later):
        nonlocal expired, refreshes
        await steps(later)
        if expired:
            refreshes += 1
            await steps(1)
            expired = False

    await asyncio.gather(*(request(i) for i in range(4)))
    assert refreshes == 1


async def shutdown_in_the_wrong_order():
    log = []
    is_open = True

    async def worker():
        await asyncio.sleep(1)
        if not is_open:
            raise ValueError("write to a closed log")
        log.append("done")

    async def shut_down():
        nonlocal is_open
        await asyncio.sleep(1)
        is_open = False

    await asyncio.gather(worker(), shut_down())


async def condition_without_a_loop_around_it():
    condition = asyncio.Condition()
    items = []

    async def consume(later):
        await steps(later)
        async with condition:
            if not items:  # should be `while`
                await condition.wait()
            items.pop()

    async def produce(later):
        await steps(later)
        async with condition:
            items.append("item")
            condition.notify()

    await asyncio.gather(consume(0), produce(0), consume(1), produce(5))


CANCEL = {"faults": testing.Faults(cancel=range(5))}
BUGS = [
    (lost_update, {}),
    (check_then_act_on_a_dict, {}),
    (cancellation_that_leaks_a_connection, CANCEL),
    (timeout_that_races_with_the_result, {}),
    (event_set_before_anybody_waits, {}),
    (iteration_over_a_changing_set, {}),
    (double_close, {}),
    (retry_storm, {}),
    (shutdown_in_the_wrong_order, {}),
    (condition_without_a_loop_around_it, {}),
]


# It takes more changes of priorities than the seeds of a test find.
NOT_BY_PCT = [condition_without_a_loop_around_it]


@pytest.mark.parametrize("order", ["seeded", "pct"])
@pytest.mark.parametrize(("bug", "options"), BUGS)
def test_a_bug_is_found_and_found_again(bug, options, order):
    testing.run(bug())
    if order == "pct" and bug in NOT_BY_PCT:
        return
    found = testing.explore(
        bug, order=order, seeds=range(SEEDS), length=20, first=True, **options
    )
    assert found
    [(seed, error)] = found.items()
    for _ in range(2):
        with pytest.raises(type(error)) as again:
            testing.run(bug(), order=order, seed=seed, length=20, **options)
        assert str(again.value).splitlines()[:1] == str(error).splitlines()[:1]
