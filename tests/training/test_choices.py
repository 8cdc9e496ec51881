"""What is chosen for somebody's own images: by the images, by the machine, by what is given."""

import pytest
from helpers.own_images import image_folder, write_image

from dataset.layouts import list_images
from training.choices import choose
from utils.errors import UserError


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path / "images")


def choices(images, monkeypatch, chosen=None, failing=False, gpu=False):
    def file(arch, weights):
        if failing:
            raise UserError("--weights default: no network; get https://example.org/w.pth, and give --weights FILE")

    monkeypatch.setattr("training.choices.weights_file", file)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    return choose(chosen or {}, list_images(images, False))


def test_choices_depend_on_the_machine(images, monkeypatch, capsys):
    found, reasons = choices(images, monkeypatch)
    speed = {"channels_last": True, "max_lam": 0.6}
    assert found == {"arch": "efficientnet_b0", "weights": "default", "img_size": 64, "batch_size": 10} | speed
    assert len(reasons) == 5 and all(reason.startswith("--") for reason in reasons)
    assert choices(images, monkeypatch, gpu=True)[0]["arch"] == "resnet50"
    assert choices(images, monkeypatch, {"gpu": "cpu"}, gpu=True)[0]["arch"] == "efficientnet_b0"
    found, _ = choices(images, monkeypatch, failing=True)
    assert "weights" not in found and (found["depth"], found["img_size"], found["schedule"]) == (10, 32, "short")
    assert "schedule" not in choices(images, monkeypatch, failing=True, gpu=True)[0]
    assert "https://example.org/w.pth" in capsys.readouterr().out


def test_the_size_depends_on_the_images(images, monkeypatch):
    """By the median: a few large ones, or damaged ones, change nothing."""
    assert choices(images, monkeypatch)[0]["img_size"] == 64
    files = sorted((images / "labelled").rglob("*.png"))
    for i, path in enumerate(files):
        write_image(path, i, (300, 200)) if i < 4 else None
    (images / "labelled" / "cat" / "bad.png").write_bytes(b"no image")
    assert choices(images, monkeypatch)[0]["img_size"] == 64
    for i, path in enumerate(files):
        write_image(path, i, (300, 200)) if i < 7 else None
    assert choices(images, monkeypatch)[0]["img_size"] == 96
    assert choices(images, monkeypatch, gpu=True)[0]["img_size"] == 224
    assert choices(images, monkeypatch, failing=True)[0]["img_size"] == 32


def test_what_is_given_is_not_chosen(images, monkeypatch):
    given = {"arch": "resnet18", "img_size": 64, "batch_size": 3, "max_lam": 0.8, "holdout": 0.5}
    given |= {"channels_last": False, "schedule": "published", "weights": None}
    found, reasons = choices(images, monkeypatch, given)
    assert found == given and reasons == []


def test_a_network_that_is_given_has_its_weights_unless_they_are_refused(images, monkeypatch):
    found, reasons = choices(images, monkeypatch, {"arch": "resnet18"})
    assert (found["arch"], found["weights"], found["img_size"]) == ("resnet18", "default", 64)
    assert reasons[0].startswith("--weights default: ")
    found, _ = choices(images, monkeypatch, {"arch": "resnet18"}, failing=True)
    assert found["arch"] == "resnet18" and found.get("weights") is None and "depth" not in found
    with pytest.raises(UserError, match="--weights default: no network"):  # which was asked for
        choices(images, monkeypatch, {"weights": "default"}, failing=True)


def test_images_that_cannot_be_read_are_no_batch(images, monkeypatch, capsys):
    (images / "labelled" / "cat" / "5.png").write_bytes(b"no image")
    found, _ = choices(images, monkeypatch, {"skip_corrupt": True})
    assert found["batch_size"] == 9 and "5.png" in capsys.readouterr().err


def test_a_network_of_one_size_gets_images_of_it(images, monkeypatch):
    pytest.importorskip("timm")
    for arch, size in (("timm:vit_tiny_patch16_224", 224), ("timm:tf_efficientnet_lite0", 64)):
        found, _ = choices(images, monkeypatch, {"arch": arch, "weights": "/w.pth"})
        assert found["img_size"] == size


def test_weights_without_a_network_are_of_the_usual_one(images, monkeypatch):
    found, _ = choices(images, monkeypatch, {"weights": "/w.pth"})
    assert (found["arch"], found["weights"]) == ("efficientnet_b0", "/w.pth")
    found, _ = choices(images, monkeypatch, {"weights": None})
    assert "arch" not in found and (found["depth"], found["width"]) == (10, 1)
