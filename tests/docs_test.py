"""The documentation is true: its code runs, its links lead somewhere, its tables say what the code says."""

import dataclasses
import pathlib
import re
from typing import NamedTuple

import pytest
import typer
from keras.optimizers.schedules import PolynomialDecay

import kerasrl_pg as krl
from kerasrl_pg.algorithms import ALGORITHMS
from kerasrl_pg.cli import app

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "saved_models" / "README.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


class Code(NamedTuple):
    """One ```python block."""

    line: int
    text: str


def code_of(page):
    text = page.read_text()
    return [Code(text.count("\n", 0, match.start(1)), match.group(1)) for match in BLOCK.finditer(text)]


def name_of(page):
    return str(page.relative_to(ROOT))


WITH_CODE = [page for page in PAGES if code_of(page)]


def test_the_pages_that_should_show_code_do():
    pages = "custom_algorithms environments evaluating export models presets resuming scaling seeds training"
    expected = {"README.md", *(f"docs/{name}.md" for name in [*pages.split(), "troubleshooting"])}
    assert expected | {f"docs/algorithms/{name}.md" for name in ALGORITHMS} <= set(map(name_of, WITH_CODE))


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_code_runs(page, tmp_path, monkeypatch):
    """The blocks of a page one after the other, as a reader would paste them, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for code in code_of(page):
        # The empty lines make a traceback point into the page.
        exec(compile("\n" * code.line + code.text, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    targets = [target for target in LINK.findall(FENCED.sub("", page.read_text())) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def shown(default):
    """A default as a page shows it: a schedule by its ends."""
    if isinstance(default, PolynomialDecay):
        return f"{default.initial_learning_rate:g}→{default.end_learning_rate:g}"
    return str(default)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithms_page_has_every_hyperparameter_with_its_default(name):
    page = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.MULTILINE))
    described = [ALGORITHMS[name], *([krl.Prioritized] if name == "dqn" else [])]
    fields = {field.name: shown(field.default) for each in described for field in dataclasses.fields(each)}
    assert {field: rows.get(field) for field in fields} == fields


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_name_in_the_history_is_explained(name):
    """In `docs/metrics.md`, and those of the update on the algorithm's own page."""
    whole_episodes = name in ("cross_entropy", "reinforce")
    rollout = {} if whole_episodes else {"rollout_length": 4}
    if name == "ppo":
        rollout["epochs"] = 1
    agent = krl.fit_agent(
        "CartPole-v1", ALGORITHMS[name](**rollout), steps=8, num_envs=2, eval_episodes=1, jit_compile=False, verbose=0
    )
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", metrics, re.MULTILINE))
    history = set(agent.history.history)
    assert history <= rows

    page = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text()
    section = page.partition("## Metrics")[2].partition("## ")[0]
    common = {"steps", "episodes", "episode_return", "best_return", "episode_length", "eval_return", "eval_length"}
    of_the_update = {key for key in history - common - {"steps_per_second"} if not key.endswith("_share")}
    assert of_the_update == set(re.findall(r"`(\w+)`", section.partition(": all explained")[0]))


def test_the_atari_table_has_the_protocols_defaults():
    page = (ROOT / "docs" / "environments.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\w.,]+?),? ?(?:the last[^|]*|while[^|]*)?\|", page, re.MULTILINE))
    fields = {field.name: str(field.default) for field in dataclasses.fields(krl.AtariProtocol)}
    assert {name: rows.get(name, "").replace(",", "") for name in fields} == fields


def test_the_command_lines_page_has_every_command_with_its_options():
    page = (ROOT / "docs" / "command_line.md").read_text()
    rows = re.findall(r"^\| `(\w+)[^|]*\|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    options = {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for name, command in typer.main.get_command(app).commands.items()
    }
    assert {name: set(re.findall(r"--[a-z-]+", row)) for name, row in rows} == options
    assert set(re.findall(r"^\| `(--[a-z-]+)` \|", page, re.MULTILINE)) == options["fit"]


def test_the_readmes_test_command_is_a_target_of_the_makefile():
    commands = re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(commands)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(commands) <= set(targets)
