"""The credit that the licences ask for, as a page to hand on with whatever is made of the recordings."""

from collections import defaultdict
from collections.abc import Iterable

from data.recordings.table import Recording

LICENCE_NAMES = {
    "public-domain": "public domain",
    "CC0-1.0": "Creative Commons Zero 1.0 (public domain dedication)",
    "MIT": "MIT (Expat) licence",
    "CC-BY-3.0": "Creative Commons Attribution 3.0 Unported",
    "CC-BY-4.0": "Creative Commons Attribution 4.0 International",
    "CC-BY-SA-3.0": "Creative Commons Attribution-ShareAlike 3.0 Unported",
    "CC-BY-SA-4.0": "Creative Commons Attribution-ShareAlike 4.0 International",
    "GPL-2+": "GNU General Public License, version 2 or later",
}
_HEAD = """# Attribution

These recordings were used as training data: cut, mixed, and resampled. Each package's own copyright notice, with the
texts and addresses of the licences, is in the folder `copyright` beside this page.
"""


def attribution(recordings: Iterable[Recording]) -> str:
    """Return a page that names every recording with its author, package and licence."""
    files: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for recording in recordings:
        files[recording.licence, recording.package, recording.author].append(recording.file)
    lines = [_HEAD]
    licence = ""
    for (name, package, author), names in sorted(files.items()):
        if name != licence:
            lines.append(f"\n## {LICENCE_NAMES[name]}\n")
            licence = name
        lines.append(f"- {author or 'author not named'} (Debian package {package}): {', '.join(sorted(names))}")
    return "\n".join(lines) + "\n"
