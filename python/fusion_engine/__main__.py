"""``python -m fusion_engine`` is the command ``fusion-engine``."""

from .cli import main

if __name__ == "__main__":
    main()
