"""Against ``torch.load``, and against files that nobody's ``torch.save`` wrote."""

import io
import os
import pickle
import resource
import socket
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusion_engine import ExportError
from fusion_engine.export.checkpoint import read_checkpoint

from .files import called, legacy, number, row, saved, tensor, text, zipped

DATA = {"0": np.arange(4, dtype="<f4").tobytes()}
GROWN = called("numpy", "dtype", text("f8"), b"\x89", b"\x88") + (
    row(number(3), text("<"), b"N", b"N", b"N", number(10**6), number(10**6), number(0)) + b"b"
)


def tensors() -> dict[str, torch.Tensor]:
    """Every dtype, and every way to lie in memory."""
    torch.manual_seed(0)
    base = torch.randn(6, 4)
    shared = torch.randn(5)
    dtypes = (
        *(torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
        *(torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128),
        *(torch.uint16, torch.uint32, torch.float8_e4m3fn),
    )
    return {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, 1:],
        "strided": torch.arange(20.0)[3::4],
        "expanded": torch.ones(1).expand(3, 7),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "tied": shared,
        "tied again": shared,
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "frozen": torch.nn.Parameter(torch.randn(3), requires_grad=False),
        **{str(dtype): torch.arange(5).to(dtype) for dtype in dtypes},
    }


def bytes_of(tensor_: torch.Tensor) -> bytes:
    return tensor_.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def with_an_attribute() -> torch.Tensor:
    made = torch.randn(3)
    made.note = "kept by torch.save"  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
