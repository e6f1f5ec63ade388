"""Entry point: runs the command that the user types, and reports failures in one line."""

import atexit
import gc
import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from tumorjax.cli.completion import script
from tumorjax.cli.config import with_config
from tumorjax.cli.ending import complain, exit_code, guarded_streams, how, interrupt_behind, raised_signals, written
from tumorjax.cli.log import log_in
from tumorjax.cli.noise import without_library_noise
from tumorjax.cli.parser import command_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0; 1 where patients of a cohort or a benchmark failed; 2 for input that cannot be used, or output that cannot be
    written; 3 where results are written, but must not be used; 130 if interrupted, and 128 and the number of the signal
    if ended by SIGTERM or SIGHUP.
    """
    # The memory of a process that ends is given back as a whole, in which nobody need look for garbage for a second.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        with guarded_streams(), raised_signals():
            return _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt as interrupt:
        complain(f"tumorjax: {how(interrupt)}; {written(interrupt)}")
        return exit_code(interrupt)


def _run(given: list[str]) -> int:
    _cache_compiled_programs()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        parser = command_parser(given)
    # Packages announce methods and models that cannot be used; all others are there.
    broken = [str(each.message) for each in told if each.category.__name__ == "BrokenEntryPoint"]
    for line in dict.fromkeys(broken):
        complain(f"tumorjax: {line}")
    try:
        options, unknown = parser.parse_known_args(with_config(given))
    except ValueError as error:
        complain(f"tumorjax {given[0]}: error: {error}")
        return 2
    if unknown:
        # The parser's own message would send the reader to the help of the wrong command.
        command = "tumorjax" if options.command is None else f"tumorjax {options.command}"
        complain(f"{command}: error: unknown option or argument: {' '.join(unknown)}; see {command} --help")
        return 2
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "completion":
        print(script(parser, options.shell))
        return 0
    options.command_line = shlex.join(["tumorjax", *given])
    try:
        with without_library_noise(), log_in(getattr(options, "log_file", None), options.command_line):
            # JAX and the image libraries take seconds to import: only once there is work for them.
            if options.command == "database":
                from tumorjax.cli.database import run
            elif options.command == "train":
                from tumorjax.cli.train import run
            elif options.command == "personalize-cohort":
                from tumorjax.cli.cohort import run
            elif options.command == "export":
                from tumorjax.cli.export import run
            elif options.command == "mlcube":
                from tumorjax.cli.mlcube import run
            elif options.command == "view":
                from tumorjax.cli.view import run
            else:
                from tumorjax.cli.commands import run

            return run(options) or 0
    except RecursionError:
        complain(f"tumorjax {options.command}: error: a file is nested too deeply; give another one")
        return 2
    except (KeyboardInterrupt, ValueError, OSError, MemoryError, OverflowError) as error:
        interrupt = interrupt_behind(error)
        if interrupt is None:
            complain(f"tumorjax {options.command}: error: {_said(error)}")
            return 2
        kept = None
        if options.command == "personalize":
            from tumorjax.cli.options import kept_in

            kept = kept_in(options)
        more = f"; {kept} keeps what is done, and the same command goes on from there" if kept else ""
        complain(f"tumorjax {options.command}: {how(interrupt)}; {written(interrupt)}{more}")
        return exit_code(interrupt)
    return 0


def _said(error: BaseException) -> str:
    """Return what went wrong; of a file that the system refuses its name first, as in all other messages."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: cannot be used ({error.strerror}); give another, or free the way to it"
    return str(error)


def _cache_compiled_programs() -> None:
    """Keep compiled programs between runs, unless the user has decided otherwise."""
    import jax

    from tumorjax.storage import user_cache

    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(user_cache() / "compiled"))
    # Programs that compile in less than a second are many, and to read one takes a fraction of that.
    least = float(os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0"))
    # JAX, which came with the package, has read the variables already; processes to come will read them.
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
