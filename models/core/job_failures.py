"""The last error of each job that failed or waits for a retry, for operators: the queue itself stores none."""

import traceback
from datetime import datetime
from pathlib import Path

import psycopg
from procrastinate.jobs import Job
from sqlalchemy import BigInteger, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, db, extension
from models.core.redaction import redact, without_personal
from models.core.settings import ROOT

MAX_ERROR = 4_000
"""Characters of the stored message."""
FRAMES = 20


class JobFailure(Base):
    """How the latest attempt of a job failed: type and message of the error, without secrets, addresses and rows of the database,
    and where it was raised, innermost last. `forget_failures` deletes those whose job is gone."""

    __tablename__ = "job_failure"

    job_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    error: Mapped[str]
    trace: Mapped[str]


def record_failure(job: Job, error: Exception) -> None:
    """Store the error of a job, in place of the one before."""
    values = {"task": job.task_name, "error": operator_text(error), "trace": _trace(error)}
    statement = insert(JobFailure).values(job_id=job.id, **values)
    statement = statement.on_conflict_do_update(index_elements=[JobFailure.job_id], set_=values | {"at": NOW})
    db.session.execute(statement)


def forget_failures() -> None:
    """Delete the errors of jobs that are gone."""
    db.session.execute(
        text(
            "DELETE FROM job_failure f WHERE NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.id = f.job_id)"
        )
    )


def operator_text(error: BaseException) -> str:
    """Type and message of an error, without secrets and addresses; of an error of the database without its rows."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    message = str(error)
    if isinstance(error, psycopg.Error):
        message = error.diag.message_primary or message.partition("\n")[0]
    name = type(error).__name__
    message = without_personal(redact(message.replace("\0", ""), extension("settings").secrets()))
    return (f"{name}: {message}" if message else name)[:MAX_ERROR]


def _trace(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    return "\n".join(f"{_place(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames)


def _place(file: str) -> str:
    path = Path(file)
    if path.is_relative_to(ROOT) and ".venv" not in path.parts:
        return path.relative_to(ROOT).as_posix()
    return "/".join(path.parts[-2:])
