import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import soundfile

import fusion_engine.probe.cache as cache_module
import fusion_engine.probe.embeddings as embeddings_module
from fusion_engine import AudioError, Engine, FusionEngineError
from fusion_engine.artifact import file_sha256
from fusion_engine.audio import load
from fusion_engine.engine.clips import Embedded
from fusion_engine.journal import journal
from fusion_engine.probe import Example, Task, extract, layer_columns, open_engine
from fusion_engine.probe.cache import audio_files

from ..signals import chirp, noise

pytestmark = pytest.mark.heavy

RATE = 16_000
SECONDS = 0.4
CLIPS = 150
PART_CLIPS = 64
SPLITS = ("train", "valid", "test")


class Recorder:
    """Embeds a clip as its length, its ends, its sum and the number of clips seen before it."""

    sample_rate = RATE
    embedding_dim = 5

    def __init__(self):
        self.clips = []

    def embed_stream(self, items, *, head=None):
        for key, audio in items:
            clip = load(audio, RATE).samples if isinstance(audio, Path) else audio
            place = len(self.clips)
            self.clips.append(clip)
            values = [len(clip), clip[0], clip[-1], clip.sum(dtype=np.float64), place]
            yield Embedded(key, 0.0, len(clip) / RATE, np.array(values, np.float32))


def write_clips(folder, count, seconds=SECONDS):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        clip = (chirp, noise)[number % 2](seconds + 0.01 * (number % 9 - 4), RATE, number)
        soundfile.write(folder / f"{number:03}.wav", clip, RATE)


def make_task(folder, seconds=SECONDS, folds=False):
    examples = [
        Example(
            path=path,
            label="ab"[number % 2],
            split=None if folds else SPLITS[number % 3],
            fold=number % 5 if folds else None,
        )
        for number, path in enumerate(sorted(folder.iterdir()))
    ]
    return Task(name="t", title="T", seconds=seconds, classes=("a", "b"), examples=tuple(examples))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "set"
    write_clips(folder, CLIPS)
    return folder


@pytest.fixture
def own_clips(clips, tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(clips, tmp_path / "set"))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _no_timer(monkeypatch):
    """When embeddings are put on disk depends on their number alone."""
    monkeypatch.setattr(journal, "_FLUSH_SECONDS", 1e6)


@pytest.fixture
def small_parts(monkeypatch):
    """A part for every 64 clips of a ``Recorder``."""
    # Of a clip: its embedding, and two events of a key of 64 characters.
    monkeypatch.setattr(journal, "_HELD_BYTES", PART_CLIPS * (4 * 5 + 2 * (200 + 6 * 64)))


def parts(cache):
    return sorted((cache / "embeddings").rglob("part-*.parquet"))


def computed(task, cache, **options):
    """The embeddings, and how many clips were embedded for them."""
    recorder = Recorder()
    rows = extract(recorder, task, identity=options.pop("identity", "x"), cache=cache, **options)
    return np.array(rows), len(recorder.clips)


def test_embeddings_are_those_of_the_engine(cnn14_artifact, clips, cache):
    """Every clip alone, cut to length by hand: bit for bit, computed and from the cache."""
    engine, identity = open_engine(cnn14_artifact, device="cpu", threads=1)
    task = make_task(clips, folds=True)
    samples = round(SECONDS * RATE)
    expected = []
    for example in task.examples:
        clip, _ = soundfile.read(example.path, dtype="float32")
        expected.append(engine.embed(np.pad(clip, (0, samples))[:samples]))
    seen = []
    for _ in range(2):
        got = extract(
            engine, task, identity=identity, cache=cache, progress=lambda *at: seen.append(at)
        )
        assert isinstance(got, np.memmap)
        assert not got.flags.writeable
        np.testing.assert_array_equal(got, expected)
    assert len(parts(cache)) == 1
    assert seen[0] == (0, CLIPS)
    # The second time there was nothing to do.
    assert seen[-3:] == [(CLIPS, CLIPS), (0, CLIPS), (CLIPS, CLIPS)]
    done = [done for done, _ in seen[:-2]]
    assert done == sorted(done)


def test_layers_are_columns_of_one_pass(cnn14_artifact, early, clips, cache):
    engine, identity = open_engine(early, device="cpu", threads=1)
    task = make_task(clips)
    columns = layer_columns(engine.spec)
    assert columns == {2: slice(0, 2048), 1: slice(2048, 4096), 3: slice(4096, 6144)}
    rows = extract(engine, task, identity=identity, cache=cache)
    engine, identity = open_engine(cnn14_artifact, device="cpu", threads=1)
    expected = extract(engine, task, identity=identity, cache=cache)
    # The same graph but for what comes after it.
    np.testing.assert_allclose(rows[:, columns[1]], expected, rtol=1e-6)


