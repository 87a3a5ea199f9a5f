"""The documentation names what is there."""

from __future__ import annotations

import pkgutil
import re
import runpy
from pathlib import Path

import pytest
import yaml

import carbon_plugin
from carbon_plugin.calibrate.rows.published import all_published_rows
from carbon_plugin.cli.main import COMMANDS
from carbon_plugin.spec.layout import DEGREES, ParallelLayout
from carbon_plugin.spec.stack import Stack
from carbon_plugin.validate.hardware.memory import memory_rows
from carbon_plugin.validate.step.step_time import summary_name

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_is_on_the_page_of_commands():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")

    sections = re.findall(r"^## carbon-plugin (\S+)$", page, flags=re.MULTILINE)

    assert sections == list(COMMANDS), "run `make docs`"


def test_every_page_is_in_the_navigation_of_the_site_once():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages_in(entries: list) -> list[str]:
        found = []
        for entry in entries:
            (content,) = entry.values()
            found += [content] if isinstance(content, str) else pages_in(content)
        return found

    docs = ROOT / "docs"
    assert sorted(pages_in(site["nav"])) == sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))


def test_every_object_of_the_reference_of_python_is_there():
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert pkgutil.resolve_name(name), name


def test_reference_of_python_documents_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")

    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", page, flags=re.MULTILINE)}
    assert set(carbon_plugin.__all__) <= shown


@pytest.mark.parametrize("name", ["architecture.md", "extending.md"])
def test_paths_that_a_page_about_the_code_names_are_there(name):
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    top = {path.name for path in ROOT.iterdir()}

    named = [path for path in re.findall(r"`([\w./]+)`", page) if path.split("/")[0] in top and "/" in path]
    missing = [path for path in named if not (ROOT / path).exists() and not path.split("/")[-1].startswith("NAME.")]
    assert len(named) > 10
    assert not missing
    assert not [path for path in named if "NAME." in path and not (ROOT / path).parent.is_dir()]


def test_page_about_the_prediction_says_what_each_of_its_modules_answers():
    page = (ROOT / "docs" / "prediction.md").read_text(encoding="utf-8")
    place = ROOT / "carbon_plugin"

    said = re.findall(r"^\| `(predict/[\w/]+\.py)` \| \S", page, flags=re.MULTILINE)
    there = [str(path.relative_to(place)) for path in (place / "predict").rglob("*.py") if path.name != "__init__.py"]
    assert sorted(said) == sorted(there)


def test_places_of_the_architecture_are_those_of_the_table_of_imports():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = runpy.run_path(str(ROOT / "tests" / "repository" / "test_imports.py"))["MAY_IMPORT"]

    rows = re.findall(r"^\| `(?:carbon_plugin/)?(\w+)/` \| [^|]* \| ([^|]*) \|$", page, flags=re.MULTILINE)
    said = {place: set() if may == "–" else set(may.split(", ")) for place, may in rows}
    said.pop("hardware_profiles")
    assert said.pop("cli") == {"all above"}
    assert said == {place: may for place, may in table.items() if place != "cli"}


def test_rooms_of_the_architecture_are_those_of_the_tree():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "carbon_plugin"
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", page.partition("### Rooms")[2], flags=re.MULTILINE)

    named = {place: re.findall(r"`([\w./]+)`", rooms) for place, rooms in rows}
    said = sorted(
        f"{place}/{room}" for place, rooms in named.items() for room in rooms if re.fullmatch(r"[a-z/]+", room)
    )
    folders = [path.parent.relative_to(package) for path in package.glob("*/**/__init__.py")]
    found = sorted(path.as_posix() for path in folders if len(path.parts) > 1)
    files = [(place, room) for place, rooms in named.items() for room in rooms if "." in room and room != "config.json"]
    assert said == found
    assert not [file for place, file in files if not (package / place / file).exists()]


