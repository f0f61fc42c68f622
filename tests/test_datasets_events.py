"""Event sets: the simulated camera against its definition, folders as Tonic lays them out, splits, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from realdata import real_data

from robustsnn.datasets import (
    EventDataset,
    EventSplit,
    RecordingSource,
    available_events,
    from_recordings,
    load,
    load_events,
    validate_events,
)
from robustsnn.datasets.cache import cache_folder, cached_recordings
from robustsnn.datasets.digits_events import load_digits_events
from robustsnn.datasets.nmnist import load_nmnist
from robustsnn.datasets.tonic_sets import SETS, load_tonic, natural_order
from robustsnn.errors import RobustSNNError
from robustsnn.events import (
    EventBatch,
    EventStream,
    TonicEventCount,
    Windows,
    save_npz,
    to_frames,
    write_bin,
    write_bin_folder,
)
from robustsnn.events.camera import SaccadeCamera

SENSOR = (34, 34, 2)


def recording(seed: int, count: int = 20, sensor: tuple[int, ...] = SENSOR, end: int = 300_000) -> EventStream:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, sensor[1], count), rng.integers(0, sensor[0], count)
    return EventStream(x, y, rng.integers(0, end, count), rng.integers(0, 2, count), sensor)


def plain_camera(camera: SaccadeCamera, image: np.ndarray) -> list[tuple[int, int, int, int]]:
    """One pixel after the other, in Python's whole numbers: the camera by its definition."""
    levels = camera.levels(image[None])[:, 0]
    unit, events = 1 << 16, []
    for row in range(camera.height):
        for column in range(camera.width):
            seen = [int(value) for value in levels[:, row, column]]
            level = (seen[0] + unit // 2) // unit * unit
            for k in range(1, len(seen)):
                while abs(seen[k] - level) >= unit:
                    up = seen[k] > level
                    level += unit if up else -unit
                    done, whole = abs(level - seen[k - 1]), abs(seen[k] - seen[k - 1])
                    time = (k - 1) * camera.frame + -(-done * camera.frame // whole) - 1
                    events.append((column, row, time, int(up)))
    return sorted(events, key=lambda event: event[2])


def rows(stream: EventStream) -> list[tuple[int, ...]]:
    return [tuple(int(getattr(stream, c)[i]) for c in "xytp") for i in range(len(stream))]


class TestCamera:
    def test_against_the_definition(self):
        images = np.random.default_rng(0).random((3, 5, 4))
        camera = SaccadeCamera(height=9, width=8, scale=1.3, reach=2.5, threshold=0.3, saccade=10_000, frame=1_000)
        batch = camera.record(images)
        assert batch.counts.min() > 50
        for stream, image in zip(batch, images, strict=True):
            assert rows(stream) == plain_camera(camera, image)

    def test_an_image_alone_or_among_others(self):
        images = np.random.default_rng(1).random((70, 4, 4))
        camera = SaccadeCamera(8, 8, saccade=10_000)
        together = camera.record(images)
        for n in (0, 63, 64, 69):
            assert camera.record(images[n : n + 1])[0].same_as(together[n])

    def test_path_is_a_closed_triangle(self):
        camera = SaccadeCamera(reach=4.0, saccade=10_000, frame=2_500)
        path = camera.path()
        assert path.shape == (13, 2)
        assert path[[0, 4, 8, 12]].tolist() == [[0, 0], [2, 4], [4, 0], [0, 0]]
        assert path[2].tolist() == [1, 2]
        assert camera.duration == 30_000

    def test_nothing_to_see(self):
        """A dark image, and one too faint for the threshold, fire nothing; no image is an empty batch."""
        camera = SaccadeCamera(saccade=10_000)
        images = np.zeros((2, 8, 8))
        images[1, 4, 4] = 0.02  # log(0.12 / 0.1) = 0.18
        assert camera.record(images).counts.tolist() == [0, 0]
        assert len(camera.record(np.zeros((0, 8, 8)))) == 0

    def test_a_bright_edge_brightens_where_it_enters(self):
        """A white square moves down first: the row below it sees brighter, the rows of its upper edge darker."""
        image = np.zeros((8, 8))
        image[2:6, 2:6] = 1.0
        stream = SaccadeCamera(scale=1.0, reach=4.0).record(image[None])[0]
        inner = (stream.t < 100_000) & (stream.x >= 6) & (stream.x <= 7)  # columns that the square never leaves
        below, above = inner & (stream.y == 10), inner & (stream.y == 5)
        # what is seen runs from log(0.1) / 0.4 = -5.8 to log(1.1) / 0.4 = 0.2, what is remembered -6 to 0 up, 0 to -5 down
        assert (below.sum(), above.sum()) == (2 * 6, 2 * 5)
        assert stream.p[below].all()
        assert not stream.p[above].any()
        assert stream.t.max() < 300_000

    def test_refusals(self):
        for name in ("height", "scale", "threshold", "frame"):
            with pytest.raises(RobustSNNError, match=f"{name} must be a positive"):
                SaccadeCamera(**{name: 0})
        with pytest.raises(RobustSNNError, match=r"height must be a positive whole number, got 2\.5"):
            SaccadeCamera(height=2.5)  # type: ignore[arg-type]
        with pytest.raises(RobustSNNError, match="must be a multiple of frame"):
            SaccadeCamera(saccade=1_000, frame=300)
        for images in (np.zeros((8, 8)), np.full((1, 8, 8), 1.1), np.full((1, 8, 8), np.nan)):
            with pytest.raises(RobustSNNError, match=r"images must be \[N, h, w\] in \[0, 1\]"):
                SaccadeCamera().record(images)


class TestDigitsEvents:
    def test_is_the_digits_under_the_camera(self, tmp_path):
        data = load_digits_events(cache=tmp_path)
        digits = load("digits")
        assert (len(data.train), len(data.test)) == (1437, 360)
        assert torch.equal(data.train.labels, digits.train.labels)
        assert torch.equal(data.test.labels, digits.test.labels)
        assert data.image_shape == (2, 16, 16)
        assert data.duration == 300_000
        camera = SaccadeCamera()
        for split, images in ((data.train, digits.train.images), (data.test, digits.test.images)):
            numbers = [0, 7, len(split) - 1]
            expected = camera.record(images[numbers, 0].numpy())
            events, labels = split.batch(numbers)
            assert all(a.same_as(b) for a, b in zip(events, expected, strict=True))
            assert torch.equal(labels, split.labels[numbers])
        counts = data.train.recordings.counts
        assert 800 < counts.min() <= counts.max() < 2500

        (file,) = tmp_path.iterdir()
        written = file.stat().st_mtime_ns
        again = load_digits_events(cache=tmp_path)
        assert file.stat().st_mtime_ns == written
        assert all(
            np.array_equal(getattr(again.test.recordings, c), getattr(data.test.recordings, c))
            for c in ("x", "y", "t", "p", "offsets")
        )


class TestCache:
    BATCH = EventBatch.of([recording(0), recording(1)])

    def test_key_is_content_and_configuration(self, tmp_path):
        made = []

        def make() -> EventBatch:
            made.append(1)
            return self.BATCH

        for content, configuration in ((b"a", "1"), (b"a", "1"), (b"b", "1"), (b"a", "2"), (b"a", "1")):
            batch = cached_recordings("x", content, configuration, make, tmp_path)
            assert np.array_equal(batch.t, self.BATCH.t)
        assert len(made) == 3
        assert len(list(tmp_path.iterdir())) == 3

    def test_damaged_files_are_made_again(self, tmp_path):
        cached_recordings("x", b"a", "1", lambda: self.BATCH, tmp_path)
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        assert np.array_equal(cached_recordings("x", b"a", "1", lambda: self.BATCH, tmp_path).t, self.BATCH.t)
        assert file.read_bytes() == whole

    def test_no_place_to_write(self, tmp_path):
        blocked = tmp_path / "file"
        blocked.write_text("")
        assert cached_recordings("x", b"a", "1", lambda: self.BATCH, blocked) is self.BATCH

    def test_folder(self, monkeypatch):
        monkeypatch.setenv("ROBUSTSNN_CACHE", "own")
        assert cache_folder() == Path("own")
        monkeypatch.delenv("ROBUSTSNN_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
        assert cache_folder() == Path("/elsewhere/robustsnn")


def nmnist_folder(root: Path, per_class: int = 1) -> None:
    labels = [label for label in range(10) for _ in range(per_class)]
    for part, seed in (("Train", 0), ("Test", 100)):
        batch = EventBatch.of([recording(seed + n) for n in range(len(labels))])
        write_bin_folder(root / "NMNIST" / part, batch, labels)


class TestNMNIST:
    def test_folder(self, tmp_path):
        nmnist_folder(tmp_path, 2)
        for root in (tmp_path, tmp_path / "NMNIST"):
            data = load_events("nmnist", root)
            assert (len(data.train), len(data.test)) == (20, 20)
            assert data.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
            assert data.train.recordings[3].same_as(recording(3))
            assert data.test.batch([19])[0][0].same_as(recording(119))
        assert data.image_shape == (2, 34, 34)
        small = data.train.take(3)
        assert len(small) == 3
        assert small.frames(data.windows(4)).images.shape == (3, 4, 2, 34, 34)

    def test_what_tonic_reads(self, tmp_path):
        """Recordings written here, read by Tonic's own data set and binned afresh."""
        tonic_datasets = pytest.importorskip("tonic.datasets")
        nmnist_folder(tmp_path)
        kind = type("NMNIST", (tonic_datasets.NMNIST,), {"_check_exists": lambda self: True})
        theirs, ours = kind(save_to=str(tmp_path), train=False), load_nmnist(tmp_path).test
        assert len(theirs) == len(ours) == 10
        for n, (events, label) in enumerate(theirs):
            assert label == ours.labels[n]
            assert EventStream.from_structured(events, SENSOR).same_as(ours.recordings[n])

    def test_real_recordings(self):
        data = load_nmnist(real_data("NMNIST"))
        assert (len(data.train), len(data.test)) == (1000, 100)
        events, labels = data.test.batch([0, 50, 99])
        assert events.counts.min() > 1000
        frames = to_frames(events, data.windows(10))
        inside = (events.t < data.duration).sum()
        assert frames.sum() == inside
        assert inside > 0.99 * len(events.t)
        assert labels.tolist() == sorted(labels.tolist())

    def test_refusals(self, tmp_path):
        with pytest.raises(RobustSNNError, match="needs the folder that holds"):
            load_nmnist(None)
        with pytest.raises(RobustSNNError, match=r"not complete: looked in .*NMNIST for Train and Test"):
            load_nmnist(tmp_path)
        nmnist_folder(tmp_path)
        (seven,) = (tmp_path / "NMNIST" / "Train" / "7").iterdir()
        good = seven.read_bytes()
        seven.write_bytes(good[:-1])
        with pytest.raises(RobustSNNError, match=r"7/000007.bin has 99 bytes; expected a multiple of 5"):
            load_nmnist(tmp_path)
        seven.write_bytes(bytes([200, 0, 0, 0, 0]))
        with pytest.raises(RobustSNNError, match=r"7/000007.bin: 1 of 1 events are outside the sensor"):
            load_nmnist(tmp_path).train.batch([7])
        seven.unlink()
        with pytest.raises(RobustSNNError, match="'nmnist': no training recording is of class 7"):
            load_nmnist(tmp_path)
        seven.write_bytes(good)
        (tmp_path / "NMNIST" / "Test" / "x").mkdir()
        (tmp_path / "NMNIST" / "Test" / "x" / "1.bin").write_bytes(good)
        with pytest.raises(RobustSNNError, match="Test/x is no label"):
            load_nmnist(tmp_path)


class TestSplits:
    def test_selection(self):
        batch = EventBatch.of([recording(n, 10 * n) for n in range(5)])
        split = EventSplit(batch, torch.arange(5))
        for chosen in (split.select([3, 1]), split.select(torch.tensor([3, 1])).select(slice(None))):
            assert chosen.labels.tolist() == [3, 1]
            assert chosen.recordings.counts.tolist() == [30, 10]
        assert split.select(np.array([True, False, False, False, True])).labels.tolist() == [0, 4]
        assert len(split.select([])) == 0
        for n in (0, 6):
            with pytest.raises(RobustSNNError, match=f"cannot take {n} recordings: the split has 5"):
                split.take(n)
        with pytest.raises(IndexError):
            split.batch([5])

    def test_frames_of_any_count_and_length(self):
        """Narrow types never wrap; recordings of fewer frames end with empty ones."""
        zeros = np.zeros(40_000, int)
        many = EventStream(zeros, zeros, zeros, zeros, SENSOR)
        split = EventSplit(EventBatch.of([recording(0, 10), many]), torch.tensor([0, 1]))
        frames = split.frames(Windows(2, 10))
        assert frames.images.dtype == torch.int32
        assert frames.batch([1])[0].max() == 40_000
        assert split.select([0]).frames(Windows(2, 300_000)).images.dtype == torch.uint8
        assert split.frames(Windows(2, 10), binary=True).images.max() == 1
        assert split.select([0]).frames(TonicEventCount(4)).images.shape[1] == 2

    def test_own_recordings(self):
        def pairs(seed: int) -> list[tuple[np.ndarray, int]]:
            return [(recording(seed + n, 15).to_structured(), n % 2) for n in range(4)]

        data = from_recordings("mine", pairs(0), iter(pairs(9)), RecordingSource(SENSOR, origin="keep"))
        assert data.class_names == ("0", "1")
        assert data.duration == max(int(recording(n, 15).t.max()) for n in range(4)) + 1
        assert data.test.recordings[2].same_as(recording(11, 15))
        events = recording(0).to_structured()
        for train, message in (
            ([(events, 0), (events, 0.5)], "train recording 1: label is 0.5"),
            ([(events, 0), (events["x"], 1)], "train recording 1: events have no field t, x, p, y"),
            ([events], "must be pairs"),
            ([], "has no train recording"),
            ([(events, 0), (events, 2)], "no training recording is of class 1"),
            ([(events, 0), (events, 0)], "num_classes is 1"),
            ([(events, -1), (events, 1)], "train has 1 label outside 0..1, the first -1 of recording 0"),
        ):
            with pytest.raises(RobustSNNError, match=message):
                from_recordings("mine", train, pairs(0), RecordingSource(SENSOR))

    def test_validation(self):
        split = EventSplit(EventBatch.of([recording(0), recording(1)]), torch.tensor([0, 1]))
        other = EventSplit(EventBatch.of([recording(0, sensor=(34, 35, 2))]), torch.tensor([0]))
        empty = EventSplit(EventBatch.of([], SENSOR), torch.empty(0, dtype=torch.int64))
        floats = EventSplit(split.recordings, torch.tensor([0.0, 1.0]))
        assert validate_events(EventDataset("a", split, split, 2, ("a", "b"), 10)).name == "a"
        for arguments, message in (
            ((split, other, 2, ("a", "b"), 10), "expected one size"),
            ((split, empty, 2, ("a", "b"), 10), "no test recording"),
            ((floats, split, 2, ("a", "b"), 10), "train labels are torch.float32"),
            ((split, split, 2, ("a",), 10), "1 class names for 2 classes"),
            ((split, split, 2, ("a", "b"), 0), "duration is 0 us"),
        ):
            with pytest.raises(RobustSNNError, match=message):
                validate_events(EventDataset("a", *arguments))


class TestRegistry:
    def test_names(self):
        assert list(available_events())[:2] == ["digits-events", "nmnist"]
        assert set(SETS) < set(available_events())
        with pytest.raises(RobustSNNError, match=r"unknown event set 'n-mnist'\. Did you mean 'nmnist'"):
            load_events("n-mnist")

    def test_npz_folder(self, tmp_path):
        batch = EventBatch.of([recording(0), recording(1)])
        for part in ("train", "test"):
            save_npz(tmp_path / f"{part}.npz", batch, [0, 1])
        data = load_events("events-npz", tmp_path)
        assert data.duration == int(batch.t.max()) + 1
        assert data.test.batch([1])[0][0].same_as(recording(1))
        save_npz(tmp_path / "test.npz", batch)
        with pytest.raises(RobustSNNError, match=r"test.npz has no labels"):
            load_events("events-npz", tmp_path)
        with pytest.raises(RobustSNNError, match="needs a folder"):
            load_events("events-npz")


class TestTonicSets:
    def test_without_tonic(self, tmp_path, monkeypatch):
        (tmp_path / "DVSGesture").mkdir()
        monkeypatch.setitem(sys.modules, "tonic", None)
        monkeypatch.delitem(sys.modules, "tonic.datasets", raising=False)
        with pytest.raises(RobustSNNError, match=r"pip install 'robustsnn\[events\]' \(Tonic is GPL-3\)"):
            load_events("dvs-gesture", tmp_path)

    def test_no_folder(self, tmp_path):
        for name in SETS:
            with pytest.raises(RobustSNNError, match="needs the folder that holds"):
                load_events(name)
            with pytest.raises(RobustSNNError, match="there is no folder"):
                load_events(name, tmp_path)

    def test_gesture(self, tmp_path):
        pytest.importorskip("tonic")
        for part, user in (("Train", 1), ("Test", 24)):
            folder = tmp_path / "DVSGesture" / f"ibmGesture{part}" / f"user{user:02d}_led"
            folder.mkdir(parents=True)
            for label in range(11):
                events = recording(label + user, 30, (128, 128, 2), 900)
                np.save(folder / f"{label}.npy", np.stack([events.x, events.y, events.p, events.t + 50], 1))
        data = load_events("dvs-gesture", tmp_path)
        assert data.train.labels.tolist() == data.test.labels.tolist() == list(range(11))
        expected = recording(10 + 24, 30, (128, 128, 2), 900)
        got = data.test.recordings[10]
        assert got.t.tolist() == (1000 * (expected.t - expected.t[0])).tolist()
        assert got.x.tolist() == expected.x.tolist()
        assert got.p.tolist() == expected.p.tolist()

    def test_caltech_splits_every_tenth(self, tmp_path):
        pytest.importorskip("tonic")
        for name, label in (("ant", 0), ("Faces_easy", 1)):
            folder = tmp_path / "NCALTECH101" / "Caltech101" / name
            folder.mkdir(parents=True)
            for n in range(12):
                write_bin(folder / f"image_{n + 1}.bin", recording(20 * label + n, 5 + n))
        data = load_events("n-caltech101", tmp_path)
        assert data.class_names == ("Faces_easy", "ant")
        assert data.test.labels.tolist() == [0, 1]
        assert len(data.train) == 22
        counts = [len(data.train.recordings[n]) for n in range(11)]
        assert counts == [*range(5, 14), 15, 16]  # the tenth, in the order of numbers, is the test recording
        assert len(data.test.recordings[0]) == 14
        (tmp_path / "NCALTECH101" / "Caltech101" / "ant" / "image_1.bin").write_bytes(b"")
        with pytest.raises(RobustSNNError, match=r"image_1.bin cannot be read"):
            data.train.batch(torch.arange(22))

    def test_asl(self, tmp_path):
        pytest.importorskip("tonic")
        savemat = pytest.importorskip("scipy.io").savemat
        for letter in "abcdefghiklmnopqrstuvwxy":
            folder = tmp_path / "ASLDVS" / letter
            folder.mkdir(parents=True)
            for n in range(10):
                e = recording(n, 3, (180, 240, 2))
                savemat(
                    folder / f"{letter}_{n:04d}.mat",
                    {"ts": e.t[:, None], "x": e.x[:, None], "y": e.y[:, None], "pol": e.p[:, None]},
                )
        data = load_tonic("asl-dvs", tmp_path)
        assert data.test.labels.tolist() == list(range(24))
        expected, got = recording(9, 3, (180, 240, 2)), data.test.recordings[23]
        assert got.t.tolist() == (expected.t - expected.t[0]).tolist()
        assert got.y.tolist() == (179 - expected.y).tolist()  # Tonic turns the picture upright

    def test_shd(self, tmp_path):
        pytest.importorskip("tonic")
        h5py = pytest.importorskip("h5py")
        (tmp_path / "SHD").mkdir()
        for part in ("train", "test"):
            with h5py.File(tmp_path / "SHD" / f"shd_{part}.h5", "w") as file:
                kind = h5py.vlen_dtype(np.float32)
                times = file.create_dataset("spikes/times", (20,), kind)
                units = file.create_dataset("spikes/units", (20,), h5py.vlen_dtype(np.uint16))
                for n in range(20):
                    times[n], units[n] = np.array([0.5, 0.25], np.float32), np.array([699, n], np.uint16)
                file["labels"] = np.arange(20, dtype=np.uint16)[::-1]
                file["extra/keys"] = [b"zero"] * 20
                file["extra/speaker"] = np.zeros(20)
        data = load_events("shd", tmp_path)
        assert data.train.labels.tolist() == list(range(20))
        assert rows(data.train.recordings[0]) == [(19, 0, 250_000, 0), (699, 0, 500_000, 0)]
        assert data.image_shape == (1, 1, 700)
        (tmp_path / "SHD" / "shd_test.h5").write_bytes(b"none")
        with pytest.raises(RobustSNNError, match="Tonic cannot read the files"):
            load_events("shd", tmp_path)

    def test_cifar10_dvs(self, tmp_path, monkeypatch):
        """Reading AEDAT 4 needs one more package, which is stood in for here."""
        module = pytest.importorskip("tonic.datasets.cifar10dvs")
        for name in ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"):
            folder = tmp_path / "CIFAR10DVS" / name
            folder.mkdir(parents=True)
            for n in range(10):
                (folder / f"cifar10_{name}_{n}.aedat4").write_bytes(b"")

        def events(path: str) -> np.ndarray:
            n = int(Path(path).stem.split("_")[-1])
            dtype = [("t", np.uint64), ("x", np.uint16), ("y", np.uint16), ("on", bool)]
            return np.array([(10**15 + 7, n, 2, True), (10**15, 3, 4, False)], dtype)

        monkeypatch.setattr(module, "read_aedat4", events)
        data = load_events("cifar10-dvs", tmp_path)
        assert (len(data.train), len(data.test)) == (90, 10)
        assert data.test.labels.tolist() == list(range(10))
        assert rows(data.test.recordings[4]) == [(3, 4, 0, 0), (9, 2, 7, 1)]

    def test_natural_order(self):
        assert sorted(["a_10", "a_9", "a_1", "b_2"], key=natural_order) == ["a_1", "a_9", "a_10", "b_2"]
