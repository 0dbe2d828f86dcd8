"""What macOS, Windows and a Synology disk leave in the folders of a data set."""

import os
import shutil
from pathlib import Path

RESOURCE_FORK = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200)


def litter(root: Path) -> None:
    """Put a `._x` beside each x, an index into each folder, copies of pictures into some."""
    for folder, folders, files in list(os.walk(root)):
        inside = Path(folder)
        for name in (*folders, *files):
            (inside / f"._{name}").write_bytes(RESOURCE_FORK)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (inside / name).write_bytes(RESOURCE_FORK)
        for name in files:
            if name.endswith(".jpg"):
                (inside / "@eaDir" / name).mkdir(parents=True)
                shutil.copy(inside / name, inside / "@eaDir" / name / "SYNOPHOTO_THUMB_M.jpg")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / f"._{root.name}").write_bytes(RESOURCE_FORK)
