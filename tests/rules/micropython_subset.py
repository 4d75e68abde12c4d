"""What MicroPython 1.25 cannot run, and what a small device must not do, seen in an AST.

Each rule is a function of one node that yields complaints. A size that was checked before may
be let through by a comment on its line that says so: ``# bounded: <why>``.
"""

import ast
import re
from collections.abc import Iterator

# csi and sensor are OpenMV's.
MODULES = set(
    "array asyncio binascii collections csi deflate errno fleetnet fleetnet_device gc hashlib "
    "heapq io json machine math micropython network ntptime os random re select sensor socket "
    "struct sys time tls uctypes vfs".split()
)
# Built-in on CPython only.
BUILTINS = set(
    "ConnectionError ConnectionResetError ConnectionRefusedError ConnectionAbortedError "
    "BrokenPipeError BlockingIOError InterruptedError TimeoutError FileNotFoundError "
    "FileExistsError PermissionError ExceptionGroup BaseExceptionGroup ModuleNotFoundError "
    "RecursionError Warning ResourceWarning DeprecationWarning breakpoint vars ascii aiter anext "
    "__builtins__".split()
)
# Missing from MicroPython's module of the same name.
MEMBERS = {
    "asyncio": "TaskGroup timeout timeout_at Queue Condition Semaphore BoundedSemaphore shield "
    "Future wait as_completed to_thread get_running_loop DatagramProtocol Protocol "
    "IncompleteReadError Runner Barrier run_coroutine_threadsafe ensure_future iscoroutine",
    "time": "monotonic monotonic_ns perf_counter perf_counter_ns strftime strptime get_clock_info "
    "process_time thread_time",
    "os": "path replace fsync environ walk scandir makedirs fdopen open write read",
    "struct": "Struct iter_unpack error",
    "hashlib": "new sha512 sha384 blake2b scrypt pbkdf2_hmac",
    "json": "JSONDecodeError JSONEncoder JSONDecoder",
    "collections": "Counter defaultdict ChainMap UserDict abc",
    "math": "prod gcd lcm isqrt comb perm dist nextafter ulp",
    "random": "Random SystemRandom gauss shuffle sample choices",
    "errno": "ENETUNREACH EPROTO",
    "sys": "getsizeof getrefcount setrecursionlimit stdlib_module_names flags",
    "gc": "freeze get_objects callbacks",
    "re": "IGNORECASE MULTILINE finditer findall fullmatch VERBOSE escape",
}
# Missing methods whose names belong to no other type that shared code uses.
METHODS = set(
    "bit_length bit_count hexdigest tobytes nbytes cast ljust rjust zfill removeprefix "
    "removesuffix isalnum isdecimal isidentifier isprintable casefold expandtabs translate "
    "maketrans swapcase title add_note with_traceback is_integer as_integer_ratio "
    "move_to_end __init_subclass__ __set_name__ __class_getitem__".split()
)
KEYWORDS = {
    "dumps": {"sort_keys", "indent", "default", "ensure_ascii", "cls"},
    "loads": {"object_hook", "parse_float", "cls", "object_pairs_hook"},
    "to_bytes": {"signed", "length", "byteorder"},
    "from_bytes": {"signed", "byteorder"},
    "zip": {"strict"},
    "decode": {"errors", "encoding"},
    "encode": {"errors", "encoding"},
    "split": {"maxsplit", "sep"},
}
# A name that says it is a number of bytes or items, as read from somewhere.
SIZE_NAME = re.compile(r"(^|_)(length|len|size|total|nbytes)$")
READERS = {"read", "recv", "readexactly", "recvfrom"}


def syntax(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Match):
        yield "match statement"
    if isinstance(node, ast.TryStar):
        yield "except*"
    if isinstance(node, ast.arguments) and node.posonlyargs:
        yield "positional-only parameters"
    if isinstance(node, ast.comprehension) and node.is_async:
        yield "async comprehension"
    if isinstance(node, ast.Dict) and None in node.keys:
        yield "{**mapping}"
    if isinstance(node, ast.List | ast.Tuple | ast.Set) and not stored(node):
        if any(isinstance(each, ast.Starred) for each in node.elts):
            yield "[*iterable]"
    if isinstance(node, ast.Raise) and node.cause is not None:
        yield "raise ... from (the cause is lost)"
    if isinstance(node, ast.ClassDef) and (node.keywords or len(node.bases) > 1):
        yield "class keywords or several base classes"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.step:
        yield "slice with a step (only lists and tuples have it)"


