"""`synceventsd`, also as `python -m synceventsd`: tells of a missing extra in one line, else hands over to `cli`."""

import importlib.util
import sys

_NEEDED = (  # the packages of the extra [daemon], by the names they are imported under
    *("cattrs", "click", "hypercorn", "jwt", "msgspec", "prometheus_client"),
    *("quart", "quart_trio", "redis", "structlog", "trio"),
)


def main() -> None:
    """Runs the program; exit status 1 when packages of the extra [daemon] are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"synceventsd: {', '.join(missing)} not installed: pip install 'syncevents[daemon]'")
    from synceventsd.cli import synceventsd

    synceventsd(prog_name="synceventsd")  # also as a module: the name decides how completion is asked for


if __name__ == "__main__":
    main()
