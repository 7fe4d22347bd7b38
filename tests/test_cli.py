import logging
import os
import subprocess
import sys

import pytest

from phdlspec import __version__, cli, console
from phdlspec.errors import UserError


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"phdlspec {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["grid"]])
def test_a_usage_error_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: phdlspec" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"phdlspec {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("a.fits: is empty"), 1, "a.fits: is empty"),
        (PermissionError(13, "Permission denied", "a.dat"), 1, "a.dat: Permission denied"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_mistakes_and_interrupts_are_one_line(monkeypatch, capsys, error, code, words):
    def run(args):
        raise error

    module = cli.importlib.import_module(cli.COMMANDS["grid"].module)
    monkeypatch.setattr(module, "run", run)
    assert cli.main(["grid", "info", "none.h5"]) == code
    text = capsys.readouterr().err
    assert words in text
    assert len(text.splitlines()) == 1


def test_the_help_lists_every_command_with_a_line(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, command in cli.COMMANDS.items():
        assert f"{name} {command.help}" in shown


def test_help_needs_no_heavy_library():
    code = (
        "import sys; from phdlspec.cli import build_parser; build_parser().format_help(); "
        "print([name for name in ('torch', 'astropy', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "phdlspec", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"phdlspec {__version__}\n"


def test_a_reader_that_has_seen_enough_is_no_mistake(monkeypatch, capfd):
    def run(args):
        raise BrokenPipeError

    module = cli.importlib.import_module(cli.COMMANDS["grid"].module)
    monkeypatch.setattr(module, "run", run)
    assert cli.main(["grid", "info", "none.h5"]) == 0
    assert capfd.readouterr().err == ""


@pytest.fixture
def loud():
    """Undo what `console.begin` does to the log."""
    yield
    for name in ("phdlspec", "kurucz_grids", "calibration"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("loud")
@pytest.mark.parametrize(("options", "told"), [([], "WI"), (["--verbose"], "WID"), (["--quiet"], "")])
@pytest.mark.parametrize("before", [True, False])
def test_every_command_can_be_loud_or_quiet(monkeypatch, capsys, options, told, before):
    def run(args):
        log = logging.getLogger("phdlspec.io")
        log.warning("W")
        logging.getLogger("kurucz_grids").warning("I")
        log.debug("D")
        return 0

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    module = cli.importlib.import_module(cli.COMMANDS["grid"].module)
    monkeypatch.setattr(module, "run", run)
    words = ["grid", "info", "none.h5"]
    assert cli.main([*options, *words] if before else [*words, *options]) == 0
    assert "".join(line[-1] for line in capsys.readouterr().err.splitlines()) == told
    assert ("TQDM_DISABLE" in os.environ) == (options == ["--quiet"])
    os.environ.pop("TQDM_DISABLE", None)


@pytest.mark.usefixtures("loud")
def test_no_escape_sequence_reaches_the_terminal_by_the_log(capsys):
    console.begin(logging.DEBUG)
    try:
        raise ValueError("\x1b[31mred")
    except ValueError:
        logging.getLogger("phdlspec.io").warning("a\x1b[2J\nb%s", "\r\x07", exc_info=True)
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert "\r" not in text
    assert "a?[2J b" in text
    assert "ValueError: ?[31mred" in text
