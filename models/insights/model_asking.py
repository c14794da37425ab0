"""Next steps and decisions by rules, and by a model that is asked once for each (fastest contract 4.8)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.conversations import FoundConversation
from models.core.errors import Invalid
from models.insights.decision_verbs import last_messages, propose_decisions, said_in
from models.insights.decision_words import DECISIONS_CLIENT, decisions_of, decisions_request
from models.insights.model_words import ModelFailed
from models.insights.next_step import NextStep
from models.insights.project_decision import ProjectDecision
from models.insights.step_rules import facts_of, steps_by_rules
from models.insights.step_verbs import keep_steps, steps_in
from models.insights.step_words import STEPS_CLIENT, steps_of, steps_request
from models.projects import Project
from models.runs.internal_chat import InternalAnswer, most_credits

Say = Callable[[Mapping[str, Any], str], InternalAnswer]
"""Asks a model: the body of a chat, and the client id of the call. Ends the transaction before. Raises CallNotPossible, ModelFailed."""


def ask_nobody(body: Mapping[str, Any], client_id: str) -> InternalAnswer:
    """Where no model is named."""
    raise ModelFailed("No model is named.")


class GeneratedSteps(NamedTuple):
    """The new steps, and the calls that they cost."""

    steps: list[NextStep]
    calls: Sequence[str] = ()


@dataclass
class FoundDecisions:
    """The new proposals, the calls that they cost, and what went wrong in conversations that were skipped."""

    decisions: list[ProjectDecision] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_purpose(project: Project) -> None:
    """Raise Invalid (422) for a project without an intent and a brief: a model would have to guess."""
    if not (project.intent or project.brief):
        raise Invalid("Write down what the project is for first: it has neither an intent nor a brief.")


def generate_steps(project: Project, model: str | None, say: Say) -> GeneratedSteps:
    """Store the steps that follow from what is known, then those of a model, if one is named. Flushes. Raises Invalid (422), and what `say`
    raises: then those of the rules are committed."""
    if model is None:
        return GeneratedSteps(keep_steps(project, steps_by_rules(facts_of(project)), None))
    check_purpose(project)
    facts = facts_of(project)
    new = keep_steps(project, steps_by_rules(facts), None)
    answer = say(steps_request(facts, steps_in(project), model), STEPS_CLIENT)
    return GeneratedSteps([*new, *keep_steps(project, steps_of(answer.text), model)], (answer.request_id,))


def steps_cost(project: Project, model: str) -> int:
    """The credits that a model's steps cost at most. Raises DomainError for a model that nobody serves."""
    return most_credits(steps_request(facts_of(project), steps_in(project), model))


def find_decisions(
    chosen: Sequence[FoundConversation], messages: int, model: str | None, say: Say
) -> FoundDecisions:
    """Propose the decisions that the last messages of conversations say in so many words, then those that a model reads there, if one is
    named. One whose call fails is skipped. Flushes. Raises CallNotPossible: then what was found before is committed."""
    found = FoundDecisions()
    places = [(each.project.id, each.conversation.id, last_messages(each, messages)) for each in chosen]
    for project_id, conversation_id, read in places:
        found.decisions += propose_decisions(project_id, conversation_id, said_in(read), None)
        if model is None or not read:
            continue
        try:
            answer = say(decisions_request(read, model), DECISIONS_CLIENT)
            found.calls.append(answer.request_id)
            read_there = decisions_of(answer.text, read)
            found.decisions += propose_decisions(project_id, conversation_id, read_there, model)
        except ModelFailed as error:
            found.problems.append(error.message)
    return found


def decisions_cost(chosen: Sequence[FoundConversation], messages: int, model: str) -> int:
    """The credits that reading these conversations costs at most. Raises DomainError for a model that nobody serves."""
    return sum(most_credits(body) for body in _requests(chosen, messages, model))


def _requests(chosen: Sequence[FoundConversation], messages: int, model: str) -> Iterator[dict[str, Any]]:
    for each in chosen:
        if read := last_messages(each, messages):
            yield decisions_request(read, model)
