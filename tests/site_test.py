"""The site: its pages are there, its links lead somewhere, its formulas are drawn without another server."""

import pathlib
import re
import subprocess
import sys

import pytest

import kerasrl_pg as krl

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as `make site` builds it: strictly, so that a link or an anchor that leads nowhere is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_readme_is_its_first_page(site):
    assert "One line takes an environment" in (site / "index.html").read_text()


def test_the_reference_has_every_public_name(site):
    page = (site / "reference" / "kerasrl_pg" / "index.html").read_text()
    assert {name for name in krl.__all__ if f'id="kerasrl_pg.{name}"' not in page} == set()


def test_every_page_of_the_documentation_is_in_the_navigation(site):
    """Under the name of its file."""
    first = (site / "index.html").read_text()
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in ROOT.glob("docs/**/*.md")}
    missing = {str(page) for page in pages if f'href="{page}/"' not in first}
    assert missing == {"index"}  # which is `documentation/` there


@pytest.mark.parametrize("page", ["algorithms/ppo", "notebooks/02_policy_gradient_by_hand"])
def test_formulas_are_mathml(site, page):
    html = (site / page / "index.html").read_text()
    shown = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert "<math " in shown
    assert "\\pi" not in re.sub(r"<[^>]*>", "", shown)


def test_nothing_is_asked_of_another_server(site):
    """Not for fonts, scripts, styles or pictures."""
    asked = re.compile(r'<(?:script|img|link)\b[^>]*?\b(?:src|href)="?(https?://[^" >]+)')
    pages = [*site.glob("*.html"), *site.glob("algorithms/*/*.html"), *site.glob("notebooks/*/*.html")]
    found = {url for page in pages for url in asked.findall(page.read_text())}
    assert found == set()
