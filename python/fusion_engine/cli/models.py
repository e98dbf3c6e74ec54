"""``fusion-engine models``."""

import typer

from ..export import PRESETS, Backbone, backbones
from ..weights import WEIGHTS, is_cached
from ._app import app
from ._columns import print_wrapped
from .info import layer_lines


@app.command()
def models() -> None:
    """List the models that can be exported.

    With their layers, the size of each one's part of an embedding, their weights, and the presets.
    `fusion-engine embed` takes each of these names in place of an artifact.
    """
    for backbone in dict.fromkeys(backbones().values()):
        typer.echo(backbone.name + "".join(f" (or {alias})" for alias in backbone.aliases))
        print_wrapped(_fields(backbone), indent="  ")
    typer.echo("presets (fusion-engine export --preset NAME)")
    print_wrapped(
        [
            (
                preset.name,
                f"{preset.model}, {' + '.join(map(str, preset.layers))}, D = {preset.dim}",
            )
            for preset in PRESETS.values()
        ],
        indent="  ",
    )
    typer.echo("fusion-engine embed NAME takes every name, of a preset too")


def _fields(backbone: Backbone) -> list[tuple[str, str]]:
    weights = WEIGHTS[backbone.name]
    cached = "in the cache" if is_cached(backbone.name) else "not downloaded yet"
    dim = sum(backbone.layers[number].dim for number in backbone.default_layers)
    return [
        ("sample rate", f"{backbone.frontend.sample_rate} Hz"),
        ("layers", "\n".join(layer_lines(backbone.layers.values()))),
        ("default", f"{' + '.join(map(str, backbone.default_layers))}, D = {dim}"),
        ("pretrained", f"{weights.name}, {cached}\n{weights.url}"),
    ]
