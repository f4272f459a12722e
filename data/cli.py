"""The command line of every `main()`: typed arguments, YAML configurations and one-line errors.

A script is a typed function in the module that owns the job. `run(main)` turns its signature into options
(`--steps 3`, `--trainer.max_steps 100`) and accepts the same names from a YAML file with `--config`.
What a user can get wrong ends as one line on standard error and exit code 2; Ctrl-C ends with 130.
"""

import logging
import os
import sys
from argparse import ArgumentError
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import auto_cli, set_parsing_settings

logger = logging.getLogger(__name__)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_EPILOG = "Any command also takes --debug: verbose logging, and the traceback of an error."


def run(
    main: Callable[..., Any],
    default_config: Path | None = None,
    argv: list[str] | None = None,
    positionals: Sequence[str] = (),
    prog: str | None = None,
) -> None:
    """Parse the command line, call `main` with it and turn the user's errors into one line.

    Args:
        main: a function whose parameters are all typed; its docstring and its dataclasses' become the help.
        default_config: YAML file that applies when no `--config` is given; never merged under another one.
        argv: arguments instead of `sys.argv[1:]`.
        positionals: parameters that may be given without their name, in this order.
        prog: the command's name in its help, where it is not the script's.

    Raises:
        SystemExit: 2 for a user's error, 130 for Ctrl-C, 141 when the reader of standard output went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    set_up_logging(logging.DEBUG if debug else logging.INFO)
    if default_config is not None and not _has_config(arguments):
        arguments = ["--config", str(default_config), *arguments]
    arguments = _name_arguments(main, arguments, positionals)
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        auto_cli(main, args=arguments, as_positional=False, exit_on_error=False, epilog=_EPILOG, prog=prog)
    except KeyboardInterrupt:
        _stop("interrupted", EXIT_INTERRUPTED)
    except SystemExit as stop:
        # Lightning turns Ctrl-C into exit code 1 after saving its state.
        if isinstance(stop.__context__, KeyboardInterrupt):
            _stop("interrupted", EXIT_INTERRUPTED)
        raise
    except BrokenPipeError:
        # The interpreter would complain again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EXIT_BROKEN_PIPE)
    except (ValueError, OSError, ArgumentError, ModuleNotFoundError) as error:
        logger.debug("the error's origin", exc_info=True)
        _stop(f"error: {describe_error(error)}", EXIT_USER_ERROR)


def set_up_logging(level: int = logging.INFO) -> None:
    """Send this process's log to standard error (standard output may carry sound)."""
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger().setLevel(level)
    if level <= logging.DEBUG:
        # Their debug output would bury ours.
        for name in ("matplotlib", "PIL", "fsspec", "asyncio", "urllib3", "filelock", "numba"):
            logging.getLogger(name).setLevel(logging.INFO)


def describe_error(error: BaseException) -> str:
    """Return an error's message as one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.strerror}: {error.filename}"
    message = " ".join(str(error).split())
    return message or type(error).__name__


def _name_arguments(main: Callable[..., Any], arguments: list[str], positionals: Sequence[str]) -> list[str]:
    """Give positional arguments their option's name, and a bare flag (`--endless`) the value true."""
    flags = {f"--{name}" for name, kind in get_type_hints(main).items() if kind is bool}
    given = {argument.split("=")[0] for argument in arguments}
    unnamed = deque(name for name in (f"--{name}" for name in positionals) if name not in given)
    rest, named = deque(arguments), []
    while rest:
        argument = rest.popleft()
        if not argument.startswith("--"):
            named += [unnamed.popleft()] if unnamed else []
            named.append(argument)
        elif argument in flags and (not rest or rest[0].lower() not in ("true", "false")):
            named.append(f"{argument}=true")
        else:
            takes_value = "=" not in argument and argument != "--help"
            named += [argument, rest.popleft()] if takes_value and rest else [argument]
    return named


def _has_config(arguments: list[str]) -> bool:
    return any(argument == "--config" or argument.startswith("--config=") for argument in arguments)


def _stop(message: str, code: int) -> None:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)
