import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine import FusionEngineError
from fusion_engine.audio import find_listed, read_list
from fusion_engine.audio.listing import Listed


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def entries(text):
    data = text if isinstance(text, bytes) else text.encode()
    Path("list").write_bytes(data)
    return read_list(Path("list"))


def names(text):
    return [str(entry.path) for entry in entries(text)]


def parts(text):
    return [(str(entry.path), entry.start, entry.end) for entry in entries(text)]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_path_a_line(bom, end):
    lines = [b"", b"b.wav", b"/a/c.flac", b"  ", b"in/a, b.wav", b'"q".wav', b" spaced .wav"]
    listed = entries(bom + end.join(lines))
    assert [(str(entry.path), entry.line) for entry in listed] == [
        ("b.wav", 2),
        ("/a/c.flac", 3),
        ("in/a, b.wav", 5),
        ('"q".wav', 6),
        (" spaced .wav", 7),
    ]
    assert all(entry.start is None and entry.end is None for entry in listed)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv(bom, end):
    lines = [
        "",
        "label,end, start,path",
        'dog,2.5,1,"a, ""b"".wav"',
        "",
        "cat,,,b.wav",
        'x,3," ",c',
    ]
    assert parts(bom + end.join(lines).encode()) == [
        ('a, "b".wav', 1.0, 2.5),
        ("b.wav", None, None),
        ("c", None, 3.0),
    ]
    assert [entry.line for entry in entries(end.join(lines))] == [3, 5, 6]


def test_csv_of_paths_alone():
    assert names('path\na.wav\n\n"b,c.wav"\n') == ["a.wav", "b,c.wav"]
    assert names("path\n" * 2) == ["path"]
    assert names("./path\nb.wav\n") == ["path", "b.wav"]


def test_a_header_is_the_first_line_only():
    assert names("a.wav\npath,start,end\n") == ["a.wav", "path,start,end"]
    assert names("file,start\n") == ["file,start"]
    assert names('path",start\n') == ['path",start']


def test_bytes_that_are_not_utf8():
    raw = b"caf\xe9.wav"
    for text in (raw + b"\n", b"path,start\n" + raw + b",1\n"):
        (entry,) = entries(text)
        assert os.fsencode(entry.path) == raw


def test_other_line_ends_are_in_names():
    odd = "a\x0bb\x0cc\x85d\u2028e.wav"
    assert names(f"{odd}\n") == [odd]
    assert names(f"path\n{odd}\n") == [odd]
    assert parts('path,start\n"a\nb.wav",1\nc.wav,2\n') == [
        ("a\nb.wav", 1.0, None),
        ("c.wav", 2.0, None),
    ]
    assert [entry.line for entry in entries('path,start\n"a\nb.wav",1\nc.wav,2\n')] == [2, 4]


def test_standard_input_and_open_files():
    code = "from pathlib import Path; from fusion_engine.audio import read_list\n"
    code += "print([str(entry.path) for entry in read_list(Path('-'))])"
    data = "\ufeffä.wav\r\nb.wav".encode()
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=data,
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
    )
    assert done.stdout.decode() == f"{['ä.wav', 'b.wav']}\n", done.stderr
    assert read_list(io.StringIO("\ufeffpath,end\na,1\n")) == [Listed(Path("a"), None, 1.0, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list: the list has no entries, expected a path a line, or CSV with a column `path`"),
        ("\n \n", "list: the list has no entries"),
        ("path,start\n", "list: the list has no entries"),
        ("path,start\na,1\nb,-1\n", "list: line 3: got start '-1', expected seconds, 0 or more"),
        ("path,end\na,nan\n", "line 2: got end 'nan', expected seconds"),
        ("path,end\na,inf\n", "line 2: got end 'inf', expected seconds"),
        ("path,end\na,1:30\n", "line 2: got end '1:30', expected seconds, 0 or more, such as 2.5"),
        ("path,start,end\na,2,2\n", "line 2: got start 2 and end 2, expected start before end"),
        ("path,start,end\n\na,,0\n", "line 3: got start 0 and end 0, expected start before end"),
        ("path,start\na,b,1\n", "line 2: got 3 fields, expected 2 as in the header; quote a path"),
        ("path,start\na\n", "line 2: got 1 fields, expected 2 as in the header"),
        ("path,start\n,1\n", "line 2: got an empty path, expected that of an audio file"),
        ("path,path\na,b\n", "line 1: got 2 columns `path`, expected one"),
        ('path,start\na,1\n"b,1\nc,1\n', "line 3: unexpected end of data, expected CSV"),
        ("a\0b\0", "line 1: got a zero byte, expected UTF-8 text, a path a line"),
        ("a\nb\n".encode("utf-16"), "line 1: got a zero byte, expected UTF-8 text"),
    ],
)
def test_what_is_no_list(text, message):
    with pytest.raises(FusionEngineError) as error:
        entries(text)
    assert message in str(error.value)


