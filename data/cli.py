"""The command line of every `main()`: typed arguments, YAML configurations and one-line errors.

A script is a typed function in the module that owns the job. `run(main)` turns its signature into options
(`--steps 3`, `--trainer.max_steps 100`) and accepts the same names from a YAML file with `--config`.
What a user can get wrong (`is_users_error`) ends as one line on standard error and exit code 2, Ctrl-C ends with 130;
any other exception is a fault of this project and shows its traceback.

It stands in `data/` because the top-level folders are fixed and all three later packages have commands.
"""

import errno
import logging
import os
import sys
from argparse import ArgumentError
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jsonargparse import auto_cli, set_parsing_settings

from models.errors import UserError

logger = logging.getLogger(__name__)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
PACKAGES = ("models", "data", "infer", "train")

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
        auto_cli(
            main,
            args=arguments,
            as_positional=False,
            exit_on_error=False,
            allow_abbrev=False,
            epilog=_EPILOG,
            prog=prog,
        )
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
    except Exception as error:
        if not is_users_error(error):
            raise
        logger.debug("the error's origin", exc_info=True)
        _stop(f"error: {describe_error(error)}", EXIT_USER_ERROR)


def is_users_error(error: BaseException) -> bool:
    """Return whether a user can mend what happened: an input, an option, a file, a full disk, a missing package.

    An OSError counts if it names a file, was raised with a message of ours alone (as `FileNotFoundError("no model in
    ...")`), or says that a disk is full.
    """
    if isinstance(error, OSError):
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return error.filename is not None or error.errno is None or is_full
    if isinstance(error, ModuleNotFoundError):
        return (error.name or "").split(".")[0] not in PACKAGES
    return isinstance(error, (UserError, ArgumentError))


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
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    message = " ".join(str(error).split())
    return message or type(error).__name__


def _name_arguments(main: Callable[..., Any], arguments: list[str], positionals: Sequence[str]) -> list[str]:
    """Give positional arguments their option's name, and a bare flag (`--endless`, `--guard.pull`) the value true."""
    flags = set(_flags(get_type_hints(main)))
    given = {argument.split("=")[0] for argument in arguments}
    unnamed = deque(name for name in (f"--{name}" for name in positionals) if name not in given)
    rest, named = deque(arguments), []
    while rest:
        argument = rest.popleft()
        has_value = bool(rest) and not rest[0].startswith("--")
        if argument in flags and (not rest or rest[0].lower() not in ("true", "false")):
            named.append(f"{argument}=true")
        elif argument.startswith("--") and "=" not in argument and argument != "--help" and has_value:
            named.append(f"{argument}={rest.popleft()}")
        elif argument.startswith("-") or not unnamed:
            named.append(argument)
        else:
            named.append(f"{unnamed.popleft()}={argument}")
    return named


def _flags(types: dict[str, Any], prefix: str = "--") -> Iterator[str]:
    """Name the options that hold true or false, those in groups (dataclasses) included."""
    for name, kind in types.items():
        for option in (kind, *get_args(kind)):
            if option is bool:
                yield f"{prefix}{name}"
            elif is_dataclass(option):
                yield from _flags(get_type_hints(option), f"{prefix}{name}.")


def _has_config(arguments: list[str]) -> bool:
    return any(argument == "--config" or argument.startswith("--config=") for argument in arguments)


def _stop(message: str, code: int) -> None:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)
