"""Tags and score of a run: what people and programs note about it. They never change what it costs."""

from collections.abc import Sequence

from models.core.db import db
from models.core.errors import Invalid
from models.gateway.chat_format.request_tags import MAX_TAG, MAX_TAGS
from models.orgs import OrgMember, can
from models.runs.run import AgentRun

SCORES = (1, -1)


def may_annotate(run: AgentRun, user_id: str, member: OrgMember | None) -> bool:
    """Whether the user may score, tag and share a run that they see. In an organisation (`member`): owners and admins, and members
    their own runs; not the roles that start none."""
    if member is None:
        return True
    return can(member, "read_messages") or (run.user_id == user_id and can(member, "spend"))


def set_score(run: AgentRun, score: int | None) -> bool:
    """Set the score, 1 or -1, or remove it. False if it is that already. Raises Invalid."""
    if score is not None and score not in SCORES:
        raise Invalid("The score is 1, -1 or null.")
    if run.score == score:
        return False
    run.score = score
    db.session.flush()
    return True


def set_tags(run: AgentRun, tags: Sequence[str]) -> bool:
    """Replace the tags, kept once each, in order. False if they are those already. Raises Invalid for too many or a long one."""
    cleaned = [tag for tag in dict.fromkeys(" ".join(tag.split()) for tag in tags) if tag]
    if len(cleaned) > MAX_TAGS:
        raise Invalid(f"A run has at most {MAX_TAGS} tags.")
    if any(len(tag) > MAX_TAG or not tag.isprintable() for tag in cleaned):
        raise Invalid(f"A tag has at most {MAX_TAG} printable characters.")
    if (run.tags or []) == cleaned:
        return False
    run.tags = cleaned or None
    db.session.flush()
    return True
