"""Pre-trained weights of torchvision's and timm's networks: a file of one's own, or the library's download."""

import pickle
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from models.library import TIMM, classifier_of, import_timm, refuse_unknown
from utils.errors import UserError
from utils.files import sha256_of
from utils.text import reason

DEFAULT = "default"
NO_ARCH = "only with a network of --arch, such as resnet18"
IMAGENET_LOOK = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OLDER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # names in torchvision's files of DenseNet
# What files raise that aren't what they seem.
_WRONG = (pickle.UnpicklingError, RuntimeError, OSError, ValueError, LookupError, EOFError, TypeError, AttributeError)


def load_weights(network: nn.Module, arch: str, weights: str, size: int) -> str:
    """Load weights into a whole network, in place, but for its classifier. Returns the SHA-256 of their file.

    weights: the file of a state dict, by torch.save or safetensors, or DEFAULT, the library's download; size: side of
    the images, pixels, to which the places of a vision transformer are interpolated. Runs no code from the file.
    Raises UserError for a file that is missing, that isn't a state dict, or that is of another network, and where
    nothing can be downloaded.
    """
    file = weights_file(arch, weights)
    state, classifier = _read(file), f"{classifier_of(network)}."
    if wrong := _misfit(network, state, classifier, size):
        raise UserError(f"--weights {file}: not of {arch} ({wrong}); give its own, or the --arch they are of")
    return sha256_of(file)


def weights_file(arch: str, weights: str) -> Path:
    """Where weights lie; DEFAULT is downloaded if need be. Raises UserError where that fails."""
    return _download(arch) if weights == DEFAULT else Path(weights)


def _misfit(network: Any, state: dict[str, Tensor], classifier: str, size: int) -> str:
    """Load a state; in words why it doesn't fit, empty if it does."""
    try:
        from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

        if isinstance(network, VisionTransformer):
            state.update(interpolate_embeddings(size, network.patch_size, state))
        for name in [name for name in state if name.startswith(classifier)]:
            del state[name]
        for name, value in network.state_dict().items():
            if name in state and state[name].is_floating_point() != value.is_floating_point():
                return f"its {name} is of {state[name].dtype}".replace("torch.", "")
        missing, unexpected = network.load_state_dict(state, strict=False)
    except _WRONG as error:
        return " ".join(str(error).split("\n\t")[-1].split())
    missing = [name for name in missing if not name.startswith(classifier)]
    lacks = [f"it lacks {missing[0]}"] if missing else []
    return " and ".join(lacks + ([f"has {unexpected[0]}"] if unexpected else []))


def _read(file: Path) -> dict[str, Tensor]:
    """The state dict in a file, or under `state_dict` or `model` in it; names without a wrapper's `module.`."""
    if not file.is_file():
        problem = "a folder, or no file" if file.exists() else "no such file"
        raise UserError(f"--weights {file}: {problem}; give that of a state dict, default or none")
    try:
        if file.suffix == ".safetensors":
            state: Any = _read_safetensors(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of files that are refused below
                state = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError:
        raise UserError(f"--weights {file}: safetensors is not installed; pip install safetensors") from None
    except _WRONG as error:
        unsafe = isinstance(error, pickle.UnpicklingError)
        _refuse(file, "it holds code, or is of another program" if unsafe else "it is damaged")
    if isinstance(state, dict) and "ema_state_dict" in state:
        raise UserError(f"--weights {file}: a checkpoint of a run of these scripts; start from it by --resume")
    state = next((state[key] for key in ("state_dict", "model") if isinstance(state, dict) and key in state), state)
    if not isinstance(state, dict) or not state or not all(_is_named_tensor(*item) for item in state.items()):
        _refuse(file, "it holds something else")
    if not all(value.double().isfinite().all() for value in state.values()):
        _refuse(file, "not all that it holds are numbers")
    found = OrderedDict((_OLDER.sub(r"\1\2", name.removeprefix("module.")), value) for name, value in state.items())
    found._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]  # versions of the layers
    return found


def _is_named_tensor(name: object, value: object) -> bool:
    """Whether these are a parameter or buffer with its values: not quantised, sparse, or without them."""
    named = isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
    return named and not (value.is_quantized or value.is_meta or value.is_complex())


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except SafetensorError:
        _refuse(file, "it is damaged")


def _refuse(file: Path, problem: str) -> NoReturn:
    problem = f"no state dict can be read ({problem})"
    raise UserError(f"--weights {file}: {problem}; save one by torch.save(model.state_dict(), file)") from None


def _download(arch: str) -> Path:
    """The file of the library's own weights, in its cache. Raises UserError where it can't be had."""
    url = f"the weights of {arch}"
    try:
        if arch.startswith(TIMM):
            from huggingface_hub import hf_hub_download

            repository = import_timm().get_pretrained_cfg(arch.removeprefix(TIMM)).hf_hub_id
            url = f"https://huggingface.co/{repository}/resolve/main/model.safetensors"
            return Path(hf_hub_download(repository, "model.safetensors"))
        from torchvision.models import get_model_weights

        best: Any = get_model_weights(arch).DEFAULT
        url = best.url
        best.get_state_dict(progress=False, check_hash=True)
        return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    except (ImportError, *_WRONG) as error:
        problem = f"can't be downloaded ({reason(error)[:100]})"
        raise UserError(f"--weights default: {problem}; get {url}, and give --weights FILE") from None


def look_of(arch: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, (3,) each, of the images that its published weights learned from.
    Raises UserError for a network that isn't the library's.
    """
    if arch is None:
        raise UserError(f"--weights: {NO_ARCH}")
    refuse_unknown(arch)
    if not arch.startswith(TIMM):
        from torchvision.models import get_model_weights

        published: Any = get_model_weights(arch).DEFAULT.transforms()
        return tuple(published.mean), tuple(published.std)
    config = import_timm().get_pretrained_cfg(arch.removeprefix(TIMM))
    return (tuple(config.mean), tuple(config.std)) if config else IMAGENET_LOOK
