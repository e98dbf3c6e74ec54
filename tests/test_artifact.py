"""The spec inside a file, read without its weights and without trust in its bytes."""

import os
import re
import resource
import subprocess
import sys

import onnx
import pytest

from fusion_engine import ArtifactError
from fusion_engine.artifact import read_spec, takes_samples
from fusion_engine.spec import METADATA_KEY

from .engine.cuda.artifacts import SPECS, write_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("artifact") / "a.onnx", SPECS["chunked"])


def refused(path, message):
    with pytest.raises(ArtifactError, match=message) as error:
        read_spec(path)
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value)) < 700
    assert "\n" not in str(error.value)


def test_every_field_of_onnx_is_read_past(artifact, tmp_path):
    """As protobuf reads it: metadata before and after the graph, and fields of other kinds."""
    assert read_spec(artifact) == SPECS["chunked"]
    model = onnx.load(artifact)
    model.doc_string, model.domain, model.model_version = "d" * 9999, "x", 2**60
    model.metadata_props.insert(0, onnx.StringStringEntryProto(key="other", value="v" * 10**6))
    model.functions.append(onnx.FunctionProto(name="f", domain="x"))
    path = tmp_path / "b.onnx"
    onnx.save(model, path)
    assert read_spec(path) == SPECS["chunked"]
    # Fixed-size fields of a future version, in front.
    path.write_bytes(b"\xfd\x07" + bytes(4) + b"\xf9\x07" + bytes(8) + path.read_bytes())
    onnx.load(path)
    assert read_spec(path) == SPECS["chunked"]


def test_the_input_says_whether_it_takes_samples(artifact, tmp_path):
    """Past weights and nodes, and of a graph in two parts, which protobuf merges."""
    model, path = onnx.load(artifact), tmp_path / "b.onnx"
    assert not takes_samples(artifact)
    model.graph.input[0].name = "samples"
    onnx.save(model, path)
    assert takes_samples(path)
    assert not takes_samples(path.rename(tmp_path / "b.plan"))
    second = onnx.ModelProto(graph=onnx.GraphProto(input=[onnx.ValueInfoProto(name="more")]))
    path.write_bytes((tmp_path / "b.plan").read_bytes() + second.SerializeToString())
    assert [value.name for value in onnx.load(path).graph.input] == ["samples", "more"]
    assert not takes_samples(path)
    data = (tmp_path / "b.plan").read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert not takes_samples(path)
    assert not takes_samples(tmp_path / "missing.onnx")


def test_any_cut_is_seen(artifact, tmp_path):
    data = artifact.read_bytes()
    path = tmp_path / "cut.onnx"
    for length in [*range(0, 200), *range(200, len(data), 97), *range(len(data) - 200, len(data))]:
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=r"truncated or no ONNX|no 'fusion_engine' entry"):
            read_spec(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\xff\xfe{}", "the spec is damaged (not UTF-8)"),
        (b"", "the spec is damaged (not JSON"),
        (b" " * (2**20 + 200), "an entry of"),
        (b"[" * 10**6, "the spec is damaged (not JSON: nested too deep)"),
    ],
    ids=["bytes", "empty", "long", "deep"],
)
def test_metadata_that_is_no_spec(artifact, tmp_path, value, message):
    model = onnx.load(artifact)
    del model.metadata_props[:]
    entry = b"\n" + varint(len(METADATA_KEY)) + METADATA_KEY.encode()
    entry += b"\x12" + varint(len(value)) + value
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString() + b"\x72" + varint(len(entry)) + entry)
    refused(path, re.escape(message))


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_two_specs_are_refused(artifact, tmp_path):
    """Two readers could take one each."""
    model = onnx.load(artifact)
    path = tmp_path / "a.onnx"
    other = SPECS["dropped"].to_json()
    model.metadata_props.add(key=METADATA_KEY, value=other)
    onnx.save(model, path)
    refused(path, r"the spec is damaged \(two of them\)")


def test_files_that_are_none(tmp_path):
    refused(tmp_path / "no.onnx", "no such file. Write one with `fusion-engine export`")
    refused(tmp_path, "a folder, expected an .onnx file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "no plain file")
    refused(tmp_path / ("x" * 300 + ".onnx"), "cannot be read \\(File name too long\\)")
    (tmp_path / "a.bin").touch()
    refused(tmp_path / "a.bin", "unknown kind '.bin'")
    (tmp_path / "tiny.onnx").write_bytes(b"\x08\x01" * 10**6)
    refused(tmp_path / "tiny.onnx", "more than 100000 fields")


def test_reading_a_spec_takes_no_memory_for_the_weights(artifact, tmp_path):
    """A gigabyte of them, under a limit of half a gigabyte: no artifact is called damaged."""
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        graph = 2**30
        file.write(b"\x3a" + varint(graph))
        file.seek(graph, os.SEEK_CUR)  # a hole
        file.write(artifact.read_bytes())
    limit = 2**29

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    program = (
        "import sys; from fusion_engine.artifact import read_spec; print(read_spec(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        # Each thread of a BLAS would reserve its own.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=limited,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Spec(format_version=1, model='chunked'")
