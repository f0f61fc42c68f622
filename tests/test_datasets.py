"""Data sets: what each loader returns, and what it says about files it cannot use."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from realdata import real_data

from robustsnn.datasets import ImageDataset, Split, available, load, validate
from robustsnn.datasets.download import fetch
from robustsnn.datasets.idx import CLOTHES, FASHION_MNIST, MNIST, read_idx
from robustsnn.datasets.npz import to_nchw
from robustsnn.errors import RobustSNNError, UnknownNameError

IDX_SETS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def message(*args, **kwargs) -> str:
    """Return what `load` says about input it refuses; always one line."""
    with pytest.raises(RobustSNNError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_says(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, text


def torchvision_datasets() -> types.ModuleType:
    try:
        import torchvision.datasets
    except Exception as error:  # RuntimeError where it was built for another torch
        pytest.skip(f"torchvision cannot be imported: {error}")
    return torchvision.datasets


# Splits and data sets


def small_split(n: int = 6, dtype: torch.dtype = torch.uint8) -> Split:
    images = torch.arange(n * 12).reshape(n, 3, 2, 2)
    images = images.to(torch.uint8) if dtype == torch.uint8 else images.float() / (n * 12)
    return Split(images, torch.arange(n) % 3)


def small_set(**changes) -> ImageDataset:
    return replace(ImageDataset("toy", small_split(), small_split(4), 3, ("a", "b", "c")), **changes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 4), [1, 2, 3]),
        ([4, 0, 4], [4, 0, 4]),
        (np.array([2]), [2]),
        (torch.tensor([5, 1]), [5, 1]),
        ([True, False, False, True, False, False], [0, 3]),
        (3, [3]),
        ([], []),
    ],
)
def test_batch_gives_the_rows_asked_for_in_model_units(dtype, index, rows):
    split = small_split(dtype=dtype)
    images, labels = split.batch(index)
    scale = 255 if dtype == torch.uint8 else 1
    expected = np.stack([split.images[i].numpy() / scale for i in rows]) if rows else np.empty((0, 3, 2, 2))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-7)
    assert labels.tolist() == [r % 3 for r in rows]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("index", [slice(None), [0, 1]])
def test_changing_a_batch_leaves_the_split_as_it_was(dtype, index):
    split = small_split(dtype=dtype)
    before = split.images.clone(), split.labels.clone()
    images, labels = split.batch(index)
    images.fill_(0.5)
    labels.fill_(7)
    assert torch.equal(split.images, before[0])
    assert torch.equal(split.labels, before[1])


def test_a_full_range_of_bytes_becomes_exactly_0_to_1():
    images, _ = Split(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1), torch.tensor([0, 1])).batch([0, 1])
    assert images.flatten().tolist() == [0.0, 1.0]


def test_select_and_take_keep_images_with_their_labels():
    split = small_split()
    chosen = split.select([5, 2])
    assert len(chosen) == 2
    assert torch.equal(chosen.images, torch.stack([split.images[5], split.images[2]]))
    assert chosen.labels.tolist() == [2, 2]
    assert torch.equal(split.take(2).images, split.images[:2])
    assert split.take(2).labels.tolist() == [0, 1]
    assert len(split.take(6)) == 6
    assert split.take(None) is split


@pytest.mark.parametrize("n", [0, -1, 7])
def test_take_refuses_a_number_the_split_does_not_have(n):
    with pytest.raises(RobustSNNError, match=f"cannot take {n} images: the split has 6; ask for 1 to 6"):
        small_split().take(n)


def test_an_image_number_outside_the_split_is_refused():
    with pytest.raises(IndexError):
        small_split().batch([6])


def test_image_shape_is_channels_height_width():
    wide = Split(torch.zeros(2, 3, 4, 5), torch.tensor([0, 1]))
    assert ImageDataset("wide", wide, wide, 2, ("a", "b")).image_shape == (3, 4, 5)


def test_validate_returns_a_sound_set_itself():
    dataset = small_set()
    assert validate(dataset) is dataset


def with_pixels(image: int, *values: float) -> Split:
    split = small_split(dtype=torch.float32)
    split.images[image].view(-1)[: len(values)] = torch.tensor(values)
    return split


def with_labels(*labels: int) -> Split:
    return Split(small_split(len(labels)).images, torch.tensor(labels))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"test": with_pixels(3, NAN, NAN, NAN)}, ["x_test has 3 NaN pixels, the first in image 3", "[0, 1]"]),
        ({"test": with_pixels(2, INF, 0.0)}, ["x_test has 1 infinite pixel, the first in image 2"]),
        ({"train": with_pixels(1, -INF, NAN)}, ["x_train has 1 NaN pixel, the first in image 1"]),
        ({"train": with_pixels(4, 255.0)}, ["x_train has 1 pixel outside [0, 1], the first in image 4", "0 to 255"]),
        ({"train": with_pixels(4, -0.5, -1.0)}, ["x_train has 2 pixels outside [0, 1]", "run from -1 to"]),
        ({"train": Split(torch.zeros(2, 1, 2, 2).double(), torch.arange(2))}, ["x_train is float64", "float32"]),
        ({"train": Split(torch.zeros(2, 4), torch.arange(2))}, ["x_train has shape (2, 4)", "[N, C, H, W]"]),
        ({"test": Split(torch.zeros(0, 3, 2, 2), torch.arange(0))}, ["x_test is empty", "(0, 3, 2, 2)"]),
        ({"test": Split(torch.zeros(2, 3, 0, 2), torch.arange(2))}, ["x_test is empty", "(2, 3, 0, 2)"]),
        ({"test": Split(small_split(4).images, torch.arange(3))}, ["x_test has 4 images but y_test has 3 labels"]),
        ({"test": Split(small_split(4).images, torch.zeros(4))}, ["y_test is float32", "int64"]),
        ({"test": Split(small_split(4).images, torch.zeros(4, 1).long())}, ["y_test", "(4, 1)"]),
        ({"test": with_labels(0, 3, 1, 9)}, ["y_test has 2 labels outside 0..2, the first 3 at position 1"]),
        ({"train": with_labels(0, 1, -1)}, ["y_train has 1 label outside 0..2, the first -1 at position 2"]),
        ({"test": Split(torch.zeros(2, 1, 2, 2), torch.arange(2))}, ["(3, 2, 2)", "(1, 2, 2)", "one shape"]),
        ({"train": with_labels(2, 2, 2)}, ["y_train holds only class 2", "at least 2 classes"]),
        ({"num_classes": 1, "class_names": ("a",)}, ["num_classes is 1", "at least 2"]),
        ({"class_names": ("a", "b")}, ["2 class names for 3 classes"]),
    ],
)
def test_validate_says_what_is_wrong_and_where(changes, parts):
    with pytest.raises(RobustSNNError) as caught:
        validate(small_set(**changes))
    assert_says(str(caught.value), "data set 'toy': ", *parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "sound"), [(0.0, True), (1.0, True), (-1e-6, False), (1 + 1e-6, False)])
def test_both_ends_of_the_range_are_allowed_and_nothing_beyond(value, sound):
    dataset = small_set(test=with_pixels(0, value))
    if sound:
        assert validate(dataset) is dataset
    else:
        with pytest.raises(RobustSNNError, match="1 pixel outside"):
            validate(dataset)


# Names and roots


def test_every_available_name_has_a_description_of_one_line():
    assert set(available()) == {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "npz"}
    assert all(text and "\n" not in text for text in available().values())


@pytest.mark.parametrize(("name", "meant"), [("minst", "mnist"), ("MNIST", "mnist"), ("cifar-10", "cifar10")])
def test_an_unknown_name_is_answered_with_the_nearest(name, meant):
    with pytest.raises(UnknownNameError, match=f"unknown data set '{name}'. Did you mean '{meant}'"):
        load(name)


@pytest.mark.parametrize("name", [n for n in available() if n != "digits"])
def test_a_set_on_disk_asks_for_its_root(name):
    assert_says(message(name), repr(name), "root=", "--data-root")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mnist", ["MNIST/raw", "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", ".gz"]),
        ("fashion-mnist", ["FashionMNIST/raw", "train-labels-idx1-ubyte"]),
        ("cifar10", ["cifar-10-batches-py", "data_batch_1", "data_batch_5", "test_batch", "batches.meta"]),
        ("cifar100", ["cifar-100-python", "train", "test", "meta"]),
    ],
)
def test_missing_files_are_named_with_the_way_to_get_them(tmp_path, name, parts):
    assert_says(message(name, tmp_path / "nowhere"), "nowhere", "download=True", "--download", "--data-root", *parts)


def test_importing_and_reading_files_needs_neither_scikit_learn_nor_torchvision(idx_root, cifar_root):
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from robustsnn.datasets import load\n"
        "sys.modules['torchvision'] = sys.modules['torchvision.datasets'] = None\n"
        f"assert len(load('mnist', {str(idx_root)!r}, download=True).test) == 5\n"
        f"assert len(load('cifar100', {str(cifar_root)!r}, download=True).test) == 6\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


# Digits


def sha256(split: Split) -> str:
    return hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()


def test_digits_are_the_embedded_ones_in_the_pinned_split():
    digits = load("digits")
    assert digits.image_shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert sha256(digits.train) == "fac3efd73fed11513f4fbfcb22a78d997d366328ecad3816b08fd71ce8d70aaf"
    assert sha256(digits.test) == "8110e5c2c9d024b578f2c2692341cc0a635dc6f45899bb78b73bbee43d45a90f"


def test_digits_split_is_stratified_and_uses_every_image_once():
    from sklearn.datasets import load_digits

    source, digits = load_digits(), load("digits")
    counts = np.bincount(source.target)
    np.testing.assert_allclose(digits.test.labels.bincount().numpy(), counts * 360 / 1797, atol=1)
    images = torch.cat([digits.train.images, digits.test.images]).numpy() * 16
    labels = torch.cat([digits.train.labels, digits.test.labels]).numpy()
    rows = sorted((int(label), *image.ravel().astype(int)) for image, label in zip(images, labels))
    assert rows == sorted(
        (int(label), *image.ravel().astype(int)) for image, label in zip(source.images, source.target)
    )


# MNIST and Fashion-MNIST


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def idx_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (12, 4, 3)),
        "train-labels-idx1-ubyte": np.arange(12) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (5, 4, 3)),
        "t10k-labels-idx1-ubyte": np.arange(5) % 10,
    }


def write_idx(folder: Path, zipped: bool = True, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    for name, array in idx_arrays(seed).items():
        raw = idx_bytes(array)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(raw) if zipped else raw)


@pytest.fixture
def idx_root(tmp_path):
    for seed, folder in enumerate(IDX_SETS.values()):
        write_idx(tmp_path / folder / "raw", seed=seed)
    return tmp_path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", ["", "MNIST", "MNIST/raw"])
def test_idx_files_come_back_as_written(tmp_path, zipped, below):
    write_idx(tmp_path / "MNIST" / "raw", zipped)
    dataset = load("mnist", tmp_path / below)
    arrays = idx_arrays()
    for part, stem in (("train", "train"), ("test", "t10k")):
        split = getattr(dataset, part)
        assert split.images.dtype == torch.uint8
        np.testing.assert_array_equal(split.images.numpy(), arrays[f"{stem}-images-idx3-ubyte"][:, None])
        np.testing.assert_array_equal(split.labels.numpy(), arrays[f"{stem}-labels-idx1-ubyte"])
    assert dataset.num_classes == 10
    assert dataset.image_shape == (1, 4, 3)


def test_a_root_may_be_text_and_relative(idx_root, monkeypatch):
    monkeypatch.chdir(idx_root / "MNIST")
    assert len(load("mnist", ".").test) == 5
    assert len(load("mnist", "../../" + idx_root.name).test) == 5


def test_a_root_may_begin_with_the_home_folder(idx_root, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(idx_root))
    write_npz(idx_root)
    assert len(load("mnist", "~/MNIST").test) == 5
    assert len(load("npz", "~/mine.npz").test) == 18


@pytest.mark.parametrize("below", ["MNIST", "MNIST/raw"])
def test_mnist_is_never_read_as_fashion_mnist(idx_root, below):
    assert_says(message("fashion-mnist", idx_root / below), "FashionMNIST/raw", "train-images-idx3-ubyte")
    mnist, fashion = (load(name, idx_root) for name in IDX_SETS)
    assert not torch.equal(mnist.train.images, fashion.train.images)
    assert fashion.class_names == CLOTHES


def test_an_incomplete_folder_names_only_what_is_missing(idx_root):
    (idx_root / "MNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    text = message("mnist", idx_root)
    assert "t10k-labels-idx1-ubyte" in text
    assert "train-images" not in text


GOOD = idx_bytes(np.zeros((5, 4, 3)))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (gzip.compress(GOOD)[:-9], "cannot read"),
        (gzip.compress(GOOD)[:10] + b"\xff" * 30, "cannot read"),
        (GOOD[:-1], "holds 59 bytes after its header; expected 60 for its shape (5, 4, 3)"),
        (GOOD + b"\0", "holds 61 bytes"),
        (gzip.compress(GOOD[:-7]), "holds 53 bytes"),
        (GOOD[:9], "ends inside its header; expected 16 bytes"),
        (b"", "begins with the bytes (none); expected 00000803"),
        (idx_bytes(np.zeros(5)), "begins with the bytes 00000801; expected 00000803"),
        (b"\0\0\x0d\x03" + GOOD[4:], "begins with the bytes 00000d03"),
        (b"<html>not found</html>", "begins with the bytes 3c68746d"),
        (idx_bytes(np.zeros((0, 4, 3))), "x_test is empty"),
        (idx_bytes(np.zeros((4, 4, 3))), "x_test has 4 images but y_test has 5 labels"),
        (idx_bytes(np.zeros((5, 4, 4))), "x_train's images are (1, 4, 3) but x_test's are (1, 4, 4)"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "expected 79228162458924105385300197375"),
    ],
)
def test_damaged_idx_images_are_refused(idx_root, content, part):
    path = idx_root / "MNIST/raw/t10k-images-idx3-ubyte.gz"
    path.write_bytes(content)
    text = message("mnist", idx_root)
    assert part in text, text
    assert str(path) in text or "data set 'mnist'" in text


def test_idx_labels_beyond_the_classes_are_refused(idx_root):
    (idx_root / "MNIST/raw/t10k-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.array([0, 1, 10, 3, 200])))
    assert_says(message("mnist", idx_root), "y_test has 2 labels outside 0..9, the first 10 at position 2")


REAL = {
    # torchvision class -> training images by class, mean and standard deviation of the training pixels, first labels
    "MNIST": ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 0.1307, 0.3081, [5, 0, 4], [7, 2, 1]),
    "FashionMNIST": ([6000] * 10, 0.2860, 0.3530, [9, 0, 0], [9, 2, 1]),
}


@pytest.mark.parametrize("name", IDX_SETS)
def test_the_real_sets_have_the_published_counts_and_moments(name):
    counts, mean, std, first_train, first_test = REAL[IDX_SETS[name]]
    dataset = load(name, real_data(IDX_SETS[name]))
    assert dataset.image_shape == (1, 28, 28)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert dataset.train.labels.bincount().tolist() == counts
    assert dataset.train.labels[:3].tolist() == first_train
    assert dataset.test.labels[:3].tolist() == first_test
    images, _ = dataset.train.batch(slice(None))
    assert images.mean().item() == pytest.approx(mean, abs=5e-5)
    assert images.std().item() == pytest.approx(std, abs=5e-5)


def test_real_mnist_through_torchvision_is_the_same(tmp_path):
    datasets = torchvision_datasets()
    source = real_data("MNIST", "raw")
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for path in source.glob("*-ubyte.gz"):
        shutil.copy(path, folder)
    fetch(MNIST, tmp_path)  # torchvision finds the archives' md5 in order and only unpacks them
    ours = load("mnist", tmp_path)
    for part in ("train", "test"):
        theirs = datasets.MNIST(str(tmp_path), train=part == "train")
        assert torch.equal(getattr(ours, part).images[:, 0], theirs.data)
        assert torch.equal(getattr(ours, part).labels, theirs.targets)
    plain = folder / "t10k-images-idx3-ubyte"
    np.testing.assert_array_equal(read_idx(plain, 3), read_idx(folder / f"{plain.name}.gz", 3))


# CIFAR


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: text and bytes are both the old `str`, and numpy's module has its old name."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_old_str(self, value):
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_old_str

    def save_global(self, obj, name=None):
        module = {"numpy._core.multiarray": "numpy.core.multiarray"}.get(obj.__module__, obj.__module__)
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[types.FunctionType] = dispatch[types.BuiltinFunctionType] = dispatch[type] = save_global


def python2_pickle(value: object) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def cifar_rows(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3072)).astype(np.uint8)


@pytest.fixture
def cifar_root(tmp_path):
    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    ten.mkdir()
    hundred.mkdir()
    files = [(f"data_batch_{i}", 4) for i in range(1, 6)] + [("test_batch", 3)]
    for seed, (name, n) in enumerate(files):
        batch = {"batch_label": name, "labels": [(seed + i) % 10 for i in range(n)], "data": cifar_rows(n, seed)}
        (ten / name).write_bytes(python2_pickle(batch))
    names = [f"thing {i}" for i in range(10)]
    (ten / "batches.meta").write_bytes(python2_pickle({"num_vis": 3072, "label_names": names}))
    for seed, (name, n) in enumerate([("train", 8), ("test", 6)], start=10):
        batch = {"fine_labels": [9 * i for i in range(n)], "coarse_labels": [0] * n, "data": cifar_rows(n, seed)}
        (hundred / name).write_bytes(python2_pickle(batch))
    fine = [f"fine {i}" for i in range(100)]
    (hundred / "meta").write_bytes(python2_pickle({"fine_label_names": fine, "coarse_label_names": ["x"] * 20}))
    return tmp_path


def test_the_test_pickles_are_in_the_official_form(cifar_root):
    raw = (cifar_root / "cifar-10-batches-py/test_batch").read_bytes()
    assert raw[:2] == b"\x80\x02"
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in raw
    content = pickle.loads(raw, encoding="latin1")  # what torchvision does with the official files
    np.testing.assert_array_equal(content["data"], cifar_rows(3, 5))


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_cifar10_comes_back_as_written(cifar_root, below):
    dataset = load("cifar10", cifar_root / below)
    rows = np.concatenate([cifar_rows(4, seed) for seed in range(5)])
    assert dataset.train.images.dtype == torch.uint8
    np.testing.assert_array_equal(dataset.train.images.numpy(), rows.reshape(-1, 3, 32, 32))
    assert dataset.train.labels.tolist() == [(seed + i) % 10 for seed in range(5) for i in range(4)]
    np.testing.assert_array_equal(dataset.test.images.numpy(), cifar_rows(3, 5).reshape(-1, 3, 32, 32))
    assert dataset.test.labels.tolist() == [5, 6, 7]
    assert dataset.class_names == tuple(f"thing {i}" for i in range(10))


@pytest.mark.parametrize("below", ["", "cifar-100-python"])
def test_cifar100_has_its_fine_labels(cifar_root, below):
    dataset = load("cifar100", cifar_root / below)
    np.testing.assert_array_equal(dataset.train.images.numpy(), cifar_rows(8, 10).reshape(-1, 3, 32, 32))
    assert dataset.train.labels.tolist() == [9 * i for i in range(8)]
    assert dataset.num_classes == 100
    assert dataset.class_names[99] == "fine 99"


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_batch_pickled_again_by_python_3_is_read_too(cifar_root, protocol):
    batch = {"labels": [0, 1, 2], "data": np.asfortranarray(cifar_rows(3, 5))}
    (cifar_root / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(batch, protocol=protocol))
    test = load("cifar10", cifar_root).test
    np.testing.assert_array_equal(test.images.numpy(), cifar_rows(3, 5).reshape(-1, 3, 32, 32))


class Hostile:
    """Pickles to a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


