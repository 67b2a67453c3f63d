"""The harness is strict: what it excuses, and what it does not."""

import pytest

from . import known, runner

RUN = runner.Run("test_threads", runner.VARIANTS["own"])
TEST = "test_threads.ToThreadTests.test_to_thread"


@pytest.fixture
def judge(monkeypatch):
    """Return a function that judges TEST from its kinds on the two loops."""

    def judge(ours, stdlib="pass", listed=(), other=(), **entry):
        class Gathering:
            def __init__(self, run, loop, only, entries=(), faults=None):
                self.kind = ours if loop == "aioloop" else stdlib

            def gather(self):
                outcomes = {TEST: runner.Outcome(self.kind)}
                return runner.Results(outcomes, list(other))

        monkeypatch.setattr(runner, "Gathering", Gathering)
        entries = tuple(known.Known(test, "a reason", **entry) for test in listed)
        monkeypatch.setattr(known, "KNOWN", entries)
        return runner.judge(RUN)

    return judge


def titles(judgement):
    return [title for title, text in judgement.errors]


def test_a_pass_is_no_error(judge):
    assert titles(judge("pass")) == []


@pytest.mark.parametrize("kind", ["fail", "hang", "crash", "lost", "skip"])
def test_what_only_the_stdlib_passes_is_an_error(judge, kind):
    ((title, text),) = judge(kind).errors
    assert title.startswith(kind.upper())
    assert TEST in title + text


@pytest.mark.parametrize(
    ("ours", "stdlib"), [("fail", "fail"), ("fail", "hang"), ("hang", "hang")]
)
def test_what_fails_on_both_loops_is_reported_only(judge, ours, stdlib):
    judgement = judge(ours, stdlib)
    assert judgement.also_on_stdlib == [TEST]
    assert titles(judgement) == []
    assert f"fails on asyncio too: {TEST}" in judgement.report()


def test_a_hang_is_not_excused_by_a_failure(judge):
    assert titles(judge("hang", "fail"))[0].startswith("HANG")


def test_a_skip_on_both_loops_is_no_error(judge):
    assert titles(judge("skip", "skip")) == []


@pytest.mark.parametrize("stdlib", ["fail", "crash", "lost", "skip"])
@pytest.mark.parametrize("ours", ["crash", "lost"])
def test_a_crash_or_a_loss_is_never_excused(judge, ours, stdlib):
    ((title, text),) = judge(ours, stdlib).errors
    assert title.startswith(ours.upper())
    assert TEST in title + text


@pytest.mark.parametrize("listed", [TEST, "test_threads.ToThreadTests"])
@pytest.mark.parametrize("kind", ["fail", "hang", "skip"])
def test_a_listed_test_may_fail(judge, kind, listed):
    judgement = judge(kind, listed=[listed])
    assert titles(judgement) == []
    assert judgement.expected == [TEST]


def test_a_listed_test_that_passes_is_an_error(judge):
    assert titles(judge("pass", listed=[TEST])) == [f"LISTED BUT PASSES {TEST}"]


def test_a_listed_test_that_crashes_is_an_error(judge):
    assert titles(judge("crash", listed=[TEST])) == [f"CRASH {TEST}"]


def test_a_race_may_pass_and_may_fail(judge):
    assert titles(judge("pass", listed=[TEST], sometimes=True)) == []
    assert titles(judge("fail", listed=[TEST], sometimes=True)) == []


@pytest.mark.parametrize("hard", [False, True])
def test_an_entry_for_the_hard_build_excuses_nothing_in_others(
    judge, monkeypatch, hard
):
    monkeypatch.setattr(runner, "HARD", hard)
    errors = titles(judge("fail", listed=[TEST], hard=True))
    assert errors == ([] if hard else [f"FAIL {TEST}"])


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_what_fails_with_other_faults_on_the_stdlib_is_excused(monkeypatch, passes):
    """The stdlib's loop meets several patterns of faults, until the test fails."""
    met = []

    class Gathering:
        def __init__(self, run, loop, only, entries=(), faults=None):
            met.append(faults)

        def gather(self):
            kind = "pass" if len(met) <= passes else "fail"
            return runner.Results({TEST: runner.Outcome(kind)})

    monkeypatch.setattr(runner, "Gathering", Gathering)
    monkeypatch.setattr(runner, "FAULT_PHASES", (0, 4, 8))
    results = runner.run_on_stdlib(RUN, {TEST})
    assert met == [0, 4, 8][: passes + 1]
    assert results.outcomes[TEST].kind == ("fail" if passes < 3 else "pass")


def test_an_entry_that_matches_nothing_is_an_error(judge):
    absent = "test_threads.ToThreadTests.test_to"
    assert titles(judge("pass", listed=[absent])) == [f"LISTED BUT ABSENT {absent}"]


def test_a_failing_fixture_is_excused_only_if_the_stdlib_has_it_too(judge):
    other = [("setUpModule", "a traceback")]
    judgement = judge("pass", other=other)
    assert judgement.also_on_stdlib == ["setUpModule"]
    assert titles(judgement) == []


def test_the_end_of_a_worker_between_tests_is_never_excused(judge):
    other = [(runner.BETWEEN_TESTS, "exit status 1")]
    assert titles(judge("pass", other=other)) == ["OUTSIDE OF TESTS between two tests"]


def test_every_known_entry_is_unique_and_gives_its_reason():
    tests = [
        (entry.test, entry.variants, minor)
        for entry in known.KNOWN
        for minor in range(entry.since[1], entry.until[1] + 1)
    ]
    assert len(tests) == len(set(tests))
    for entry in known.KNOWN:
        assert entry.reason.endswith(".")
        assert known.FIRST <= entry.since <= entry.until <= known.LAST
        assert set(entry.variants) <= set(runner.VARIANTS)
