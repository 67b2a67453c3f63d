"""What a trace calls things: the same words in both loops and in each run.

What asyncio itself leaves to chance has no words: addresses, and the numbers of tasks'
default names, which go on from run to run.
"""

import asyncio
import re
import sys

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+|(?<=\.\.\.)x?[0-9a-f]{6,}(?=>)")
TASK = re.compile(r"\bTask-(\d+)\b")
# In 3.13.0 a task of a task factory is called "None" where aioloop leaves its name; in
# 3.12 one with a name of its own uses up a number there, and not in aioloop.
NO_NAME = re.compile(r"\b(Task--?\d+|None)\b")
# A method's qualified name has the class that defines it.
OF_LOOP = re.compile(r"\bBaseEventLoop\.")
# docs/differences.md, "a source traceback has the frames of asyncio's but ...": which
# frame is the innermost one depends on what of it is written in C.
SOURCE = re.compile(r",? created at [^\s>\]]+:\d+")
FRAMES = re.compile(r"\[<FrameSummary .*?>\]")
TRACEBACK = re.compile(r"(\w+_traceback: \w+ created at) \(most recent.*", re.DOTALL)
# A handle's arguments are abbreviated in the middle of what they say of that.
ABBREVIATED = re.compile(r"\.\.\.([^\s>]*:)?\d+>")
# The report of a cancelled task says in debug mode who cancelled it (docs/debug.md).
CANCELLED_FROM = re.compile(r"\ncancelled_from: .*?(?=\n\w+: |\Z)", re.DOTALL)
# docs/differences.md, "the report of a future's callback that switches debug mode".
REPORTED = re.compile(
    r"\n(source_traceback: Object|handle_traceback: Handle) created at(?= \(|$)",
    re.MULTILINE,
)
WHEN = re.compile(r"when=[-\d.e+]+")
DEEPEST = 5


class Words:
    def __init__(self, real_time):
        self.base = None  # the number of the last task before the program's first
        self.real_time = real_time
        self.switches = False  # whether the program changes debug mode
        self.depth = 0  # how deep the exception is that is put into words

    def clean(self, text):
        text = ADDRESS.sub("", text)
        # Our classes are in a module of their own.
        text = text.replace("aioloop.", "").replace("_core.", "")
        text = OF_LOOP.sub("Loop.", text)
        if "Coroutine created at" in text:
            text = text.partition("Coroutine created at")[0]
        if "cancelled_from" in text:
            text = CANCELLED_FROM.sub("", text)
        if "..." in text:
            text = ABBREVIATED.sub("...>", text)
        if "created at" in text:
            text = SOURCE.sub("", TRACEBACK.sub(r"\1", text))
        if "<FrameSummary" in text:
            text = FRAMES.sub("there", text)
        if self.switches and "Exception in callback" in text:
            text = REPORTED.sub("", text).replace(", 'source_traceback': there", "")
        if "Task-" in text:
            text = TASK.sub(self.task_name, text)
        if sys.version_info[:2] in ((3, 12), (3, 13)):
            text = NO_NAME.sub("?", text)
        if self.real_time and "when=" in text:
            text = WHEN.sub("when=?", text)
        return text

    def task_name(self, match):
        return f"Task-{int(match[1]) - self.base}"

    def of(self, value):
        """Return the words for what an operation gave."""
        if value is None or type(value) in (bool, int):
            return str(value)
        if type(value) is str:
            return self.clean(value)
        if isinstance(value, BaseException):
            return self.exception(value)
        if isinstance(value, (set, frozenset)):
            return "{" + ", ".join(sorted(map(self.of, value))) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(self.of, value)) + "]"
        if isinstance(value, dict):
            pairs = (f"{key}: {self.of(value)}" for key, value in value.items())
            return "{" + ", ".join(pairs) + "}"
        return self.clean(repr(value))

    def exception(self, exc, depth=2):
        # It may be in its own arguments, by way of a result.
        seen, self.depth = self.depth, self.depth + 1
        if seen > DEEPEST:
            self.depth = seen
            return type(exc).__name__
        try:
            return self.of_exception(exc, depth)
        finally:
            self.depth = seen

    def of_exception(self, exc, depth):
        words = f"{type(exc).__name__}({', '.join(map(self.of, exc.args))})"
        if isinstance(exc, BaseExceptionGroup):
            inner = (self.exception(one, depth) for one in exc.exceptions)
            words = f"{type(exc).__name__}({exc.message}: {', '.join(inner)})"
        if depth and exc.__cause__ is not None:
            words += f" from {self.exception(exc.__cause__, depth - 1)}"
        elif depth and exc.__context__ is not None and not exc.__suppress_context__:
            words += f" after {self.exception(exc.__context__, depth - 1)}"
        return words


def number_of_last_task(loop):
    """Return the number in the last default name, which this uses up."""

    async def name():
        return asyncio.current_task().get_name()

    return int(loop.run_until_complete(name()).partition("-")[2])