OBJECTS_FROM_BYTES = Hostile(np.ndarray, (1,), "O", b"\0" * 8)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Hostile(os.mkdir, "touched"), f"{os.name}.mkdir"),
        (Hostile(exec, "open('touched', 'w')"), ".exec"),
        (Hostile(np.save, "touched", [1]), "numpy.save"),
        (Hostile(getattr, np.ndarray, "tofile"), ".getattr"),
        (types.SimpleNamespace(a=1), "types.SimpleNamespace"),
        (np.float64(1), "multiarray.scalar"),
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused_and_not_run(cifar_root, monkeypatch, payload, name, protocol):
    monkeypatch.chdir(cifar_root)
    path = cifar_root / "cifar-10-batches-py/data_batch_3"
    path.write_bytes(pickle.dumps({"data": cifar_rows(1, 0).tolist(), "labels": [0], "x": payload}, protocol=protocol))
    text = message("cifar10", cifar_root)
    assert_says(text, str(path), name, "refused", "source that you trust")
    assert not list(cifar_root.rglob("touched*"))


def cifar_batch(**changes) -> bytes:
    return python2_pickle({"labels": [0, 1, 2], "data": cifar_rows(3, 5)} | changes)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (cifar_batch()[:-20], "cannot read"),
        (b"", "cannot read"),
        (b"version https://git-lfs", "cannot read"),
        (python2_pickle([1, 2]), "holds a list, not a dict"),
        (python2_pickle({"data": cifar_rows(3, 5)}), "has no labels"),
        (python2_pickle({"x": 1}), "has no data, labels"),
        (cifar_batch(data=cifar_rows(3, 5)[:, :3000]), "shape (3, 3000); expected bytes of shape (N, 3072)"),
        (cifar_batch(data=[[0] * 3072] * 3), "is a list; expected bytes"),
        (cifar_batch(data=cifar_rows(3, 5).astype(np.float32)), "an array of type 'f4' where bytes ('u1') belong"),
        (cifar_batch(data=np.array([None], dtype=object)), "an array of type 'O8'"),
        (pickle.dumps({"labels": [0], "data": OBJECTS_FROM_BYTES}, protocol=4), "cannot read"),
        (cifar_batch(labels=[0, 1]), "has 3 images but 2 labels"),
        (cifar_batch(labels=[0, 1.5, 2]), "labels in"),
        (cifar_batch(labels="012"), "labels in"),
        (cifar_batch(labels=[0, 1, 2**70]), "labels in"),
        (cifar_batch(labels=[0, -1, 10]), "y_test has 2 labels outside 0..9, the first -1 at position 1"),
        (cifar_batch(labels=[], data=cifar_rows(0, 5)), "x_test is empty"),
    ],
)
def test_a_damaged_cifar_batch_is_refused(cifar_root, content, part):
    path = cifar_root / "cifar-10-batches-py/test_batch"
    path.write_bytes(content)
    text = message("cifar10", cifar_root)
    assert part in text, text
    assert str(path) in text or "data set 'cifar10'" in text


