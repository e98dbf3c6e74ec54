"""``python -m fusion_engine`` and ``fusion-engine``: the command line, from its first import on."""

import signal


def main() -> None:
    """Import the command line and run it; see ``cli.main``."""
    # A signal ends the imports at once: an exception in them may be dropped, or become another.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
