"""The package keeps its shape: who may import whom, how long a file may be, what must be documented.

The sources are read, not run, so that an import inside a function counts as well.
"""

import ast
import configparser
import graphlib
import pathlib
import sys

import pytest

import kerasrl_pg

ROOT = pathlib.Path(kerasrl_pg.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}

ARROWS: dict[str, set[str]] = {
    "seeding": set(),
    "spaces": set(),
    "direct_calls": set(),
    "checks": set(),
    "shared_memory": set(),
    "strategies": set(),
    "any_optimizer": set(),
    "paths": set(),
    "types": set(),
    "episode_log": {"checks"},
    "frames": {"checks"},
    "optimizers": set(),
    "video_recorder": {"checks"},
    "exported_policy": {"checks", "seeding", "spaces"},
    "plotting": {"episode_log", "checks"},
    "metrics": {"types"},
    "ops": {"types"},
    "envs": {"frames", "checks", "seeding", "shared_memory", "spaces", "types"},
    "algorithms": {"checks", "ops", "types"},
    "models": {"frames", "ops", "seeding", "spaces"},
    "collect": {"envs", "checks", "ops", "seeding", "shared_memory", "spaces", "types"},
    "evaluate": {"envs", "checks"},
    "grid_pictures": {"envs"},
    "video": {"envs", "checks", "video_recorder"},
    "saving": {"algorithms", "any_optimizer"},
    "export": {"exported_policy", "models", "ops", "spaces"},
    "learner": {"any_optimizer", "metrics", "models", "ops", "seeding", "strategies", "types"},
    "policies": {"models"},
    "settings": {"models", "optimizers"},
    "q_learner": {"any_optimizer", "learner", "models", "types"},
    "lesson_presets": {"algorithms", "models", "optimizers", "seeding", "settings"},
    "value_presets": {"algorithms", "envs", "models", "seeding", "settings"},
    "agent": {
        "any_optimizer",
        "direct_calls",
        "envs",
        "episode_log",
        "evaluate",
        "export",
        "checks",
        "learner",
        "models",
        "ops",
        "policies",
        "q_learner",
        "saving",
        "seeding",
        "spaces",
        "strategies",
    },
    "loading": {"agent", "algorithms", "envs", "optimizers", "saving", "spaces", "strategies"},
    "presets": {"algorithms", "lesson_presets", "envs", "models", "seeding", "settings", "value_presets"},
    "screen_export": {"agent", "envs", "export", "models", "policies"},
    "training": {
        "agent",
        "collect",
        "direct_calls",
        "envs",
        "metrics",
        "models",
        "ops",
        "seeding",
        "shared_memory",
        "spaces",
        "types",
    },
    "environment_card": {"envs", "presets"},
    "building": {
        "agent",
        "algorithms",
        "any_optimizer",
        "envs",
        "checks",
        "models",
        "policies",
        "presets",
        "saving",
        "seeding",
        "settings",
        "strategies",
        "training",
    },
    "fit": {
        "agent",
        "algorithms",
        "any_optimizer",
        "building",
        "envs",
        "loading",
        "paths",
        "policies",
        "saving",
        "settings",
        "strategies",
        "training",
    },
    "seed_runs": {"agent", "building", "envs", "episode_log", "checks", "settings", "training"},
}
"""Room -> the rooms that it imports: all of them, so that a needless arrow is noticed too."""

SHELL = {"__init__", "__main__", "cli", "demo"}
"""What stands around the library: it may use everything, and nothing in the library knows it."""

ALGORITHMS_OUTSIDE = {"tensorflow", "keras.optimizers.schedules"}
"""What an algorithm may import besides Python's own library; of Keras only the type of a schedule."""

OPS_OUTSIDE = {"numpy", "tensorflow", "tensorflow_probability", "gymnasium", "gymnasium.spaces"}
"""What an operation may import besides Python's own library: tensors, and the description of an action space."""

DISTRIBUTES = {
    "strategies.py",
    "learner.py",
    "q_learner.py",
    "ops/statistics.py",
    "fit.py",
    "agent.py",
    "building.py",
    "loading.py",
}
"""Files that may say `tf.distribute`: the gradient step, sums over replicas, and those that hand a strategy through."""

LONGEST_FILE = 400
"""Lines: what a stranger still reads from top to bottom."""


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def imported_modules(tree: ast.Module) -> set[str]:
    """Full names of all that a file imports; of this package's own modules with the names taken from the top."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import would escape this test"
            if node.module == "kerasrl_pg":
                modules |= {f"kerasrl_pg.{alias.name}" for alias in node.names}
            else:
                modules.add(str(node.module))
    return modules


def imported_rooms(tree: ast.Module) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(tree) if name.startswith("kerasrl_pg.")}


def foreign_modules(room: str) -> set[str]:
    files = [tree for file, tree in SOURCES.items() if room_of(file) == room]
    names = {name for tree in files for name in imported_modules(tree)}
    return {name for name in names if name.split(".")[0] not in {"kerasrl_pg", *sys.stdlib_module_names}}


def test_every_room_imports_what_the_table_says_and_nothing_else():
    found: dict[str, set[str]] = {}
    for file, tree in SOURCES.items():
        found.setdefault(room_of(file), set()).update(imported_rooms(tree) - {room_of(file)})
    assert {room: arrows for room, arrows in found.items() if room not in SHELL} == ARROWS


def test_the_arrows_make_no_circle():
    graphlib.TopologicalSorter(ARROWS).prepare()


def test_algorithms_see_tensors_and_operations_only():
    assert foreign_modules("algorithms") <= ALGORITHMS_OUTSIDE


def test_operations_see_tensors_only():
    assert foreign_modules("ops") <= OPS_OUTSIDE


def test_only_the_gradient_step_and_sums_over_replicas_know_distribution():
    def says_distribute(tree: ast.Module) -> bool:
        return any(isinstance(node, ast.Attribute) and node.attr == "distribute" for node in ast.walk(tree))

    assert {file for file, tree in SOURCES.items() if says_distribute(tree)} <= DISTRIBUTES


@pytest.mark.parametrize("file", SOURCES)
def test_a_file_is_short_enough_to_be_read(file):
    assert len((ROOT / file).read_text().splitlines()) <= LONGEST_FILE


def hyperparameters() -> list[tuple[str, str, ast.stmt | None]]:
    """`(class.field, file, the statement below)` of every field of every algorithm."""
    found: list[tuple[str, str, ast.stmt | None]] = []
    for file, tree in SOURCES.items():
        for node in ast.walk(tree):
            if room_of(file) == "algorithms" and isinstance(node, ast.ClassDef):
                below = [*node.body[1:], None]
                found += [
                    (f"{node.name}.{statement.target.id}", file, following)
                    for statement, following in zip(node.body, below, strict=True)
                    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
                ]
    return found


def test_every_hyperparameter_is_documented_where_it_stands():
    assert len(hyperparameters()) > 20  # the walk does find them
    undocumented = [
        f"{name} in {file}"
        for name, file, below in hyperparameters()
        if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant))
    ]
    assert undocumented == []


def test_the_version_is_the_same_where_it_is_installed_from_and_where_it_is_asked_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT.parent / "setup.cfg")
    assert setup["metadata"]["version"] == kerasrl_pg.__version__