@pytest.mark.parametrize(("length", "start"), [(0.1, 0), (1.5, None)])
def test_clips_get_the_length_of_the_task(length, start, tmp_path, cache):
    """Too short: zeros on the right. Too long: from the start in test, elsewhere in training."""
    folder = tmp_path / "set"
    write_clips(folder, 30, length)
    task = make_task(folder)
    recorder = Recorder()
    extract(recorder, task, identity="x", cache=cache)
    starts = []
    for example, clip in zip(task.examples, recorder.clips, strict=True):
        assert len(clip) == SECONDS * RATE
        whole, _ = soundfile.read(example.path, dtype="float32")
        if start == 0:
            np.testing.assert_array_equal(clip[: len(whole)], whole)
            assert not clip[len(whole) :].any()
            continue
        windows = np.lib.stride_tricks.sliding_window_view(whole, len(clip))
        (place,) = np.flatnonzero((windows[:, 0] == clip[0]) & (windows[:, -1] == clip[-1]))
        np.testing.assert_array_equal(windows[place], clip)
        starts.append(place)
        assert (place == 0) == (example.split == "test")
    assert len(set(starts)) in (1 + 20, 0)  # the ten of test start alike


def test_the_place_of_a_crop_follows_from_seed_and_content(own_clips, tmp_path, cache):
    task = make_task(own_clips, seconds=0.2)
    first, _ = computed(task, cache)
    other, count = computed(task, cache, crop_seed=1)
    training = np.array([example.split != "test" for example in task.examples])
    differs = (first[:, 1:4] != other[:, 1:4]).any(axis=1)
    assert differs[training].mean() > 0.9
    assert not differs[~training].any()
    assert count == training.sum()  # the others are cropped as before
    # Elsewhere and under other names the files are cropped alike, and need not be read again.
    moved = tmp_path / "elsewhere"
    own_clips.rename(moved)
    for path in moved.iterdir():
        path.rename(path.with_name(f"new-{path.name}"))
    again, count = computed(make_task(moved, seconds=0.2), cache)
    np.testing.assert_array_equal(again, first)
    assert count == 0
    again, count = computed(make_task(moved, seconds=0.2), tmp_path / "another")
    np.testing.assert_array_equal(again, first)
    assert count == CLIPS


def test_folds_are_cropped_from_the_start(clips, cache):
    recorder = Recorder()
    task = make_task(clips, seconds=0.2, folds=True)
    extract(recorder, task, identity="x", cache=cache)
    for example, clip in zip(task.examples, recorder.clips, strict=True):
        whole, _ = soundfile.read(example.path, dtype="float32")
        np.testing.assert_array_equal(clip, whole[: len(clip)])


def test_clips_as_they_are(clips, cache):
    rows, _ = computed(make_task(clips, seconds=None), cache)
    lengths = [soundfile.info(path).frames for path in sorted(clips.iterdir())]
    np.testing.assert_array_equal(rows[:, 0], lengths)


def test_other_settings_are_other_embeddings(clips, cache):
    task = make_task(clips)
    assert computed(task, cache)[1] == CLIPS
    assert computed(task, cache)[1] == 0
    for options in ({"identity": "y"}, {"head": "max"}):
        assert computed(task, cache, **options)[1] == CLIPS
    assert computed(make_task(clips, seconds=0.3), cache)[1] == CLIPS
    # The test clips, a third, are cropped from their start in any case.
    assert computed(task, cache, crop_seed=1)[1] == CLIPS * 2 // 3
    assert computed(make_task(clips, folds=True), cache)[1] == CLIPS * 2 // 3
    assert computed(task, cache)[1] == 0


def test_another_version_is_not_served(clips, cache, monkeypatch):
    task = make_task(clips)
    assert computed(task, cache)[1] == CLIPS
    for name, value in (("CACHE_VERSION", 99), ("__version__", "99")):
        with monkeypatch.context() as patch:
            patch.setattr(embeddings_module, name, value)
            assert computed(task, cache)[1] == CLIPS


def test_a_changed_artifact_is_never_served(cnn14_artifact, clips, cache, tmp_path):
    """Two artifacts at one path, of one size, that differ in one weight."""
    path = tmp_path / "a.onnx"
    shutil.copy(cnn14_artifact, path)
    task = make_task(clips)

    def embed():
        engine, identity = open_engine(path, device="cpu", threads=1)
        return np.array(extract(engine, task, identity=identity, cache=cache))

    first = embed()
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[np.abs(values).argmax()] *= 2
    weight.raw_data = values.tobytes()
    size = path.stat().st_size
    onnx.save(model, path)
    assert path.stat().st_size == size
    assert (embed() != first).any(axis=1).all()


