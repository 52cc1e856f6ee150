"""The `clipfeat` command, and `python -m clipfeat.cli`: imports the command line, and runs it."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C before it is imported ends the process without a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    guarded = handler is signal.default_int_handler  # not where a shell has told us to ignore it
    if guarded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .main import main as run

    if guarded:
        signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
