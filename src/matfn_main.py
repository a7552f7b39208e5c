"""The `matfn` script. The import of torch takes seconds; Ctrl-C during it ends the process without a traceback."""

import os
import signal


def main() -> None:
    """Run the command line of `matfn.cli`; Ctrl-C during the imports ends the process with status 130."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    from matfn.cli import main as command_line

    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, before)
    command_line()


if __name__ == "__main__":
    main()
