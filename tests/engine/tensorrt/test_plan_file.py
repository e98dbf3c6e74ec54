"""Plans that are damaged, and sidecars that do not belong to them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fusion_engine import ArtifactError
from fusion_engine.artifact import read_spec
from fusion_engine.engine.tensorrt import PlanInfo, read_plan, update_sidecar
from fusion_engine.engine.tensorrt.network_name import PREFIX
from fusion_engine.engine.tensorrt.sidecar import read_sidecar, sidecar_path, write_sidecar

pytestmark = pytest.mark.rtx


def test_without_its_sidecar(small):
    sidecar_path(small.path).unlink()
    bare = read_plan(small.path)
    assert bare == replace(small, sidecar=None)
    assert (small.runtime, bare.runtime) == ("tensorrt_rtx", None)
    assert read_spec(small.path) == small.spec


def flipped(position):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[int(position * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def without_the_name(path):
    data = path.read_bytes()
    path.write_bytes(data[: data.index(PREFIX.encode())])


def within_the_name(path):
    data = path.read_bytes()
    path.write_bytes(data[: data.index(PREFIX.encode()) + 100])


def appended(path):
    path.write_bytes(path.read_bytes() + b"\0")


def of_text(path):
    path.write_text("hello" * 100)


def another_plan(path):
    """Of the same length: a twin of which only the name differs."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"random:0"', b'"random:1"'))


# With the sidecar everything is found; without it what the name can tell.
DAMAGES = [
    (flipped(0.0), "its SHA-256 is", None),
    (flipped(0.5), "its SHA-256 is", None),
    (flipped(1.0), "its SHA-256 is", None),
    (cut, "truncated: ", None),
    (without_the_name, "truncated: ", "no spec of fusion_engine in it: not a TensorRT plan, trunc"),
    (within_the_name, "truncated: ", "the spec in its network's name is damaged"),
    (appended, "damaged: ", None),
    (of_text, "truncated: 500 bytes", "no spec of fusion_engine in it: not a TensorRT plan"),
    (lambda path: path.write_bytes(b""), "empty, expected", "empty, expected"),
    (another_plan, "its SHA-256 is", None),
]


@pytest.mark.parametrize(("damage", "beside", "alone"), DAMAGES)
def test_damage(small, damage, beside, alone):
    damage(small.path)
    with pytest.raises(ArtifactError) as error:
        read_plan(small.path)
    assert str(error.value).startswith(f"{small.path}: {beside}")
    assert "fusion-engine build" in str(error.value)
    assert "\n" not in str(error.value)
    sidecar_path(small.path).unlink()
    if alone is None:
        assert isinstance(read_plan(small.path), PlanInfo)
    else:
        with pytest.raises(ArtifactError) as error:
            read_plan(small.path)
        assert str(error.value).startswith(f"{small.path}: {alone}")


