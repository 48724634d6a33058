"""The settings file to begin with: every setting with its default, commented out.

Rule of this file: it is made from the declarations, so it cannot name a setting that does not exist.
"""

import json
from itertools import groupby

from synceventsd.config.settings import SETTINGS

_HEAD = """\
# Settings of synceventsd. What is commented out is the default: take the "#" before it away to change it, then
#   synceventsd check-config --config /etc/synceventsd/synceventsd.toml
#   systemctl restart synceventsd
# A variable SYNCEVENTSD_<SECTION>_<KEY> in /etc/synceventsd/environment goes before this file.
"""


def template() -> str:
    """The file as TOML. Read as it is, it changes nothing, and neither does any line of it without its "#"."""
    parts = [_HEAD]
    for section, settings in groupby(SETTINGS.values(), key=lambda setting: setting.name.partition(".")[0]):
        parts.append(f"\n[{section}]\n")
        for setting in settings:
            key = setting.name.partition(".")[2]
            parts.append(
                f"# {setting.about}; allowed: {setting.rule.allowed}\n#{key} = {json.dumps(setting.default)}\n"
            )
    return "".join(parts)
