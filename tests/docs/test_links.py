"""What pages point to is there: other pages, their headings, files of the source."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("", "docs/**/", "benchmarks/", "examples/**/")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}*.md"))
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
SOURCE = re.compile(r"`(contract|operator|gateway|worker)/([\w/]+\.py)`")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_page_and_a_heading_of_it(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), f"{path} is not there"
        if anchor:
            assert anchor in anchors(target), f"{path} has no heading #{anchor}"


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    shown = {(index.parent / path).resolve() for path, _ in LINK.findall(index.read_text())}
    assert set(ROOT.glob("docs/**/*.md")) - shown == {index}


def test_the_map_names_files_that_are_there() -> None:
    named = SOURCE.findall((ROOT / "docs" / "architecture.md").read_text())
    assert named
    for folder, short in named:
        path = short.removeprefix(f"penstock_{folder}/")
        assert (ROOT / folder / f"penstock_{folder}" / path).is_file(), f"{folder}/{path}"