def test_no_damage_ends_the_process(small, tmp_path):
    """Bytes flipped up to the name's beginning, and cuts at every length up to there."""
    sidecar_path(small.path).unlink()
    program = """
import sys
from pathlib import Path
from fusion_engine import ArtifactError
from fusion_engine.engine.tensorrt.plan_file import read_plan

path = Path(sys.argv[1])
whole = path.read_bytes()
end = whole.index(b'{"fusion_engine"') + 60
read = refused = 0
for position in range(0, end, 3):
    for data in (
        whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :],
        whole[:position],
    ):
        path.write_bytes(data)
        try:
            read_plan(path)
            read += 1
        except ArtifactError:
            refused += 1
print(read, refused)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, small.path], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    read, refused = map(int, done.stdout.split())
    assert refused > read > 0


def test_a_spec_that_is_nested_without_end(tmp_path):
    path = tmp_path / "a.plan"
    path.write_bytes(bytes(8) + PREFIX.encode() + b"[" * 3900)
    with pytest.raises(ArtifactError, match=r"the spec in its network's name is damaged"):
        read_plan(path)


def test_a_sidecar_of_another_spec(small):
    other = replace(small.sidecar, spec=replace(small.spec, head="max"))
    write_sidecar(sidecar_path(small.path), other)
    with pytest.raises(ArtifactError, match=r"the one in small.plan.json differ"):
        read_plan(small.path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:100], "not JSON"),
        (lambda text: "[" * 100_000, "not JSON: nested too deep"),
        (lambda text: "[]", "its format version is None, expected 1 to 3"),
        (lambda text: text.replace('"format_version": 3', '"format_version": 7', 1), "is 7"),
        # What the second format has, in a file that says it is of the first.
        (
            lambda text: text.replace('"format_version": 3', '"format_version": 1', 1),
            "sidecar.profiles[0] is None, expected an object",
        ),
        (lambda text: text.replace('"sha256"', '"sha265"', 1), "unknown fields ['sha265']"),
        (lambda text: text.replace('"tensorrt_rtx"', '"tensorflow"'), "is 'tensorflow', expected"),
    ],
)
def test_a_damaged_sidecar(small, damage, message):
    path = sidecar_path(small.path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ArtifactError) as error:
        read_plan(small.path)
    assert str(error.value).startswith(f"{path}: damaged (")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["effort"], 6, "effort is 6, expected 0 to 5"),
        (["activation_bytes"], -1, "activation_bytes is -1, expected 0"),
        (["profiles", 1, "batch", "min"], 0, "the profile's batch is (0, 8, 32)"),
        (["profiles", 1, "frames", "opt"], 10**9, "the profile's frames is (32, 1000000000, "),
        (["profiles", 1, "frames", "min"], 31, "the profile takes 31:"),
        (["profiles", 1, "batch", "min"], 9, "does not take all of batch 8, frames 1001"),
        (["profiles"], [], "it has 0 profiles, expected 1 to 8"),
        (["targets"], [], "targets is [], expected the compute capabilities"),
        (["targets", 0], "8", "targets[0] is '8', expected a version"),
        (["tiling"], "most", "is 'most', expected one of ['none', "),
        (["compute_capability"], "9", "compute_capability is '9', expected a version"),
        (["runtime_version"], "1\x1b[0m", "expected no control characters"),
        (["sha256"], "x", "sha256 is 'x', expected 64 hexadecimal digits"),
        (["tensors", 1, "name"], "layer_9", "it has the tensors ['log_mel', 'layer_9']"),
        (["tensors", 0, "shape", 3], 65, "log_mel is [?, 1, ?, 65], expected [?, 1, ?, 64]"),
        (["tensors", 1, "shape"], [-1, 9, -1, 32], "layer_1 is [?, 9, ?, 32], expected [?, 64"),
    ],
)
def test_numbers_of_a_sidecar(small, path, value, message):
    file = sidecar_path(small.path)
    data = target = json.loads(file.read_text())
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    file.write_text(json.dumps(data))
    with pytest.raises(ArtifactError) as error:
        read_plan(small.path)
    assert str(error.value).startswith(f"{file}: damaged (")
    assert message in str(error.value)


def test_files_that_are_no_plans(tmp_path, cnn14_artifact):
    with pytest.raises(ArtifactError, match=r"no such file. Write one with `fusion-engine build`"):
        read_plan(tmp_path / "a.plan")
    with pytest.raises(ArtifactError, match=r"a folder, expected a .plan file"):
        read_plan(tmp_path)
    (tmp_path / "b.plan").symlink_to(cnn14_artifact)
    with pytest.raises(ArtifactError, match=r"not a TensorRT plan"):
        read_spec(tmp_path / "b.plan")


def test_a_name_that_cannot_be_found_is_in_the_sidecar(small):
    """Where another version of TensorRT stores names in a way of its own."""
    data = small.path.read_bytes().replace(b'{"fusion_engine"', b'["fusion_engine"')
    small.path.write_bytes(data)
    from hashlib import sha256

    write_sidecar(sidecar_path(small.path), replace(small.sidecar, sha256=sha256(data).hexdigest()))
    assert read_plan(small.path).spec == small.spec


def test_a_certificate_in_the_sidecar(small):
    certificate = {"passed": True, "comparisons": [{"error": 1e-3, "output": "layer_1"}]}
    updated = update_sidecar(small.path, parity=certificate)
    assert updated == replace(small.sidecar, parity=certificate) == read_sidecar(small.path)
    assert read_plan(small.path).sidecar == updated
    assert json.loads(sidecar_path(small.path).read_text())["parity"] == certificate
    flipped(0.5)(small.path)
    with pytest.raises(ArtifactError, match="not the sidecar of these bytes"):
        update_sidecar(small.path, parity={})
    sidecar_path(small.path).unlink()
    with pytest.raises(ArtifactError, match="no such file, so nothing can be added"):
        update_sidecar(small.path, parity={})
    assert sorted(path.name for path in Path(small.path).parent.iterdir()) == ["small.plan"]
