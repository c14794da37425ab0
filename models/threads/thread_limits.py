"""How much a person writes to threads in a day without paying for a model call."""

from models.accounts.write_limits import DAY, WriteLimit, consume
from models.core.db import extension

ROW_BYTES = 200


def count_written(user_id: str, *, threads: int = 0, messages: int = 0, size: int = 0) -> None:
    """Count new threads, and the bytes of new messages, against the person's limits of a day. Call it before the thread is locked. Raises
    WriteLimitExceeded (429, or 413 for what no day allows); roll back then."""
    settings = extension("settings")
    made = WriteLimit("threads a day", "threads", settings.stoa_threads_per_day, DAY, "STOA_THREADS_PER_DAY")
    most = settings.stoa_thread_bytes_per_day
    written = WriteLimit("thread bytes a day", "bytes of messages", most, DAY, "STOA_THREAD_BYTES_PER_DAY")
    consume(user_id, (made, threads), (written, messages * ROW_BYTES + size))
