"""Whether the servers of STOA_PROVIDERS_FILE can be reached and take their keys, for `flask doctor`."""

from models.gateway.providers.configured import ConfiguredProvider
from models.gateway.upstream import ProviderRequest, UpstreamError, UpstreamTimeouts

TIMEOUTS = UpstreamTimeouts(connect=3, first_byte=5, idle=5, total=5)
KEY_REFUSED = (401, 403)


def check_server(provider: ConfiguredProvider) -> str:
    """What its list of models answers, in words. Takes at most about eight seconds; calls no model."""
    if not provider.ready:
        return f"{provider.key_setting} is not set"
    models = provider.config.models.values()
    url = provider.url("/models", next((each.upstream for each in models), "model"))
    headers = {
        "User-Agent": "stoa/0.1",
        **provider.key_header(provider.endpoint.key or ""),
        **provider.headers(),
    }
    try:
        response = provider.upstream.send(ProviderRequest(url, headers, b"", "GET", timeouts=TIMEOUTS))
    except UpstreamError as error:
        return str(error)
    response.close()
    if response.status in KEY_REFUSED:
        return (
            f"refuses the key in {provider.key_setting}"
            if provider.key_setting
            else "needs a key ('key_env')"
        )
    return "reachable"
