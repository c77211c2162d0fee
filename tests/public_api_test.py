"""What `import kerasrl_pg` offers, and what it costs."""

import ast
import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import kerasrl_pg

FUNCTIONS = [value for value in (getattr(kerasrl_pg, name) for name in kerasrl_pg.__all__) if inspect.isfunction(value)]


@pytest.mark.parametrize("name", kerasrl_pg.__all__)
def test_every_public_name_can_be_imported_and_says_what_it_is(name):
    assert inspect.getdoc(getattr(kerasrl_pg, name))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_parameter_of_a_public_function_is_documented(function):
    documented = inspect.getdoc(function) or ""
    assert [name for name in inspect.signature(function).parameters if f"\n    {name}: " not in documented] == []


def test_type_checkers_see_the_names_that_are_imported_lazily():
    tree = ast.parse(pathlib.Path(kerasrl_pg.__file__).read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in guarded for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name for node in imports for alias in node.names} == set(kerasrl_pg.__all__)


def test_no_module_has_the_name_of_something_public():
    """Whoever imported the module would find it under the package in the place of the function."""
    assert [name for name in kerasrl_pg.__all__ if importlib.util.find_spec(f"kerasrl_pg.{name}")] == []


def test_dir_lists_the_public_names():
    assert set(kerasrl_pg.__all__) <= set(dir(kerasrl_pg))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'kerasrl_pg' has no attribute 'DQN9'"):
        _ = kerasrl_pg.DQN9


def test_importing_the_package_does_not_import_tensorflow():
    # In a process of its own: this one has it already. Gymnasium is imported, to be told of the grid world.
    code = "import sys, kerasrl_pg; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("cores", "before", "after"),
    [
        (2, "", "--xla_cpu_multi_thread_eigen=false"),
        (2, "--xla_dump_to=here", "--xla_dump_to=here --xla_cpu_multi_thread_eigen=false"),
        (2, "--xla_cpu_multi_thread_eigen=true", "--xla_cpu_multi_thread_eigen=true"),
        (8, "", ""),
    ],
)
def test_on_two_cores_xla_is_told_to_use_one_thread_unless_the_user_said_otherwise(cores, before, after):
    code = f"import os; os.cpu_count = lambda: {cores}; import kerasrl_pg; print(os.environ['XLA_FLAGS'])"
    environment = {**os.environ, "XLA_FLAGS": before}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == after
