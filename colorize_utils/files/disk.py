"""What everything that touches the disk needs: a place that is meant, a lock, a whole file or none, honest advice."""

import contextlib
import errno
import os
import re
from pathlib import Path

from filelock import FileLock, Timeout

ADVICE = {  # names of errno; numbers of Windows, which tells more kinds apart
    "another program has it open: close that": "32 33",
    "the drive is gone: mount it again": "ENOTCONN EIO ESTALE ENODEV ENXIO EHOSTDOWN ETIMEDOUT 21 53 55 64",
    "make room, or choose another folder": "ENOSPC EDQUOT EFBIG",
    "choose a folder that you may write to": "EROFS 19",
    "change its permissions, or choose a folder that you may write to": "EACCES EPERM",
    "choose another path": "ENOTDIR EISDIR EEXIST ENAMETOOLONG ELOOP",
}
NO_LOCKS = {"ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"}
ODD = re.compile(r"^~[^/\\]*|\$\w+|\$\{\w+\}|%\w+%|^\w+:(?=[/\\])")  # ~, a variable, an address, C:
DRIVE = re.compile(r"((?i:/content/g?(oogle)?.?drive)|.*?(?=/(My|Shared) ?[Dd]rives?(/|$)))(/[^/]*|$)")


def because(error: OSError) -> str:
    """What the system says of an error, and what to do about it where that is known."""
    codes = {errno.errorcode.get(error.errno), str(getattr(error, "winerror", None))}
    said = error.strerror or str(error) or type(error).__name__
    known = any(what in said for what in ADVICE)  # said once is enough
    advice = [what for what, names in ADVICE.items() if codes & {*names.split()} and not known]
    return f"{said}: {advice[0]}" if advice else said


def place(path) -> Path:
    """`path` made absolute.

    Raises:
        ValueError: it is not the place that it looks like: a ~ or variable that nothing has replaced, an address,
            or a Google Drive that is not mounted, where a folder of that name would vanish with the machine.
    """
    if (odd := ODD.search(str(path))) and odd[0] != Path(path).drive:
        raise ValueError(f"{path}: {odd[0]} stands for nothing here, so write the whole path")
    path = Path(os.path.abspath(path))
    drive = DRIVE.match(Path(os.path.realpath(path)).as_posix())
    imitated = drive and (drive[1].startswith("/content/") or not os.path.isdir(drive[0]))
    if imitated and not os.path.ismount(drive[1]):
        raise ValueError(
            f"{path} is in no Google Drive that is mounted: run `from google.colab import drive; "
            'drive.mount("/content/drive")` first, and write the path as /content/drive/MyDrive/...'
        )
    return path


@contextlib.contextmanager
def locked(path, busy: str = ""):
    """Hold the lock file `path`, which is left there. An OSError says why nothing can be written there.

    While another process has it, wait, and say so; or, where `busy` says what, raise a BlockingIOError.
    """
    path = Path(path)
    lock, folder = FileLock(path), path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        if busy:
            raise BlockingIOError(errno.EAGAIN, busy) from None
        print(f"another process is at work on {path.stem}: waiting for it", flush=True)
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if errno.errorcode.get(getattr(error, "errno", errno.ENOSYS)) not in NO_LOCKS:
            says = f"nothing can be written to {folder} ({because(error)})"
            raise OSError(error.errno, says) from error
        print(f"{folder} has no locks: do not work there with two processes at once", flush=True)
    try:
        yield
    finally:
        lock.release()


def write_whole(path, content: bytes) -> None:
    """Write `path` so that a crash or a full disk leaves what was there before. An OSError says what to do."""
    path, partial = Path(path), Path(f"{path}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(error.errno, f"could not write {path} ({because(error)})") from error
