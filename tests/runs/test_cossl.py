"""`cossl.load`: the example of the documentation, word for word; what it refuses."""

import pytest
import torch
from helpers.examples import agrees, example, run_python
from helpers.published_runs import published_state

from cossl import load
from utils.errors import UserError


@pytest.mark.slow
def test_the_example_in_the_documentation(own_runs, tmp_path):
    code = example("from cossl import load")
    assert len(code.splitlines()) <= 10
    agrees(run_python(code, own_runs), own_runs, tmp_path / "out.csv")


def test_published_checkpoints(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(published_state("train_cifar_fix_cossl"), path)
    names = list("abcdefghij")
    predictor, classes = load(path, classes=names)
    assert classes == names
    assert predictor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 10)
    assert load(str(path), classes=names, dataset="cifar100", img_size=64)[0].img_size == 64
    with pytest.raises(UserError, match=r"--classes: .* doesn't name its classes"):
        load(path)
    with pytest.raises(UserError, match="--classes: 2 entries"):
        load(path, classes=names[:2])
    with pytest.raises(UserError, match="dataset mnist: not known; give one of cifar10"):
        load(path, classes=names, dataset="mnist")
    with pytest.raises(UserError, match=r"^/.*nowhere.tar: no such file"):
        load(tmp_path / "nowhere.tar")