def test_every_tensor_as_torch_reads_it(save: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = {**tensors(), "attribute": with_an_attribute()}
    if save is legacy:  # torch writes these and cannot read them
        state = {name: t for name, t in state.items() if "uint" not in name or "8" in name}
        del state["torch.float8_e4m3fn"]
    save(state, path)
    expected = torch.load(path, weights_only=True)
    got = read_checkpoint(path)
    assert got.keys() == expected.keys()
    for name, tensor_ in expected.items():
        assert (got[name].dtype, got[name].shape) == (tensor_.dtype, tensor_.shape), name
        assert bytes_of(got[name]) == bytes_of(tensor_), name
    assert got["tied"].data_ptr() == got["tied again"].data_ptr()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_other_pickle_protocols(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(
        {"state_dict": {"a": torch.arange(3.0)}, "x": [1, {2}]}, path, pickle_protocol=protocol
    )
    assert torch.equal(read_checkpoint(path)["a"], torch.arange(3.0))


def test_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"a": torch.arange(3.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_checkpoint(path)["a"], torch.arange(3.0))


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    """``torch.load`` does not look at the checksums that it writes."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(struct.pack("<f", 500.0))] ^= 1
    path.write_bytes(raw)
    torch.load(path, weights_only=True)
    with pytest.raises(ExportError, match="a checksum in it is wrong"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.ones(3, device="meta"), r"without data \(meta\)"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
        (lambda: torch.ones(3, dtype=torch.complex64).conj(), "conjugated or negated"),
    ],
    ids=["sparse", "quantised", "meta", "nested", "conjugated"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain(make: Any, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a": torch.ones(3), "b": make()}}, path)
    with pytest.raises(ExportError, match=f"its tensor b is {kind}"):
        read_checkpoint(path)
    torch.save({"model": {"a": torch.ones(3)}, "other": [make()]}, path)
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(3))  # not looked at


def test_the_builders_give_what_torch_reads(tmp_path: Path) -> None:
    """What the hostile files below are changed from."""
    pickled = saved(a=tensor((2, 2), (1, 2)), b=tensor((3,), (1,), 1))
    path = zipped(tmp_path / "a.pth", pickled, DATA, extra={"archive/version": b"3\n"})
    expected = torch.load(path, weights_only=True)
    got = read_checkpoint(path)
    assert torch.equal(got["a"], expected["a"])
    assert torch.equal(got["b"], expected["b"])


def test_dtypes_of_numpy_are_never_touched(tmp_path: Path) -> None:
    """An array's own dtype was made larger under it: its next read was beyond its memory."""
    array = called(
        "numpy.core.multiarray",
        "_reconstruct",
        b"cnumpy\nndarray\n",
        row(number(0)),
        called("_codecs", "encode", text("b"), text("latin1")),
    )
    state = array + row(number(1), row(number(1)), GROWN, b"\x89", text("12345678")) + b"b"
    path = zipped(tmp_path / "a.pth", saved(a=tensor(), sampler=b"](" + state + GROWN + b"e"), DATA)
    assert torch.equal(read_checkpoint(path)["a"], torch.arange(4.0))
    assert np.dtype("f8").itemsize == 8


UTILS = "torch._utils"
HOSTILE = {
    "40 GB by expansion": (saved(a=tensor((10**5, 10**5), (0, 0))), "take 40.0 GB"),
    "beyond its storage": (saved(a=tensor((5,), (1,))), "reaches beyond"),
    "begins beyond": (saved(a=tensor((4,), (1,), 1)), "reaches beyond"),
    "stride beyond": (saved(a=tensor((2,), (10**12,))), "reaches beyond"),
    "an empty one beyond": (saved(a=tensor((0,), (1,), 99)), "reaches beyond"),
    "negative size": (saved(a=tensor((-1,), (1,))), "whole numbers"),
    "negative stride": (saved(a=tensor((2,), (-1,))), "whole numbers"),
    "negative offset": (saved(a=tensor((1,), (1,), -1)), "whole numbers"),
    "2**100 elements": (saved(a=tensor((2**50, 2**50), (0, 0))), "whole numbers"),
    "40 dimensions": (saved(a=tensor((1,) * 40, (1,) * 40)), "short tuple"),
    "sizes without strides": (saved(a=tensor((2, 2), (1,))), "more sizes than strides"),
    "storage of another size": (saved(a=tensor(numel=10**10)), "does not hold the values"),
    "storage that is not there": (saved(a=tensor(key="1")), "does not hold the values"),
    "storage outside": (saved(a=tensor(key="../../x")), "does not hold the values"),
    "storage twice": (saved(a=tensor(), b=tensor(numel=3)), "described twice"),
    "storage of no kind": (saved(a=tensor(kind="OddStorage")), "refers to torch.OddStorage"),
    "no storage": (
        saved(a=called("torch._utils", "_rebuild_tensor", *[number(0)] * 4)),
        "no storage",
    ),
    "a key twice": (b"\x80\x02}(" + 2 * (text("a") + tensor()) + b"u.", "key a is there twice"),
    "a tensor that is called": (b"\x80\x02" + tensor() + b")R.", "no function is called"),
    "a tensor that is built": (b"\x80\x02" + tensor() + b")b.", "unknown kind is built"),
    "memory asked for": (
        saved(a=called("torch", "Tensor", number(10**9))),
        "no function is called",
    ),
    "10 GB of bytes": (saved(a=called("builtins", "bytearray", number(10**10))), "no state dict"),
    "new objects": (b"\x80\x02ctorch\nTensor\n)\x81.", "the operation NEWOBJ"),
    "itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "no state dict"),
    "no end": (b"\x80\x02}", "truncated"),
    "a stack that is empty": (b"\x80\x02\x85.", "its stack is empty"),
    "no mark": (b"\x80\x02t.", "truncated"),
    "4 GB of text": (b"\x80\x02X\xff\xff\xff\xffabc.", "truncated"),
    "a memo of 4 GB": (b"\x80\x02}r\xff\xff\xff\xff.", "no state dict"),
    "deep": (b"\x80\x02N" + b"\x85" * 10**5 + b".", "no state dict"),
    "a deep key": (b"\x80\x02}N" + b"\x85" * 10**5 + b"Ns.", "no state dict"),
    "a large number": (
        b"\x80\x02}\x8b" + struct.pack("<i", 10**5) + b"\x7f" * 10**5 + b"Ns.",
        "LONG4",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(name: str, tmp_path: Path) -> None:
    pickled, message = HOSTILE[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with pytest.raises(ExportError, match=message):
        read_checkpoint(zipped(tmp_path / "a.pth", pickled, DATA))
    assert time.monotonic() - started < 2.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_wide_and_long_files_end(tmp_path: Path) -> None:
    """A dictionary of dictionaries that are all the same, and operations without an end."""
    layers = b"}q\x00"
    for depth in range(4):
        entries = b"".join(text(f"k{i}") + b"h" + bytes([depth]) for i in range(100))
        layers = layers + b"}(" + entries + b"uq" + bytes([depth + 1])
    wide = zipped(tmp_path / "wide.pth", b"\x80\x02" + layers + b".", DATA)
    long = zipped(tmp_path / "long.pth", b"\x80\x02](" + b"N" * 3_000_000 + b"e.", DATA)
    started = time.monotonic()
    with pytest.raises(ExportError, match="no state dict"):
        read_checkpoint(wide)
    with pytest.raises(ExportError, match="more than 2000000 operations"):
        read_checkpoint(long)
    assert time.monotonic() - started < 10.0


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    numel = 16 * 2**20
    pickled = saved(a=tensor((numel,), numel=numel))
    path = tmp_path / "bomb.pth"
    zipped(path, pickled, {"0": bytes(4 * numel)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    with pytest.raises(ExportError, match="compressed zip archive"):
        read_checkpoint(path)


def test_archives_that_are_not_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    (tmp_path / "arrays.npz").rename(path)
    with pytest.raises(ExportError, match=r"not one that torch\.save wrote"):
        read_checkpoint(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped(path, saved(a=tensor()), DATA, extra={"archive/data/0": bytes(16)})
    with pytest.raises(ExportError, match="two files of one name"):
        read_checkpoint(path)
    zipped(path, saved(a=tensor()), DATA, extra={"other/data.pkl": saved(b=tensor())})
    with pytest.raises(ExportError, match=r"not one that torch\.save wrote"):
        read_checkpoint(path)
    many = {f"archive/x{i}{'x' * 60_000}": b"" for i in range(100)}
    zipped(path, saved(a=tensor()), DATA, extra=many)
    with pytest.raises(ExportError, match="too many files"):
        read_checkpoint(path)


def test_one_block_of_a_small_file_is_not_read_a_thousand_times(tmp_path: Path) -> None:
    """Entries of an archive that overlap are larger together than the file."""
    names = [f"t{i}" for i in range(1000)]
    pickled = saved(**{n: tensor((4096,), key=n, numel=4096) for n in names})
    path = zipped(tmp_path / "a.pth", pickled, {"t0": bytes(16_384)})
    with zipfile.ZipFile(path, "a") as archive:
        (first,) = (i for i in archive.infolist() if i.filename.endswith("/t0"))
        archive.writestr("archive/end", b"")  # so that the directory is written again
        for name in names[1:]:
            info = zipfile.ZipInfo(f"archive/data/{name}")
            info.header_offset, info.CRC = first.header_offset, first.CRC
            info.file_size = info.compress_size = first.file_size
            archive.filelist.append(info)
    with pytest.raises(ExportError, match="larger than the file"):
        read_checkpoint(path)


@pytest.mark.parametrize("cut", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_legacy_files_that_are_cut(cut: float, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    legacy({"a": torch.ones(1000), "b": torch.ones(10)}, path)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(ExportError, match="truncated"):
        read_checkpoint(path)


def test_a_legacy_file_that_states_another_length(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    legacy({"a": torch.ones(1000)}, path)
    raw = path.read_bytes()
    at = raw.rindex(struct.pack("<q", 1000))
    path.write_bytes(raw[:at] + struct.pack("<q", 2**40) + raw[at + 8 :])
    with pytest.raises(ExportError, match="truncated, or damaged"):
        read_checkpoint(path)


def test_pickles_of_others(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ExportError, match=r"a pickle, but not one that torch\.save wrote"):
        read_checkpoint(path)


def test_a_script_module_is_code(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    with pytest.raises(ExportError, match=r"refers to __torch__\..*, which is code"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "link"])
def test_only_regular_files_are_opened(linked: bool, tmp_path: Path) -> None:
    fifo, door = tmp_path / "fifo.pth", tmp_path / "socket.pth"
    os.mkfifo(fifo)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(door))
    kinds = {fifo: "FIFO", door: "socket", Path("/dev/zero"): "device", tmp_path: "folder"}
    for path, kind in kinds.items():
        if linked:
            (tmp_path / kind).symlink_to(path)
        with pytest.raises(ExportError, match=f"expected a checkpoint file, got a {kind}"):
            read_checkpoint(tmp_path / kind if linked else path)
    listener.close()


def test_a_file_of_a_terabyte_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ExportError, match=r"1099.5 GB, more than a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\n<!DOCTYPE html><html>", "it is an HTML page that was saved in place of the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer.*git lfs pull"),
        (b'{"error": "no"}', "it is JSON text"),
        (b"Not Found", "it is text"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"", "it is empty"),
        (bytes(100), "another kind of file"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_other_files_are_named(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(raw)
    with pytest.raises(ExportError, match=f"cannot be read as a PyTorch checkpoint: .*{message}"):
        read_checkpoint(path)


def test_memory_that_ran_out_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion_engine import BackendError
    from fusion_engine.export.checkpoint import torch_files

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch_files.TorchFile, "_read", full)
    with pytest.raises(BackendError, match="not enough memory"):
        read_checkpoint(zipped(tmp_path / "a.pth", saved(a=tensor()), DATA))
