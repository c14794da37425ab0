"""Tables of teams and service accounts."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint, select, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base, db


class OrgTeam(Base):
    """A team of an organisation. It only narrows what its members and keys may do. A trigger creates the default team, to
    which every member without another belongs."""

    __tablename__ = "org_team"
    __table_args__ = (
        UniqueConstraint("org_id", "name", name="org_team_name_key"),
        UniqueConstraint("id", "org_id", name="org_team_org_key"),
        Index("idx_org_team_default", "org_id", unique=True, postgresql_where=text("is_default")),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    name: Mapped[str]
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    models: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Patterns of the models that its calls may use; None allows all."""
    repositories_only: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its calls must come from one of its repositories (`OrgTeamRepo`)."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class OrgTeamMember(Base):
    """A member's place in a team that is not the default one. Deleted with either."""

    __tablename__ = "org_team_member"
    __table_args__ = (
        ForeignKeyConstraint(
            ["team_id", "org_id"],
            ["org_team.id", "org_team.org_id"],
            ondelete="CASCADE",
            name="org_team_member_team_fk",
        ),
        ForeignKeyConstraint(
            ["org_id", "user_id"],
            ["org_member.org_id", "org_member.user_id"],
            ondelete="CASCADE",
            name="org_team_member_member_fk",
        ),
        Index("idx_org_team_member_user", "org_id", "user_id", "joined_at"),
    )

    team_id: Mapped[str] = mapped_column(primary_key=True)
    org_id: Mapped[str]
    user_id: Mapped[str] = mapped_column(primary_key=True)
    joined_at: Mapped[datetime] = mapped_column(server_default=NOW)


class OrgTeamRepo(Base):
    """A repository of the organisation from which a team's calls may come."""

    __tablename__ = "org_team_repo"
    __table_args__ = (Index("idx_org_team_repo_repo", "repo_id"),)

    team_id: Mapped[str] = mapped_column(ForeignKey("org_team.id", ondelete="CASCADE"), primary_key=True)
    repo_id: Mapped[str] = mapped_column(ForeignKey("org_repo.id", ondelete="CASCADE"), primary_key=True)


class ServiceAccount(Base):
    """A user without a way to sign in, which owns keys of an organisation and outlives people. Its membership has the role
    `service`."""

    __tablename__ = "service_account"
    __table_args__ = (Index("idx_service_account_org", "org_id"),)

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    name: Mapped[str]
    team_id: Mapped[str | None] = mapped_column(ForeignKey("org_team.id", ondelete="SET NULL"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    disabled_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    """When it was deleted. The row stays, so that its user is never taken for a person."""


def org_teams(org_id: str) -> Sequence[OrgTeam]:
    """The teams of the organisation, the default one first."""
    query = select(OrgTeam).where(OrgTeam.org_id == org_id).order_by(OrgTeam.is_default.desc(), OrgTeam.name)
    return db.session.scalars(query).all()
