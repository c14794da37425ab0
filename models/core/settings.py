"""All settings, from the environment and `.env`. Nothing else reads them. An invalid value prevents the start."""

import ipaddress
import json
import os
import re
import secrets
import ssl
import tempfile
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from email.utils import parseaddr
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values, set_key
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[2]

# PostgreSQL connections per process. Pools do not overflow, so their sum is the maximum.
PAGES_POOL = 8
GATEWAY_POOL = 8
GATEWAY_LISTENER = 2  # hear of stopped accounts, and of turns
JOBS_POOL = 8  # four concurrent jobs, the queue and its listener
SPARE_CONNECTIONS = 15  # operators' commands, migrations and PostgreSQL's superuser reserve


DEMO_STRIPE_KEY = "sk_test_stoa_demo_"
"""What the keys of the Stripe simulator begin with. Such a key reaches no money."""


SIMULATOR_ACCESS = "stripe_demo_access.json"
"""In the data directory, while the simulator runs: its address, key and webhook secret."""


class SettingsError(Exception):
    """A setting is invalid. The message names it, the reason and the fix."""


class AcpCommand(BaseModel):
    """A command that speaks the Agent Client Protocol: `env` are the names of variables of the server that it gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    command: str = Field(min_length=1, max_length=1_000)
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    description: str = Field("", max_length=300)


class Settings(BaseSettings):
    """Settings, named like their environment variables in lower case; `.env.example` documents each.

    An empty value counts as unset. Secrets are `SecretStr`, which repr and logs do not reveal.
    """

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True, frozen=True
    )

    port: int = Field(8000, ge=1, le=65535)
    stoa_host: str = "localhost"
    stoa_base_url: str = ""
    stoa_sites_url: str = ""
    stoa_site_requests_per_second: int = Field(500, ge=0, le=1_000_000)
    stoa_site_bytes_per_day: int = Field(100_000_000_000, ge=0, le=10**15)
    cloudflare_base_url: str = "https://api.cloudflare.com/client/v4"
    railway_base_url: str = "https://backboard.railway.com/graphql/v2"
    stoa_proxies: int = Field(0, ge=0, le=5)
    stoa_secret_key: SecretStr = SecretStr("")
    stoa_data_dir: Path = Path(".stoa")
    database_url: str = ""
    stoa_workers: int = Field(2, ge=1, le=64)
    stoa_header_timeout: float = Field(10, gt=0, le=600)
    stoa_body_timeout: float = Field(20, gt=0, le=600)
    stoa_connections_per_address: int = Field(1000, ge=0)
    smtp_url: SecretStr | None = None
    stoa_mail_from: str = ""
    stoa_support_email: str = ""
    stoa_admins: Annotated[frozenset[str], NoDecode] = frozenset()
    stoa_auditors: Annotated[frozenset[str], NoDecode] = frozenset()

    github_client_id: str | None = None
    github_client_secret: SecretStr | None = None
    google_client_id: str | None = None
    google_client_secret: SecretStr | None = None
    oidc_issuer: str | None = None
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None

    openrouter_api_key: SecretStr | None = None
    openai_api_key: SecretStr | None = None
    anthropic_api_key: SecretStr | None = None
    gemini_api_key: SecretStr | None = None
    openrouter_base_url: str = "https://openrouter.ai/api/v1"
    openai_base_url: str = "https://api.openai.com/v1"
    anthropic_base_url: str = "https://api.anthropic.com/v1"
    gemini_base_url: str = "https://generativelanguage.googleapis.com/v1beta/openai"

    linkup_api_key: SecretStr | None = None
    linkup_base_url: str = "https://api.linkup.so/v1"
    context7_api_key: SecretStr | None = None
    context7_base_url: str = "https://context7.com/api/v1"
    stoa_searxng_url: str = ""

    stoa_stripe: Literal["", "demo"] = ""
    stripe_secret_key: SecretStr | None = None
    stripe_webhook_secret: SecretStr | None = None
    stripe_team_fee_price_id: str | None = None
    stripe_api_base: str = "https://api.stripe.com"
    stoa_stripe_tax: bool = False
    stoa_refund_fraud_warnings_below: int = Field(0, ge=0, le=100_000_000)
    stoa_purchases_per_day: int = Field(10, ge=0, le=10**6)
    stoa_purchase_cents_per_day: int = Field(50_000, ge=0, le=10**9)
    stoa_declines_per_card: int = Field(4, ge=0, le=10**6)
    stoa_declines_per_address: int = Field(10, ge=0, le=10**6)
    stoa_low_balance: int = Field(100, ge=0, le=10**9)

    stoa_margin: Decimal = Field(Decimal("0.055"), ge=0, le=10)
    stoa_free_credits: int = Field(500, ge=0, le=1_000_000)
    stoa_referral_reward: Literal["now", "first_purchase"] = "now"
    stoa_prices_file: Path | None = None
    stoa_providers_file: Path | None = None
    stoa_public_models: bool = False
    stoa_failover: bool = True
    stoa_relabel_models: Annotated[tuple[str, ...], NoDecode] = ()
    stoa_free_agents: Annotated[tuple[tuple[str, str], ...], NoDecode] = ()
    stoa_connect_timeout: float = Field(10, gt=0, le=600)
    stoa_first_byte_timeout: float = Field(300, gt=0, le=3600)
    stoa_idle_timeout: float = Field(120, gt=0, le=3600)
    http_proxy: SecretStr | None = None
    https_proxy: SecretStr | None = None
    no_proxy: str = ""
    stoa_ca_bundle: Path | None = None
    stoa_outgoing_networks: Annotated[tuple[str, ...], NoDecode] = ()
    stoa_dns_server: str = ""
    stoa_demo_delay_ms: int = Field(20, ge=0, le=10_000)
    stoa_metrics_token: SecretStr | None = None
    stoa_otlp_endpoint: str = ""
    stoa_otlp_headers: SecretStr | None = None
    stoa_otlp_content: bool = False
    stoa_editors_choice: Annotated[tuple[str, ...], NoDecode] = (
        "base2",
        "base2-lite",
        "base2-max",
        "base2-plan",
        "deep-code-reviewer",
        "landing-page-generator",
    )
    stoa_cors_origins: Annotated[tuple[str, ...], NoDecode] = ("*",)
    ratelimit_storage_uri: str = "machine://"

    stoa_key_rpm: int = Field(100, ge=0, le=10**9)
    stoa_key_images_rpm: int = Field(20, ge=0, le=10**9)
    stoa_failed_keys_per_minute: int = Field(60, ge=0, le=10**9)
    stoa_runs_per_minute: int = Field(600, ge=1, le=10**9)
    stoa_runs_per_day: int = Field(20_000, ge=1, le=10**9)
    stoa_open_runs: int = Field(2_000, ge=1, le=10**6)
    stoa_steps_per_minute: int = Field(6_000, ge=1, le=10**9)
    stoa_steps_per_run: int = Field(10_000, ge=1, le=10**9)
    stoa_step_bytes: int = Field(100_000, ge=1_000, le=10**7)
    stoa_run_bytes: int = Field(10_000_000, ge=1_000, le=10**12)
    stoa_run_bytes_per_day: int = Field(100_000_000, ge=1_000, le=10**12)
    stoa_response_days: int = Field(30, ge=0, le=3650)
    stoa_response_bytes: int = Field(100_000_000, ge=1_000_000, le=10**12)
    stoa_threads_per_day: int = Field(10_000, ge=1, le=10**9)
    stoa_thread_bytes_per_day: int = Field(100_000_000, ge=1_000, le=10**12)
    stoa_turn_rounds: int = Field(5, ge=1, le=100)
    stoa_conversation_model: str = "stoa/demo"
    stoa_conversation_rounds: int = Field(40, ge=1, le=100)
    stoa_acp_agents: Annotated[tuple[AcpCommand, ...], NoDecode] = ()
    stoa_sub_agents: int = Field(20, ge=0, le=200)
    stoa_conversation_idle_credits: int = Field(2_000, ge=1, le=10**9)
    stoa_tool_seconds: float = Field(60, gt=0, le=600)
    stoa_tool_wait_seconds: int = Field(600, ge=1, le=86_400)
    stoa_event_streams: int = Field(50, ge=1, le=10**6)
    stoa_assistants_per_account: int = Field(1_000, ge=1, le=10**6)
    stoa_assistant_bytes_per_day: int = Field(100_000_000, ge=1_000, le=10**12)
    stoa_assistant_days: int = Field(30, ge=0, le=3650)
    stoa_deleted_thread_days: int = Field(30, ge=0, le=3650)
    stoa_cli_sessions_per_account: int = Field(1_000, ge=1, le=10**6)
    stoa_keys_per_account: int = Field(500, ge=1, le=10**6)
    stoa_publishers_per_account: int = Field(100, ge=1, le=10**6)
    stoa_agents_per_publisher: int = Field(1_000, ge=1, le=10**6)
    stoa_publisher_bytes: int = Field(200_000_000, ge=1_000, le=10**12)
    stoa_versions_per_day: int = Field(5_000, ge=1, le=10**9)
    stoa_publish_bytes_per_day: int = Field(200_000_000, ge=1_000, le=10**12)
    stoa_store_changes_per_day: int = Field(2_000, ge=1, le=10**9)
    stoa_listed_agents: int = Field(100, ge=1, le=10_000)

    stoa_documents_per_account: int = Field(1_000, ge=0, le=10**6)
    stoa_document_bytes_per_account: int = Field(1_000_000_000, ge=0, le=10**13)

    stoa_projects_per_account: int = Field(1_000, ge=0, le=10**6)
    stoa_workspaces_per_project: int = Field(200, ge=1, le=10**5)
    stoa_project_bytes_per_account: int = Field(10_000_000_000, ge=0, le=10**15)
    stoa_project_file_bytes: int = Field(2_000_000_000, ge=0, le=10**12)
    stoa_deleted_project_days: int = Field(30, ge=0, le=3650)
    stoa_insights_model: str = Field("", max_length=200)

    stoa_sandbox_command: str = ""
    stoa_sandbox_dir: Path | None = None
    stoa_sandbox_paths: Annotated[tuple[Path, ...], NoDecode] = ()
    stoa_sandboxes: int = Field(16, ge=1, le=1_000)
    stoa_agent_home_mb: int = Field(256, ge=0, le=100_000)
    stoa_agent_homes_mb: int = Field(2_048, ge=0, le=10_000_000)
    stoa_agent_home_days: int = Field(30, ge=1, le=3_650)
    stoa_build_seconds: float = Field(600, gt=0, le=3_000)
    stoa_build_memory_bytes: int = Field(2_000_000_000, ge=1_000_000, le=10**13)
    stoa_build_disk_bytes: int = Field(2_000_000_000, ge=1_000_000, le=10**13)
    stoa_processes: int = Field(8, ge=0, le=1_000)
    stoa_processes_per_account: int = Field(3, ge=0, le=1_000)
    stoa_process_memory_bytes: int = Field(1_000_000_000, ge=1_000_000, le=10**13)
    stoa_process_disk_bytes: int = Field(2_000_000_000, ge=1_000_000, le=10**13)
    stoa_process_grace_seconds: float = Field(60, gt=0, le=600)

    stoa_files_url: str = ""
    stoa_remote_avatars: bool = True
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None

    @field_validator("stoa_admins", "stoa_auditors", mode="before")
    @classmethod
    def _split_addresses(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        addresses = frozenset(part.strip().lower() for part in value.split(",") if part.strip())
        for address in addresses:
            if "@" not in address:
                raise ValueError(f"{address!r} is not an e-mail address; separate several with commas")
        return addresses

    @field_validator("stoa_sandbox_paths", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        paths = tuple(Path(part.strip()) for part in value.split(":") if part.strip())
        for path in paths:
            if not path.is_absolute():
                raise ValueError(f"{path} is not absolute; separate paths with colons")
        return paths

    @field_validator("stoa_acp_agents", mode="before")
    @classmethod
    def _read_commands(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = json.loads(value)
        except ValueError as error:
            raise ValueError(f"must be JSON: {error}") from None
        if not isinstance(found, dict) or not all(re.fullmatch(r"[a-z0-9-]{1,40}", name) for name in found):
            raise ValueError(
                'must be an object by names of lower-case letters, digits and hyphens, such as {"claude": {"command": "claude-agent-acp"}}'
            )
        named = [{"name": name, **each} if isinstance(each, dict) else each for name, each in found.items()]
        return tuple(sorted(named, key=lambda each: each["name"] if isinstance(each, dict) else ""))

    @field_validator("stoa_editors_choice", mode="before")
    @classmethod
    def _split_choice(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        for name in names:
            if not re.fullmatch(r"([a-z0-9-]+/)?[a-z0-9-]+", name):
                raise ValueError(
                    f"{name!r} is not an agent: use publisher/agent or an agent id, separated by commas"
                )
        return () if names == ("none",) else names

    @field_validator("stoa_relabel_models", mode="before")
    @classmethod
    def _split_models(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))

    @field_validator("stoa_cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        written = (part.strip().lower().rstrip("/") for part in value.split(",") if part.strip())
        # browsers omit the default port
        origins = tuple(
            dict.fromkeys(
                re.sub(r"(?<=^https:)(//.+):443$|(?<=^http:)(//.+):80$", r"\1\2", part) for part in written
            )
        )
        if origins in ((), ("none",)):
            return ()
        for origin in origins:
            if not origin.isascii():
                raise ValueError(f"{origin!r} must be in the form browsers send (https://xn--…)")
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s*]+", origin):
                raise ValueError(
                    f"{origin!r} is not an origin: use * (any), none, or origins such as "
                    "https://app.example.org, separated by commas"
                )
        return origins

    @field_validator(
        "stoa_base_url",
        "openrouter_base_url",
        "openai_base_url",
        "anthropic_base_url",
        "gemini_base_url",
        "stripe_api_base",
        "cloudflare_base_url",
        "railway_base_url",
        "oidc_issuer",
        "s3_endpoint",
    )
    @classmethod
    def _web_url(cls, value: str | None) -> str | None:
        if not value:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("must be a URL that starts with http:// or https://")
        if not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be a URL with a host and without ? or #")
        return value.rstrip("/")

    @field_validator("stoa_base_url")
    @classmethod
    def _whole_host(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.path or parts.username or parts.port == 0:
            raise ValueError("must be a URL without path or user name, such as https://stoa.example.org")
        return value

    @field_validator("stoa_sites_url")
    @classmethod
    def _sites_pattern(cls, value: str) -> str:
        if value in ("", "none"):
            return value
        parts = urlsplit(value.replace("{name}", "name").rstrip("/"))
        usable = parts.scheme in ("http", "https") and parts.path == "" and not parts.query
        host = parts.hostname or ""
        if not usable or value.count("{name}") != 1 or "{name}." not in value or parts.username:
            raise ValueError(
                "must be an address whose host begins with {name}, such as https://{name}.sites.example.org, or none"
            )
        if not re.fullmatch(r"name(\.[a-z0-9-]+)+", host) or parts.port == 0:
            raise ValueError("must be an address whose host begins with {name}, in small letters")
        return value.rstrip("/")

    @field_validator("stoa_host")
    @classmethod
    def _bindable(cls, value: str) -> str:
        if value != "localhost":
            try:
                ipaddress.ip_address(value)
            except ValueError:
                raise ValueError("must be localhost, 0.0.0.0 (all interfaces), :: or an IP address") from None
        return value

    @field_validator("database_url")
    @classmethod
    def _postgres_url(cls, value: str) -> str:
        if not value:
            return value
        parts = urlsplit(value)
        scheme = parts.scheme
        if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise ValueError("must start with postgresql://; Stoa requires PostgreSQL")
        if len(parts.path) < 2:
            raise ValueError("must name the database: postgresql://user:password@host:5432/stoa")
        return "postgresql+psycopg" + value[len(scheme) :]

    @field_validator("stoa_outgoing_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        networks = tuple(part.strip() for part in value.split(",") if part.strip())
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(
                    f"{network!r} is not a network such as 10.1.0.0/16; separate several with commas"
                ) from None
        return networks

    @field_validator("stoa_dns_server")
    @classmethod
    def _dns_server(cls, value: str) -> str:
        if value:
            address, _, port = value.rpartition(":")
            try:
                ipaddress.ip_address(address.strip("[]"))
            except ValueError:
                port = ""
            if not port.isdecimal():
                raise ValueError("must be an IP address and a port, such as 9.9.9.9:53")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, value: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(value.get_secret_value()) if value is not None else None
        if parts is not None and (
            parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.port == 0
        ):
            raise ValueError(
                "must be smtp://user:password@host:587 (STARTTLS) or smtps://user:password@host:465"
            )
        return value

    @field_validator("ratelimit_storage_uri")
    @classmethod
    def _limit_storage(cls, value: str) -> str:
        if urlsplit(value).scheme not in (
            "machine",
            "memory",
            "redis",
            "rediss",
            "redis+unix",
            "redis+sentinel",
            "redis+cluster",
        ):
            raise ValueError("must be machine://, memory:// or redis://host:6379/0")
        return value

    @field_validator("stoa_files_url")
    @classmethod
    def _bucket(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme != "s3" or not parts.netloc or parts.query or "@" in parts.netloc):
            raise ValueError("must be s3://bucket or s3://bucket/folder; unset it to use the data directory")
        return value

    @field_validator("stoa_mail_from", "stoa_support_email")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and "@" not in parseaddr(value)[1]:
            raise ValueError("must be an e-mail address, such as Stoa <stoa@example.org>")
        return value

    @field_validator("stoa_otlp_endpoint", "stoa_searxng_url", "linkup_base_url", "context7_base_url")
    @classmethod
    def _service(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("must be the address of a service, such as http://localhost:4318")
        return value.rstrip("/")

    @field_validator("stoa_free_agents", mode="before")
    @classmethod
    def _free_pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [pair.strip().partition("=") for pair in value.split(",") if pair.strip()]
        if not all("/" in agent and model.strip() for agent, _, model in pairs):
            raise ValueError("must be publisher/agent=model, separated by commas")
        return tuple((agent.strip().lower(), model.strip().lower()) for agent, _, model in pairs)

    @field_validator("stoa_otlp_headers")
    @classmethod
    def _headers(cls, value: SecretStr | None) -> SecretStr | None:
        pairs = value.get_secret_value().split(",") if value else []
        if not all(re.fullmatch(r"\s*[A-Za-z0-9_-]+=[^\x00-\x1f]*", pair) for pair in pairs):
            raise ValueError("must be headers as name=value, separated by commas")
        return value

    @property
    def otlp_headers(self) -> dict[str, str]:
        """The headers for the collector, such as its key."""
        given = self.stoa_otlp_headers.get_secret_value() if self.stoa_otlp_headers else ""
        pairs = (pair.partition("=") for pair in given.split(",") if pair.strip())
        return {name.strip(): value.strip() for name, _, value in pairs}

    @field_validator("stoa_prices_file", "stoa_providers_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value if value.is_absolute() else ROOT / value
        if not path.is_file() or not os.access(path, os.R_OK):
            raise ValueError(f"{path} is not a readable file")
        return path

    @field_validator("http_proxy", "https_proxy")
    @classmethod
    def _proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        written = value.get_secret_value()
        parts = urlsplit(written if "://" in written else f"http://{written}")
        try:
            usable = parts.scheme == "http" and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("must be http://host:port or http://user:password@host:port")
        return SecretStr(parts.geturl())

    @field_validator("stoa_ca_bundle")
    @classmethod
    def _certificates(cls, value: Path | None) -> Path | None:
        path = cls._readable(value)
        if path is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
            except ssl.SSLError:
                raise ValueError(f"{path} contains no PEM certificates") from None
        return path

    @model_validator(mode="after")
    def _pairs(self) -> "Settings":
        for name in ("github", "google"):
            if bool(getattr(self, f"{name}_client_id")) != bool(getattr(self, f"{name}_client_secret")):
                upper = name.upper()
                raise ValueError(f"set both {upper}_CLIENT_ID and {upper}_CLIENT_SECRET, or neither")
        if bool(self.s3_access_key_id) != bool(self.s3_secret_access_key):
            raise ValueError("set both S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, or neither")
        oidc = [bool(self.oidc_issuer), bool(self.oidc_client_id), bool(self.oidc_client_secret)]
        if any(oidc) and not all(oidc):
            raise ValueError(
                "set OIDC_ISSUER, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET together, or none of them"
            )
        return self

    @model_validator(mode="after")
    def _sites_apart(self) -> "Settings":
        console, suffix = urlsplit(self.base_url).hostname or "", self._sites_suffix
        if suffix and suffix in console:
            raise ValueError(
                f"STOA_SITES_URL: sites below {suffix} would share the host of the console, {console}. Use another domain for them"
            )
        return self

    @model_validator(mode="after")
    def _play_or_real_money(self) -> "Settings":
        key = self.stripe_secret_key.get_secret_value() if self.stripe_secret_key else ""
        if self.stoa_stripe == "demo" and key and not key.startswith(DEMO_STRIPE_KEY):
            raise ValueError(
                "STOA_STRIPE=demo is play money and STRIPE_SECRET_KEY is a real account: set one of them"
            )
        if key and not key.startswith(("sk_", "rk_")):
            raise ValueError("STRIPE_SECRET_KEY is not a secret key: it starts with sk_ or rk_")
        return self

    @property
    def base_url(self) -> str:
        """The public URL of this server, without a trailing slash."""
        return self.stoa_base_url or f"http://localhost:{self.port}"

    @property
    def sites_url(self) -> str:
        """Where sites of projects are served, with `{name}` in the host; empty if nowhere. On `localhost`, hosts below it reach this
        server too, and share no cookies with it."""
        if self.stoa_sites_url:
            return "" if self.stoa_sites_url == "none" else self.stoa_sites_url
        parts = urlsplit(self.base_url)
        if parts.hostname != "localhost":
            return ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{{name}}.sites.localhost{port}"

    @property
    def _sites_suffix(self) -> str:
        host = urlsplit(self.sites_url.replace("{name}", "name")).hostname or ""
        return host.removeprefix("name.")

    @property
    def data_dir(self) -> Path:
        """Absolute path of the embedded database, the generated secret and uploads."""
        return self.stoa_data_dir if self.stoa_data_dir.is_absolute() else ROOT / self.stoa_data_dir

    def passed_on(self, names: Iterable[str]) -> dict[str, str]:
        """The values of these variables, as far as they are set, for a command that an operator gives them to. They may be secrets."""
        written = dotenv_values(ROOT / ".env")
        values = {name: os.environ.get(name) or written.get(name) for name in names}
        return {name: value for name, value in values.items() if value}

    @property
    def secret_key(self) -> str:
        """The server's secret. If unset, generated once and stored in the data directory (mode 0600)."""
        return self.stoa_secret_key.get_secret_value() or _stored_secret(self.data_dir)

    @property
    def stripe_key(self) -> str | None:
        """The key that Stripe's API takes; None where this server sells nothing."""
        return self.stripe_secret_key.get_secret_value() if self.stripe_secret_key else None

    @property
    def webhook_secret(self) -> str | None:
        """What signs Stripe's webhooks; None closes their route."""
        return self.stripe_webhook_secret.get_secret_value() if self.stripe_webhook_secret else None

    @property
    def connections_per_address(self) -> int | None:
        """Connections per client address and web worker; None for no limit, as behind a proxy."""
        return None if self.stoa_proxies else self.stoa_connections_per_address or None

    @property
    def connections_needed(self) -> int:
        """Maximum PostgreSQL connections of one machine, including operators' commands."""
        return (
            self.stoa_workers * (PAGES_POOL + GATEWAY_POOL + GATEWAY_LISTENER) + JOBS_POOL + SPARE_CONNECTIONS
        )

    def secrets(self) -> list[str]:
        """All configured secrets, for masking in logs."""
        values = [getattr(self, name) for name in type(self).model_fields]
        found = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        found += [environment_value(name) for name in self._provider_key_names()]
        return [secret for secret in found if len(secret) >= 8]

    def _provider_key_names(self) -> list[str]:
        """The environment variables with keys that the providers file names; none if it is invalid, which prevents the start."""
        if self.stoa_providers_file is None:
            return []
        try:
            tables = tomllib.loads(self.stoa_providers_file.read_text(encoding="utf-8"))["providers"].values()
            names = [table.get("key_env") for table in tables]
        except (OSError, ValueError, LookupError, AttributeError):
            return []
        return [name for name in names if isinstance(name, str)]

    def warnings(self) -> list[str]:
        """Warnings for the operator about insecure but working settings."""
        found = []
        public = not _is_local(urlsplit(self.base_url).hostname or "")
        if public and self.base_url.startswith("http://"):
            found.append(
                f"STOA_BASE_URL: {self.base_url} is public and not encrypted; cookies and keys can be intercepted. "
                "Put a TLS proxy in front of Stoa and set its https:// URL."
            )
        console, sites = (urlsplit(self.base_url).hostname or "").split("."), self._sites_suffix.split(".")
        if public and len(sites) > 1 and console[-2:] == sites[-2:]:
            found.append(
                f"STOA_SITES_URL: sites share the domain {'.'.join(sites[-2:])} with the console, and may set cookies for it. "
                "A domain of their own keeps them apart."
            )
        if public and self.smtp_url is None:
            found.append(
                "SMTP_URL is not set: sign-in links are printed to this console instead of being mailed."
            )
        if self.stripe_key and not self.webhook_secret:
            found.append(
                "STRIPE_WEBHOOK_SECRET is not set: /api/stripe/webhook is closed. What is paid on Stripe's page, and "
                "refunds and disputes, are seen by the nightly reconciliation only."
            )
        if public and self.stripe_key and "_live_" not in self.stripe_key:
            found.append("STRIPE_SECRET_KEY is a test key: no real money moves.")
        return found