def test_lists_that_cannot_be_read():
    with pytest.raises(FusionEngineError, match="gone: No such file or directory, expected a list"):
        read_list(Path("gone"))
    with pytest.raises(FusionEngineError, match=r"\.: Is a directory, expected a list"):
        read_list(Path())
    Path("latin").write_bytes(b"caf\xe9\n")
    with open("latin", encoding="utf-8") as file, pytest.raises(FusionEngineError, match="UTF-8"):  # noqa: PTH123
        read_list(file)


_PATHS = st.binary(min_size=1, max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"x")))
_SECONDS = st.floats(0, 1e6)


@given(st.lists(st.tuples(_PATHS, _SECONDS, _SECONDS), min_size=1, max_size=5), st.booleans())
def test_what_the_csv_module_writes(rows, bom):
    rows = [(path, min(a, b), max(a, b) + 1e-3) for path, a, b in rows]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("start", "path", "n", "end")] + [(a, p, 1, b) for p, a, b in rows])
    data = text.getvalue().encode("utf-8", "surrogateescape")
    expected = [(str(Path(path)), start, end) for path, start, end in rows]
    assert parts((b"\xef\xbb\xbf" if bom else b"") + data) == expected


def found(*given):
    return find_listed(Listed(Path(path), *part) for path, *part in given)


def test_entries_that_mean_the_same_count_once():
    Path("in/deep").mkdir(parents=True)
    Path("in/a.wav").touch()
    Path("link.wav").symlink_to("in/a.wav")
    Path("folder").symlink_to("in")
    result = found(
        ["in/a.wav"],
        ["link.wav"],
        ["in/deep/../a.wav", 0.0],
        [Path("folder/a.wav").absolute(), 1.0, 2.0],
        ["link.wav", 1.0, 2.0],
        ["link.wav", 1.0],
        ["missing.wav"],
        ["./missing.wav"],
    )
    folder = Path("folder/a.wav").absolute()
    kept = [Path("in/a.wav"), folder, Path("link.wav"), Path("missing.wav")]
    assert result.paths == [entry.path for entry in result.listed] == kept
    assert [entry.start for entry in result.listed] == [None, 1.0, 1.0, None]
    again = ["link.wav", "in/deep/../a.wav", "link.wav", "missing.wav"]
    assert list(map(str, result.repeated_files)) == again
    assert result.real == {os.path.realpath("in/a.wav"), os.path.realpath("missing.wav")}
    assert not result.failures


def test_a_folder_in_a_list_stops_no_other():
    Path("in").mkdir()
    Path("link").symlink_to("in")
    Path("loop").symlink_to("loop")
    Path("list").write_text("in\nloop\nlink\n/\na.wav\n")
    result = find_listed(read_list(Path("list")))
    assert result.paths == [Path("loop"), Path("a.wav")]
    assert [str(error) for _, error in result.failures] == [
        f"{name}: is a folder (line {line} of the list), expected an audio file; list the files "
        "in it"
        for name, line in (("in", 1), ("link", 3), ("/", 4))
    ]
