"""Where `mutua` and `python -m mutua` begin, so that Ctrl-C ends them quietly from the first moment on.

A command reports what goes wrong in it (`mutua.cli.common.report_errors`); here is what happens while it is imported.
"""

import sys


def main() -> None:
    """Runs the command that the words of the command line name, and exits with its code."""
    try:
        from mutua.cli import app

        app(prog_name="mutua")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
