"""What may be published of strings."""

import shlex
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_lab.runs import redact


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
        (["/usr/bin/python3", "-m", "moe_lab.gpu", "layer"], ["python3", "-m", "moe_lab.gpu", "layer"]),
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


TYPED = """
env X_TOKEN=LEAK1 hf_token=hf_LEAK2 'A_SECRET=LEAK3 b' PGPASS=LEAK4 PWD_X=LEAK5 python x.py --api-key LEAK6
--apikey=LEAK7 --hf-token LEAK8 --token=LEAK9 -H 'Authorization: Bearer LEAK10' --header 'X-Api-Key: LEAK11'
https://user:LEAK12@host.com/x --url=https://u:LEAK13@h/y -p LEAK14 --pass LEAK15 --pwd LEAK16 --private-key
LEAK17 --key LEAK18 --access-key LEAK19 --aws_access_key_id AKIALEAK20 -c
"import os; os.environ['HF_TOKEN']='hf_LEAK21'" bash -c 'export OPENAI_API_KEY=LEAK22; run'
'{"api_key": "LEAK23"}' 's3://b?X-Amz-Signature=LEAK24' sk-LEAK25abcdefghijklmnopqrst
hf_LEAK26abcdefghijklmnop ghp_LEAK27abcdefghijklmnopqrstuvw --HF-TOKEN LEAK28 --wandb_api_key LEAK29 --bearer
LEAK30 token:LEAK31 --cookie=session=LEAK32 --auth=LEAK33 -u bob:LEAK34 --user bob:LEAK35
'https://x.com?api_key=LEAK36&y=1' 'Bearer LEAK37' --token --token LEAK38 --credentials-file LEAK39
--nsys-option=--env-var=HF_TOKEN=LEAK40 --env-var=A=1,HF_TOKEN=LEAK41 '--config={\\"api_key\\": \\"LEAK42\\"}'
xoxb-LEAK45-abcdefgh glpat-LEAK46abcdefgh 'curl -u bob:LEAK47 x'
"""
KEPT = ["--tokenizer", "qwen", "--max-tokens", "5", "--key-value", "cache", "--auth-type", "none", "--m", "16"]
KEPT += [
    "--nvtx-include",
    "moe_lab@w13/",
    "cudnn==9.1.0.70",
    "580.159.04",
    "python",
    "-u",
    "train.py",
    "--num-tokens=4",
]


def test_command_keeps_no_secret_however_it_is_typed_and_all_else() -> None:
    argv = shlex.split(TYPED) + KEPT
    with redact.counting() as hidden:
        got = redact.command(argv)
    assert not [argument for argument in got if "LEAK" in argument]
    assert got[-len(KEPT) :] == KEPT
    assert hidden.counts["secret"] >= 45


@pytest.mark.parametrize(
    "name",
    [
        "_matmul_ogs_NNT_bf16xbf16xmxfp4_128x128x128x1_swiglu",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas",
        "Cijk_Alik_Bljk_HHS_BH_MT128x128x32_MI32x32x8x1_SN_1LDSB0_APM1_ABV0_ACED0_AF0EM8",
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "void at::native::auth::token<int>(a::b, fe::c)",
        "moe_lab|phase=prefill|M=16|key=abc",
        "{'Module': 'model.layers.0.mlp'}",
        "num_tokens_post_padded=3 token_ids: x pass: forward tokens/s 12:34:56",
        "fd03371687568c511be2f9204932b3d76fd432ccaf4c19632cd53e98b0eb53c8",
        "vllm-0.33.0-cp38-abi3-manylinux_2_28_x86_64.whl",
        "2026-11-26T01:34:24+00:00",
    ],
    ids=lambda name: name[:24],
)
def test_text_leaves_names_that_matter_as_they_are(name: str) -> None:
    assert redact.text(name) == name
