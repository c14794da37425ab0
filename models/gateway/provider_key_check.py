"""Checks a provider key before it is stored, by a free request to the provider."""

import contextlib
from dataclasses import replace

from models.gateway.provider_keys import ProviderKeyForm, check_form, invalid
from models.gateway.providers.provider import Provider
from models.gateway.routing import Router
from models.gateway.upstream import UpstreamError, UpstreamTimeouts

TIMEOUTS = UpstreamTimeouts(5, 10, 10)
MAX_ANSWER = 4 << 20
REFUSED = (400, 401, 403)
"""Statuses of a refused key. Google answers 400."""


def check_new_key(routes: Router, form: ProviderKeyForm) -> None:
    """Check the form, and its key at the provider. Waits for the network: hold no transaction. Raises Invalid (400) with the field."""
    check_form(form)
    provider = routes.providers[form.provider]
    status = _status(provider, form.secret.strip())
    if status in REFUSED:
        problem = f"{provider.title} does not accept this key. Check that it is complete, active and not restricted."
        raise invalid("secret", problem)
    if status is None or status >= 500:
        problem = f"{provider.title} could not be reached to check the key. Try again in a moment."
        raise invalid("secret", problem)


def _status(provider: Provider, key: str) -> int | None:
    try:
        response = provider.upstream.send(replace(provider.key_check(key), timeouts=TIMEOUTS))
    except UpstreamError:
        return None
    with contextlib.closing(response):
        # read, so that the connection can be used again
        with contextlib.suppress(UpstreamError):
            response.read(MAX_ANSWER)
        return response.status
