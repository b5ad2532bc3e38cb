"""What everything that touches the disk needs: a place that is meant, a lock, a whole file or none, honest advice."""

import contextlib
import errno
import os
from pathlib import Path

from filelock import FileLock, Timeout

ADVICE = {
    "make room, or choose another folder": ("ENOSPC", "EDQUOT", "EFBIG"),
    "choose a folder that you may write to": ("EACCES", "EPERM", "EROFS"),
    "the drive is gone: mount it again": ("ENOTCONN", "EIO", "ESTALE", "ENODEV", "ENXIO", "EHOSTDOWN"),
}
NO_LOCKS = {"ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"}


def because(error: OSError) -> str:
    """What the system says of an error, and what to do about it where that is known."""
    name, said = errno.errorcode.get(error.errno, ""), error.strerror or str(error)
    return next((f"{said}: {what}" for what, names in ADVICE.items() if name in names), said)


def place(path) -> Path:
    """`path` made absolute.

    Raises:
        ValueError: it is not the place that it looks like: it begins with a ~ or $ that nothing has replaced, or
            lies in a Google Drive that is not mounted, where a folder of that name would vanish with the machine.
    """
    if odd := [part for part in Path(path).parts if part[0] in "~$"]:
        raise ValueError(f"{path}: {odd[0]} is not replaced by anything here, so write the whole path")
    path = Path(os.path.abspath(path))
    if path.parts[1:2] == ("content",) and path.parts[3:4] in [("MyDrive",), ("Shareddrives",)]:
        drive = Path(*path.parts[:3])
        if not drive.is_mount():
            raise ValueError(
                f"{path} is in a Google Drive that is not mounted: run "
                f"`from google.colab import drive; drive.mount({str(drive)!r})` first"
            )
    return path


@contextlib.contextmanager
def locked(path, busy: str = ""):
    """Hold the lock file `path`, which is left there. While another process has it, wait, and say so.

    Args:
        busy: what to say instead of waiting.

    Raises:
        BlockingIOError: another process has it, and there is something to say.
        OSError: nothing can be written there.
    """
    path = Path(path)
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if busy:
                raise BlockingIOError(errno.EAGAIN, busy) from None
            print(f"another process is at work on {path.stem}: waiting for it", flush=True)
            lock.acquire()
    except BlockingIOError:
        raise
    except (NotImplementedError, OSError) as error:
        if errno.errorcode.get(getattr(error, "errno", errno.ENOSYS)) not in NO_LOCKS:
            raise OSError(
                error.errno, f"nothing can be written to {path.parent} ({because(error)})"
            ) from error
        print(f"{path.parent} has no locks: do not work there with two processes at once", flush=True)
    try:
        yield
    finally:
        lock.release()


def write_whole(path, content: bytes) -> None:
    """Write `path` so that a crash or a full disk leaves what was there before.

    Raises:
        OSError: it cannot be written; says why and what to do.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
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