def test_class_names_that_are_no_names_are_refused(cifar_root):
    path = cifar_root / "cifar-10-batches-py/batches.meta"
    path.write_bytes(python2_pickle({"label_names": [1, 2]}))
    assert_says(message("cifar10", cifar_root), "label_names in", str(path), "not a list of names")


# npz


def npz_arrays(**changes) -> dict[str, object]:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.random((20, 3, 5, 5), np.float32),
        "y_train": np.arange(20) % 4,
        "x_test": rng.random((18, 3, 5, 5), np.float32),
        "y_test": np.arange(18) % 4,
    }
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def write_npz(folder: Path, **changes) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **npz_arrays(**changes))
    return path


def test_npz_comes_back_as_written(tmp_path):
    dataset, arrays = load("npz", write_npz(tmp_path)), npz_arrays()
    for part in ("train", "test"):
        split = getattr(dataset, part)
        assert split.images.dtype == torch.float32
        np.testing.assert_array_equal(split.images.numpy(), arrays[f"x_{part}"])
        np.testing.assert_array_equal(split.labels.numpy(), arrays[f"y_{part}"])
    assert dataset.name == "mine.npz"
    assert dataset.class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, ">f4", np.longdouble])
def test_npz_pixels_of_every_allowed_type_keep_their_values(tmp_path, dtype):
    x = (np.arange(40).reshape(10, 2, 2) % 2).astype(dtype)
    dataset = load("npz", write_npz(tmp_path, x_train=x, y_train=np.arange(10) % 2, x_test=x, y_test=np.arange(10) % 2))
    assert dataset.train.images.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    np.testing.assert_array_equal(dataset.test.images.numpy()[:, 0], x.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.float64, ">i2"])
