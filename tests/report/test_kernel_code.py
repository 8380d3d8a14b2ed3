"""Pages with the source of a kernel beside its code, from listings whose lines name a source that is here."""

import csv
import re

import pytest
from checkout import REPO, SAMPLES

from moe_lab.report import code_parts, kernel_code
from moe_lab.report.page import _Seen
from moe_lab.runs import assembly

ROW = {"kernel": "k", "arch": "sm_90", "gpu": "NVIDIA H100 80GB HBM3", "model": "qwen3-30b-a3b", "format": "bf16"}
ROW |= {"backend": "fused_moe", "algorithm": None, "M": 64, "stage": "w13", "error": None, "static_registers": 255}
ROW |= {"local_accesses": 3, "spill_lines": [("source.py", 2)], "tensor_unit": "wgmma"}


@pytest.fixture
def listing(tmp_path) -> assembly.Listing:
    """Return the sample of Hopper, every second instruction of which is from line 2 and the others from line 5."""
    (tmp_path / "source.py").write_text("".join(f"line <{n}>\n" for n in range(1, 9)))
    text = (SAMPLES / "sass_sm90.txt").read_text()
    places = [
        f'\t//## File "{tmp_path / "source.py"}", line {(2, 5)[i % 2]}\n        /*{at}*/ X ;'
        for i, at in enumerate(re.findall(r"/\*([0-9a-f]{4,})\*/\s+[@A-Z]", text))
    ]
    return assembly.read(text + "\n//--------------------- .text.k\n" + "\n".join(places))


def test_the_inner_loop_comes_first_and_every_instruction_once(listing) -> None:
    shown = kernel_code.page([ROW], listing)
    titles = [part["title"] for part in shown["parts"]]
    assert titles[:2] == ["Inner loop", "Before the loop"]
    every = [one["at"] for part in shown["parts"] for group in part["groups"] for one in group["code"]]
    assert sorted(every) == list(range(len(listing.instructions)))
    loop = assembly.columns(listing, 8)["loop_instructions"]
    assert shown["parts"][0]["count"] == loop == sum(unit["loop"] for unit in shown["units"])


def test_a_line_of_the_source_has_its_instructions_by_unit(listing) -> None:
    (file,) = kernel_code.page([ROW], listing)["files"]
    assert [line["number"] for line in file["lines"]] == list(range(1, 8)), "two around those with code"
    of = {line["number"]: line for line in file["lines"] if line["key"]}
    assert set(of) == {2, 5}
    assert of[2]["text"] == "line <2>"
    assert of[2]["count"] + of[5]["count"] == len(listing.instructions)
    assert {bar["group"] for bar in of[2]["bars"]} >= {"memory", "integer"}


def test_a_page_needs_nothing_else_and_shows_what_is_amiss(listing, tmp_path) -> None:
    pages = kernel_code.Pages()
    pages.add(ROW, listing)
    pages.add(ROW | {"M": 4096}, listing)
    index = pages.write(tmp_path)
    assert index.name == "index.html"
    assert 'href="sm_90_w13_k.html"' in index.read_text()
    text = (tmp_path / "sm_90_w13_k.html").read_text()
    assert "M = 64, 4,096" in text
    assert "line &lt;2&gt;" in text
    assert re.search(r"<strong>Spills\.</strong> .*from source\.py", text)
    assert str(tmp_path) not in text, "no path of this machine"
    seen = _Seen()
    seen.feed(text)
    assert not seen.loads


@pytest.fixture
def written(listing, tmp_path):
    """Return a folder of pages, with nothing else in it."""
    folder = tmp_path / "pages"
    folder.mkdir()
    pages = kernel_code.Pages()
    pages.add(ROW, listing)
    pages.write(folder)
    return folder


def test_only_a_folder_of_nothing_but_pages_is_ours_to_replace(written, tmp_path) -> None:
    assert kernel_code.is_ours(written)
    assert not kernel_code.is_ours(tmp_path / "gone")
    (written / "index.html").rename(tmp_path / "index.html")
    assert not kernel_code.is_ours(written), "no index"


def mine(folder) -> None:
    (folder / "notes.html").write_text("<p>mine</p>")


def a_picture(folder) -> None:
    (folder / "plot.png").write_bytes(b"\x89PNG")


def a_folder(folder) -> None:
    (folder / "more").mkdir()


def a_link(folder) -> None:
    page = folder / "sm_90_w13_k.html"
    page.rename(folder.parent / "kept.html")
    page.symlink_to(folder.parent / "kept.html")


@pytest.mark.parametrize("add", [mine, a_picture, a_folder, a_link])
def test_a_folder_with_something_else_is_left(written, add) -> None:
    add(written)
    assert not kernel_code.is_ours(written)


def test_a_source_that_is_not_there_leaves_the_code(listing, tmp_path) -> None:
    (tmp_path / "source.py").unlink()
    shown = kernel_code.page([ROW], listing)
    assert {line["text"] for file in shown["files"] for line in file["lines"]} == {""}
    assert shown["parts"][0]["groups"][0]["place"].startswith("source.py:")


def test_every_unit_has_a_colour() -> None:
    with (REPO / "moe_lab/runs/assembly/units.csv").open() as file:
        assert {row["unit"] for row in csv.DictReader(file)} | {"other"} == set(code_parts.GROUP_OF)
