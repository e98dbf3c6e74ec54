"""Recordings as a stream of clips, against clips that were cut out by hand."""

import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import soundfile

import fusion_engine as fe
from fusion_engine.audio import load, sample_source
from fusion_engine.engine.clips import End, batches, clips_of
from fusion_engine.engine.recording import Clip, Item, Progress
from fusion_engine.engine.windows import Windows
from fusion_engine.frontend import FRONTENDS

from .. import signals
from .cuda.artifacts import SPECS, write_artifact

RATE = 16_000


@pytest.fixture(scope="module")
def engine(cnn14_artifact):
    return fe.Engine(cnn14_artifact, device="cpu")


@pytest.fixture
def wav(tmp_path):
    """Writes a file of noise and gives its path."""

    def write(name, seconds, rate=RATE, channels=1, seed=0):
        samples = np.stack([signals.noise(seconds, rate, seed + c) for c in range(channels)], 1)
        soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT")
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("window", "hop", "tail"),
    [
        (1.0, None, "half"),
        (0.5, 0.33, "keep"),
        (0.7, 1.1, "pad"),
        (2.0, 0.25, "drop"),
        (0.1001, 0.1, "half"),
    ],
)
@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_a_window_is_the_cut_clip_bit_for_bit(engine, wav, monkeypatch, window, hop, tail, rate):
    monkeypatch.setattr(sample_source, "BLOCK", 5_000)
    path = wav("a.wav", 5.4321, rate)
    samples = load(path, RATE).samples
    windows = Windows(window, hop, tail=tail, sample_rate=RATE)
    results = list(engine.embed_stream([("a", path)], window=window, hop=hop, tail=tail))
    assert len(results) == windows.count(len(samples)) > 1
    for number, (key, start, end, embedding) in enumerate(results):
        first, last = round(start * RATE), round(end * RATE)
        assert key == "a"
        assert first == windows.start(number)
        assert (start, end) == (first / RATE, last / RATE)
        clip = samples[first:last]
        if tail == "pad":
            assert last - first == windows.length
            clip = np.pad(clip, (0, windows.length - len(clip)))
        assert np.array_equal(embedding, engine.embed(clip))


@pytest.mark.parametrize("name", ["dropped", "padded", "chunked"])
def test_models_that_take_segments_and_chunks(tmp_path, wav, name):
    engine = fe.Engine(write_artifact(tmp_path / "any.onnx", SPECS[name]), device="cpu")
    rate = engine.sample_rate
    path = wav("a.wav", 7.3, rate)
    samples = load(path, rate).samples
    results = list(engine.embed_stream([(0, path), (1, samples)], window=1.5, hop=1.0))
    assert len(results) == 2 * Windows(1.5, 1.0, sample_rate=rate).count(len(samples))
    for _, start, end, embedding in results:
        alone = engine.embed(samples[round(start * rate) : round(end * rate)])
        assert np.abs(embedding - alone).max() <= 1e-6 * np.abs(alone).max()


def test_without_windows_a_recording_is_one_clip(engine, wav):
    paths = [wav(f"{i}.wav", 0.3 + 0.1 * i, 22_050, seed=i) for i in range(8)]
    arrays = [signals.noise(0.4, RATE, 9), (signals.tone(0.2, RATE) * 32_767).astype(np.int16)]
    items = [*((path, path) for path in paths[:4]), *enumerate(arrays), (None, paths[4])]
    results = list(engine.embed_stream(items))
    assert [result.key for result in results] == [key for key, _ in items]
    for (_, audio), (_, start, end, embedding) in zip(items, results, strict=True):
        assert np.array_equal(embedding, engine.embed(audio))
        samples = load(audio, RATE).samples if not isinstance(audio, np.ndarray) else audio
        assert (start, end) == (0, len(samples) / RATE)