@pytest.mark.parametrize("shape", [(20,), (20, 1)])
def test_npz_labels_of_every_allowed_type_keep_their_values(tmp_path, dtype, shape):
    labels = (np.arange(20) % 4).astype(dtype).reshape(shape)
    train = load("npz", write_npz(tmp_path, y_train=labels)).train
    assert train.labels.dtype == torch.int64
    assert train.labels.tolist() == [i % 4 for i in range(20)]


def test_npz_class_names_fix_the_number_of_classes(tmp_path):
    dataset = load("npz", write_npz(tmp_path, class_names=np.array(list("abcdef"))))
    assert dataset.num_classes == 6
    assert dataset.class_names == tuple("abcdef")
    start_at_one = npz_arrays()["y_train"] + 1, npz_arrays()["y_test"] + 1
    path = write_npz(tmp_path, y_train=start_at_one[0], y_test=start_at_one[1], class_names=np.array(list("abcde")))
    assert load("npz", path).train.labels.min() == 1


def spoiled(key: str, index: object, value: float) -> np.ndarray:
    array = np.array(npz_arrays()[key], dtype=np.float64)
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"x_train": None}, ["has no x_train", "y_test"]),
        ({"y_train": None, "y_test": None}, ["has no y_train, y_test", "it holds x_train, x_test"]),
        ({"x_test": spoiled("x_test", (17, 0, 0, slice(3)), NAN)}, ["x_test has 3 NaN pixels, the first in image 17"]),
        ({"x_test": spoiled("x_test", (3, 0, 0, 0), 1e300)}, ["x_test has 1 infinite pixel, the first in image 3"]),
        ({"x_train": npz_arrays()["x_train"] * 255}, ["x_train has", "pixels outside [0, 1]", "0..255", "uint8"]),
        ({"x_train": spoiled("x_train", (0, 0, 0, 0), -0.25)}, ["x_train has 1 pixel outside [0, 1]", "-0.25"]),
        ({"x_train": np.ones((20, 3, 5, 5), np.int64)}, ["x_train is int64", "uint8", "astype"]),
        ({"x_train": np.ones((20, 3, 5, 5), bool)}, ["x_train is bool"]),
        ({"x_train": np.ones((20, 3, 5, 5), complex)}, ["x_train is complex128"]),
        ({"x_train": np.full((20, 3, 5, 5), "a")}, ["x_train is <U1"]),
        ({"x_train": np.array([None] * 20)}, ["x_train in", "Python objects"]),
        ({"x_train": np.empty((0, 3, 5, 5))}, ["x_train is empty, of shape (0, 3, 5, 5)"]),
        ({"x_test": np.zeros((18, 0, 5))}, ["x_test is empty, of shape (18, 0, 5)"]),
        ({"x_train": np.zeros((20, 75))}, ["x_train has shape (20, 75)", "[N, H, W]"]),
        ({"x_train": np.zeros((20, 5, 5, 2))}, ["x_train has shape (20, 5, 5, 2)", "C of 1 or 3"]),
        ({"x_train": np.zeros((20, 1, 3, 5, 5))}, ["x_train has shape (20, 1, 3, 5, 5)"]),
        ({"x_train": np.float32(0.5)}, ["x_train has shape ()"]),
        ({"x_test": np.zeros((18, 5, 5, 3))}, ["x_train has shape (20, 3, 5, 5) but x_test has (18, 5, 5, 3)"]),
        ({"x_test": np.zeros((18, 3, 6, 5))}, ["x_test has (18, 3, 6, 5)", "one image size"]),
        ({"y_test": np.arange(17) % 4}, ["x_test has 18 images but y_test has 17 labels"]),
        ({"y_test": np.empty(0)}, ["y_test is empty, of shape (0,)"]),
        (
            {"y_test": spoiled("y_test", slice(5, 7), 4)},
            ["y_test has 2 labels outside 0..3, the first 4", "position 5"],
        ),
        ({"y_train": spoiled("y_train", 2, -1)}, ["y_train has 1 label outside", "the first -1.0 at position 2"]),
        ({"y_train": spoiled("y_train", 4, 1.5)}, ["y_train has 1 label not whole, the first 1.5 at position 4"]),
        ({"y_train": spoiled("y_train", 4, NAN)}, ["y_train has 1 label not finite, the first nan at position 4"]),
        ({"y_train": spoiled("y_train", 4, 1e300)}, ["y_train has 1 label outside 0..99999"]),
        ({"y_train": np.full(20, 2**64 - 1, np.uint64)}, ["y_train has 20 labels outside 0..99999"]),
        ({"y_train": np.full(20, 1_000_000_000)}, ["y_train has 20 labels outside 0..99999"]),
        ({"y_train": np.array(["a"] * 20)}, ["y_train is <U1", "whole class numbers"]),
        ({"y_train": np.eye(4)[np.arange(20) % 4]}, ["y_train has shape (20, 4)", "argmax"]),
        ({"y_train": np.zeros((20, 1, 1))}, ["y_train has shape (20, 1, 1)"]),
        ({"y_train": np.arange(20) % 4 + 1, "y_test": np.arange(18) % 4 + 1}, ["labels begin at 1", "subtract 1"]),
        ({"y_train": np.zeros(20, int), "y_test": np.zeros(18, int)}, ["num_classes is 1", "at least 2"]),
        ({"y_train": np.full(20, 2), "y_test": np.arange(18) % 3}, ["y_train holds only class 2"]),
        ({"class_names": np.array(["a", "b", "c"])}, ["y_train has 5 labels outside 0..2, the first 3 at position 3"]),
        ({"class_names": np.arange(4)}, ["class_names is int64 of shape (4,)"]),
        ({"class_names": np.array("four")}, ["class_names is <U4 of shape ()"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_npz_content_is_refused(tmp_path, changes, parts):
    assert_says(message("npz", write_npz(tmp_path, **changes)), "mine.npz", *parts)


def bare_npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros((2, 2)))
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


FULL = zipped({f"{key}.npy": bare_npy() for key in npz_arrays()})


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "cannot be read as a .npz file"),
        (b"just text", "cannot be read as a .npz file"),
        (pickle.dumps({"x_train": 1}), "cannot be read as a .npz file"),
        (FULL[: len(FULL) // 2], "cannot be read as a .npz file"),
        (FULL.replace(bytes(32), b"\1" * 32, 1), "x_train in"),
        (bare_npy(), "holds one bare array"),
        (zipped({}), "it holds nothing"),
        (zipped(dict.fromkeys(npz_arrays(), b"raw")), "x_train in"),
        (zipped({f"{key}.npy": b"raw" for key in npz_arrays()}), "x_train in"),
        (zipped({f"{key}.npy": bare_npy()[:-3] for key in npz_arrays()}), "x_train in"),
    ],
)
def test_a_file_that_is_no_sound_npz_is_refused(tmp_path, content, part):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    assert_says(message("npz", path), str(path), part)


