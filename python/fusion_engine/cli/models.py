"""``fusion-engine models``."""

import typer

from ..export import backbones
from ..weights import WEIGHTS, is_cached
from ._app import app, print_fields


@app.command()
def models() -> None:
    """List the models that can be exported, with layers and weights."""
    catalogue = backbones()
    for backbone in dict.fromkeys(catalogue.values()):
        weights = WEIGHTS[backbone.name]
        cached = "in the cache" if is_cached(backbone.name) else "not downloaded yet"
        dim = sum(backbone.layers[number].dim for number in backbone.default_layers)
        typer.echo(backbone.name + "".join(f" (or {alias})" for alias in backbone.aliases))
        print_fields(
            [
                ("sample rate", f"{backbone.frontend.sample_rate} Hz"),
                ("layers", ", ".join(map(str, backbone.layers))),
                ("D of each", ", ".join(str(layer.dim) for layer in backbone.layers.values())),
                ("default", f"{' + '.join(map(str, backbone.default_layers))}, D = {dim}"),
                ("pretrained", f"{weights.name}, {cached}\n{weights.url}"),
            ],
            indent="  ",
        )