def stored(node: ast.List | ast.Tuple | ast.Set) -> bool:
    """Whether it is the left side of an assignment: ``first, *rest = ...`` works."""
    return not isinstance(node, ast.Set) and isinstance(node.ctx, ast.Store)


def modules(node: ast.AST) -> Iterator[str]:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        names = [node.module or ""]
        lacking = MEMBERS.get(node.module or "", "").split()
        for alias in node.names:
            if alias.name in lacking:
                yield f"{node.module}.{alias.name}"
    for name in names:
        top, dot, _ = name.partition(".")
        if top not in MODULES or (dot and not top.startswith("fleetnet")):
            yield f"module {name}"


def names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and node.id in BUILTINS:
        yield f"built-in {node.id}"
    if isinstance(node, ast.Attribute):
        if node.attr in METHODS:
            yield f"method {node.attr}"
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if node.attr in MEMBERS.get(owner, "").split():
            yield f"{owner}.{node.attr}"


def calls(node: ast.AST) -> Iterator[str]:
    if not isinstance(node, ast.Call):
        return
    name = called(node)
    for keyword in node.keywords:
        if keyword.arg in KEYWORDS.get(name, ()):
            yield f"{name}({keyword.arg}=)"
    if name in ("isinstance", "issubclass") and any(
        isinstance(argument, ast.BinOp) for argument in node.args
    ):
        yield "isinstance with A | B"


def last_name(node: ast.expr) -> str:
    """``c`` of ``a.b.c``, ``a`` of ``a``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def byte_buffers(tree: ast.Module) -> set[str]:
    """Names that a file binds to a bytearray somewhere."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            if called(node.value) == "bytearray":
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {last_name(target) for target in targets}
    return found - {""}


def deletions(node: ast.AST, buffers: set[str]) -> Iterator[str]:
    """A list can lose a slice, a bytearray cannot."""
    for target in node.targets if isinstance(node, ast.Delete) else []:
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice):
            name = last_name(target.value)
            if name in buffers or "buf" in name or name == "data":
                yield f"del of a slice of the bytearray {name}"


def called(node: ast.Call) -> str:
    """Last part of the name of what is called."""
    return last_name(node.func)


def unbounded(node: ast.expr) -> bool:
    """Whether an expression is a size that nothing in it holds down: ``length``, ``n * size``."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = last_name(node)
        return not name.isupper() and SIZE_NAME.search(name) is not None
    if isinstance(node, ast.BinOp):
        return unbounded(node.left) or unbounded(node.right)
    return False


def memory(node: ast.AST) -> Iterator[str]:
    """Buffers whose size comes from the wire: a peer must not choose what a device allocates."""
    if isinstance(node, ast.Call) and node.args and unbounded(node.args[0]):
        name = called(node)
        reads = name in READERS and isinstance(node.func, ast.Attribute)
        if reads or name in ("bytearray", "bytes"):
            yield f"{name}() sized by a variable: bound it with min() or a limit"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for data, size in ((node.left, node.right), (node.right, node.left)):
            repeated = isinstance(data, ast.List) or (
                isinstance(data, ast.Constant) and isinstance(data.value, bytes)
            )
            if repeated and unbounded(size):
                yield "a buffer repeated by a variable: bound it with min() or a limit"


def bracketed_with(node: ast.AST, lines: list[str]) -> Iterator[str]:
    if isinstance(node, ast.With | ast.AsyncWith) and len(node.items) > 1:
        line = lines[node.lineno - 1]
        if re.search(r"\bwith\s*\($", line.rstrip()) or re.search(r"\bwith\s*\(.*\)\s*:\s*$", line):
            yield "with (...): in brackets"


def reachable(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but what stands below ``if TYPE_CHECKING:``, which never runs."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING":
            continue
        yield from reachable(node)


def complaints(source: str) -> list[str]:
    """All complaints about one file, each as ``line: what``."""
    lines = source.splitlines()
    found = []
    tree = ast.parse(source)
    buffers = byte_buffers(tree)
    for node in reachable(tree):
        said = [*syntax(node), *modules(node), *names(node), *calls(node)]
        said += [*bracketed_with(node, lines), *deletions(node, buffers)]
        line: int = getattr(node, "lineno", 0)
        if "# bounded: " not in (lines[line - 1] if line else ""):
            said += memory(node)
        found += [f"{line}: {what}" for what in said]
    return sorted(set(found), key=lambda each: int(each.split(":")[0]))