def test_npz_wants_a_file_that_is_there(tmp_path):
    assert_says(message("npz", tmp_path), "is a folder", ".npz")
    assert_says(message("npz", tmp_path / "no.npz", download=True), "no.npz does not exist", "--data-root")


sizes = st.integers(1, 6)


@given(n=sizes, c=sizes, h=sizes, w=sizes, layout=st.sampled_from(["NHW", "NCHW", "NHWC"]))
def test_npz_layout_rules(n, c, h, w, layout):
    images = np.arange(n * c * h * w).reshape(n, c, h, w)  # every pixel of its own value, channels first
    given_shape = {"NHW": images[:, 0], "NCHW": images, "NHWC": np.moveaxis(images, 1, -1)}[layout]
    if layout == "NHW":
        np.testing.assert_array_equal(to_nchw(given_shape, "x"), images[:, :1])
    elif given_shape.shape[1] in (1, 3):  # channels first is meant, whatever the last axis is
        np.testing.assert_array_equal(to_nchw(given_shape, "x"), given_shape)
    elif given_shape.shape[3] in (1, 3):  # so axis 1 cannot be the channels
        back = to_nchw(given_shape, "x")
        assert back.shape == (n, given_shape.shape[3], *given_shape.shape[1:3])
        for channel in range(given_shape.shape[3]):
            np.testing.assert_array_equal(back[:, channel], given_shape[..., channel])
    else:
        with pytest.raises(RobustSNNError, match="x has shape"):
            to_nchw(given_shape, "x")


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((7, 7), (1, 7, 7)),
        ((7, 7, 1), (1, 7, 7)),
        ((7, 6, 3), (3, 7, 6)),
        ((3, 7, 6), (3, 7, 6)),
        ((3, 7, 3), (3, 7, 3)),
    ],
)
def test_npz_layouts_reach_the_data_set(tmp_path, shape, image_shape):
    x = np.zeros((4, *shape), np.uint8)
    path = write_npz(tmp_path, x_train=x, y_train=[0, 1, 0, 1], x_test=x, y_test=[0, 1, 0, 1])
    assert load("npz", path).image_shape == image_shape


