"""Constants folded into a board's files: the same names, the same numbers, less of them."""

from fleetnet_server.provision.folding import Folder
from fleetnet_server.provision.library import library

NUMBERS = "ONE = 1\n_TWO = ONE << 1\nTHREE = _TWO + ONE\ntext = 'x'\nchanged = 4\nchanged = 5\n"


def folded(name: str, **sources: str) -> str:
    return Folder({key.replace("__", "."): text for key, text in sources.items()}).fold(name)


def test_own_constants() -> None:
    text = folded("a", a=NUMBERS + "def f():\n    '''Doc.'''\n    return _TWO + THREE\n")
    assert "_TWO" not in text and "Doc" not in text
    assert "return 2 + 3" in text and "ONE = 1" in text and "changed = 5" in text


def test_constants_of_other_modules() -> None:
    user = "from p.a import ONE, THREE, text\nfrom p import a\n"
    user += "x = [ONE, THREE, a.THREE, text, a.text]\n"
    text = folded("p.b", p="", p__a=NUMBERS, p__b=user)
    assert "from p.a import text" in text and "x = [1, 3, 3, text, a.text]" in text


def test_a_module_of_numbers_only_is_not_imported() -> None:
    user = "from p import a\nfrom p import c\nx = [a.ONE, c.f()]\n"
    text = folded("p.b", p="", p__a=NUMBERS, p__c="def f(): pass\n", p__b=user)
    assert text == "from p import c\nx = [1, c.f()]\n"


def test_names_that_are_handed_on_stay_known() -> None:
    text = folded("c", a=NUMBERS, b="from a import ONE\n", c="from b import ONE\ny = ONE\n")
    assert text == "y = 1\n"


def test_what_is_bound_twice_or_shadowed_is_left_alone() -> None:
    twice = "MODE = 1\ndef f():\n    global MODE\n    MODE = 2\ndef g():\n    return MODE\n"
    assert "return MODE" in folded("a", a=twice)
    inner = "SIZE = 1\ndef f(SIZE):\n    return SIZE\n"
    assert "return SIZE" in folded("a", a=inner)


def test_type_checking_and_annotations_disappear() -> None:
    source = (
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from b import C\nelse:\n    d = 1\n"
        "class A:\n    x: 'int'\n    def f(self, y: 'C') -> 'C':\n"
        "        z: 'int' = 2\n        return z\n"
    )
    text = folded("a", a=source)
    assert "TYPE_CHECKING" not in text and "C" not in text and "d = 1" in text
    assert "def f(self, y):" in text and "z = 2" in text


def test_what_only_annotations_name_is_not_imported() -> None:
    source = (
        "from b import C, D, E\nfrom b import G\nfrom sys import path\n__all__ = ('D',)\n"
        "def f(x: C, y: 'G') -> E:\n    return E(x)\n"
    )
    text = folded("a", a=source, b="class C: pass\nclass D: pass\nclass E: pass\nclass G: pass\n")
    assert text.startswith("from b import D, E\nfrom sys import path\n\ndef f"), text


def test_slots_disappear() -> None:
    text = folded(
        "a", a="class A:\n    __slots__ = ('x',)\nclass B:\n    __slots__ = ()\n    y = 1\n"
    )
    assert text == "class A:\n    pass\n\nclass B:\n    y = 1\n"


def test_the_whole_library_folds_and_keeps_its_public_names() -> None:
    modules = library()
    folder = Folder({m.name: m.source.read_text() for m in modules.values()})
    for module in modules.values():
        text = folder.fold(module.name)
        compile(text, module.name, "exec")
        public = [name for name in folder.constants(module.name) if not name.startswith("_")]
        own = module.source.read_text()
        for name in public:
            assert f"\n{name} = " not in own or f"{name} = " in text, (module.name, name)
