"""The map as a picture for a paper."""

import logging
import os
import re
import warnings
from pathlib import Path

from .._atomic import atomic_path
from .._install import install
from .._words import listed
from ..errors import BackendError
from .groups import LIGHT, OTHER_LIGHT, Groups
from .projection import Projection

_INCHES = (6.0, 4.4)
_DPI = 300
# What matplotlib says of a letter that it draws as a box.
_GLYPH = re.compile(r"Glyph (\d+) ")

_log = logging.getLogger(__name__)


def draw_figure(path: str | os.PathLike[str], projection: Projection, groups: Groups) -> None:
    """Draw the map with its legend; the same input gives the same bytes.

    Args:
        path: the file to write; its suffix, ``.png``, ``.pdf`` or ``.svg``, says the format.
        projection: of the rows.
        groups: of the rows.

    Raises:
        BackendError: matplotlib is not installed.
        FusionEngineError: the file cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(
            f"matplotlib, which draws the pictures, cannot be imported ({error}). Install it: "
            f"{install('map')}, or write an .html"
        ) from error
    colours = groups.colours
    # Of 10 points as of 100 000 about the same ink.
    size = min(36.0, max(0.4, 8_000 / len(colours)))
    # Names are text: a dollar sign in one begins no formula.
    with rc_context({"svg.hashsalt": "fusion_engine", "text.parse_math": False}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        # The rest first, so that it lies below.
        for colour, name, count in reversed(groups.legend):
            points = projection.points[colours == colour]
            axes.scatter(
                points[:, 0],
                points[:, 1],
                s=size,
                color=(*LIGHT, OTHER_LIGHT)[colour],
                alpha=0.8,
                linewidths=0,
                label=f"{_shown(name)} ({count})",
                rasterized=True,
            )
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        names = {"pca": ("PC 1", "PC 2"), "umap": ("UMAP 1", "UMAP 2")}[projection.method]
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles[::-1],
            labels[::-1],
            loc="outside right upper",
            frameon=False,
            fontsize="small",
            title=groups.by,
            markerscale=(24.0 / size) ** 0.5,
        )
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with atomic_path(path) as temporary, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(
                temporary,
                dpi=_DPI,
                metadata=metadata.get(Path(path).suffix.lower(), {"Software": None}),
            )
    lacking = {int(found[1]) for w in caught if (found := _GLYPH.match(str(w.message)))}
    if lacking:
        _log.warning(
            "the font lacks letters of the legend: %s; name one that has them as font.family in a "
            "matplotlibrc",
            listed(sorted(lacking), chr),
        )


def _shown(name: str) -> str:
    """On one line, and not hidden: a name that begins with ``_`` has no entry in a legend."""
    text = "".join(letter if letter.isprintable() else "�" for letter in name)
    text = text if len(text) <= 32 else f"{text[:31]}…"
    return f"\u200b{text}" if text.startswith("_") else text
