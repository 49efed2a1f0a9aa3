"""The program. Its commands are functions in console/, listed here; nothing but typer is imported before one is called."""

import os
import sys
from collections.abc import Callable, Sequence

import typer

from dinov2lab import options
from dinov2lab.console import images, looking, mirrored, networks, running, specs, starting

INTERRUPTED = 130  # what a shell makes of SIGINT
COMMANDS: tuple[Callable[..., None], ...] = (
    starting.init,
    starting.doctor,
    running.run,
    running.search,
    looking.list_,
    looking.status,
    looking.logs,
    looking.cancel,
    looking.gc,
    looking.report,
    specs.diff,
    specs.why_rerun,
    specs.schema,
    images.curate,
    images.why,
    networks.evaluate,
    networks.export,
    mirrored.sync,
    mirrored.register,
    mirrored.ui,
)

app = typer.Typer(
    help="Studies of DINOv2 on your images: run, watch and report them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command(command.__name__.rstrip("_").replace("_", "-"))(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The program: a user's mistake is a line or two and exit code 2, an interruption 130."""
    try:
        app(arguments, prog_name="dinov2lab")
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        typer.echo("stopped; the same command goes on from here", err=True)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(2) from None
    except OSError as error:
        typer.echo(f"{error.filename or 'file system'}: {error.strerror or error}", err=True)
        raise SystemExit(2) from None
    except Exception:
        words = sys.argv[1:] if arguments is None else arguments
        if list(words[:1]) != ["doctor"]:
            raise
        _doctor(as_json="--json" in words)


def _doctor(*, as_json: bool) -> None:
    """Of ./lab. For where a library that typer itself reads options with is broken: this command is to say which."""
    try:
        starting.doctor(options.LAB, as_json)
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from None


if __name__ == "__main__":
    main()
