"""The kernel of `render.cu`: compiled for the GPU at hand, launched on torch's current stream.

`cuda.bindings` gives access to the compiler, NVRTC, and to the driver. PyTorch's CUDA wheels bring it along.

Shape legend: N images (N, 3, S, S), R rows of W numbers, see `dataset.rows`.
"""

from collections.abc import Callable
from ctypes import c_int, c_void_p
from functools import lru_cache
from importlib import import_module
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError
from utils.text import reason, warn

TABLES = 3072 + 768  # bytes of shared memory for a histogram and a table of levels, three channels each
PARAMETERS = (c_void_p, c_void_p, c_void_p, c_void_p, c_int, c_int)


@lru_cache
def render_kernel() -> Callable[[Tensor, Tensor, Tensor, Tensor], None] | None:
    """`launch_render`, or None after a line on stderr where the kernel can't be made for the current GPU.

    It compiles, and waits for the GPU: call it before a CUDA graph is captured.
    """
    try:
        import_module("cuda.bindings")
        _loaded(torch.cuda.current_device())
    except (ImportError, OSError, RuntimeError) as error:
        warn(f"views are made by many small kernels instead of one: {reason(error)}")
        return None
    return launch_render


def launch_render(pixels: Tensor, rows: Tensor, look: Tensor, out: Tensor) -> None:
    """Write the views that `rows` ask for to out, float32 (R, 3, S, S). The host doesn't wait for that.

    pixels: uint8 (N, 3, S, S); rows: int32 (R, W); look: float32 (6,), mean and std per channel of pixels scaled to
    0 .. 1; all contiguous, on one GPU. Raises ValueError for other tensors, UserError for too large images.
    """
    (n, _, _, size), (r, width) = pixels.shape, rows.shape
    for name, tensor, dtype, shape in (
        ("pixels", pixels, torch.uint8, (n, 3, size, size)),
        ("rows", rows, torch.int32, (r, 6 + (width - 6) // 8 * 8)),
        ("look", look, torch.float32, (6,)),
        ("out", out, torch.float32, (r, 3, size, size)),
    ):
        if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous():
            raise ValueError(f"{name}: contiguous {dtype} {shape}, not {tensor.dtype} {tuple(tensor.shape)}")
    devices = {tensor.device for tensor in (pixels, rows, look, out)}
    if len(devices) > 1 or not pixels.is_cuda:
        raise ValueError(f"pixels, rows, look and out: on one GPU, not on {', '.join(map(str, devices))}")
    if r:  # a grid without blocks is an error
        _launch(r, size, (*(tensor.data_ptr() for tensor in (pixels, rows, look, out)), size, width), pixels.device)


def _launch(blocks: int, size: int, values: tuple[int, ...], device: torch.device) -> None:
    from cuda.bindings import driver

    function, most = _loaded(device.index)
    shared = shared_bytes(size, most)
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        _result(driver.cuLaunchKernel(function, blocks, 1, 1, 256, 1, 1, shared, stream, (values, PARAMETERS), 0))


def shared_bytes(size: int, most: int) -> int:
    """The shared memory that `render.cu` needs for images of size x size pixels, out of `most` bytes.

    Raises UserError where it needs more.
    """
    needed = TABLES + 6 * size**2  # each image lies there twice
    if needed > most:
        largest = isqrt((most - TABLES) // 6)
        raise UserError(f"--img_size {size}: too large for this GPU, which renders images of up to {largest} pixels")
    return needed


def fits(size: int, device: torch.device) -> bool:
    """Whether images of size x size pixels can be rendered on this GPU (an H100: up to 195)."""
    return TABLES + 6 * size**2 <= _loaded(device.index)[1]


@lru_cache
def _loaded(index: int) -> tuple[Any, int]:
    """The kernel on GPU number `index`, and the most shared memory that a launch may ask for there, bytes."""
    from cuda.bindings import driver

    device, function = driver.CUdevice_attribute, driver.CUfunction_attribute
    cubin = compiled("sm_{}{}".format(*torch.cuda.get_device_capability(index)))
    with torch.cuda.device(index):
        torch.cuda.synchronize()  # after which PyTorch's context is this thread's
        kernel = _result(driver.cuModuleGetFunction(_result(driver.cuModuleLoadData(cubin)), b"render"))
        optin = device.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        most = _result(driver.cuDeviceGetAttribute(optin, _result(driver.cuCtxGetDevice())))
        most -= _result(driver.cuFuncGetAttribute(function.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, kernel))
        dynamic = function.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES  # 48 kB unless raised
        _result(driver.cuFuncSetAttribute(kernel, dynamic, most))
    return kernel, most


def compiled(architecture: str, form: str = "CUBIN") -> bytes:
    """`render.cu` for sm_90 and the like, as CUBIN or PTX. Raises RuntimeError with the compiler's words."""
    from cuda.bindings import nvrtc

    def read(what: str) -> bytes:
        size = _result(getattr(nvrtc, f"nvrtcGet{what}Size")(program))
        text = bytes(size + 1)  # NVRTC writes to it; Python shares every object of one byte
        _result(getattr(nvrtc, f"nvrtcGet{what}")(program, text))
        return text[:size]

    source = Path(__file__).with_name("render.cu").read_bytes()
    program = _result(nvrtc.nvrtcCreateProgram(source, b"render.cu", 0, None, None))
    options = [f"--gpu-architecture={architecture}".encode(), b"--fmad=false"]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if error:
        raise RuntimeError(f"{error.name}: {read('ProgramLog').strip(bytes(1)).decode(errors='replace')}")
    code = read(form)
    _result(nvrtc.nvrtcDestroyProgram(program))
    return code


def _result(answer: tuple) -> Any:
    """What a function of cuda.bindings returns besides its error code. Raises RuntimeError with the error's message."""
    from cuda.bindings import driver, nvrtc

    error, *values = answer
    if error:
        message = nvrtc.nvrtcGetErrorString if isinstance(error, nvrtc.nvrtcResult) else driver.cuGetErrorString
        raise RuntimeError(f"{error.name}: {message(error)[1].decode()}")
    return values[0] if values else None
