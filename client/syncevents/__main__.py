"""The program `syncevents`.

Rule of this file: it runs without the extra `[cli]`, in order to say that it is missing.
"""

import importlib.util
import sys


def main() -> None:
    """Run the program; exit status 0 when all went well, 1 when not, 2 for wrong arguments."""
    if importlib.util.find_spec("click") is None:
        sys.exit("syncevents: this program needs click: pip install 'syncevents[cli]'")
    from syncevents.cli import program

    program(prog_name="syncevents")


if __name__ == "__main__":
    main()