def test_the_identity_names_what_changes_numbers(cnn14_artifact, tmp_path, monkeypatch):
    first = open_engine(cnn14_artifact, device="cpu")[1]
    assert open_engine(cnn14_artifact, device="cpu", threads=1)[1] == first
    copy = tmp_path / "copy.onnx"
    shutil.copy(cnn14_artifact, copy)
    assert open_engine(copy, device="cpu")[1] == first
    monkeypatch.setattr(Engine, "backend", "onnxruntime 0.1")
    assert open_engine(cnn14_artifact, device="cpu")[1] != first


def test_the_identity_names_the_normalisation(cnn14_artifact, monkeypatch):
    """AST's alone, for which another engine stands here."""
    opened = SimpleNamespace(backend="onnxruntime", device="cpu")
    monkeypatch.setattr(embeddings_module, "Engine", lambda *args, **options: opened)
    choices = (None, (-4.2, 4.6), (-6.6, 5.1))
    identities = {open_engine(cnn14_artifact, normalization=one)[1] for one in choices}
    assert len(identities) == 3


def settle(folder):
    """Make files old enough for their digests to be kept."""
    long_ago = time.time() - 100
    for path in folder.iterdir():
        os.utime(path, (long_ago, long_ago))


@pytest.mark.parametrize("kept", [False, True], ids=["hashed", "digests kept"])
def test_changed_audio_is_never_served(kept, own_clips, cache, monkeypatch):
    """Of the same size and with the time of modification set back: it alone is computed."""
    if kept:
        monkeypatch.setattr(cache_module, "_SETTLED_NS", 0)
    task = make_task(own_clips)
    settle(own_clips)
    first, _ = computed(task, cache)
    path = task.examples[70].path
    before = path.stat()
    clip, _ = soundfile.read(path, dtype="float32")
    soundfile.write(path, clip[::-1], RATE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second, count = computed(task, cache)
    assert count == 1
    differs = (first[:, :4] != second[:, :4]).any(axis=1)
    assert np.flatnonzero(differs).tolist() == [70]
    expected, _ = computed(task, cache.with_name("another"))
    np.testing.assert_array_equal(second[:, :4], expected[:, :4])


def test_unchanged_audio_is_not_read_again(own_clips, cache, monkeypatch):
    monkeypatch.setattr(cache_module, "_SETTLED_NS", 0)
    read = []
    monkeypatch.setattr(
        cache_module, "file_sha256", lambda path: (read.append(path), file_sha256(path))[1]
    )
    paths = sorted(own_clips.iterdir())
    settle(own_clips)
    time.sleep(0.02)  # the clock of the file system ticks
    first = audio_files(paths, cache)
    assert len(read) == CLIPS
    assert audio_files(paths, cache) == first
    assert len(read) == CLIPS
    os.utime(paths[3])
    audio_files(paths, cache)
    assert len(read) == CLIPS + 1
    # A damaged index is no index.
    (index,) = cache.iterdir()
    text = index.read_bytes()
    for damaged in (text[: len(text) // 2], text.replace(b"000.wav", b"001.wav"), b"\xff"):
        read.clear()
        index.write_bytes(damaged)
        assert audio_files(paths, cache) == audio_files(paths, cache)
        assert len(read) == CLIPS
    assert [file.sha256 for file in first] == [file_sha256(path) for path in paths]


def test_a_digest_of_a_file_just_written_is_not_kept(own_clips, cache):
    paths = sorted(own_clips.iterdir())
    for path in paths[:5]:
        path.touch()
    audio_files(paths[:5], cache)
    assert not list(cache.glob("*"))


def test_audio_that_changes_meanwhile(own_clips, cache, monkeypatch):
    task = make_task(own_clips)
    victim = task.examples[100].path

    class Meddler(Recorder):
        def embed_stream(self, items, *, head=None):
            victim.touch()
            return super().embed_stream(items, head=head)

    with pytest.raises(AudioError, match=r"100\.wav: changed while"):
        extract(Meddler(), task, identity="x", cache=cache)


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]


def longer(content):
    return content + b"\0\0\0\0"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("damage", [cut, flip, longer, lambda content: b""])
def test_a_damaged_part_is_computed_anew(damage, clips, cache, caplog):
    task = make_task(clips)
    first, _ = computed(task, cache)
    path = max(parts(cache), key=lambda path: (path.stat().st_size, path.name))
    path.write_bytes(damage(path.read_bytes()))
    second, count = computed(task, cache)
    assert count == PART_CLIPS
    np.testing.assert_array_equal(second[:, :4], first[:, :4])
    assert f"removed, for it is damaged: {path}" in caplog.text
    assert not path.exists()
    assert computed(task, cache)[1] == 0


def test_an_embedding_that_was_flipped_is_computed_anew(clips, cache):
    """In a page of the part, which is found as the embeddings are read."""
    task = make_task(clips)
    first, _ = computed(task, cache)
    (path,) = parts(cache)
    content = bytearray(path.read_bytes())
    content[content.index(first[70].tobytes())] ^= 1
    path.write_bytes(content)
    second, count = computed(task, cache)
    assert count == CLIPS
    np.testing.assert_array_equal(second, first)


@pytest.mark.usefixtures("small_parts")
def test_the_parts_of_other_settings_are_not_served(clips, cache):
    """Not even where somebody put them into the folder of these ones."""
    task = make_task(clips)
    computed(task, cache)
    before = parts(cache)
    assert computed(task, cache, head="max")[1] == CLIPS
    (folder,) = {path.parent for path in parts(cache)} - {before[0].parent}
    for path in folder.iterdir():
        path.unlink()
    for path in before:
        path.rename(folder / path.name)
    assert computed(task, cache, head="max")[1] == CLIPS


def test_files_of_one_content_are_embedded_once(own_clips, cache):
    shutil.copy(own_clips / "003.wav", own_clips / "999.wav")
    seen = []
    task = make_task(own_clips, folds=True)
    rows, count = computed(task, cache, progress=lambda *at: seen.append(at))
    assert count == CLIPS
    np.testing.assert_array_equal(rows[-1], rows[3])
    assert seen[-1] == (CLIPS + 1, CLIPS + 1)


@pytest.mark.usefixtures("small_parts")
def test_several_runs_fill_one_cache_at_a_time(clips, cache):
    """One within the other: both are right, and what both kept is found."""
    task = make_task(clips)
    expected, _ = computed(task, cache.with_name("another"))
    inner = []

    class Outer(Recorder):
        def embed_stream(self, items, *, head=None):
            for number, result in enumerate(super().embed_stream(items, head=head)):
                if number == 100:
                    inner.append(computed(task, cache))
                yield result

    outer = extract(Outer(), task, identity="x", cache=cache)
    np.testing.assert_array_equal(outer[:, :4], expected[:, :4])
    np.testing.assert_array_equal(inner[0][0][:, :4], expected[:, :4])
    assert inner[0][1] == CLIPS - PART_CLIPS
    assert computed(task, cache)[1] == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from fusion_engine.journal import journal
from fusion_engine.probe import extract, open_engine
from tests.probe.test_embeddings import make_task

journal._FLUSH_SECONDS, journal._HELD_BYTES = 1e6, 64 * 4 * 2048
engine, identity = open_engine(sys.argv[1], device="cpu", threads=1)
def progress(done, total):
    if done > int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
extract(engine, make_task(Path(sys.argv[2])), identity=identity, cache=sys.argv[3],
        progress=progress)
"""


def test_a_killed_extraction_is_resumed(cnn14_artifact, clips, cache, tmp_path):
    """Killed before its first part, then in its last one; then the rest, with the same bits."""
    for after, left in ((0, 0), (130, 2)):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, cnn14_artifact, clips, cache, str(after)],
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == -signal.SIGKILL
        assert len(parts(cache)) == left
    engine, identity = open_engine(cnn14_artifact, device="cpu", threads=1)
    task = make_task(clips)
    seen = []
    resumed = extract(
        engine, task, identity=identity, cache=cache, progress=lambda *at: seen.append(at)
    )
    assert seen[0] == (0, CLIPS)
    kept, total = seen[1]
    assert 100 < kept <= 128
    assert total == CLIPS
    whole = extract(engine, task, identity=identity, cache=tmp_path / "another")
    np.testing.assert_array_equal(resumed, whole)
    assert not [path for path in cache.iterdir() if path.name not in ("embeddings", "audio")]


def test_a_file_that_cannot_be_embedded_is_named(own_clips, cache):
    task = make_task(own_clips)
    task.examples[80].path.write_text("no audio")
    with pytest.raises(AudioError, match=r"080\.wav: is text"):
        computed(task, cache)
    task.examples[80].path.unlink()
    with pytest.raises(AudioError, match=r"080\.wav: No such file"):
        computed(task, cache)
    shutil.copy(task.examples[79].path, task.examples[80].path)
    assert computed(task, cache)[1] == CLIPS - 80  # what was done before is kept


def test_a_cache_that_cannot_be_written(clips, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FusionEngineError, match="cannot write"):
        computed(make_task(clips), tmp_path / "file" / "cache")


def test_long_clips_are_not_held(tmp_path, cache):
    """Of whole files the engine gets the paths: it holds few of them at a time."""
    folder = tmp_path / "set"
    write_clips(folder, 3)
    given = []

    class Paths(Recorder):
        def embed_stream(self, items, *, head=None):
            items = list(items)
            given.extend(audio for _, audio in items)
            return super().embed_stream(items, head=head)

    task = make_task(folder, seconds=None)
    extract(Paths(), task, identity="x", cache=cache)
    assert given == [example.path for example in task.examples]
