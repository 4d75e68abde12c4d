"""Runs core tests where there is no pytest: executed by MicroPython (1.25 and newer) itself.

    micropython tests/run_on_micropython.py tests/core/test_frame.py ...

Imports each file and calls its ``test_*`` functions in the order of their names (MicroPython
keeps no order of definition). Prints ``ok NAME`` or ``FAIL NAME`` with the traceback, then
``ran N failed N``; exits with 1 when one failed or when a file holds no test at all. A test that
is a coroutine function is run by asyncio. CPython runs this file too, for comparing.
"""

import sys


def split(path: str) -> tuple:
    """Folder and module name of a test file; "." for a bare file name."""
    folder, slash, name = path.rpartition("/")
    return (folder if slash else "."), name[: -len(".py")]


def prepare_path() -> None:
    """See the same import roots as pytest does (pythonpath in pyproject.toml)."""
    folder = split(__file__)[0]
    root = folder + "/.."
    for path in (folder + "/core", folder, root + "/device_lib", root):
        sys.path.insert(0, path)


def show(error: BaseException) -> None:
    if hasattr(sys, "print_exception"):
        sys.print_exception(error)
    else:
        sys.excepthook(type(error), error, error.__traceback__)


def call(test) -> None:
    outcome = test()
    if hasattr(outcome, "send"):
        import asyncio

        asyncio.run(outcome)


def run_file(path: str) -> tuple:
    """Run one file; return how many tests ran and how many failed."""
    folder, name = split(path)
    sys.path.insert(0, folder)
    ran = failed = 0
    try:
        module = __import__(name)
    except Exception as error:
        print("FAIL", name, "(import)")
        show(error)
        return 0, 1
    for attribute in sorted(dir(module)):
        test = getattr(module, attribute)
        if not attribute.startswith("test_") or not callable(test):
            continue
        ran += 1
        try:
            call(test)
            print("ok", attribute)
        except Exception as error:
            failed += 1
            print("FAIL", attribute)
            show(error)
    if not ran:
        print("FAIL", name, "(no test in it)")
        failed += 1
    return ran, failed


def main() -> int:
    prepare_path()
    ran = failed = 0
    for path in sys.argv[1:]:
        more, bad = run_file(path)
        ran += more
        failed += bad
    print("ran", ran, "failed", failed)
    return 1 if failed or not ran else 0


sys.exit(main())
