import pytest

from fusion_engine._words import counted
from fusion_engine.cli._app import as_options, print_error


def test_arguments_of_python_are_options_here(capsys):
    message = "x.plan: runs on a GPU, or ask for device='cpu'; open it with device='cuda:1'"
    assert as_options(message) == (
        "x.plan: runs on a GPU, or ask for --device cpu; open it with --device cuda:1"
    )
    assert as_options("my_device='x', normalization is (0, 1)") == (
        "my_device='x', normalization is (0, 1)"
    )
    print_error(message)
    assert "ask for --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_counted(number, text):
    assert counted(number, "file") == text