def _is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal", ".test"))
    return address.is_loopback or address.is_private


def _stored_secret(data_dir: Path) -> str:
    path = data_dir / "secret_key"
    try:
        if not path.exists():
            _store_new_secret(path)
        secret = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SettingsError(f"STOA_DATA_DIR: {data_dir} cannot be used: {error.strerror}.") from None
    except UnicodeDecodeError:
        secret = ""
    if len(secret) < 32:
        raise SettingsError(
            f"{path} is damaged. Delete it to generate a new secret; all users must sign in again."
        )
    return secret


def _store_new_secret(path: Path) -> None:
    # Written to a temporary file, then linked: of two concurrent first starts one wins, and neither reads a partial secret.
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".secret_key-")
    try:
        with open(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def environment_value(name: str) -> str:
    """The value of a variable of the environment or of `.env`, for keys of providers that operators name themselves; empty if unset."""
    return os.environ.get(name) or dotenv_values(ROOT / ".env").get(name) or ""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings. Raises SettingsError with one line per invalid setting."""
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_error_message(item) for item in error.errors())) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{ROOT / '.env'} cannot be read: {error}.") from None
    if settings.stoa_stripe == "demo" and settings.stripe_secret_key is None:
        settings = settings.model_copy(update=_running_simulator(settings.data_dir))
    key = settings.stoa_secret_key.get_secret_value()
    if key and len(key) < 32:
        raise SettingsError("STOA_SECRET_KEY is too short: use at least 32 characters, or leave it unset.")
    return settings


def keep_simulator(data_dir: Path, access: dict[str, str]) -> Path:
    """Let commands of this data directory reach the Stripe simulator that runs for it; the file, which only its owner reads."""
    path = data_dir / SIMULATOR_ACCESS
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        json.dump(access, file)
    return path


def _running_simulator(data_dir: Path) -> dict[str, Any]:
    try:
        access = json.loads((data_dir / SIMULATOR_ACCESS).read_text(encoding="ascii"))
        return {
            "stripe_api_base": str(access["STRIPE_API_BASE"]),
            "stripe_secret_key": SecretStr(access["STRIPE_SECRET_KEY"]),
            "stripe_webhook_secret": SecretStr(access["STRIPE_WEBHOOK_SECRET"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # none runs


def save_setting(name: str, value: str) -> Path:
    """Write a setting to `.env`; returns the path. Raises SettingsError if the environment overrides it."""
    path = ROOT / ".env"
    # Flask loads .env into the environment: only a value that differs from the file was set elsewhere.
    if name in os.environ and os.environ[name] != dotenv_values(path).get(name):
        raise SettingsError(f"The environment sets {name}, which overrides {path}.")
    set_key(path, name, value, quote_mode="never")
    return path


def _error_message(item: Any) -> str:
    name = "_".join(str(part) for part in item["loc"]).upper() or "The settings"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}." if name != "The settings" else f"{message[0].upper()}{message[1:]}."


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, cached."""
    return load_settings()
