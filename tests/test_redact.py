"""What may be published of strings."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_lab import redact


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/ada/model/run.py", "run.py"),
        ("file:///home/ada/x.py", "file:x.py"),
        ("load(/opt/models/qwen/)", "load(qwen)"),
        ("--out=/tmp/ada/x.txt,/y/z", "--out=x.txt,z"),
        ("~/src/run.py", "run.py"),
        ("kernel_from_/home/ada/k.cu", "kernel_from_k.cu"),
        (r"C:\Users\ada\run.py", "run.py"),
        (r"\\server\share\run.py", "run.py"),
        ("'/data/a b/c'", "'a b/c'"),
        # not paths
        ("tokens/s", "tokens/s"),
        ("model.layers.0/mlp", "model.layers.0/mlp"),
        ("void f<(int)4, x::[lambda(float)]>(T2 *, int)", "void f<(int)4, x::[lambda(float)]>(T2 *, int)"),
        ("a / b", "a / b"),
        ("moe_lab|M=1|backend=fused_moe", "moe_lab|M=1|backend=fused_moe"),
    ],
)
def test_text_cuts_absolute_paths_to_their_last_component(value, expected):
    assert redact.text(value) == expected


def test_text_replaces_host_names_as_whole_words():
    assert redact.text("rank0@node-17:8000 on node-171", ["node-17"]) == "rank0@host:8000 on node-171"


@given(
    st.lists(st.text("abcXYZ019_.", min_size=1, max_size=6), min_size=2, max_size=5),
    st.sampled_from([" ", "=", "'", "(", ":", ""]),
)
def test_text_leaves_no_folder_of_a_path(parts, before):
    folders = [f"folder{i}{p}" for i, p in enumerate(parts[:-1])]
    got = redact.text(f"{before}/{'/'.join([*folders, parts[-1]])}")
    assert not any(folder in got for folder in folders)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/python3", "-m", "moe_lab.workload", "layer"], ["python3", "-m", "moe_lab.workload", "layer"]),
        (["env", "HF_TOKEN=hf_abc", "CUDA_VISIBLE_DEVICES=0", "python"], ["env", "CUDA_VISIBLE_DEVICES=0", "python"]),
        (
            ["bash", "-c", "AWS_SECRET_ACCESS_KEY='a b' OPENAI_API_KEY=sk1 /opt/x/run --m 1"],
            ["bash", "-c", "run --m 1"],
        ),
        (["serve", "--api-key", "sk1", "--port", "80"], ["serve", "--api-key", "[redacted]", "--port", "80"]),
        (["serve", "--hf-token=hf_abc"], ["serve", "--hf-token=[redacted]"]),
        (["run", "--max-tokens", "16", "--num-tokens=4"], ["run", "--max-tokens", "16", "--num-tokens=4"]),
        (["run", "--model=/home/ada/m/qwen", ""], ["run", "--model=qwen", ""]),
    ],
)
def test_command_hides_paths_and_secrets(argv, expected):
    assert redact.command(argv) == expected


def test_tree_reaches_nested_strings_and_keys():
    got = redact.tree({"/a/b": [{"x": "/home/ada/f"}, 3, None, True]})
    assert got == {"b": [{"x": "f"}, 3, None, True]}


@pytest.mark.parametrize("part", ["a=", "-", "x@", "/", "\\", "A", "a:", "aB", "?a", "[", "1.", "x-", "://", "a "])
def test_text_takes_time_in_proportion_to_long_strings(part):
    began = time.process_time()
    redact.text(part * (20_000 // len(part)))
    assert time.process_time() - began < 5, "one that looks back from every character takes 20 s"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://github.com/vllm-project/vllm", "https://github.com/vllm-project/vllm"),
        ("git+https://github.com/a/b.git@v1", "git+https://github.com/a/b.git@v1"),
        ("https://ada:pw@example.com/x", "https://[redacted]@example.com/x"),
        ("http://node17:8000/v1", "http://host:8000/v1"),
        ("https://ada:pw@h/x", "https://[redacted]@host/x"),
        ("https://ada:pw@red/x", "https://[redacted]@host/x"),
        ("https://example.com/home/ada/x", "https://example.com/home/x"),
    ],
)
def test_text_keeps_addresses_of_pages_without_their_credentials(value, expected):
    assert redact.text(value) == expected
