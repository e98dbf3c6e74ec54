"""What to type to install what is missing."""


def install(*extras: str, upgrade: bool = False) -> str:
    """The command that installs ``extras``, from a clone of the repository until the first release.

    PyPI's ``fusion-engine`` is another project's; ours will be ``audio-fusion-engine``.
    """
    flag = " -U" if upgrade else ""
    return f'pip install{flag} ".[{",".join(extras)}]" (in a clone of fusion_engine)'
