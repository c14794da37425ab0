"""Ends an operator's review of a lost call: one that neither settled nor failed, because its worker died."""

from models import ledger
from models.core.errors import Conflict
from models.gateway.spool import Spool
from models.ledger.call_records import LostHold


def dismiss_lost_call(spool: Spool, request_id: str) -> LostHold:
    """Remove a lost call from the operator's list. Nothing was charged, and nothing is waived: usage that another machine still
    submits is charged. Flushes. Raises NotFound, and Conflict when the usage is known here: then it must be settled."""
    if request_id in {call.request_id for call in spool.calls()}:
        raise Conflict("The usage of this call is known, so it must be settled: see flask billing unsettled.")
    return ledger.dismiss_lost(request_id)
