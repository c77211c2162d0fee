"""Pages of the site that are not in docs/: the README, the notebooks, the benchmarks, and the reference.

MkDocs runs this (see mkdocs.yml). Links are written for a reader of the repository; here each is made to lead to its
place on the site, and to nothing where the site does not have what it leads to.
"""

from __future__ import annotations

import pathlib
import posixpath
import re

import mkdocs_gen_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "kerasrl_pg"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Write all of them."""
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "benchmarks/results/*.md", "saved_models/*.md"):
        for page in ROOT.glob(pattern):
            write(place(page), with_links_of_the_site(page))
    for pattern in ("notebooks/*.ipynb", "benchmarks/results/*.png", "benchmarks/results/*.json"):
        for file in ROOT.glob(pattern):
            write(place(file), file.read_bytes())
    write_reference()


def place(path: pathlib.Path) -> str | None:
    """Where on the site a file or folder of the repository is; None if it is not there."""
    relative = path.relative_to(ROOT).as_posix()
    if relative in HOMES:
        return HOMES[relative]
    if relative.startswith("docs/"):
        return relative.removeprefix("docs/") if path.is_file() else None
    if path.is_relative_to(PACKAGE):
        return f"reference/{relative}/index.md" if path.is_dir() else f"reference/{relative.removesuffix('.py')}.md"
    shown = path.suffix in (".md", ".ipynb", ".png") or path.match("benchmarks/results/*.json")
    return relative if shown else None


HOMES = {"README.md": "index.md", "docs/index.md": "documentation.md", "CHANGELOG.md": "changelog.md"}


def with_links_of_the_site(page: pathlib.Path) -> str:
    """A page's text; code in it stays as it is."""
    here = posixpath.dirname(place(page))

    def link(match: re.Match) -> str:
        image, text, target, anchor = match.groups()
        if "://" in target:
            return match.group()
        there = place((page.parent / target).resolve())
        return f"{image}[{text}]({posixpath.relpath(there, here)}{anchor or ''})" if there else text

    parts = FENCED.split(page.read_text())
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def write_reference() -> None:
    """A page for what `import kerasrl_pg` offers, and one for each module."""
    navigation = mkdocs_gen_files.Nav()
    for file in sorted(PACKAGE.rglob("*.py")):
        module = file.relative_to(ROOT).with_suffix("").parts
        if module[-1] == "__init__":
            file, module = file.parent, module[:-1]
        elif module[-1].startswith("_"):
            continue
        navigation[module] = posixpath.relpath(place(file), "reference")
        name = ".".join(module)
        write(place(file), f"# {name}\n\n::: {name}\n    options: {{show_root_heading: false}}\n")
    write("reference/SUMMARY.md", "".join(navigation.build_literate_nav()))


def write(path: str, content: str | bytes) -> None:
    """A file of the site."""
    with mkdocs_gen_files.open(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


main()