def test_page_about_the_spec_says_what_each_field_of_a_stack_and_of_a_layout_is():
    page = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")

    def fields_in(section: str) -> list[str]:
        text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        cells = re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE)
        return sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell))

    assert fields_in("Stack") == sorted(Stack.__struct_fields__)
    assert fields_in("Layout") == sorted({*ParallelLayout.__struct_fields__} - {*DEGREES, "zero_stage"})


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "docs/rows.md", "docs/spec.md"])
def test_lines_of_a_page_that_people_write_by_hand_have_at_most_120_columns(name):
    prose = "".join((ROOT / name).read_text(encoding="utf-8").split("```")[::2])

    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_every_link_to_a_file_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [(page, target) for page in pages for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))]

    broken = [
        (page.name, target) for page, target in links if "://" not in target and not (page.parent / target).exists()
    ]

    assert not broken


def test_every_target_of_the_makefile_is_explained():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)

    assert phony
    assert set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE)) == set(phony[1].split())


@pytest.mark.parametrize(
    ("page", "shown"),
    [("README.md", "with_outputs"), ("docs/goodput.md", "with_goodput"), ("docs/search.md", "with_fits")],
)
def test_pages_show_the_outputs_of_today(page, shown, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    anew = runpy.run_path(str(ROOT / "docs" / "readme.py"))[shown]
    text = (ROOT / page).read_text(encoding="utf-8")

    assert anew(text) == text, "run `python docs/readme.py`"


def test_readme_has_the_errors_of_the_page_about_the_validation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/validation.md"))

    def marked(text: str, name: str) -> str:
        return text.partition(f"<!-- {name} -->")[2].partition("<!-- end -->")[0].replace("**", "")

    row = r"^\| (.+?) \| (\d+) \| ([\d.]+ %) \| (.*?) ?\| (\d+ %) \|$"
    shown = re.findall(row, marked(readme, "collections"), flags=re.MULTILINE)
    row = r"^\| (\w+) \| \d+ \| (\d+) \| ([\d.]+ %) \| [\d.]+ \| [\d.]+ \| [\d.]+ \| \d+ \| (.+?) \| (\d+ %) \|"
    by_class = {found[0]: found[1:] for found in re.findall(row, marked(page, "intervals"), flags=re.MULTILINE)}
    row = r"^\| (all, \w+) \| \d+ \| (\d+) \| ([\d.]+) \| [\d.]* \| \S+ \| (\d+ %) \|"
    overall = re.findall(row, marked(page, "collections"), flags=re.MULTILINE)
    names = runpy.run_path(str(ROOT / "docs" / "validation.py"))["CLASSES"]
    expected = [(names[kind], *by_class[kind]) for kind in names]
    expected += [(name, sources, f"{error} %", "", coverage) for name, sources, error, coverage in overall]
    assert len(expected) > len(overall) > 1
    assert shown == expected, "run `python docs/validation.py`"


def test_every_source_of_published_rows_has_a_name_in_the_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    rows, skipped = all_published_rows()
    sources = {summary_name(row.source, row.framework, sparse=row.spec.model.moe is not None) for row in rows}
    sources |= {row.source for row in memory_rows(rows, skipped) if row.source != "dgxc"}

    name_of = runpy.run_path(str(ROOT / "docs" / "validation.py"))["name_of"]

    assert all(name_of(source) for source in sources)


def test_readme_has_the_coverage_of_whole_runs_of_the_page_about_carbon():
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/carbon_validation.md"))

    marked = readme.partition("<!-- whole runs -->")[2].partition("<!-- end -->")[0]
    shown = re.findall(r"(\d+) % of the", marked.replace("\n", " "))

    assert shown == re.findall(r"(\d+) % where the factor saw nothing", page), "run `python docs/carbon_validation.py`"


def test_tables_about_scaling_are_those_of_their_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (tmp_path / "scaling.md").write_text(text, encoding="utf-8")

    runpy.run_path(str(ROOT / "docs" / "scaling.py"))["write"](tmp_path / "scaling.md")

    assert "| 1e24" in text
    assert (tmp_path / "scaling.md").read_text(encoding="utf-8") == text, "run `python docs/scaling.py`"
