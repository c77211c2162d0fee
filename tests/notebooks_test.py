"""The notebooks are committed as they ran, and still run."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
NUMBER = 5
"""How many notebooks there are: one that is lost, or not run, would go unnoticed otherwise."""


def cells_of(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def kinds_of(cell):
    return {kind for output in cell["outputs"] for kind in output.get("data", {})}


def test_no_notebook_is_lost():
    assert len(NOTEBOOKS) == NUMBER


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
    cells = cells_of(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))  # from top to bottom
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert any("image/png" in kinds_of(cell) for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_nothing_of_the_machine_it_ran_on(path):
    text = json.dumps([cell["outputs"] for cell in cells_of(path)])
    assert not re.findall(r"/(?:home|root|tmp|work|Users|usr)/\S*", text)
    assert path.stat().st_size < 500_000


@pytest.mark.slow
def test_every_notebook_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    for name in ("docs", "saved_models"):  # what a notebook shows of the clone that it lies in
        (tmp_path / name).symlink_to(ROOT.parent / name)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    executed = []
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(
            notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()  # raises where a cell does
        executed.append(path.stem)
    assert len(executed) == NUMBER
