"""Files kept outside the database: in the data directory, or in a bucket of an S3-compatible store."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

from gevent import monkey
from gevent.threadpool import ThreadPool
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from models.core.errors import DomainError
from models.core.settings import Settings

if TYPE_CHECKING:
    from obstore.store import S3Config

T = TypeVar("T")


class FilesUnavailable(DomainError):
    """The store of files does not answer, or refuses."""

    status = 503
    code = "files_unavailable"


class Files:
    """What `STOA_FILES_URL` names. Paths are our own, never a client's; writing the same path again is harmless."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def keep(self, path: str, content: bytes) -> None:
        """Write a file whole or not at all. Raises FilesUnavailable."""
        try:
            apart(lambda: self._store.put(path, content))
        except (BaseError, OSError) as error:
            raise FilesUnavailable("Files cannot be kept right now. Try again in a minute.") from error

    def read(self, path: str) -> bytes | None:
        """The file; None when there is none. Raises FilesUnavailable."""
        try:
            return apart(lambda: bytes(self._store.get(path).bytes()))
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise FilesUnavailable("Files cannot be read right now. Try again in a minute.") from error

    def names(self, folder: str) -> dict[str, datetime]:
        """The files of a folder by name, and when each was kept last. Raises FilesUnavailable."""
        try:
            found = apart(lambda: [each for batch in self._store.list(f"{folder}/") for each in batch])
        except (BaseError, OSError) as error:
            raise FilesUnavailable("Files cannot be read right now. Try again in a minute.") from error
        return {each["path"].removeprefix(f"{folder}/"): each["last_modified"] for each in found}

    def remove(self, path: str) -> None:
        """Remove a file, if there is one. Raises FilesUnavailable."""
        try:
            apart(lambda: self._store.delete(path))
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise FilesUnavailable("Files cannot be removed right now. Try again in a minute.") from error


@lru_cache(maxsize=4)
def files(settings: Settings) -> Files:
    """The files of the server with these settings."""
    if not settings.stoa_files_url:
        return Files(LocalStore(settings.data_dir / "files", mkdir=True))
    parts = urlsplit(settings.stoa_files_url)
    endpoint = settings.s3_endpoint
    config = {
        "endpoint": endpoint,
        "region": settings.s3_region,
        "access_key_id": settings.s3_access_key_id,
        "secret_access_key": settings.s3_secret_access_key
        and settings.s3_secret_access_key.get_secret_value(),
    }
    return Files(
        S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=cast("S3Config", {name: value for name, value in config.items() if value}),
            client_options={
                "timeout": "20s",
                "connect_timeout": "5s",
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
            },
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
        )
    )


def apart(work: Callable[[], T]) -> T:
    """The result of blocking work, done in a real thread, so that the worker's other requests go on meanwhile."""
    if not monkey.is_module_patched("socket"):
        return work()
    failed: list[Exception] = []

    def done() -> T | None:
        # an error that ends a thread's work is printed with its whole trace, a refused picture's too
        try:
            return work()
        except Exception as error:
            failed.append(error)
            return None

    result = _threads().apply(done)
    if failed:
        raise failed[0]
    return cast(T, result)


@lru_cache(maxsize=1)
def _threads() -> ThreadPool:
    # not the hub's own: a bucket that hangs would then stop the looking up of providers' names, too
    return ThreadPool(8)
