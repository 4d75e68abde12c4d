"""Which files go onto boards, and in which groups: manifest.py, package.json and the installer."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import fleetnet
from fleetnet_server.provision.compiling import bytecode_version, contents, mpy_cross
from fleetnet_server.provision.errors import PackageError
from fleetnet_server.provision.index import repository_index, write_served_index
from fleetnet_server.provision.library import PACKAGES, choose, core, library, parts
from fleetnet_server.provision.placing import (
    Place,
    find_place,
    is_plain,
    plan_library,
    pointer_to,
    sha256,
    version_name,
)
from interpreters import Interpreter
from rules.tree import ROOT, shared_files

MODULES = library()
FIRST_URL = json.loads((ROOT / "package.json").read_text())["urls"][0][1]
REPOSITORY = "/".join(FIRST_URL.split("/")[:2])


def made_of(folder: Path, **sources: str) -> dict[str, Path]:
    for path, text in sources.items():
        target = folder / (path.replace("__in__", "__init__").replace("-", "/") + ".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return {package: folder / package for package in PACKAGES}


def test_every_shared_file_and_nothing_of_cpython() -> None:
    assert sorted(module.source for module in MODULES.values()) == shared_files()
    assert not [name for name in MODULES if ".openssl" in name or ".cpython" in name]


def test_groups_follow_from_the_imports(tmp_path: Path) -> None:
    """A new module belongs somewhere without anybody having listed it."""
    folders = made_of(
        tmp_path,
        **{
            "fleetnet-__in__": "def __getattr__(name):\n    pass\n",
            "fleetnet-base": "",
            "fleetnet-explain": "import fleetnet.base\n",
            "fleetnet-streams": "import fleetnet.big\n",
            "fleetnet-big": "",
            "fleetnet-ports-__in__": "if TYPE_CHECKING:\n    import fleetnet.big\n",
            "fleetnet-ports-micropython": "def f():\n    from fleetnet import explain, streams\n",
            "fleetnet-ports-openssl_x": "",
            "fleetnet_device-__in__": "import fleetnet.base\n",
            "fleetnet_device-camera": "try:\n    import fleetnet.big\nexcept OSError:\n    pass\n",
        },
    )
    modules = library(folders.values())
    assert "fleetnet.ports.openssl_x" not in modules
    assert core(modules) == {
        "fleetnet",
        "fleetnet.base",
        "fleetnet.explain",
        "fleetnet.ports",
        "fleetnet.ports.micropython",
        "fleetnet_device",
    }
    assert parts(modules) == {
        "big": {"fleetnet.big"},
        "camera": {"fleetnet_device.camera", "fleetnet.big"},
        "streams": {"fleetnet.streams", "fleetnet.big"},
    }
    chosen = choose(modules, ["camera"])
    assert set(chosen) == core(modules) | parts(modules)["camera"]
    assert choose(modules, None) == modules
    with pytest.raises(PackageError, match="no part is called 'lens': there are big, camera"):
        choose(modules, ["lens"])


def test_half_a_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fleetnet").mkdir()
    (tmp_path / "fleetnet" / "__init__.py").write_text("")
    with pytest.raises(PackageError, match="not whole"):
        library([tmp_path / "fleetnet"])


def frozen(part: str | None) -> dict[str, Path]:
    """What manifest.py names; MicroPython's manifestfile.py runs it in its folder like this."""
    named: dict[str, Path] = {}

    def package(name: str, files: list[str], base_path: str) -> None:
        for file in files:
            named[f"{name}/{file}"] = (ROOT / base_path / name / file).resolve()

    chosen = SimpleNamespace(parts=part)

    def defaults(parts: str) -> None:
        chosen.parts = chosen.parts or parts

    chosen.defaults = defaults
    names = {"metadata": lambda **_: None, "options": chosen, "package": package}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        exec((ROOT / "manifest.py").read_text(), names)  # noqa: S102
    return named


def test_manifest_freezes_all_or_parts() -> None:
    everything = frozen(None)
    assert everything == {module.target: module.source for module in MODULES.values()}
    some = frozen("core, selftest")
    assert set(some) == {module.target for module in choose(MODULES, ["selftest"]).values()}
    assert set(some) < set(everything)
    assert f'version="{fleetnet.__version__}"' in (ROOT / "manifest.py").read_text()