def test_errors_are_values_where_they_belong(engine, wav, tmp_path):
    good = wav("good.wav", 2.0)
    data = bytearray(wav("bad.wav", 3.0).read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    (tmp_path / "bad.wav").write_bytes(data)
    items = [
        (0, tmp_path / "missing.wav"),
        (1, good),
        (2, tmp_path / "bad.wav"),
        (3, np.full(RATE, np.nan, np.float32)),
        (4, wav("short.wav", 0.4)),
        (5, good),
    ]
    results = list(engine.embed_stream(items, window=1.0))
    assert [result.key for result in results] == [0, 1, 1, 2, 3, 4, 5, 5]
    for key, start, end, result in results:
        if key in (1, 5):
            assert result.dtype == np.float32
        else:
            assert isinstance(result, fe.AudioError)
            assert np.isnan([start, end]).all()
    assert "give no window of 1 s (tail: half)" in str(results[5].result)


def test_a_clip_that_cannot_be_cut_is_its_own_error(tmp_path):
    spec = replace(SPECS["chunked"], chunk_margin=None)
    engine = fe.Engine(write_artifact(tmp_path / "v.onnx", spec), device="cpu")
    long = np.zeros(engine.sample_rate * 30, np.float32)
    items = [("a", long[:20_000]), ("b", long), ("c", long[:20_000])]
    a, b, c = engine.embed_stream(items)
    assert np.array_equal(a.result, c.result)
    assert isinstance(b.result, fe.AudioError)
    assert str(b.result).startswith("b: ")


def test_items_are_taken_a_bounded_number_ahead(engine):
    taken = 0

    def items():
        nonlocal taken
        for taken in range(10_000):
            yield taken, np.zeros(RATE, np.float32)

    results = engine.embed_stream(items())
    for done, _ in enumerate(islice(results, 500)):
        assert taken - done <= 64 + 2 * 120
    results.close()


def test_arrays_take_no_file(engine):
    with pytest.raises(TypeError, match="expected an array of samples"):
        list(engine.embed_stream([(0, 3.0)]))
    with pytest.raises(ValueError, match=r"hop is 1\.0 s, and there is no window"):
        list(engine.embed_stream([], hop=1.0))
    with pytest.raises(ValueError, match="channel is 'all'"):
        list(engine.embed_stream([], channel="all"))


def test_parts_and_channels(engine, wav):
    path = wav("a.wav", 4.0, channels=3)
    samples = load(path, RATE, channel="all").samples
    windows = Windows(0.5, None, tail="keep", sample_rate=RATE)
    item = Item(key="a", audio=path, parts=[(1.25, 2.95)])
    events = list(engine.embed_items([item], windows=windows, channel="all"))
    end, result = events.pop()
    assert isinstance(end, End)
    assert (end.samples, end.error, result) == (4 * RATE, None, None)
    assert [(clip.start, clip.channel) for clip, _ in events] == [
        (20_000 + 8_000 * n, c) for n in range(4) for c in (1, 2, 3)
    ]
    assert events[-1][0].end == round(2.95 * RATE)
    for clip, embedding in events:
        cut = samples[clip.channel - 1, clip.start : clip.end]
        assert np.array_equal(embedding, engine.embed(cut))
    # Results that are there already are not worked out again.
    again = Item(key="a", audio=path, parts=[(1.25, 2.95)], skip=7)
    rest = list(engine.embed_items([again], windows=windows, channel="all"))
    assert [clip.channel for clip, _ in rest[:-1]] == [2, 3, 1, 2, 3]
    for (clip, embedding), (expected_clip, expected) in zip(rest[:-1], events[7:], strict=True):
        assert clip.start == expected_clip.start
        assert np.array_equal(embedding, expected)


def test_many_parts_are_cut_in_one_pass(engine, wav, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 3_000)
    path = wav("a.wav", 4.0)
    samples = load(path, RATE).samples
    parts = [(3.0, None), (0.5, 1.5), (0.5, 0.75), (None, 3.5), (2.0, 2.1)]
    events = list(engine.embed_items([Item(key="a", audio=path, parts=parts)]))
    assert [(clip.start / RATE, clip.end / RATE) for clip, _ in events[:-1]] == [
        *((0.0, 3.5), (0.5, 0.75), (0.5, 1.5), (2.0, 2.1), (3.0, 4.0))
    ]
    for clip, embedding in events[:-1]:
        assert np.array_equal(embedding, engine.embed(samples[clip.start : clip.end]))
    windows = Windows(0.2, 0.1, sample_rate=RATE)
    events = list(engine.embed_items([Item(key="a", audio=path, parts=parts)], windows=windows))
    cut = [round((end or 4.0) * RATE) - round((start or 0) * RATE) for start, end in parts]
    assert len(events) - 1 == sum(map(windows.count, cut))
    for clip, embedding in events[:-1]:
        assert np.array_equal(embedding, engine.embed(samples[clip.start : clip.end]))


def test_a_part_beyond_the_end(engine, wav):
    item = Item(key="a", audio=wav("a.wav", 1.0), parts=[(1.0, 2.0)])
    ((end, _),) = engine.embed_items([item])
    assert isinstance(end.error, fe.AudioError)
    assert "has no samples from 1 s on, it is 1 s long" in str(end.error)


@pytest.mark.parametrize("hop", [0.7, 1.0, 130.0])
def test_memory_does_not_grow_with_a_recording(tmp_path, hop):
    with soundfile.SoundFile(tmp_path / "x.wav", "w", 8_000, 1) as file:
        for _ in range(90):
            file.write(np.zeros(60 * 8_000, np.int16))
    windows = Windows(1.0, hop, sample_rate=8_000)
    tracemalloc.start()
    items = [Item(key=0, audio=tmp_path / "x.wav")]
    clips = clips_of(items, 8_000, windows=windows)
    ends = [batch[-1] for batch in batches(clips, 120 * 8_000) if isinstance(batch[-1], End)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [end.samples for end in ends] == [90 * 60 * 8_000]
    # The recording is 173 MB; twice 32 MiB may be decoded ahead.
    assert peak < 90e6


def test_flags_are_of_the_window(engine, tmp_path):
    x = signals.noise(3.0, RATE)
    x[RATE : 2 * RATE] = 0
    x[2 * RATE + 5] = -20.0
    soundfile.write(tmp_path / "x.wav", x, RATE, subtype="FLOAT")
    windows = Windows(1.0, None, sample_rate=RATE)
    events = engine.embed_items([Item(key=0, audio=tmp_path / "x.wav")], windows=windows)
    clips = [event for event, _ in events if isinstance(event, Clip)]
    assert [clip.silent for clip in clips] == [False, True, False]
    assert [clip.clipped_scale for clip in clips] == [False, False, True]


def test_a_stream_that_is_abandoned_ends_its_threads(engine, wav):
    paths = [wav(f"{i}.wav", 1.0) for i in range(20)]
    results = engine.embed_stream(((path, path) for path in paths), window=0.1)
    next(results)
    del results
    assert not [t for t in threading.enumerate() if t.name.startswith("fusion_engine-decode")]


def test_a_stream_in_a_cycle_may_be_collected_anywhere(cnn14_artifact, wav):
    """Also in a thread of its own that holds its locks."""
    paths = [str(wav(f"{i}.wav", 1.0)) for i in range(12)]
    program = f"""
import gc, threading
import fusion_engine as fe
from fusion_engine.audio import ahead
init, decoding, proceed = ahead._Job.__init__, ahead.Decoding, threading.Event()
engine = fe.Engine({str(cnn14_artifact)!r}, device="cpu")
paths = {paths}
ahead.Decoding = lambda path, rate, **options: (
    (str(path) == paths[0] or proceed.wait()) and decoding(path, rate, **options)
)
fe.engine.dispatch.BATCH_SECONDS = 0.1
box = [engine.embed_stream([(path, path) for path in paths], window=0.1)]
gc.disable()
next(box[0])
# Made with the lock held, where the stream is collected.
ahead._Job.__init__ = lambda job, path: (gc.collect(), init(job, path))[1]
box.append(box)
del box
proceed.set()
for thread in threading.enumerate()[1:]:
    if thread.name.startswith("fusion_engine-decode"):
        thread.join(20)
        assert not thread.is_alive()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.fixture(scope="module", params=["chunked", "dropped", "padded"])
def any_engine(request, tmp_path_factory):
    """An artifact with each way of cutting clips; a run has 6 s at most, or about a minute."""
    path = tmp_path_factory.mktemp("any") / "any.onnx"
    return fe.Engine(write_artifact(path, SPECS[request.param]), device="cpu")


@pytest.mark.parametrize("seconds", [5.9, 61.5, 130.0])
def test_a_long_file_is_the_long_clip_bit_for_bit(any_engine, wav, monkeypatch, seconds):
    monkeypatch.setattr(sample_source, "BLOCK", 701)
    path = wav("long.wav", seconds, 22_050)
    samples = load(path, RATE).samples
    ((_, start, end, streamed),) = any_engine.embed_stream([(0, path)])
    assert (start, end) == (0, len(samples) / RATE)
    for audio in (path, samples, [samples], samples[None]):
        assert np.array_equal(any_engine.embed(audio).reshape(-1), streamed)
    # What is one run is the same in several, but for the rounding of their sums.
    frames = any_engine.embed_frames(samples)
    if any_engine.spec.frames_per_step is not None:
        expected = frames.astype(np.float64).mean(axis=1) + frames.max(axis=1)
        assert np.abs(streamed - expected).max() <= 1e-6 * np.abs(expected).max()


def test_long_parts_of_every_channel_in_one_pass(any_engine, wav, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 9_000)
    path = wav("a.wav", 150.0, channels=2)
    samples = load(path, RATE, channel="all").samples
    parts = [(70.0, None), (None, 80.0), (10.0, 11.0), (20.0, 149.0), (20.0, 140.0)]
    events = list(any_engine.embed_items([Item(key="a", audio=path, parts=parts)], channel="all"))
    end = events[-1][0]
    assert isinstance(end, End)
    assert (end.samples, end.error) == (150 * RATE, None)
    clips = [(event, result) for event, result in events if isinstance(event, Clip)]
    assert [(clip.start / RATE, clip.end / RATE, clip.channel) for clip, _ in clips] == [
        (start, end, channel)
        for start, end in [(0, 80), (10, 11), (20, 140), (20, 149), (70, 150)]
        for channel in (1, 2)
    ]
    for clip, embedding in clips:
        cut = samples[clip.channel - 1, clip.start : clip.end]
        assert np.array_equal(embedding, any_engine.embed(cut))
    runs = any_engine.stats.runs
    again = Item(key="a", audio=path, parts=parts, skip=5)
    rest = [pair for pair in any_engine.embed_items([again], channel="all") if pair[1] is not None]
    assert [(clip.start, clip.channel) for clip, _ in rest] == [
        (clip.start, clip.channel) for clip, _ in clips[5:]
    ]
    for (_, embedding), (_, expected) in zip(rest, clips[5:], strict=True):
        assert np.array_equal(embedding, expected)
    # Those that are not wanted again are not run.
    taken, before = any_engine.stats.runs - runs, any_engine.stats.runs
    for clip, _ in rest:
        any_engine.embed(samples[clip.channel - 1, clip.start : clip.end])
    assert taken == any_engine.stats.runs - before


def test_a_long_clip_is_told_of_and_nothing_waits_for_it(any_engine, wav, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 16_000)
    short, long = wav("short.wav", 1.0), wav("long.wav", 100.0)
    items = [Item(key=key, audio=path) for key, path in (("s", short), ("l", long), ("t", short))]
    events = any_engine.embed_items(items)
    before = any_engine.stats.runs
    assert isinstance(next(events)[0], Clip)
    assert any_engine.stats.runs == before + 1
    assert next(events)[0].key == "s"
    rest = list(events)
    progress = [event for event, _ in rest if isinstance(event, Progress)]
    assert {event.key for event in progress} == {"l"}
    seconds = [event.samples / RATE for event in progress]
    assert seconds == sorted(seconds)
    assert seconds[-1] == 99.0
    assert max(np.diff(seconds)) == 1.0
    assert [event.key for event, result in rest if result is not None] == ["l", "t"]


def test_the_flags_of_a_long_clip(any_engine, tmp_path):
    x = np.zeros((100 * RATE, 2), np.float32)
    x[99 * RATE, 1] = 17.0
    soundfile.write(tmp_path / "x.wav", x, RATE, subtype="FLOAT")
    flags = {}
    for channel in ("all", "mix"):
        item = Item(key=0, audio=tmp_path / "x.wav")
        for event, _ in any_engine.embed_items([item], channel=channel):
            if isinstance(event, Clip):
                flags[event.channel] = event.silent, event.clipped_scale
    assert flags == {1: (True, False), 2: (False, True), None: (False, False)}


def test_a_long_clip_that_fails_late_is_an_error(any_engine, wav):
    good, bad = wav("good.wav", 1.0), wav("bad.wav", 100.0)
    data = bytearray(bad.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    bad.write_bytes(data)
    results = list(any_engine.embed_stream([(0, good), (1, bad), (2, good)]))
    assert [result.key for result in results] == [0, 1, 2]
    assert isinstance(results[1].result, fe.AudioError)
    assert np.array_equal(results[0].result, results[2].result)
    with pytest.raises(fe.AudioError, match=r"bad\.wav"):
        any_engine.embed([good, bad])


def test_memory_does_not_grow_with_a_clip(tmp_path):
    spec = replace(SPECS["chunked"], frontend=FRONTENDS["panns_8k"])
    engine = fe.Engine(write_artifact(tmp_path / "any.onnx", spec), device="cpu")
    with soundfile.SoundFile(tmp_path / "x.wav", "w", 8_000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8_000, np.int16))
    tracemalloc.start()
    embedding = engine.embed(tmp_path / "x.wav")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isfinite(embedding).all()
    # The recording is 115 MB, and its log-mel 92; twice 32 MiB may be decoded ahead.
    assert peak < 80e6
