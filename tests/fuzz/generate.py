"""Programs drawn by lot."""

import random

EXCEPTIONS = (
    ["Odd"] * 8
    + ["ValueError"] * 4
    + ["KeyboardInterrupt", "SystemExit", "OddBase", "OddBase"]
    + ["CancelledError"] * 3
    + ["StopIteration", "StopAsyncIteration", "GeneratorExit"]
    + ["TimeoutError", "InvalidStateError"]
)
CLAUSES = ("Exception", "CancelledError", "BaseException", "TimeoutError")
DELAYS = (0, 0, 0, -1, 0.5, 1, 1, 1, 2, 3, 5)
TIMEOUTS = (None, 0, -1, 0.5, 1, 1, 2, 5)
FACTORIES = (
    "none",
    "none",
    "hashed",
    "hashed of asyncio",
    "own",
    "python",
    "eager",
    "eager",
    "eager hashed",
    "eager own",
    "fails",
)


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.size = self.random.choice((12, 25, 40, 60))
        # Each program draws its operations from a part of them, so that those it has
        # meet more often.
        self.sync = self.weights(SYNC)
        self.waiting = self.weights(WAITING)

    def weights(self, table):
        random = self.random
        weights = {
            name: weight * random.choice((0, 0, 0.5, 1, 1, 3))
            for name, weight in table.items()
        }
        for name in ("log", "sleep"):
            if name in weights:
                weights[name] = table[name]
        return list(weights), list(weights.values())

    def program(self):
        random = self.random
        clock = random.choice(("virtual", "real"))
        phases = []
        if random.random() < 0.3:
            handler = random.choice(("notes", "notes", "fails", "interrupts", "stops"))
            phases.append(("do", [("exception_handler", handler)]))
        if random.random() < 0.4:
            phases.append(("do", [("task_factory", random.choice(FACTORIES))]))
        if random.random() < 0.7:
            phases.append(("do", [("future", self.future_kind()) for _ in range(2)]))
        while self.size > 0:
            kind = random.choice(
                ("do", "do", "until", "until", "run", "turns", "future")
            )
            if kind == "do":
                phases.append(("do", self.body(0)))
            elif kind == "until":
                phases.append(("until", self.script(0)))
            elif kind == "turns":
                phases.append(("turns", random.randint(1, 6)))
            elif kind == "future":
                phases.append(("until_waitable", self.number()))
            else:
                phases.append(("run",))
            self.size -= 1
        return {"clock": clock, "phases": phases}

    # --- parts ----------------------------------------

    def number(self):
        # The newest ones, mostly: negative numbers count from the end.
        return self.random.choice((-1, -1, -2, -3, 0, 1, 2, 3, 4, 7))

    def length(self, depth):
        return self.random.choice((1, 2, 3, 4, 6)[: max(1, 5 - depth)])

    def body(self, depth):
        """Return operations that do not wait."""
        return [self.operation(depth) for _ in range(self.length(depth))]

    def operation(self, depth):
        self.size -= 1
        names, weights = self.sync
        name = self.random.choices(names, weights)[0]
        if (depth > 3 or self.size < 0) and name in NESTED:
            return ("log", self.random.randrange(100))
        return (
            name,
            *getattr(self, "draw_" + name, tuple)(*self.depth_of(name, depth)),
        )

    @staticmethod
    def depth_of(name, depth):
        return (depth + 1,) if name in NESTED else ()

    def script(self, depth):
        """Return operations of a task."""
        body = []
        for _ in range(self.length(depth) + 1):
            if self.random.random() < 0.4:
                body.append(self.operation(depth))
                continue
            self.size -= 1
            names, weights = self.waiting
            name = self.random.choices(names, weights)[0]
            if (depth > 3 or self.size < 0) and name in NESTED:
                body.append(("sleep", 0))
                continue
            draw = getattr(self, "wait_" + name, tuple)
            body.append((name, *draw(*self.depth_of(name, depth))))
        return body

    def future_kind(self):
        return self.random.choice(("loop", "loop", "loop", "asyncio", "odd", "python"))

    def context_number(self):
        return self.random.choice((None, None, None, 0, 1, 2))

    def kind(self):
        return self.random.randrange(3)

    def delay(self):
        return self.random.choice(DELAYS)

    def timeout(self):
        return self.random.choice(TIMEOUTS)

    def numbers(self):
        return tuple(self.number() for _ in range(self.random.choice((0, 1, 2, 2, 3))))

    def exception(self):
        return self.random.choice(EXCEPTIONS)

    # --- operations that do not wait ----------------------------------------

    def draw_log(self):
        return (self.random.randrange(100),)

    def draw_raise(self):
        return self.exception(), "text"

    def draw_call_soon(self, depth):
        return self.body(depth), self.context_number(), self.kind()

    def draw_call_soon_threadsafe(self, depth):
        return self.body(depth), self.context_number()

    def draw_call_later(self, depth):
        return self.delay(), self.body(depth), self.context_number(), self.kind()

    def draw_call_at(self, depth):
        return self.random.randint(0, 9), self.body(depth), self.kind()

    def draw_cancel_handle(self):
        return (self.number(),)

    draw_look_at_handle = draw_cancel_handle
    draw_drop_waitable = draw_cancel_handle

    def draw_compare_handles(self):
        return self.number(), self.number()

    def draw_variable(self):
        return (self.random.choice("abc"),)

    def draw_in_context(self, depth):
        return self.random.randrange(3), self.body(depth)

    def draw_set_debug(self):
        return (self.random.random() < 0.5,)

    def draw_task_factory(self):
        return (self.random.choice(FACTORIES),)

    def draw_exception_handler(self):
        return (
            self.random.choice(
                ("none", "notes", "notes", "fails", "interrupts", "stops")
            ),
        )

    def draw_call_exception_handler(self):
        return ("called",)

    def draw_future(self):
        return (self.future_kind(),)

    def draw_set_result(self):
        return self.number(), self.random.randrange(10)

    def draw_set_exception(self):
        return self.number(), self.exception()

    draw_set_exception_class = draw_set_exception

    def draw_cancel(self):
        return self.number(), self.random.choice((None, None, "msg", "other"))

    draw_look = draw_cancel_handle
    draw_result = draw_cancel_handle
    draw_exception = draw_cancel_handle
    draw_uncancel = draw_cancel_handle
    draw_cancelling = draw_cancel_handle
    draw_stack = draw_cancel_handle
    draw_release = draw_cancel_handle
    draw_locked = draw_cancel_handle
    draw_get_nowait = draw_cancel_handle
    draw_task_done = draw_cancel_handle
    draw_look_at_queue = draw_cancel_handle
    draw_keep_shield = draw_cancel_handle

    def draw_add_done_callback(self, depth):
        return self.number(), self.body(depth), self.context_number(), self.kind()

    def draw_remove_done_callback(self):
        return self.number(), self.number()

    def draw_create_task(self, depth):
        kinds = ("create_task",) * 5 + (
            "ensure_future",
            "asyncio.Task",
            "eager",
            "eager",
        )
        return (
            self.script(depth),
            self.random.choice(kinds),
            self.random.random() < 0.6,
            self.context_number(),
        )

    def draw_name(self):
        return self.number(), self.random.choice("xyz")

    def draw_set_event(self):
        return self.number(), self.random.random() < 0.7

    def draw_notify(self):
        return self.number(), self.random.randint(1, 3)

    def draw_put_nowait(self):
        return self.number(), self.random.randrange(10)

    def draw_shut_queue(self):
        return self.number(), self.random.random() < 0.5

    def draw_reschedule(self):
        return self.number(), self.timeout()

    def draw_group_task(self, depth):
        return self.number(), self.script(depth)

    def draw_keep_gather(self):
        return self.numbers(), self.random.random() < 0.5

    def draw_generator(self, depth):
        return (self.bodies(depth),)

    def bodies(self, depth):
        return [self.script(depth) for _ in range(self.random.choice((0, 1, 2, 2, 3)))]

    # --- operations that wait ----------------------------------------

    def wait_sleep(self):
        return (self.delay(),)

    wait_waitable = draw_cancel_handle
    wait_shield = draw_cancel_handle
    wait_acquire = draw_cancel_handle
    wait_condition = draw_cancel_handle
    wait_event = draw_cancel_handle
    wait_get = draw_cancel_handle
    wait_join = draw_cancel_handle
    wait_aclose = draw_cancel_handle
    wait_put = draw_put_nowait

    def wait_from(self, depth):
        return (self.script(depth),)

    def wait_wait_for(self):
        return self.number(), self.timeout()

    def wait_wait_for_body(self, depth):
        return self.script(depth), self.timeout()

    def wait_wait(self):
        when = ("FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED")
        return self.numbers(), self.timeout(), self.random.choice(when)

    def wait_gather(self, depth):
        return self.numbers(), self.bodies(depth), self.random.random() < 0.5

    def wait_as_completed(self):
        return self.numbers(), self.timeout()

    def wait_timeout(self, depth):
        return self.timeout(), self.script(depth)

    def wait_group(self, depth):
        return self.bodies(depth), self.script(depth)

    def wait_lock(self, depth):
        return self.number(), self.script(depth)

    def wait_condition_for(self):
        return self.number(), self.random.randint(0, 2)

    def wait_barrier_end(self):
        return (self.random.choice(("reset", "abort")),)

    def wait_try(self, depth):
        finally_body = self.script(depth) if self.random.random() < 0.3 else []
        return (
            self.script(depth),
            self.random.choice(CLAUSES),
            self.script(depth),
            finally_body,
        )

    def wait_repeat(self, depth):
        return self.random.randint(2, 4), self.script(depth)

    def wait_yields(self):
        what = self.random.choice(("none", "none", "int", "future", "self", "mixed"))
        return what, self.number()

    def wait_cancel_self(self):
        return (self.random.choice((None, "msg")),)

    def wait_next(self):
        return self.number(), self.random.choice((None, None, 5))

    def wait_throw(self):
        return self.number(), self.exception()

    def wait_iterate(self, depth):
        return self.bodies(depth), self.random.randint(0, 3)


