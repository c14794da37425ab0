"""Tags that clients put into the metadata of a request, to label the run."""

from typing import Any

MAX_TAGS = 20
MAX_TAG = 64


def tags_of_metadata(metadata: Any) -> list[str]:
    """The `tags` of the metadata: a list of strings, or one with commas, since values of OpenAI's metadata are strings. At most 20 of
    up to 64 printable characters, once each; whatever else it is, none."""
    found = metadata.get("tags") if isinstance(metadata, dict) else None
    if isinstance(found, str):
        found = found[: MAX_TAGS * (MAX_TAG + 2)].split(",")
    tags = [" ".join(tag.split()) for tag in found if isinstance(tag, str)] if isinstance(found, list) else []
    usable = [tag for tag in tags if tag and len(tag) <= MAX_TAG and tag.isprintable()]
    return list(dict.fromkeys(usable))[:MAX_TAGS]