# Download


def stand_in(monkeypatch, download) -> None:
    """Put a `torchvision.datasets` in place whose classes all run `download(class name, root)`."""
    remote = types.ModuleType("torchvision.datasets")
    for name in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"):
        setattr(remote, name, lambda root, train, download, name=name, run=download: run(name, Path(root)))
    package = types.ModuleType("torchvision")
    package.datasets = remote
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", remote)


@pytest.mark.parametrize("name", IDX_SETS)
@pytest.mark.parametrize("inside", [False, True])
def test_a_missing_set_is_downloaded_where_it_belongs(tmp_path, monkeypatch, name, inside):
    asked = []

    def download(cls, root):
        asked.append((cls, root))
        write_idx(root / cls / "raw")

    stand_in(monkeypatch, download)
    root = tmp_path / IDX_SETS[name] if inside else tmp_path
    assert len(load(name, root, download=True).test) == 5
    assert len(load(name, root, download=True).test) == 5
    assert asked == [(IDX_SETS[name], tmp_path)]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_without_download_torchvision_is_never_asked(tmp_path, monkeypatch, name):
    asked = []
    stand_in(monkeypatch, lambda cls, root: asked.append(cls))
    assert "download=True" in message(name, tmp_path)
    assert asked == []
    assert "is not complete" in message(name, tmp_path, download=True)  # it ran, and left nothing
    assert len(asked) == 1


