"""Pretrained weights: what there is, where it comes from, and the cache it is kept in.

The cache is the user's (``pooch.os_cache("fusion_engine")``), or ``$FUSION_ENGINE_CACHE``.
``FUSION_ENGINE_OFFLINE=1`` forbids the network.
"""

import logging
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ._cache import cache_folder, locked
from ._version import __version__
from .errors import WeightsError

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 10
_READ_SECONDS = 30
# What a cut connection can lose of the bytes that had arrived.
_CHUNK_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A released checkpoint.

    Args:
        name: the file's name in the cache.
        url: where it comes from.
        checksum: ``ALGORITHM:HEX``, where the leading digits suffice; ``None`` where none was
            published: then the SHA-256 of the first download is kept beside the file, as
            ``NAME.sha256``, and every later one must be the same.
    """

    name: str
    url: str
    checksum: str | None


def _zenodo(name: str, checksum: str | None) -> WeightsFile:
    url = f"https://zenodo.org/records/3987831/files/{quote(name)}?download=1"
    return WeightsFile(name=name, url=url, checksum=checksum)


WEIGHTS: Mapping[str, WeightsFile] = types.MappingProxyType(
    {
        "cnn14_8k": _zenodo("Cnn14_8k_mAP=0.416.pth", None),
        "cnn14_16k": _zenodo("Cnn14_16k_mAP=0.438.pth", "md5:362fc5ff18f1d6ad2f6d464b45893f2c"),
        "cnn14_32k": _zenodo("Cnn14_mAP=0.431.pth", "md5:541141fa2ee191a88f24a3219fff024e"),
        "vggish": WeightsFile(
            name="vggish-10086976.pth",
            url="https://github.com/harritaylor/torchvggish/releases/download/v0.1/"
            "vggish-10086976.pth",
            checksum="sha256:10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
        ),
        # The revision and the hub's own SHA-256 of the file at it.
        "ast": WeightsFile(
            name="ast-finetuned-audioset-10-10-0.4593.safetensors",
            url="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/"
            "f826b80d28226b62986cc218e5cec390b1096902/model.safetensors",
            checksum="sha256:ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d",
        ),
    }
)


def pretrained_path(model: str) -> Path:
    """The checkpoint of ``model`` in the cache, downloaded if need be, its checksum verified.

    Raises:
        WeightsError: an unknown model, or as ``download``.
    """
    if model not in WEIGHTS:
        raise WeightsError(
            f"no pretrained weights are known for {model!r}, only for {', '.join(WEIGHTS)}: "
            "pass a checkpoint with `--weights PATH`"
        )
    return download(WEIGHTS[model])


def is_cached(model: str) -> bool:
    """Whether the checkpoint of ``model`` is in the cache; its checksum is not looked at."""
    return model in WEIGHTS and (cache_folder() / WEIGHTS[model].name).is_file()


def download(file: WeightsFile) -> Path:
    """``file`` in the cache, fetched where it is not there or damaged.

    A download that breaks off is kept as ``NAME.part`` and taken up again by the next call. Several
    processes may ask at once: one fetches, the others wait for it.

    Raises:
        WeightsError: offline, no answer, a refusal, a wrong checksum, a cache that cannot be
            written. Each says what to fetch from where, and how to pass it.
    """
    import requests

    path = cache_folder() / file.name
    try:
        if _intact(path, file):
            return path
        if os.environ.get("FUSION_ENGINE_OFFLINE", "0") not in ("", "0"):
            raise _failure(file, "FUSION_ENGINE_OFFLINE is set, and it is not in the cache intact")
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, f"download of {path.name}"):
            if not _intact(path, file):
                _fetch(file, path)
    except requests.RequestException as error:
        raise _failure(file, f"the download failed: {error}") from error
    except OSError as error:
        raise _failure(
            file,
            f"the cache {path.parent} cannot be used: {error.strerror or error}; set "
            "FUSION_ENGINE_CACHE to a folder that can be written and has space for it",
        ) from error
    return path


def _failure(file: WeightsFile, reason: str) -> WeightsError:
    return WeightsError(
        f"cannot get the pretrained weights {file.name}: {reason}. "
        f"By hand: fetch {file.url} and pass the file with `--weights PATH`"
    )


def _record(path: Path) -> Path:
    return Path(f"{path}.sha256")


def _expected(path: Path, file: WeightsFile) -> str | None:
    """The checksum published, or that of the first download."""
    if file.checksum is None and _record(path).is_file():
        # A record that is no checksum, from whatever befell the disk, says nothing.
        found = re.match(rb"[0-9a-f]{64}\b", _record(path).read_bytes())
        return f"sha256:{found[0].decode()}" if found else None
    return file.checksum


def _checksum(path: Path, algorithm: str) -> str:
    import pooch

    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _intact(path: Path, file: WeightsFile) -> bool:
    if not path.is_file():
        return False
    expected = _expected(path, file)
    if expected is None or _checksum(path, expected.partition(":")[0]).startswith(expected):
        return True
    logger.warning("%s is damaged: it does not have the checksum %s", path, expected)
    return False


def _fetch(file: WeightsFile, path: Path) -> None:
    """Bring ``file`` to ``path``, which appears only when its checksum is right."""
    part = Path(f"{path}.part")
    expected = _expected(path, file)
    if expected is None:
        # Only a checksum can prove that two halves belong together.
        part.unlink(missing_ok=True)
    logger.info("downloading %s to %s", file.url, path)
    _transfer(file, part)
    if expected is None:
        got = _checksum(part, "sha256")
        record = Path(f"{part}.sha256")
        record.write_text(f"{got.partition(':')[2]}  {file.name}\n")
        record.replace(_record(path))
        logger.info("%s has no published checksum; got %s", file.name, got)
    else:
        got = _checksum(part, expected.partition(":")[0])
        if not got.startswith(expected):
            part.unlink()
            path.unlink(missing_ok=True)
            raise _failure(
                file,
                f"what {file.url} sent has the checksum {got}, expected {expected}; it was "
                "deleted, try again",
            )
    part.replace(path)


def _transfer(file: WeightsFile, part: Path) -> None:
    """Download into ``part``, going on where an earlier attempt stopped if the server can."""
    import requests

    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"fusion_engine/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = (_CONNECT_SECONDS, _READ_SECONDS)
    with requests.get(file.url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # Nothing is missing: the checksum says whether it is right.
        response.raise_for_status()
        _check_kind(response, start)
        if response.status_code != requests.codes.partial_content:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab" if start else "wb") as out, _progress(file.name, start, total) as step:
            for chunk in response.iter_content(_CHUNK_BYTES):
                out.write(chunk)
                step(len(chunk))


def _check_kind(response: "requests.Response", start: int) -> None:
    """Refuse what is not the file: a portal's login page, another range than asked for."""
    import requests

    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise requests.RequestException(f"{response.url} sent a page ({kind}) instead of the file")
    if response.status_code == requests.codes.partial_content:
        got = response.headers.get("Content-Range", "")
        if not got.startswith(f"bytes {start}-"):
            raise requests.RequestException(f"asked for bytes from {start} on, got {got!r}")


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function that takes the bytes as they come, with a bar where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, completed=start, total=total)
        yield lambda count: bar.advance(task, count)
