"""``fusion-engine models``."""

from rich.table import Table

from ..export.backbones import ALIASES, BACKBONES
from ..weights import WEIGHTS, is_cached
from ._app import app, stdout


@app.command()
def models() -> None:
    """List what can be exported: models, their layers with D, and their pretrained weights."""
    table = Table("model", "sample rate", "layers (D)", "default", "D", "pretrained weights")
    for name, backbone in BACKBONES.items():
        aliases = [alias for alias, target in ALIASES.items() if target == name]
        default = sum(backbone.layers[number].dim for number in backbone.default_layers)
        cached = "in the cache" if is_cached(name) else "not downloaded"
        table.add_row(
            ", ".join([name, *aliases]),
            f"{backbone.frontend.sample_rate} Hz",
            ", ".join(f"{number} ({layer.dim})" for number, layer in backbone.layers.items()),
            " + ".join(map(str, backbone.default_layers)),
            str(default),
            f"{WEIGHTS[name].name}\n{cached}",
            end_section=True,
        )
    stdout.print(table)
