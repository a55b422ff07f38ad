"""Where data sets lie on this machine, and how they come from their official homes.

A data set is looked for in the folder that the variable ``CROSSFM_DATA`` names, then in the
user's cache folder; where neither has it, it is downloaded once into the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossfm.errors import DatasetError

__all__ = ["VARIABLE", "Remote", "cache_folder", "data_folders", "locate"]

VARIABLE = "CROSSFM_DATA"
CONNECT_SECONDS = 6.0
READ_SECONDS = 10.0
ATTEMPTS = 2


@dataclass(frozen=True)
class Remote:
    """One file of an official home.

    Attributes:
        url: where it is.
        sha256: checksum of the file.
        members: for a zip archive, the files to unpack, as paths in the archive; a name that
            ends in ``?`` may be absent. Empty: the file itself is the data.
    """

    url: str
    sha256: str | None
    members: tuple[str, ...] = ()


def cache_folder() -> Path:
    """The user's cache folder of crossfm; it need not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "crossfm"


def data_folders() -> list[Path]:
    """Folders in which data sets are looked for, first one first."""
    named = os.environ.get(VARIABLE)
    return ([Path(named).expanduser()] if named else []) + [cache_folder()]


def locate(
    title: str,
    folder: str,
    choices: Sequence[Sequence[str]],
    remotes: Sequence[Remote] = (),
    *,
    home: str,
    download: bool = True,
) -> Path:
    """The folder that holds a data set, downloading it where it is missing.

    Args:
        title: name of the data set in messages.
        folder: name of its folder, e.g. ``ml-100k``.
        choices: file lists; the folder must hold every file of one of them.
        remotes: files of its official home; empty where that asks for a login or consent.
        home: page of the official home, for messages.
        download: False: look on this machine only.

    Raises:
        DatasetError: not here and not to be had; the message says where to put the files.
    """
    for place in data_folders():
        found = place / folder
        if any(all((found / name).is_file() for name in names) for names in choices):
            return found
    remedy = (
        f"put {' or '.join(', '.join(names) for names in choices)} from {home} into a folder"
        f" {folder!r} and set {VARIABLE} to the folder around it"
    )
    looked = ", ".join(str(place / folder) for place in data_folders())
    if not remotes or not download:
        why = "downloading is off" if remotes else "it cannot be downloaded without your consent"
        raise DatasetError(f"{title} is not in {looked}, and {why}: {remedy}")
    try:
        return _download(remotes, cache_folder() / folder)
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "reason", None) or error
        raise DatasetError(
            f"{title} is not in {looked}, and could not be downloaded from"
            f" {remotes[0].url} ({reason}): connect to the network, or {remedy}"
        ) from error


def _download(remotes: Sequence[Remote], target: Path) -> Path:
    """Fetch, check and unpack into `target`, which appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for number, remote in enumerate(remotes):
            file = Path(scratch) / f"file{number}"
            _fetch(remote, file)
            if remote.members:
                _unpack(file, remote.members, whole)
            else:
                file.rename(whole / remote.url.rsplit("/", 1)[-1])
        if target.is_dir():
            shutil.rmtree(target)  # it lacked files, or it would have been used
        try:
            whole.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise
    return target


def _unpack(archive: Path, members: Sequence[str], folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        present = set(opened.namelist())
        for member in members:
            name = member.removesuffix("?")
            if name in present:
                with opened.open(name) as source, open(folder / Path(name).name, "wb") as sink:
                    shutil.copyfileobj(source, sink)
            elif name == member:
                raise OSError(f"the archive holds no {name!r}")


def _fetch(remote: Remote, file: Path) -> None:
    """Write the file of `remote` to `file`, trying again where trying again may help."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            digest = hashlib.sha256()
            with _open(remote.url) as response, open(file, "wb") as sink:
                while chunk := response.read(1 << 20):
                    digest.update(chunk)
                    sink.write(chunk)
                expected = response.headers.get("Content-Length")
                if expected is not None and sink.tell() != int(expected):
                    raise OSError(f"got {sink.tell()} of {expected} bytes")
            break
        except OSError as error:
            reason = getattr(error, "reason", error)
            gone = False
            if isinstance(error, urllib.error.HTTPError):
                gone = error.code < 500
                error.close()
            if attempt == ATTEMPTS or gone or isinstance(reason, socket.gaierror):
                raise
            time.sleep(0.5 * attempt)
    if remote.sha256 is not None and digest.hexdigest() != remote.sha256:
        raise OSError(f"its SHA-256 is {digest.hexdigest()}, expected {remote.sha256}")


def _open(url: str) -> Any:
    """Open a URL within `CONNECT_SECONDS`, looking up the name included.

    The look-up itself knows no time-out, so it runs in a thread that is left behind.
    """
    answers: queue.Queue[Any] = queue.Queue()
    left_behind = threading.Event()

    def connect() -> None:
        try:
            answer = urllib.request.urlopen(url, timeout=READ_SECONDS)
        except BaseException as error:
            answer = error
        if left_behind.is_set() and hasattr(answer, "close"):
            answer.close()
        answers.put(answer)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        left_behind.set()
        raise TimeoutError(f"no answer within {CONNECT_SECONDS:.0f} seconds") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer
