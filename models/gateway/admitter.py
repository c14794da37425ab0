"""Admit calls: who calls, what pays and whether it suffices, and the answers of calls with the same idempotency key."""

import logging
import time
from dataclasses import replace
from math import ceil

from models.accounts.key_format import PresentedKey, present
from models.core.db import now
from models.core.errors import DomainError
from models.core.pool import Pool
from models.core.settings import Settings
from models.gateway import metrics
from models.gateway.budget_errors import RUN_BUDGET, read_run_budget
from models.gateway.call_errors import CallRefused, CreditsHeld
from models.gateway.dialects.dialect import CallRequest, Dialect
from models.gateway.failover import Attempt
from models.gateway.idempotency import AlreadyCalled, IdempotencyKey, Replay, claim_error
from models.gateway.in_flight import Admissions, Settlements
from models.gateway.response_state.response_store import ResponseOwner, owner_of
from models.gateway.route import Route
from models.gateway.session_runs import SessionRuns
from models.gateway.spool import Spool
from models.ledger import holds
from models.ledger.holds import Admission, AdmissionRequest, LedgerUnavailable
from models.ledger.idempotent_calls import Claim
from models.ledger.payers import PayerHint

log = logging.getLogger("stoa.gateway")

AUTHENTICATED_SECONDS = 30.0
"""How long `authenticate` caches an accepted key."""
MAX_AUTHENTICATED = 10_000
UNPAID = ("out_of_credits", "plan_limit", "plan_rate", "model_not_in_plan", "stopped")
"""Refusals of a caller who is known, but cannot call now."""
MAX_LISTED_HOLDS = 20
"""Holds in the details of a refused call."""
UNKNOWN_CALL_SECONDS = 5
"""Assumed duration of a call whose key and model have too few settled calls."""
MAX_RETRY_SECONDS = 60
RUN_PROBLEMS = ("run_not_found", "run_not_running")
CLAIMED = Claim("claimed")
RETRY_OUTCOMES = ("checked", "out_of_credits")
"""Outcomes of the check of a caller who gets the answer of an earlier call."""
_ALLOWED = """
SELECT NOT EXISTS (
    SELECT FROM api_key k
    WHERE k.key_id = $1 AND k.allowed_models IS NOT NULL AND NOT model_matches(k.allowed_models, $4, $5)
) AND NOT EXISTS (
    SELECT FROM org_team t WHERE t.id = $2 AND t.models IS NOT NULL AND NOT model_matches(t.models, $4, $5)
) AND NOT EXISTS (
    SELECT FROM plan_subscription($3, now()) s JOIN plan p ON p.id = s.plan_id
    WHERE p.models IS NOT NULL
        AND NOT model_matches(ARRAY(SELECT jsonb_array_elements_text(p.models)), $4, $5)
)
"""


class Admitter:
    """Admits the calls of one process."""

    def __init__(self, settings: Settings, pool: Pool, spool: Spool, settlements: Settlements) -> None:
        self._pool = pool
        self._spool = spool
        self._settlements = settlements
        self.admissions = Admissions(pool, settings.stoa_free_credits)
        self.session_runs = SessionRuns(pool, settings)
        self._authenticated: dict[tuple[str, str], float] = {}

    def admit(
        self,
        request: CallRequest,
        hold: int | None,
        model: str,
        minimum: int = 0,
        route: Route | None = None,
        *,
        claims: bool = False,
    ) -> Admission:
        """Check the caller and place the hold (None: check only) if at least `minimum` is available, and claim the call's
        idempotency key if `claims`. Raises CallRefused, CreditsHeld, AlreadyCalled or a DomainError if another call has the key,
        or LedgerUnavailable, also while calls wait to be settled."""
        presented = request.presented
        query = AdmissionRequest(
            token_hash=presented.id,
            secret=presented.secret,
            scope=request.dialect.scope,
            drops=route.dropped if route else (),
            request_id=request.request_id,
            hold=hold,
            minimum=minimum,
            run_id=request.run_id,
            require_run=request.dialect.needs_run,
            door=request.dialect.door,
            model=model,
            route_model=route.provider.public_model(route.model) if route else "",
            byok=route is not None and route.byok is not None,
            run_budget=None if hold is None else checked_run_budget(request),
            org=request.payer.org,
            repo_url=request.payer.repo_url,
            ip=request.address,
        )
        return self._admit(query, request.idempotency if claims else None)

    def admit_attempt(self, request: CallRequest, attempt: Attempt) -> tuple[CallRequest, Admission]:
        """`admit`, in the run of the client's session if there is one. A session never refuses a call: if its run has ended
        meanwhile, or belongs to another account, the call goes into another, or into none."""
        request = self.session_runs.attributed(request)
        for tries in (1, 2, 3):
            checked_run_budget(request)
            try:
                # a free call needs no hold
                admission = self.admit(
                    request,
                    attempt.hold or None,
                    attempt.call.model,
                    attempt.minimum,
                    attempt.route,
                    claims=True,
                )
            except CallRefused as refused:
                if request.session is None or refused.code not in RUN_PROBLEMS or tries == 3:
                    raise
                ended = tries == 1 and refused.code == "run_not_running"
                request = (
                    self.session_runs.attributed(request, ended=True)
                    if ended
                    else replace(request, run_id=None, session=None)
                )
                continue
            return request, admission
        raise AssertionError("unreachable")

    def authenticate(self, key: str, request_id: str, dialect: Dialect, address: str | None = None) -> None:
        """Check a key before a large body is read. Raises CallRefused, LedgerUnavailable.

        Caches accepted keys for AUTHENTICATED_SECONDS; `admit` checks again before the call is served.
        """
        presented, current = present(key), time.monotonic()
        cached = presented.secret or presented.id, dialect.scope
        if self._authenticated.get(cached, 0.0) > current:
            return
        try:
            self._admit(
                AdmissionRequest(
                    token_hash=presented.id,
                    secret=presented.secret,
                    scope=dialect.scope,
                    request_id=request_id,
                    hold=None,
                    door=dialect.door,
                    ip=address,
                )
            )
        except CallRefused as refused:
            if refused.admission.outcome == "out_of_credits":
                return  # the body may name an organisation that pays
            raise
        if len(self._authenticated) >= MAX_AUTHENTICATED:
            self._authenticated.clear()
        self._authenticated[cached] = current + AUTHENTICATED_SECONDS

    def allows(self, admission: Admission, route: Route) -> bool:
        """Whether the key, the team or the plan that admitted a call for an alias lets another of its models answer. A query only if
        one of them may forbid models. Raises LedgerUnavailable."""
        planned = admission.user_id if admission.funding == "plan" else None
        if admission.rules is None and admission.team_id is None and planned is None:
            return True
        names = (admission.model, route.provider.public_model(route.model))
        rows = holds.read(self._pool, _ALLOWED, (admission.key_id, admission.team_id, planned, *names))
        return bool(rows[0][0])

    def has_authenticated(self, presented: PresentedKey, dialect: Dialect) -> bool:
        """Whether `authenticate` accepted the key lately."""
        return (presented.secret or presented.id, dialect.scope) in self._authenticated

    def response_owner(
        self, key: str, request_id: str, dialect: Dialect, *, payer: PayerHint, address: str | None = None
    ) -> ResponseOwner:
        """Whose kept responses the key reads: those of the account that would pay for its calls, whether or not it can. Raises CallRefused,
        LedgerUnavailable."""
        presented = present(key)
        query = AdmissionRequest(
            token_hash=presented.id,
            secret=presented.secret,
            scope=dialect.scope,
            request_id=request_id,
            hold=None,
            door=dialect.door,
            org=payer.org,
            repo_url=payer.repo_url,
            ip=address,
        )
        try:
            return owner_of(self._admit(query))
        except CallRefused as refused:
            if refused.admission.outcome not in UNPAID:
                raise
            return owner_of(refused.admission)

    def refusal(self, admission: Admission) -> CallRefused:
        """The error of a call that was not admitted. If calls in flight hold its credits, reads their holds."""
        account_id = admission.account_id
        if admission.outcome not in ("held", "budget_held") or account_id is None:
            return CallRefused(admission)
        try:
            live, count = holds.live_holds(self._pool, account_id, limit=MAX_LISTED_HOLDS + 1)
        except LedgerUnavailable:
            log.warning("could not list the holds of account %s", account_id)
            return CreditsHeld(admission, [], 0, UNKNOWN_CALL_SECONDS)
        others = [hold for hold in live if hold.request_id != admission.request_id]
        count -= len(live) - len(others)
        current = now()
        remaining = [
            (self._settlements.outputs.typical_seconds(admission.key_id, hold.model) or UNKNOWN_CALL_SECONDS)
            - (current - hold.since).total_seconds()
            for hold in others
        ]
        retry_after = min(max(ceil(min(remaining, default=0)), 1), MAX_RETRY_SECONDS)
        return CreditsHeld(admission, others[:MAX_LISTED_HOLDS], count, retry_after)

    def _admit(self, query: AdmissionRequest, key: IdempotencyKey | None = None) -> Admission:
        self._spool.check()
        claim = CLAIMED
        with metrics.timed("admit"):
            if key is None:
                admission = self.admissions.admit(query)
            else:
                admission, claim = self.admissions.admit_claimed(query, key.claim)
        if key is not None and claim.state not in ("claimed", "unknown"):
            self._check_retry(key, claim, admission)
        if admission.outcome not in ("admitted", "checked"):
            metrics.of(metrics.ERRORS, query.door, admission.outcome).inc()
            raise self.refusal(admission)
        return admission

    def _check_retry(self, key: IdempotencyKey, claim: Claim, admission: Admission) -> None:
        """End a call whose idempotency key another call has: with its answer, or an error. Returns if the caller is refused."""
        if admission.outcome not in RETRY_OUTCOMES:
            return
        if claim.answer is not None and claim.request_id is not None:
            metrics.of(metrics.REPLAYS, admission.door).inc()
            raise AlreadyCalled(Replay(claim.answer, claim.request_id))
        usual = (
            self._settlements.outputs.typical_seconds(admission.key_id, admission.model)
            or UNKNOWN_CALL_SECONDS
        )
        elapsed = (now() - claim.created_at).total_seconds() if claim.created_at else 0
        # an overdue call is asked for less and less often: its worker may be dead
        remaining = max(usual - elapsed, elapsed / 2, 1)
        raise claim_error(key, claim, min(ceil(remaining), MAX_RETRY_SECONDS))


def checked_run_budget(request: CallRequest) -> int | None:
    """The credits of the run's envelope that the caller asks for. Raises DomainError."""
    credits = read_run_budget(request.run_budget)
    if credits is not None and request.run_id is None and request.session is None:
        raise DomainError(f"'{RUN_BUDGET}' needs a run: name one of your running runs (x-stoa-run-id).")
    return credits