@pytest.mark.parametrize(
    "error", [OSError("no route to host\nsecond line"), RuntimeError("File not found or corrupted.")]
)
def test_a_failed_download_says_why(tmp_path, monkeypatch, error):
    def download(cls, root):
        raise error

    stand_in(monkeypatch, download)
    text = message("fashion-mnist", tmp_path, download=True)
    assert_says(text, "downloading data set 'fashion-mnist'", str(tmp_path), str(error).splitlines()[0], "by hand")


def test_download_without_torchvision_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    text = message("cifar10", tmp_path, download=True)
    assert_says(text, "importing torchvision failed", "pip install 'robustsnn[vision]'", "by hand")


def test_the_layouts_are_torchvisions_own():
    datasets = torchvision_datasets()
    from robustsnn.datasets.cifar import CIFAR10, CIFAR100

    for layout in (MNIST, FASHION_MNIST):
        theirs = getattr(datasets, layout.torchvision_class)
        assert {file for file, _ in theirs.resources} == {f"{name}.gz" for name in layout.files}
        unread = theirs.__new__(theirs)
        unread.root = "root"
        assert Path(unread.raw_folder) == Path("root", layout.folder)
    for layout in (CIFAR10, CIFAR100):
        theirs = getattr(datasets, layout.torchvision_class)
        assert layout.folder == theirs.base_folder
        files = [file for file, _ in (*theirs.train_list, *theirs.test_list)]
        assert {*files, theirs.meta["filename"]} == set(layout.files)
