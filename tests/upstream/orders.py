"""The tests of asyncio's own that promise first in, first out: some orders fail them.

Each has the promise that it makes. They are no faults of a loop: on a loop of asyncio's
own that exchanges the same steps they fail, too (`python -m tests.upstream.seeds
--asyncio`). A name is a pattern of test ids: tests are inherited by several classes.
"""

ONE_ROUND = (
    "It takes one `await asyncio.sleep(0)` for as long as all other tasks need to come"
    " to their next await."
)
ROUND_OF_TASKS = (
    "It takes what is ready, steps of tasks and callbacks of those that have ended, for"
    " ordered as it was made ready."
)
CALLBACK_FIRST = (
    "It expects a callback of call_soon() before the next step of a task that became"
    " ready after that."
)

FIFO = {
    ONE_ROUND: (
        "test_locks.BarrierTests.test_abort_barrier",
        "test_locks.BarrierTests.test_filling_one_task_twice",
        "test_locks.BarrierTests.test_filling_task_by_task",
        "test_locks.BarrierTests.test_filling_tasks_cancel_one",
        "test_locks.BarrierTests.test_repr",
        "test_locks.BarrierTests.test_reset_barrier_while_tasks_waiting_and_waiting_again",
        "test_locks.ConditionTests.test_notify",
        "test_locks.ConditionTests.test_notify_all",
        "test_locks.ConditionTests.test_wait",
        "test_locks.ConditionTests.test_wait_cancel_after_notify",
        "test_locks.ConditionTests.test_wait_for",
        "test_locks.EventTests.test_clear_with_waiters",
        "test_locks.LockTests.test_cancel_race",
        "test_locks.LockTests.test_finished_waiter_cancelled",
        "test_locks.SemaphoreTests.test_acquire",
        "test_locks.SemaphoreTests.test_acquire_cancel_before_awoken",
        "test_queues.QueueBasicTests.test_maxsize",
        "test_queues.QueueBasicTests.test_repr",
        "test_queues.QueueBasicTests.test_str",
        "test_queues.QueueGetTests.test_get_cancelled_race",
        "test_queues.QueuePutTests.test_cancelled_puts_not_being_held_in_self_putters",
        "test_queues.QueuePutTests.test_put_cancelled_race",
        "test_locks.ConditionTests.test_cancelled_error_re_aquire",
        "test_locks.ConditionTests.test_cancelled_error_wakeup",
        "test_queues.*QueueShutdownTests.test_shutdown_empty",
        "test_queues.*QueueShutdownTests.test_shutdown_immediate",
        "test_queues.*QueueShutdownTests.test_shutdown_immediate_with_unfinished",
        "test_queues.*QueueShutdownTests.test_shutdown_nonempty",
        "test_taskgroups.TestTaskGroup.test_cancels_task_if_created_during_creation",
        "test_taskgroups.TestTaskGroup.test_taskgroup_cancel_keeps_outer_cancellation",
        "test_tasks.*.test_cancel_awaited_task",
        "test_tasks.*.test_cancel_traceback_for_future_exception",
        "test_tasks.*.test_cancel_traceback_for_future_result",
    ),
    ROUND_OF_TASKS: (
        "test_locks.EventTests.test_wait",
        "test_locks.LockTests.test_acquire",
        "test_locks.LockTests.test_cancel_release_race",
        "test_locks.SemaphoreTests.test_acquire_fifo_order",
        "test_locks.SemaphoreTests.test_acquire_fifo_order_2",
        "test_locks.SemaphoreTests.test_acquire_fifo_order_3",
        "test_locks.SemaphoreTests.test_acquire_fifo_order_4",
        "test_locks.SemaphoreTests.test_acquire_no_hang",
        "test_queues.QueueGetTests.test_get_with_waiting_putters",
        "test_taskgroups.*.test_taskgroup_cancel_one_winner",
        "test_taskgroups.TestTaskGroup.test_taskgroup_generator_exit_04",
    ),
    CALLBACK_FIRST: (
        "test_locks.ConditionTests.test_wait_cancel_contested",
        "test_taskgroups.*.test_exception_refcycles_propagate_cancellation_error",
        "test_taskgroups.*.test_taskgroup_without_parent_task",
        "test_tasks.SleepTests.test_sleep_zero",
        "test_timeouts.TimeoutTests.test_timeout_in_the_past_sleep_zero",
        "test_timeouts.TimeoutTests.test_timeout_without_task",
        "test_timeouts.TimeoutTests.test_timeout_zero_sleep_zero",
    ),
}
NAMES = tuple(name for names in FIFO.values() for name in names)
