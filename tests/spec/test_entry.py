"""What enters from outside is checked once: type, size, characters, place."""

import json
import os
from pathlib import Path

import pytest

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import entry

DEEP = "[" * 100_000
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "truncated"),
        ('{"a": 1} x', "trailing"),
        ('{"a": NaN}', "malformed"),
        ('{"a": 1e400}', "out of range"),
        ('{"a": 99999999999999999999}', "64 bits"),
        ('{"a": ' + "9" * 5000 + "}", "out of range"),
        ('{"a": "\\ud800"}', ""),
        ('{"a": ' + DEEP, "nested"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested"),
        ("[1]", "it is a list instead of a mapping"),
    ],
    ids=["empty", "garbage", "nan", "1e400", "65-bit", "5000-digits", "surrogate", "deep", "deeper-than-64", "list"],
)
def test_entry_refuses_json_in_one_sentence(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "some.json"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        entry.read_json(file, dict[str, object], what="a run", then="import it again")
    said = str(caught.value)
    assert said.startswith("'some.json' cannot be read as a run (")
    assert said.endswith("; import it again.")
    assert why in said
    assert "\n" not in said


def test_entry_reads_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"é": [1, 2.5, None]}, ensure_ascii=False).encode())
    assert entry.read_json(file, what="a run", then="do") == {"é": [1, 2.5, None]}


@pytest.mark.parametrize("text", ["a: 2020-99-99", "[" * 5000, "a: [1", "a: 99999999999999999999", "!!python/none"])
def test_entry_refuses_yaml_in_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"^'grid\.yaml' cannot be read as a grid \([^\n]+\); mend it\.$"):
        entry.read_yaml(file, what="a grid", then="mend it")


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "large"])
def test_entry_reads_plain_files_of_bounded_size_only(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "large":
        path.write_bytes(b"1" * 20)
    with pytest.raises(ValueError, match=r"No such file|not a file|more than"):
        entry.read_bytes(Path("/dev/null") if kind == "device" else path, limit=10)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "-x", "a" * 101, "é", "a\n", None, 5])
def test_entry_takes_plain_names_only(name: object) -> None:
    with pytest.raises(ValueError, match="not a plain name"):
        entry.plain_name(name, "the backend")
    assert entry.plain_name("fused_moe-1.2+cu", "the backend") == "fused_moe-1.2+cu"


def test_entry_follows_links_before_it_says_what_is_below(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    assert entry.below(inside, inside / "a" / "b") == inside / "a" / "b"
    for path in (inside / "link" / "x", inside / ".." / "out", inside):
        with pytest.raises(UserError, match="outside the folder"):
            entry.below(inside, path)


def test_entry_writes_out_what_a_terminal_would_obey() -> None:
    assert entry.visible("a\x1b[31mb\u202e\ud800") == "a\\x1b[31mb\\u202e\\ud800"
    assert entry.one_line("first\nsecond") == "first"
    assert len(entry.one_line("x" * 1000)) == 200


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "names 'c' twice"),
        (
            "\n".join(["a0: &a0 [x]", *(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(9))]),
            "100,000",
        ),
        ("&a [*a]", "nested"),
        ("[" * 70 + "]" * 70, "nested"),
    ],
    ids=["twice", "laughs", "itself", "deep"],
)
def test_entry_refuses_yaml_that_says_too_much(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=why):
        entry.read_yaml(file, what="a grid", then="mend it")


def test_a_mistyped_run_is_answered_with_those_most_like_it():
    runs = [f"h100/run{letter}" for letter in "abcdefgh"]
    assert entry.meant("h100/rum", runs[:2]) == "give a report file or one of the runs: h100/runa, h100/runb."
    assert entry.meant("x", []) == "give a report file, since there are no runs here."
    many = [*runs, "h200/decode_b16"]
    assert entry.meant("decode_b1", many) == "did you mean h200/decode_b16? `moe-lab runs` lists all 9."
    assert entry.meant("0", many) == "give a report file or a run: `moe-lab runs` lists all 9."


def test_entry_reads_yaml_with_equal_keys_in_different_mappings(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("a: &x {k: 1, j: [k, k]}\nb: *x\nc: {k: {k: k}}\n")
    k = {"k": 1, "j": ["k", "k"]}
    assert entry.read_yaml(file, what="a grid", then="mend it") == {"a": k, "b": k, "c": {"k": {"k": "k"}}}


@pytest.mark.parametrize("text", ["", "²", "1_0", " 1", "+1", "１", "9" * 20, "9" * 5000, "1.0", None, 1])
def test_entry_takes_plain_digits_as_whole_numbers_only(text: object) -> None:
    with pytest.raises(ValueError, match=r"not a whole number|not within"):
        entry.integer(text)
    assert entry.integer("-12") == -12


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ('{"a": 5}', dict[str, str], "'[...]' is a whole number instead of a text"),
        ('{"a": "x"}', dict[str, int | None], "'[...]' is a text instead of a whole number"),
        ("[null]", list[int | str], "'[0]' is null instead of a whole number or a text"),
        ("5", dict[str, int], "it is a whole number instead of a mapping"),
    ],
)
def test_entry_says_wrong_types_in_words(text: str, kind: object, said: str) -> None:
    with pytest.raises(ValueError, match="instead") as caught:
        entry.decode_json(text, kind)
    assert str(caught.value) == said
