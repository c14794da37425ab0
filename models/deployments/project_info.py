"""What a tree says of how it is deployed elsewhere: the configuration of Cloudflare's wrangler (fastest contract 3.12)."""

import re
import tomllib
from typing import NamedTuple

from models.projects.snapshots.blob_packs import blob_bytes
from models.projects.snapshots.tree_reading import entries_at

FILES = ("wrangler.toml", "wrangler.jsonc", "wrangler.json")
MAX_READ = 256 << 10
_NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,200})"')


class ProjectInfo(NamedTuple):
    """`type` is `wrangler` or `unknown`; the name of the Worker and the file that says so."""

    type: str
    name: str | None = None
    config_file: str | None = None

    @property
    def wire(self) -> dict[str, str]:
        """As the contract gives it."""
        named = {"name": self.name, "configFile": self.config_file}
        return {"type": self.type} | {key: value for key, value in named.items() if value}


def project_info(account_id: str, root: str | None) -> ProjectInfo:
    """What the tree `root` says; a file that cannot be read names nothing. Raises FilesUnavailable (503), BlobDamaged."""
    found = entries_at(account_id, root, FILES) if root else {}
    file = next((found[path] for path in FILES if path in found and found[path].kind == "file"), None)
    if file is None:
        return ProjectInfo("unknown")
    small = file.hash is not None and (file.size or 0) <= MAX_READ
    text = (blob_bytes(account_id, file.hash or "") or b"" if small else b"").decode(errors="replace")
    return ProjectInfo("wrangler", _name_in(file.path, text), file.path)


def _name_in(path: str, text: str) -> str | None:
    if not path.endswith(".toml"):
        match = _NAME.search(text)
        return match[1] if match else None
    try:
        name = tomllib.loads(text).get("name")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    return name[:200] if isinstance(name, str) else None
