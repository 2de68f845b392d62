"""Unreadable and transparent image files of a dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imports import all_images, held, tree, write_images
from PIL import Image

from mnist_jax.datasets import image_files, importing, load_dataset
from mnist_jax.datasets.image_files import read_image
from mnist_jax.datasets.importing import import_dataset
from mnist_jax.datasets.importing.sources import folder
from mnist_jax.datasets.info import describe_images
from mnist_jax.handwriting.files import prepare

pytestmark = pytest.mark.usefixtures("data_dir")


def damage(good: bytes) -> dict[str, bytes]:
    return {"cut.png": good[:40], "empty.png": b"", "text.png": b"no image", "bits.png": b"\x89PNG"}


def test_unreadable_files_are_named_all_at_once_or_left_out(tmp_path):
    paths = [f"{part}/{x}/{n}.png" for part in ("train", "test") for x in "ab" for n in range(3)]
    root = tree(tmp_path / "in", *paths)
    bad = damage((root / "train/a/0.png").read_bytes())
    for part in ("train", "test"):
        for name, content in bad.items():
            (root / part / "b" / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"^8 images cannot be read: ") as caught:
        import_dataset("mine", [root])
    message = str(caught.value)
    assert all(f"{part}/b/{name}" in message for part in ("train", "test") for name in bad)
    assert message.endswith("; --skip-unreadable leaves them out")
    imported = import_dataset("mine", [root], skip_unreadable=True)
    assert {split: [*found] for split, found in held(imported).items()} == {
        "train": [1, 4, 2, 5, 3, 6],
        "test": [7, 10, 8, 11, 9, 12],
    }
    assert len(imported.source.ignored) == 8


def test_a_file_that_becomes_unreadable_while_it_is_imported_is_an_error(tmp_path, monkeypatch):
    root = tree(tmp_path / "in", "a/1.png", "b/2.png")
    monkeypatch.setattr(folder, "KEPT_BYTES", 0)
    create = importing.create_builder

    def damage_first(*args: Any) -> Any:
        (root / "a/1.png").write_bytes(b"")
        return create(*args)

    monkeypatch.setattr(importing, "create_builder", damage_first)
    with pytest.raises(ValueError, match=r"a/1.png is not a readable image"):
        import_dataset("mine", [root], test_fraction=0.5, skip_unreadable=True)


def ink_on_nothing(path: Path, image: np.ndarray, grey: int) -> None:
    pixels = np.zeros((*image.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = grey, image
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(pixels).save(path, **options)


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
@pytest.mark.parametrize(("greys", "ground"), [((0, 90, 160), 255), ((255, 250, 40), 0)])
def test_transparent_pictures_have_one_ground_in_all_parts(suffix, greys, ground, mnist, tmp_path):
    """Most pictures stand out on it, and a network uses it for such files."""
    digits = (mnist["test"].images[:60, ..., 0] > 99).astype(np.uint8) * 255
    for number, image in enumerate(digits):
        part, grey = ("train", "val", "test")[number % 3], greys[number // 3 % 3]
        path = tmp_path / "in" / part / str(number % 2) / f"{number}.{suffix}"
        ink_on_nothing(path, image, grey)
    import_dataset("mine", [tmp_path / "in"], channels=1)
    for part in ("train", "validation", "test"):
        images = load_dataset("mine", part).images[..., 0]
        expected = [np.where(x, greys[n // 3 % 3], ground) for n, x in enumerate(digits)]
        for image in images.astype(int):
            assert any((np.abs(image - x) <= 3).all() for x in expected)
    info = describe_images(load_dataset("mine", "train").images, ("0", "1"))
    assert info.ground == ground
    for path in sorted((tmp_path / "in/train").rglob(f"*.{suffix}")):
        seen = prepare(read_image(path, info.ground), info).pixels
        assert any((seen == image).all() for image in load_dataset("mine", "train").images)


# Numbers that people save, the type and the end of their files, and the value of white.
NUMBERS = [
    (np.uint16, "png", 255),
    (np.uint16, "png", 4095),
    (np.uint16, "tif", 65535),
    (np.int32, "tif", 16),
    (np.float32, "tif", 1),
    (np.float32, "tiff", 255),
]


@pytest.mark.parametrize(("dtype", "suffix", "white"), NUMBERS)
def test_white_of_image_files_is_that_of_the_whole_dataset(dtype, suffix, white, tmp_path):
    """One picture is dark, another bright; each keeps all its levels."""
    for name, brightness in (("a", 1), ("b", 0.25)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for part in (0.5, 1):
            pixels = (np.linspace(0, white * brightness * part, 64).reshape(8, 8)).astype(dtype)
            Image.fromarray(pixels).save(tmp_path / "in" / name / f"{part}.{suffix}")
    options: dict[str, Any] = {"test_fraction": 0.1, "overwrite": True}
    assert import_dataset("mine", [tmp_path / "in"], **options).pixel_range == (0, white)
    largest = sorted(all_images().max(axis=(1, 2, 3)))
    np.testing.assert_allclose(largest, [32, 64, 128, 255], atol=8 if white == 16 else 1)
    import_dataset("mine", [tmp_path / "in"], pixel_range=(0, 2 * white), **options)
    assert load_dataset("mine", "train").images.max() <= 128


def test_pixels_that_are_not_kept_are_read_again(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for channels in (3, 4):
        images = rng.integers(0, 256, (6, 3, 4, channels), np.uint8)
        write_images(tmp_path / "in", images, [f"{channels}{n % 2}" for n in range(6)])
    written = set()
    for kept in (1 << 20, 50, 0):
        monkeypatch.setattr(folder, "KEPT_BYTES", kept)
        import_dataset("mine", [tmp_path / "in"], overwrite=True)
        splits = [load_dataset("mine", split) for split in ("train", "test")]
        written.add(tuple((split.images.tobytes(), split.labels.tobytes()) for split in splits))
    assert len(written) == 1


def test_the_first_ten_of_many_unreadable_files_are_named(tmp_path):
    root = tree(tmp_path / "in", "a/0.png", "b/0.png")
    for number in range(12):
        (root / "a" / f"x{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^12 images .*x9.png .*[^;]; \.\.\.; --skip") as caught:
        import_dataset("mine", [root])
    assert "x10.png" not in str(caught.value)
    (root / "b/0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="there must be two or more classes"):
        import_dataset("mine", [root], skip_unreadable=True)


def test_files_that_are_forbidden_or_too_large_are_unreadable_too(tmp_path, monkeypatch):
    root = tree(tmp_path / "in", *(f"{x}/{n}.png" for x in "ab" for n in range(3)))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "a/large.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 80)
    read = image_files.read_pixels

    def forbid_one(path: Path) -> np.ndarray:
        if path == root / "b/1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(image_files, "read_pixels", forbid_one)
    with pytest.raises(ValueError, match=r"^2 images .*denied: .*b/1.png.*9x9 pixels"):
        import_dataset("mine", [root])
    imported = import_dataset("mine", [root], skip_unreadable=True)
    assert imported.num_train + imported.num_test == 5
