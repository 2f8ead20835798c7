# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev bench: runs the measurements in tests/bench.

Each is a module tests/bench/bench_NAME.py: the first line of its docstring says what it measures; its function
`main() -> Figures` gives figures by name, the unit at the name's end, or tables of them. It raises when it can't measure.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lab.common import ROOT, LabError
from lab.packages import ensure_packages

FOLDER = ROOT / "tests" / "bench"
# A table is figures of figures: row name -> figures.
Figures = Mapping[str, "float | int | str | Figures"]


def names() -> list[str]:
    """All benches."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def load(name: str) -> tuple[str, Callable[[], Figures]]:
    """A bench's title and function."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", FOLDER / f"bench_{name}.py")
    if spec is None or spec.loader is None:
        raise LabError(f"bench: {name} can't be loaded")
    module: Any = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name; benches may use each other's worlds.
    sys.modules[spec.name] = module
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    spec.loader.exec_module(module)
    return (module.__doc__ or name).strip().splitlines()[0], module.main


def show(title: str, figures: Figures) -> str:
    """The figures as lines for people."""
    values = dict(flat(figures))
    width = max(map(len, values), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in values.items()), ""])


def flat(figures: Figures, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each figure with its full name."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name} ")
        else:
            yield prefix + name, f"{value:.4g}" if isinstance(value, float) else str(value)


def main(name: str | None, as_json: bool) -> int:
    """Run one bench, or all of them one after the other. 0 when all ran."""
    ensure_packages()
    known = names()
    if name is not None and name not in known:
        raise LabError(f"bench: no bench {name}; there are {', '.join(known) or 'none'}")
    results: dict[str, Figures] = {}
    for each in known if name is None else [name]:
        title, measure = load(each)
        results[each] = measure()
        if not as_json:
            sys.stdout.write(show(title, results[each]) + "\n")
            sys.stdout.flush()
    if as_json:
        sys.stdout.write(json.dumps(results) + "\n")
    return 0
