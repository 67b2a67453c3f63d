"""aioloop.gunicorn and aioloop.granian, with stand-ins for what they import.

tests/plugs runs them with the real packages.
"""

STAND_INS = """if True:
    import asyncio, sys, types

    def module(name, **names):
        sys.modules[name] = made = types.ModuleType(name)
        vars(made).update(names)
        return made

    class Worker:
        CONFIG_KWARGS = {"loop": "auto", "http": "auto"}

        def init_process(self):
            self._setup_event_loop()

        def _setup_event_loop(self):
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
"""


def test_it_imports_what_it_needs_when_it_is_asked(python):
    code = """if True:
        import sys
        import aioloop.gunicorn
        print("gunicorn" in sys.modules, dir(aioloop.gunicorn) == sorted(
            {*vars(aioloop.gunicorn), *aioloop.gunicorn.__all__}))
        for name in ["Worker", *aioloop.gunicorn.__all__]:
            sys.modules["gunicorn"] = sys.modules["uvicorn_worker"] = None
            sys.modules["aiohttp"] = None
            try:
                getattr(aioloop.gunicorn, name)
            except (AttributeError, ImportError) as error:
                print(type(error).__name__, error.name)
    """
    done = python("-c", code)
    assert done.stdout.splitlines() == [
        "False True",
        "AttributeError Worker",
        "ModuleNotFoundError gunicorn.workers",
        "ModuleNotFoundError aiohttp.worker",
        "ModuleNotFoundError uvicorn_worker",
    ], done.stderr


def test_each_worker_has_our_loop_and_installs_it(python):
    code = """if True:
        for name in ("gunicorn", "gunicorn.workers", "aiohttp"):
            module(name)
        module("gunicorn.workers.gasgi", ASGIWorker=Worker)
        module("uvicorn_worker", UvicornWorker=Worker)
        module("aiohttp.worker", GunicornWebWorker=Worker)
        import aioloop
        import aioloop.gunicorn as ours
        for name in ours.__all__:
            kind = getattr(ours, name)
            assert getattr(ours, name) is kind and issubclass(kind, Worker)
            worker = kind()
            worker.init_process()
            inner = asyncio.new_event_loop()
            print(kind.__module__, kind.__qualname__, kind.CONFIG_KWARGS["loop"],
                  type(worker.loop).__name__, type(inner).__name__)
            inner.close()
            worker.loop.close()
            aioloop.uninstall()
    """
    done = python("-W", "error", "-c", STAND_INS + code)
    assert done.stdout.splitlines() == [
        "aioloop.gunicorn ASGIWorker auto Loop Loop",
        "aioloop.gunicorn AiohttpWorker auto Loop Loop",
        "aioloop.gunicorn UvicornWorker aioloop:new_event_loop Loop Loop",
    ], done.stderr


def test_granians_loop_auto_is_ours(python):
    code = """if True:
        class Loops(dict):
            def register(self, name):
                return lambda build: self.setdefault(name, build)

        loops = Loops()
        module("granian", loops=loops)
        module("granian.cli", entrypoint=lambda: print("entered", sys.argv))
        import aioloop.granian
        loop = loops["auto"]()
        print(list(loops), type(loop).__name__)
        loop.close()
        import runpy
        sys.argv = ["granian", "app:app"]
        runpy.run_module("aioloop.granian", run_name="__main__")
    """
    done = python("-W", "ignore::RuntimeWarning", "-c", STAND_INS + code)
    assert done.stdout.splitlines() == [
        "['auto'] Loop",
        "entered ['granian', 'app:app']",
    ]
