"""Addresses in lists, and lists at addresses: what their form says, as nothing is looked up for a line elsewhere."""

from __future__ import annotations

from pc_engine.sources.addresses import HTTP, file_part, is_address


def is_of_folder(address: str) -> bool:
    """Whether an address is a folder's by its form: its path ends with "/", or is missing as in ``zip://::a.zip``.

    Of the web none is: a picture's address may end so, too, and is one request.
    """
    parts = address.split("::")
    own = parts[_with_path(parts)]
    return own.endswith("/") and not own.startswith(HTTP)


def beside(address: str, path: str) -> str:
    """Return the address of what lies at a relative path as seen from the file at ``address``.

    >>> beside("https://host/lists/today.txt?key=1", "../photos/a.jpg")
    'https://host/photos/a.jpg'
    >>> beside("zip://list.txt::photos.zip", "a.jpg")
    'zip://a.jpg::photos.zip'
    """
    parts = address.split("::")
    own = _with_path(parts)
    scheme, _, place = file_part(parts[own]).partition("://")
    folders = place.split("/")[:-1]
    # ".." leads out of no bucket and no host. Within an archive, which follows, no name stands for such.
    fewest = int(own == len(parts) - 1)
    for name in path.split("/"):
        if name == "..":
            del folders[max(len(folders) - 1, fewest) :]
        elif name != ".":
            folders.append(name)
    return "::".join([*parts[:own], f"{scheme}://{'/'.join(folders)}", *parts[own + 1 :]])


def _with_path(parts: list[str]) -> int:
    """Return which part of a chain has the path: in ``simplecache::s3://bucket/a.jpg`` the first that can have one."""
    return next(number for number, part in enumerate(parts) if is_address(part))
