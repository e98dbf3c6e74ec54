"""The picture of the layer-wise study: accuracy over layers, a line for each task."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._atomic import atomic_path
from .._install import install
from ..errors import BackendError

# Okabe and Ito's colours without yellow, which is too light for a line, told apart by most people
# with a colour deficiency; the markers and dashes tell the tasks apart without any colour.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
_INCHES = (7.0, 4.2)
_DPI = 150


def draw_layers(
    path: str | os.PathLike[str],
    accuracy: Mapping[str, Mapping[int, float]],
    spread: Mapping[str, Mapping[int, float]],
    *,
    title: str,
    marked: Mapping[str, int],
) -> None:
    """Draw accuracy over layers, as Figures 2 to 4 of Niizumi et al. 2022.

    Args:
        path: the file to write; its suffix, ``.png`` or ``.svg``, says the format. The same input
            gives the same bytes.
        accuracy: for each task's title, the mean accuracy in [0, 1] with each layer.
        spread: the same for the standard deviation, drawn as a bar.
        title: above the picture.
        marked: layers to mark with a vertical line, by their label.

    Raises:
        BackendError: matplotlib is not installed.
        FusionEngineError: the file cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise BackendError(
            f"matplotlib, which draws the pictures, cannot be imported ({error}). "
            f"Install it: {install('probe')}"
        ) from error
    layers = sorted(next(iter(accuracy.values())))
    position = {layer: place for place, layer in enumerate(layers)}
    # No pyplot: it keeps figures and a backend for the whole process. The salt and the missing date
    # make the file depend on its content alone; text stays text in an SVG.
    with rc_context({"svg.hashsalt": "fusion_engine", "svg.fonttype": "none"}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for place, (task, values) in enumerate(accuracy.items()):
            axes.errorbar(
                [position[layer] for layer in layers],
                [100 * values[layer] for layer in layers],
                yerr=[100 * spread[task][layer] for layer in layers],
                label=task,
                color=_COLOURS[place % len(_COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)],
                linestyle=_DASHES[place % len(_DASHES)],
                capsize=2,
            )
        for label, layer in marked.items():
            axes.axvline(position[layer], color="#999999", linewidth=1, linestyle=":", zorder=0)
            axes.annotate(
                label,
                (position[layer], 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                color="#555555",
            )
        axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
        axes.set_xlabel("layer")
        axes.set_ylabel("accuracy (%)")
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0.0), min(top, 101.0))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_title(title, pad=16 if marked else 6, fontsize="medium")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
        metadata = {"Date": None} if Path(path).suffix == ".svg" else {"Software": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=_DPI, metadata=metadata)