SYNC = {
    "log": 3,
    "raise": 2,
    "call_soon": 6,
    "call_soon_threadsafe": 2,
    "call_later": 5,
    "call_at": 5,
    "cancel_handle": 3,
    "look_at_handle": 2,
    "compare_handles": 1,
    "drop_handles": 0.5,
    "drop_waitable": 1,
    "stop": 0.7,
    "close": 0.2,
    "nested": 0.3,
    "time": 1,
    "look_at_loop": 1,
    "current": 1,
    "variable": 2,
    "in_context": 1,
    "set_debug": 0.5,
    "task_factory": 0.7,
    "exception_handler": 0.5,
    "call_exception_handler": 0.5,
    "collect": 0.1,
    "future": 3,
    "set_result": 4,
    "set_exception": 2,
    "set_exception_class": 0.5,
    "cancel": 5,
    "look": 2,
    "result": 1,
    "exception": 1,
    "add_done_callback": 3,
    "remove_done_callback": 1,
    "create_task": 6,
    "uncancel": 2,
    "cancelling": 2,
    "name": 0.5,
    "stack": 0.5,
    "release": 2,
    "locked": 1,
    "set_event": 2,
    "notify": 2,
    "put_nowait": 2,
    "get_nowait": 2,
    "task_done": 1,
    "look_at_queue": 1,
    "shut_queue": 0.5,
    "look_at_barrier": 0.5,
    "reschedule": 1,
    "group_task": 1,
    "keep_gather": 1,
    "keep_shield": 1,
    "generator": 1,
    "drop_generators": 0.3,
}
WAITING = {
    "sleep": 8,
    "waitable": 6,
    "from": 1,
    "shield": 2,
    "wait_for": 3,
    "wait_for_body": 2,
    "wait": 2,
    "gather": 2,
    "as_completed": 1,
    "timeout": 3,
    "group": 2,
    "lock": 3,
    "acquire": 2,
    "condition": 1,
    "condition_for": 1,
    "event": 2,
    "put": 2,
    "get": 2,
    "join": 1,
    "barrier": 1,
    "barrier_end": 0.3,
    "try": 5,
    "repeat": 1,
    "yields": 1,
    "self": 0.3,
    "cancel_self": 1,
    "next": 2,
    "throw": 1,
    "aclose": 1,
    "iterate": 1,
    "shutdown_asyncgens": 0.2,
}
NESTED = {
    "call_soon",
    "call_soon_threadsafe",
    "call_later",
    "call_at",
    "in_context",
    "add_done_callback",
    "create_task",
    "group_task",
    "generator",
    "from",
    "wait_for_body",
    "gather",
    "timeout",
    "group",
    "lock",
    "try",
    "repeat",
    "iterate",
}
