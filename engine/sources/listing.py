"""From the words on the command line to a stream of images.

Listing streams: folders, patterns, lists and shards are gone through as the run goes on, in an order that is the same
on every machine, and memory does not grow with the number of images; but up to 64 MB (128 with counts) where several
sources or a list may name an image twice.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from pc_engine.arguments import source_names
from pc_engine.errors import ImageError, PcEngineError, UsageError
from pc_engine.sources.addresses import Images, find_address, is_address, local_path
from pc_engine.sources.braces import expand_braces, has_braces
from pc_engine.sources.folders import HEAD_BYTES, looks_like_image, walk_folder
from pc_engine.sources.globs import glob_matches
from pc_engine.sources.image import SourceImage, broken_image, local_image, open_regular
from pc_engine.sources.listed_addresses import is_of_folder
from pc_engine.sources.lists import MARK, check_list, check_not_workbook, is_table, list_images
from pc_engine.sources.parquet_shards import check_parquet, is_parquet, parquet_images
from pc_engine.sources.repeats import Repeats
from pc_engine.sources.resolve import named_image
from pc_engine.sources.shards import CostlyListingError, Listing
from pc_engine.sources.stored_names import start_folder
from pc_engine.sources.tar_shards import is_tar, tar_images

DEMO = "demo:"
DEMO_DIRECTORY = Path(__file__).parents[1] / "embedded" / "demo"

# 64 MB of them.
_NAMES_REMEMBERED = 1 << 22

#: What names images: text or a path, see `iter_images`.
Source = str | os.PathLike[str]

# Lists the images of one source.
_Source = Callable[[Listing], Iterator[SourceImage]]

_WHAT_TO_NAME = "Name a folder, a file, a glob such as 'photos/*.jpg', an address, a list as '@list.txt', or 'demo:'."


def iter_images(
    sources: Source | Iterable[Source],
    without: str | os.PathLike[str] | None = None,
    stop: Callable[[], bool] = lambda: False,
    passed_over: Callable[[str], None] = lambda _: None,
    by_name: bool = False,
    count_column: str | None = None,
    named_again: Callable[[str, bool], None] = lambda *_: None,
) -> Iterator[SourceImage]:
    """Yield the images of ``sources`` in a stable order, each once.

    A file named directly is yielded whatever its name, so that a bad one gets its row. In a folder, which is walked
    recursively, a file takes part if its suffix or its first bytes are those of an image; shards in it do not, nor does
    a camera's raw photo that lies beside the camera's JPEG or HEIC of it.

    Parameters
    ----------
    sources
        Folders, files, globs, or ``"demo:"``; tar and Parquet shards and ZIP archives, directly or by a glob; whatever
        ``fsspec`` has an address for; ``"@list.txt"``, ``"@table.csv"`` or ``"@-"`` for what a list names; one or
        several. Braces are expanded, as in ``"shards/{000..099}.tar"``. What exists under its literal name is always
        that.
    without
        A folder that is not entered, such as that of the pictures which the run itself writes.
    stop
        Asked now and then while stdin stays silent: whether its list is to end there.
    passed_over
        Called with the path of each file in a folder or an archive that does not take part.
    by_name
        Whether the images are going to be read by their names, elsewhere: tables are then listed without their bytes.
    count_column
        The column of tables (``"@table.csv"``) that says how many objects their images show; None to ask none.
    named_again
        Called with the name of each image that several sources or lines of lists name, from the second time on, and
        whether its count is another one then; it is not yielded again. That is told by what it is called, not by its
        content, and of the first 4 million images.

    Raises
    ------
    UsageError
        If a source is no text or path, does not exist or cannot be reached, or a glob matches nothing; if the only one
        is a table without its "@"; or a table lacks the column of counts, or there is none. Raised before the first
        image is yielded.
    MissingPackageError
        If a source takes a package that is not installed; raised likewise.
    """
    named = _named(sources)
    if count_column is not None and not any(map(_is_table, named.values())):
        for text in named.values():
            check_not_workbook(text.removeprefix(MARK))
        raise UsageError(
            f"'{count_column}' should be a column of counts, but no table was given: name one as '@table.csv', or give "
            "a number."
        )
    listing = Listing(
        _real(without),
        stop=stop,
        folders=_folders(named),
        by_name=by_name,
        passed_over=passed_over,
        named_again=named_again,
        count_column=count_column,
    )
    return _list(named, _checked(named, count_column), listing)


def count_images(
    sources: Source | Iterable[Source],
    without: str | os.PathLike[str] | None = None,
    which: Callable[[SourceImage], bool] | None = None,
) -> int | None:
    """Return the number of images that `iter_images` yields, or None where finding out takes as long as reading them.

    With ``which``, of those images alone that it says yes to.

    Raises
    ------
    UsageError, MissingPackageError
        As `iter_images`.
    """
    listed = source_names(sources)
    # Each listing of a bucket costs requests.
    if any(is_address(source) and not os.path.lexists(source) for source in listed):
        return None
    try:
        named = _named(listed)
        images = _list(named, _checked(named), Listing(_real(without), names_only=True, folders=_folders(named)))
        return sum(1 for image in images if which is None or which(image))
    except CostlyListingError:
        return None


def _is_table(source: str) -> bool:
    """Whether a source is a table, or the first that its braces stand for is."""
    return is_table(next(iter(expand_braces(source))) if has_braces(source) else source)


def _real(without: str | os.PathLike[str] | None) -> str | None:
    return None if without is None else os.path.realpath(without)


def _named(sources: Source | Iterable[Source]) -> dict[str, str]:
    """Return the sources by their real paths: one that is named twice, be it in another way, is gone through once."""
    named: dict[str, str] = {}
    for text in source_names(sources):
        named.setdefault(_identity(text), text)
    return named


def _identity(source: str) -> str:
    return os.path.realpath(source) if os.path.lexists(source) else source


def named_twice(sources: Source | Iterable[Source]) -> list[str]:
    """Return those sources, each once, that were named before, be it otherwise; `iter_images` goes through one."""
    again: dict[str, str] = {}
    seen: set[str] = set()
    for text in source_names(sources):
        if (real := _identity(text)) in seen:
            again.setdefault(real, text)
        seen.add(real)
    return list(again.values())


def _folders(named: Mapping[str, str]) -> frozenset[str]:
    return frozenset(real for real in named if os.path.isdir(real))


def _checked(named: Mapping[str, str], count_column: str | None = None) -> list[_Source]:
    checked = [_find(source, count_column) for source in named.values()]
    if not checked:
        raise UsageError(f"No source was given. {_WHAT_TO_NAME}")
    # Of several, one may come from a shell's pattern, and has its row.
    text = next(iter(named.values()))
    if len(named) == 1 and _is_text(text):
        if is_table(f"{MARK}{text}"):
            raise UsageError(f"'{text}' is a table, not a photo: for the images that it names, write '{MARK}{text}'.")
        check_not_workbook(text)
    return checked


def _is_text(path: str) -> bool:
    """Whether a file of this machine is there, and does not begin as an image does."""
    try:
        with open_regular(path) as stream:
            return not looks_like_image(stream.read(HEAD_BYTES))
    except (OSError, ValueError, ImageError):
        return False


def _list(named: Mapping[str, str], sources: Iterable[_Source], listing: Listing) -> Iterator[SourceImage]:
    images = (image for source in sources for image in source(listing))
    # A folder, pattern or archive by itself names nothing twice.
    several = len(named) > 1 or any(text.startswith(MARK) or has_braces(text) for text in named.values())
    return _each_once(images, listing) if several else images


def _each_once(images: Iterable[SourceImage], listing: Listing) -> Iterator[SourceImage]:
    """Yield the images, but none that was named before, be it by another path to the same file of this machine."""
    names, counts = Repeats(_NAMES_REMEMBERED), Repeats(_NAMES_REMEMBERED)
    folder = start_folder()
    for image in images:
        # What cannot be listed under a name is none of the images that may lie there.
        name = f"{image.error is None}\0{_whole_name(image.name, folder)}"
        again = names.count(name) > 1
        other = listing.count_column is not None and counts.count(f"{image.count} {name}") == 1
        if again:
            listing.named_again(image.name, other)
        else:
            yield image


def _whole_name(name: str, folder: str | None) -> str:
    """Return the name of an image as seen from any folder, where relative ones begin in ``folder``, if it is there."""
    if is_address(name):
        member, colons, archive = name.rpartition("::")
        return f"{member}{colons}{_whole_name(archive, folder)}" if colons and not is_address(archive) else name
    path = name if folder is None else os.path.join(folder, name)
    if os.pardir in path.split(os.sep):
        # Behind a link it leads elsewhere than the text says.
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    # Links are not followed else, which would take as long as opening each file. On Windows case makes no other name.
    return os.path.normcase(os.path.normpath(path))


def _find(text: str, count_column: str | None = None) -> _Source:
    """Return what lists a source, or raise an error that says that it does not exist."""
    if text == DEMO:
        return partial(_images_at, os.fspath(DEMO_DIRECTORY))
    if os.path.lexists(text):
        return _find_local(text)
    if has_braces(text):
        return _find_each(text, count_column)
    if text.startswith(MARK):
        name = local_path(text[len(MARK) :]) or text[len(MARK) :]
        check_list(name, count_column)
        return partial(_listed, name)
    if is_address(text):
        path = local_path(text)
        return partial(_at_address, find_address(text)) if path is None else _find(path)
    if glob.has_magic(text) and next(glob_matches(text), None) is not None:
        return partial(_matched, text)
    what = "The pattern matches nothing" if glob.has_magic(text) else "There is no file or folder"
    raise UsageError(f"{what}: '{text}'. {_WHAT_TO_NAME}")


def _find_local(path: str) -> _Source:
    if os.path.isdir(path):
        if not os.access(path, os.R_OK | os.X_OK):
            raise UsageError(f"The folder '{path}' cannot be listed: check its permissions.")
    elif is_parquet(path):
        check_parquet(path)
    return partial(_images_at, path)


def _find_each(text: str, count_column: str | None) -> _Source:
    # Not kept: there may be very many. Of those elsewhere only the first is looked up.
    for number, one in enumerate(expand_braces(text)):
        if number == 0 or not is_address(one):
            _find(one, count_column)
    return partial(_expanded, text)


def _images_at(path: str, listing: Listing) -> Iterator[SourceImage]:
    """Yield the images of a file, folder or shard of this machine, or the file itself where there is none."""
    path = str(Path(path))
    if os.path.isdir(path):
        yield from walk_folder(
            path,
            listing.without,
            in_order=not listing.names_only,
            elsewhere=listing.folders,
            passed_over=listing.passed_over,
        )
    else:
        yield from _shard_images(path, listing) or (local_image(path),)


def _shard_images(name: str, listing: Listing) -> Iterator[SourceImage] | None:
    """Return the images of a shard, or None for what is none by its name."""
    if is_tar(name):
        return tar_images(name, listing)
    if name.lower().endswith(".zip") and "::" not in name and os.path.isfile(name):
        return _images_within(f"zip://::{name}", name, listing)
    return parquet_images(name, listing) if is_parquet(name) else None


def _matched(pattern: str, listing: Listing) -> Iterator[SourceImage]:
    for path in glob_matches(pattern, listing.without):
        yield from _images_at(path, listing)


def _at_address(images: Images, listing: Listing) -> Iterator[SourceImage]:
    for image in images(listing.passed_over):
        yield from _shard_images(image.name, listing) or (image,)


def _listed(name: str, listing: Listing) -> Iterator[SourceImage]:
    yield from list_images(name, listing, _line_images)


def _line_images(text: str, listing: Listing) -> Iterator[SourceImage]:
    """Yield what a line of a list names: it is looked up on this machine only, as there may be a million of them."""
    path = text if os.path.lexists(text) else local_path(text)
    if path is not None and os.path.lexists(path):
        yield from _images_at(path, listing)
    elif is_address(text):
        if is_of_folder(text):
            yield from _folder_images(text, listing)
        else:
            yield from _shard_images(text, listing) or (named_image(text),)
    else:
        yield named_image(text)


def _folder_images(address: str, listing: Listing) -> Iterator[SourceImage]:
    """Yield the images of a folder elsewhere that a list names."""
    if listing.names_only:  # each listing costs requests
        raise CostlyListingError
    yield from _images_within(address, address, listing)


def _images_within(address: str, name: str, listing: Listing) -> Iterator[SourceImage]:
    """Yield the images of a folder or archive at an address, or why there are none by the ``name`` that was given."""
    try:
        images = find_address(address, may_match=False)
    except PcEngineError as error:
        yield broken_image(name, str(error))
    else:
        yield from _at_address(images, listing)


def _expanded(text: str, listing: Listing) -> Iterator[SourceImage]:
    for one in expand_braces(text):
        try:
            source = _find(one, listing.count_column)
        except PcEngineError as error:  # it was there when the run began, or is elsewhere
            yield broken_image(one, str(error))
        else:
            yield from source(listing)
