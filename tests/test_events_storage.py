"""Recordings on disk: what is written comes back, in our readers and in Tonic's; damage is told, not passed on."""

from __future__ import annotations

import numpy as np
import pytest
from realdata import real_data

from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, EventStream, load_npz, read_bin, save_npz, write_bin, write_bin_folder

SENSOR = (34, 34, 2)


def recording(seed: int, count: int, end: int = 300_000) -> EventStream:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 34, (2, count))
    return EventStream(x, y, rng.integers(0, end, count), rng.integers(0, 2, count), SENSOR)


class TestBin:
    @pytest.mark.parametrize(("count", "end"), [(0, 1), (1, 1), (500, 300_000), (500, 1 << 23), (300, 20)])
    def test_round_trip(self, tmp_path, count, end):
        stream = recording(0, count, end)
        write_bin(tmp_path / "a.bin", stream)
        assert (tmp_path / "a.bin").stat().st_size == 5 * count
        assert read_bin(tmp_path / "a.bin", SENSOR).same_as(stream)

    def test_tonic_reads_it(self, tmp_path):
        tonic_io = pytest.importorskip("tonic.io")
        stream = recording(1, 800)
        write_bin(tmp_path / "a.bin", stream)
        dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
        events = tonic_io.read_mnist_file(tmp_path / "a.bin", dtype=dtype)
        assert np.array_equal(events, stream.to_structured())
        assert EventStream.from_structured(events, SENSOR).same_as(stream)

    def test_bytes_by_hand(self, tmp_path):
        """x 3, y 5, p 1, t 0x12345."""
        path = tmp_path / "a.bin"
        path.write_bytes(bytes([3, 5, 0x81, 0x23, 0x45, 7, 8, 0x01, 0x23, 0x46]))
        stream = read_bin(path, SENSOR)
        assert [stream.x.tolist(), stream.y.tolist(), stream.t.tolist(), stream.p.tolist()] == [
            [3, 7], [5, 8], [0x12345, 0x12346], [1, 0],
        ]  # fmt: skip
        write_bin(tmp_path / "b.bin", stream)
        assert (tmp_path / "b.bin").read_bytes() == path.read_bytes()

    def test_time_overflows_as_tonic(self, tmp_path):
        events = np.array(
            [[1, 1, 0, 0, 9], [0, 240, 0, 0, 0], [2, 2, 128, 0, 3], [0, 240, 0, 0, 0], [3, 3, 0, 1, 0]], np.uint8
        )
        events.tofile(tmp_path / "a.bin")
        stream = read_bin(tmp_path / "a.bin", SENSOR)
        assert stream.t.tolist() == [9, 8192 + 3, 2 * 8192 + 256]
        assert stream.x.tolist() == [1, 2, 3]
        tonic_io = pytest.importorskip("tonic.io")
        dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
        assert np.array_equal(tonic_io.read_mnist_file(tmp_path / "a.bin", dtype), stream.to_structured())

    def test_real_recordings_survive(self, tmp_path):
        for path in sorted(real_data("NMNIST", "Test").glob("*/*.bin"))[::20]:
            write_bin(tmp_path / "copy.bin", read_bin(path, SENSOR))
            assert (tmp_path / "copy.bin").read_bytes() == path.read_bytes()

    def test_damage(self, tmp_path):
        path = tmp_path / "a.bin"
        write_bin(path, recording(0, 10))
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(RobustSNNError, match=r"a.bin has 48 bytes; expected a multiple of 5"):
            read_bin(path, SENSOR)
        path.write_bytes(bytes([40, 5, 0, 0, 0]))
        with pytest.raises(RobustSNNError, match=r"a.bin: 1 of 1 events are outside the sensor"):
            read_bin(path, SENSOR)
        with pytest.raises(RobustSNNError, match=r"cannot read .*No such file"):
            read_bin(tmp_path / "none.bin", SENSOR)

    @pytest.mark.parametrize(("x", "y", "t"), [(256, 0, 0), (0, 240, 0), (0, 300, 0), (0, 0, 1 << 23)])
    def test_what_does_not_fit(self, tmp_path, x, y, t):
        stream = EventStream(*(np.array([v]) for v in (x, y, t, 1)), (400, 400))
        with pytest.raises(RobustSNNError, match=r"1 events do not fit N-MNIST's format.*use save_npz"):
            write_bin(tmp_path / "a.bin", stream)
        assert not (tmp_path / "a.bin").exists()

    def test_folder(self, tmp_path):
        batch, labels = EventBatch.of([recording(n, 20 * n) for n in range(4)]), [7, 3, 7, 0]
        paths = write_bin_folder(tmp_path / "Test", batch, labels)
        assert [path.parent.name for path in paths] == ["7", "3", "7", "0"]
        for path, stream in zip(paths, batch):
            assert read_bin(path, SENSOR).same_as(stream)
        with pytest.raises(RobustSNNError, match="holds recordings already"):
            write_bin_folder(tmp_path / "Test", batch, labels)
        with pytest.raises(RobustSNNError, match="4 recordings but 3 labels"):
            write_bin_folder(tmp_path / "Other", batch, labels[:3])


class TestNpz:
    def test_round_trip(self, tmp_path):
        batch = EventBatch.of([recording(0, 30), recording(1, 0), recording(2, 5)])
        save_npz(tmp_path / "a.npz", batch, [4, 0, 1])
        again, labels = load_npz(tmp_path / "a.npz")
        assert labels is not None
        assert labels.tolist() == [4, 0, 1]
        assert all(a.same_as(b) for a, b in zip(again, batch, strict=True))
        save_npz(tmp_path / "b.npz", batch)
        assert load_npz(tmp_path / "b.npz")[1] is None

    def test_one_recording_is_a_spikingjelly_file(self, tmp_path):
        stream = recording(0, 30)
        save_npz(tmp_path / "a.npz", EventBatch.of([stream]))
        assert EventStream.from_structured(np.load(tmp_path / "a.npz"), SENSOR).same_as(stream)

    def test_damage(self, tmp_path):
        path, batch = tmp_path / "a.npz", EventBatch.of([recording(0, 30)])
        save_npz(path, batch, [1])
        content = dict(np.load(path))
        whole = path.read_bytes()
        for raw in (b"", b"nonsense", whole[: len(whole) // 2]):
            path.write_bytes(raw)
            with pytest.raises(RobustSNNError, match=r"cannot be read as a .npz file of events"):
                load_npz(path)
        for change, message in (
            ({"x": content["x"] + 34}, "outside the sensor"),
            ({"offsets": np.array([0, 29])}, "offsets must rise"),
            ({"sensor": np.array([34])}, "sensor's size must be"),
            ({"labels": np.array([1, 2])}, r"labels are int64 of shape \(2,\)"),
            ({"t": np.array([{}])}, "cannot be read"),
        ):
            np.savez(path, **(content | change))
            with pytest.raises(RobustSNNError, match=message):
                load_npz(path)
        np.savez(path, x=content["x"])
        with pytest.raises(RobustSNNError, match="has no y, t, p, offsets, sensor"):
            load_npz(path)
        with pytest.raises(RobustSNNError, match="does not exist"):
            load_npz(tmp_path / "none.npz")
        with pytest.raises(RobustSNNError, match=r"labels have shape \(2,\); expected \[1\]"):
            save_npz(path, batch, [1, 2])