def test_package_json_names_every_file_by_an_absolute_address() -> None:
    text = (ROOT / "package.json").read_text()
    made = repository_index(MODULES.values(), REPOSITORY, fleetnet.__version__)
    assert text == made, f"make it anew: fleetnet device package . --url {REPOSITORY}"
    for target, url in json.loads(text)["urls"]:
        assert url.startswith("github:")
        path = ROOT / url.removeprefix(REPOSITORY + "/")
        name = target.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        assert path == MODULES[name].source


@pytest.mark.parametrize("base", ["ftp://x", "10.0.0.5:8000", "http://", "http://a b/"])
def test_address_that_mip_cannot_fetch(base: str, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="write http://HOST"):
        write_served_index(tmp_path, {}, base, "1")
    with pytest.raises(PackageError, match="github:OWNER/NAME"):
        repository_index([], base, "1")


def test_mpy_is_of_the_boards_bytecode_version(runtime: Interpreter) -> None:
    said = runtime.run("-c", "import sys; print(sys.implementation._mpy)").stdout
    version = bytecode_version(int(said))
    program = mpy_cross(version)
    assert program is not None
    compiled = contents([MODULES["fleetnet.varint"]], program)
    assert compiled["fleetnet/varint.mpy"][:2] == bytes((ord("M"), version))
    older = mpy_cross(5)
    assert older is not None and older != program
    assert contents([MODULES["fleetnet.varint"]], older)["fleetnet/varint.mpy"][1] == 5
    assert mpy_cross(99) is None


def test_module_that_does_not_compile_is_named(tmp_path: Path) -> None:
    folders = made_of(tmp_path, **{"fleetnet-__in__": "x = \n", "fleetnet_device-__in__": ""})
    # library() needs sources that Python reads: the mistake is made after it has.
    (folders["fleetnet"] / "__init__.py").write_text("x = 1\n")
    module = library(folders.values())["fleetnet"]
    module.source.write_text("match x:\n    case 1:\n        pass\n")
    program = mpy_cross()
    assert program is not None
    with pytest.raises(PackageError, match=r"__init__\.py does not compile for boards: .*SyntaxE"):
        contents([module], program)


def test_plan_sends_only_what_is_nowhere_on_the_board() -> None:
    place = find_place("/flash/", ("", ".frozen", "/flash", "/flash/lib"))
    assert place == Place("/flash/", "/flash/lib")
    assert place.below("bundle") == "/flash/bundle"
    assert find_place("/", ("", "/lib")).lib == "/lib"
    files = {"fleetnet/a.mpy": b"a", "fleetnet/b.mpy": b"b", "fleetnet/c.mpy": b"c"}
    version = version_name(files)
    assert version != version_name({**files, "fleetnet/c.mpy": b"d"})
    present = {
        f"/flash/lib/{version}/fleetnet/a.mpy": sha256(b"a"),
        f"/flash/lib/{version}/fleetnet/b.mpy": sha256(b"cut off"),
        "/flash/lib/fleetnet-00000000/fleetnet/b.mpy": sha256(b"b"),
        place.pointer: sha256(pointer_to(place.lib, "fleetnet-00000000")),
    }
    plan = plan_library(place, files, present)
    folder = f"/flash/lib/{version}/fleetnet"
    assert plan.send == {f"{folder}/c.mpy": b"c"}
    assert plan.copy == [("/flash/lib/fleetnet-00000000/fleetnet/b.mpy", f"{folder}/b.mpy")]
    assert (plan.keep, plan.is_current) == (1, False)
    assert not is_plain(place, present)
    assert is_plain(place, {"/flash/lib/fleetnet/errors.mpy": "", place.pointer: ""})
    assert not is_plain(place, {place.pointer + ".new": "", place.pointer: ""})


def test_the_command_that_makes_package_json(tmp_path: Path) -> None:
    from fleetnet_server.cli.main import main

    assert main(
        ["device", "package", str(tmp_path), "--url", REPOSITORY], standalone_mode=False
    ) is None
    assert (tmp_path / "package.json").read_text() == (ROOT / "package.json").read_text()
