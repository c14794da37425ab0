"""The archive of an organisation: a ZIP file with its members, repositories, calls, statement and audit log, and what other rooms hold of it."""

from collections.abc import Iterator
from typing import Any

from models.core.audit_trail import EXPORT_COLUMNS, AuditFilter, exported_entries
from models.core.csv_text import csv_lines
from models.core.db import now
from models.core.personal_export import export_files
from models.core.zip_stream import zipped
from models.orgs import Org, members, org_repos
from models.usage.export import org_csv_of
from models.usage.statement_export import statement_csv, statement_range
from models.usage.usage_calls import exported_calls

MEMBERS = ("user_id", "name", "email", "role", "joined_at")
REPOSITORIES = ("id", "url", "name", "owner", "active", "added_by", "added_at")


def org_archive(org: Org) -> Iterator[bytes]:
    """The bytes of the ZIP file, in chunks. Memory stays constant, and no connection is held while a chunk is sent.

    Needs the application context only when called, so the response can be streamed after the request context has ended.
    """
    return zipped(
        {
            "members.csv": csv_lines(MEMBERS, [_member(row) for row in members.people(org)]),
            "repositories.csv": csv_lines(REPOSITORIES, [_repo(row) for row in org_repos.repositories(org)]),
            "calls.csv": org_csv_of(exported_calls(org.id, org.created_at, now())),
            "statement.csv": statement_csv(statement_range(org.id, None, None)),
            "audit.csv": csv_lines(EXPORT_COLUMNS, exported_entries(AuditFilter(org.id))),
            **{file.name: file.chunks(org.id) for file in export_files("organisation")},
        }
    )


def _member(row: members.MemberListed) -> dict[str, Any]:
    member, user = row
    return {
        "user_id": user.id,
        "name": user.name,
        "email": user.email,
        "role": member.role,
        "joined_at": member.joined_at,
    }


def _repo(row: org_repos.RepoListed) -> dict[str, Any]:
    repo, approver = row
    return {
        "id": repo.id,
        "url": repo.repo_url,
        "name": repo.repo_name,
        "owner": repo.repo_owner,
        "active": repo.is_active,
        "added_by": approver.email,
        "added_at": repo.approved_at,
    }
