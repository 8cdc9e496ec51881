"""The kernel that renders views: the bits of the batched functions and of Pillow; no races; it compiles for GPUs.

Its source is C++ but for a few words of CUDA, which shim.cpp and shim_threads.cpp define: so all but the launch is
tested without a GPU.

Shape legend: N images (N, 3, S, S), R rows of W numbers, see `dataset.rows`.
"""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.augmentation import MEAN, STD, natural
from benchmarks.pillow import draw_views, pillow_views
from dataset import kernel
from dataset.kernel import compiled, launch_render, render_kernel, shared_bytes
from dataset.randaugment import FUNCTIONS
from dataset.render import render_in_batches
from dataset.rows import draw_rows
from utils.errors import UserError

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "dataset" / "render.cu"
LOOK = np.array([*MEAN, *STD], np.float32)
VIEWS = ("weak", "strong", "plain", "strong")
SYNC = "__syncthreads();"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def images_of_all_kinds(seed: int, size: int, n: int = 60) -> np.ndarray:
    """Noise, smooth, low contrast, constant, four levels: uint8 (n, 3, S, S), n // 5 of each."""
    rng = np.random.default_rng(seed)
    level, noise = rng.integers(0, 253, (n // 5, 3, 1, 1)), rng.integers(0, 256, (n // 5, 3, size, size))
    kinds = [noise, natural(rng, n // 5, size), level + noise % 4, level + 0 * noise, noise // 64 * 85]
    return np.concatenate(kinds).astype(np.uint8)


def drawn(seed: int, size: int, batch: int, **options) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Pixels, rows (R, W) for VIEWS of images out of them, and the views that the batched functions make of those."""
    pixels = images_of_all_kinds(seed, size)
    image = np.random.default_rng(seed + 1).integers(len(pixels), size=batch)
    rows = draw_rows(np.random.default_rng(seed), image, VIEWS, size, **options)
    rows = rows.reshape(-1, rows.shape[2])
    return pixels, rows, render_in_batches(torch.from_numpy(pixels), rows, torch.from_numpy(LOOK)).numpy()


def bits(views: np.ndarray) -> np.ndarray:
    """Floats as whole numbers: two zeros differ, and so does NaN from whatever should stand there."""
    return views.view(np.int32)


# --- The source on a CPU ---


def on_cpu(folder: Path, shim: str, *flags: str) -> Path:
    """Compile `shim` around the source, in which shared memory of a size given at launch becomes a plain array."""
    dynamic, text = "extern __shared__ int count[];", SOURCE.read_text()
    assert text.count(dynamic) == 1
    (folder / "render.inc").write_text(text.replace(dynamic, "int* count = shared_memory;"))
    built, source = folder / "built", f'-DSOURCE="{folder}/render.inc"'
    command = [
        "g++",
        "-std=c++17",
        "-ffp-contract=off",
        "-Wno-unknown-pragmas",
        source,
        *flags,
        HERE / shim,
        "-o",
        built,
    ]
    subprocess.run(command, check=True)
    return built


@pytest.fixture(scope="session")
def render_all(tmp_path_factory):
    """(pixels, rows) -> float32 (R, 3, S, S), by the source on a CPU."""
    path = on_cpu(tmp_path_factory.mktemp("kernel"), "shim.cpp", "-O2", "-shared", "-fPIC")
    function = ctypes.CDLL(str(path)).render_all

    def render(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        out = np.full((len(rows), *pixels.shape[1:]), np.nan, np.float32)
        arrays = (np.ascontiguousarray(array) for array in (pixels, rows, LOOK))
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (*arrays, out)]
        function(*pointers, pixels.shape[3], rows.shape[1], len(rows))
        return out

    return render


@needs_compiler
@pytest.mark.parametrize(("size", "batch", "scale"), [(32, 300, 1.0), (40, 150, 1.0), (64, 80, 2.0)])
@pytest.mark.parametrize("options", [{}, {"m": 30}, {"m": 13.5, "n": 5, "flip": False}], ids=str)
def test_equals_the_batched_functions(render_all, size: int, batch: int, scale: float, options: dict):
    pixels, rows, expected = drawn(size, size, batch, pixel_scale=scale, **options)
    assert set(rows[:, 6::8].flat) == set(range(len(FUNCTIONS)))
    np.testing.assert_array_equal(bits(render_all(pixels, rows)), bits(expected))


@needs_compiler
@pytest.mark.parametrize("size", [21, 32, 64])
def test_equals_pillow(render_all, size: int):
    pixels = np.concatenate([images_of_all_kinds(seed, size) for seed in range(5)])
    rows = draw_rows(np.random.default_rng(3), np.arange(len(pixels)), VIEWS, size)
    draw = draw_views(np.random.default_rng(3), VIEWS, len(pixels), size)
    by_pillow = torch.cat(pillow_views(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), VIEWS, draw, MEAN, STD))
    got = render_all(pixels, rows.reshape(-1, rows.shape[2]))
    assert len(got) >= 1000
    np.testing.assert_array_equal(got, by_pillow.numpy())  # Pillow's pipeline has no -0


@needs_compiler
@pytest.mark.slow
def test_threads_wait_for_each_other(tmp_path: Path):
    """ThreadSanitizer sees no race; it does see one wherever threads no longer wait for each other."""
    program = on_cpu(tmp_path, "shim_threads.cpp", "-O1", "-g", "-fsanitize=thread", "-pthread")
    pixels, rows, expected = drawn(5, 16, 6, m=17, n=8)
    assert set(rows[:, 6::8].flat) == set(range(len(FUNCTIONS)))
    sizes = np.array([16, rows.shape[1], len(pixels), len(rows)], np.int32)
    given = b"".join(array.tobytes() for array in (sizes, pixels, rows, LOOK))

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([program, *arguments], input=given, capture_output=True)

    whole = run()
    if b"unexpected memory mapping" in whole.stderr:
        pytest.skip("ThreadSanitizer can't run on this kernel: sysctl vm.mmap_rnd_bits=28")
    assert (whole.returncode, whole.stderr) == (0, b"")
    assert whole.stdout == expected.tobytes()
    lines = [i for i, line in enumerate(SOURCE.read_text().splitlines(), 1) if SYNC in line]
    assert len(lines) == SOURCE.read_text().count(SYNC) == 8
    for line in lines:  # on a busy machine all of 48 runs saw one
        assert any(b"ThreadSanitizer: data race" in run(str(line)).stderr for _ in range(3)), f"line {line}"


# --- Compiled for a GPU ---


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_compiles_for_gpus_without_fused_multiply_add(architecture: str):
    pytest.importorskip("cuda.bindings", reason="comes with PyTorch's CUDA wheels")
    try:
        cubin, ptx = compiled(architecture), compiled(architecture, "PTX").decode()
    except RuntimeError as error:
        if "nvrtc" not in str(error) or "NVRTC_ERROR" in str(error):
            raise
        pytest.skip(f"no NVRTC: {error}")
    assert cubin.startswith(b"\x7fELF")
    assert ".entry render(" in ptx
    assert re.findall(r"\bfma\.\S+|\bmad\.(?:rn|f)\S+|\S+\.(?:approx|ftz)\S*", ptx) == []
    assert {"div.rn.f32", "mul.rn.f32", "mul.rn.f64"} <= set(re.findall(r"\b(?:mul|div)\.rn\.f\d+", ptx))
    assert ".local" not in ptx  # all of a thread's numbers fit in registers


def test_a_source_that_does_not_compile_is_named(tmp_path: Path, monkeypatch):
    pytest.importorskip("cuda.bindings", reason="comes with PyTorch's CUDA wheels")
    (tmp_path / "render.cu").write_text("nonsense")
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "kernel.py"))
    with pytest.raises(RuntimeError, match="nonsense"):
        compiled("sm_90")


def test_no_kernel_without_cuda_bindings(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    render_kernel.cache_clear()
    try:
        assert [render_kernel(), render_kernel()] == [None, None]
    finally:
        render_kernel.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: views are made by")
    assert "cuda.bindings" in line


def test_too_large_images():
    assert shared_bytes(32, 48 * 1024) == 3840 + 6 * 32**2
    assert shared_bytes(195, 232_420) == 3840 + 6 * 195**2
    with pytest.raises(UserError, match=r"^--img_size 196: .* up to 195 pixels$"):
        shared_bytes(196, 232_420)


def test_tensors_of_other_shapes():
    given = {
        "pixels": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        "rows": torch.zeros(4, 30, dtype=torch.int32),
        "look": torch.zeros(6),
        "out": torch.zeros(4, 3, 8, 8),
    }
    wrong = {
        "pixels": torch.zeros(2, 3, 8, 9, dtype=torch.uint8)[..., :8],
        "rows": torch.zeros(4, 29, dtype=torch.int32),
        "look": torch.zeros(6, dtype=torch.float64),
        "out": torch.zeros(3, 3, 8, 8),
    }
    for name, tensor in wrong.items():
        with pytest.raises(ValueError, match=f"^{name}: contiguous"):
            launch_render(**given | {name: tensor})
    with pytest.raises(ValueError, match="on one GPU, not on cpu"):
        launch_render(**given)


# --- On a GPU ---


def on_gpu(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array).cuda() for array in arrays]


def poisoned(rows: torch.Tensor, size: int) -> torch.Tensor:
    return torch.full((len(rows), 3, size, size), torch.nan, device="cuda")


def assert_bits(out: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(bits(out.cpu().numpy()), bits(expected))


@needs_gpu
@pytest.mark.parametrize(
    ("size", "batch", "scale"), [(32, 1250, 1.0), (40, 100, 1.0), (64, 1250, 2.0), (96, 50, 3.0), (128, 50, 4.0)]
)
def test_gpu_equals_the_batched_functions(size: int, batch: int, scale: float):
    launch = render_kernel()
    if shared_bytes(size, 2**20) > kernel._loaded(torch.cuda.current_device())[1]:
        pytest.skip("this GPU has too little shared memory")
    for options in ({}, {"m": 13.5, "n": 5}):
        pixels, rows, expected = drawn(size, size, batch, pixel_scale=scale, **options)
        pixels, rows, look = on_gpu(pixels, rows, LOOK)
        out = poisoned(rows, size)
        launch(pixels, rows, look, out)
        assert_bits(out, expected)


@needs_gpu
def test_gpu_on_a_side_stream():
    """The rows arrive late, on that stream: a launch on another one would read zeros."""
    pixels, rows, expected = drawn(7, 32, 100)
    pixels, rows, look = on_gpu(pixels, rows, LOOK)
    late, out, slow = torch.zeros_like(rows), poisoned(rows, 32), torch.rand(4096, 4096, device="cuda")
    launch, side = render_kernel(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        for _ in range(10):
            slow = slow @ slow
        late.copy_(rows)
        launch(pixels, late, look, out)
    torch.cuda.synchronize()
    assert_bits(out, expected)


@needs_gpu
def test_gpu_in_a_cuda_graph():
    """Replayed with other rows in the same place, it renders those."""
    launch, graph = render_kernel(), torch.cuda.CUDAGraph()
    pixels, rows, first = drawn(8, 32, 100)
    _, other_rows, _ = drawn(9, 32, 100)
    pixels, rows, other_rows, look = on_gpu(pixels, rows, other_rows, LOOK)
    place, out, again = torch.zeros_like(rows), poisoned(rows, 32), poisoned(rows, 32)
    with torch.cuda.graph(graph):
        launch(pixels, place, look, out)
    torch.cuda.synchronize()
    assert out.isnan().all()  # captured, not run
    place.copy_(rows)
    graph.replay()
    assert_bits(out, first)
    place.copy_(other_rows)
    graph.replay()
    launch(pixels, other_rows, look, again)
    assert_bits(out, again.cpu().numpy())
    assert not torch.equal(out.cpu(), torch.from_numpy(first))


@needs_gpu
def test_gpu_renders_no_rows_and_no_large_images():
    launch = render_kernel()
    pixels, rows, look = on_gpu(np.zeros((1, 3, 400, 400), np.uint8), np.zeros((1, 30), np.int32), LOOK)
    with pytest.raises(UserError, match="--img_size 400"):
        launch(pixels, rows, look, poisoned(rows, 400))
    launch(pixels, rows[:0], look, poisoned(rows[:0], 400))
    torch.cuda.synchronize()
