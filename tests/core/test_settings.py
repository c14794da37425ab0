"""Invalid settings prevent the start with a message; .env.example matches the settings."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click import ClickException
from flask import Flask
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from app import create_app
from models.core import postgres
from models.core.settings import ROOT, Settings, SettingsError, load_settings
from views.server import CommandGroup

EXAMPLE = (ROOT / ".env.example").read_text()


def load(**values: Any) -> Settings:
    return load_settings(_env_file=None, **values)


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("port", "eighty", "PORT: Input should be a valid integer"),
        ("port", 70000, "PORT: Input should be less than or equal to 65535"),
        ("stoa_host", "example.org", "STOA_HOST: must be localhost"),
        ("stoa_base_url", "stoa.example.org", "STOA_BASE_URL: must be a URL"),
        ("stoa_base_url", "https://example.org/stoa", "STOA_BASE_URL: must be a URL without path"),
        ("stoa_base_url", "https://example.org:99999", "STOA_BASE_URL: Port out of range"),
        ("stoa_secret_key", "short", "STOA_SECRET_KEY is too short"),
        ("database_url", "mysql://db/stoa", "DATABASE_URL: must start with postgresql://"),
        ("database_url", "postgresql://db", "DATABASE_URL: must name the database"),
        ("stoa_workers", 0, "STOA_WORKERS: Input should be greater than or equal to 1"),
        ("smtp_url", "mail.example.org", "SMTP_URL: must be smtp://"),
        ("smtp_url", "smtp://", "SMTP_URL: must be smtp://"),
        ("stoa_mail_from", "Stoa", "STOA_MAIL_FROM: must be an e-mail address"),
        ("stoa_admins", "ada", "STOA_ADMINS: 'ada' is not an e-mail address"),
        ("github_client_id", "x", "Set both GITHUB_CLIENT_ID and GITHUB_CLIENT_SECRET"),
        ("oidc_issuer", "https://id.example.org", "Set OIDC_ISSUER, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET"),
        ("openai_base_url", "ftp://x", "OPENAI_BASE_URL: must be a URL"),
        ("stripe_secret_key", "pk_test_1", "STRIPE_SECRET_KEY is not a secret key"),
        ("stripe_api_base", "localhost:12111", "STRIPE_API_BASE: must be a URL"),
        ("stoa_stripe", "test", "STOA_STRIPE: Input should be '' or 'demo'"),
        ("stoa_margin", "-1", "STOA_MARGIN: Input should be greater than or equal to 0"),
        ("stoa_margin", "a lot", "STOA_MARGIN: Input should be a valid decimal"),
        ("stoa_free_credits", "1.5", "STOA_FREE_CREDITS: Input should be a valid integer"),
        ("https_proxy", "socks5://user:secret@proxy:1080", "HTTPS_PROXY: must be http://host:port"),
        ("http_proxy", "http://proxy:none", "HTTP_PROXY: must be http://host:port"),
        ("stoa_ca_bundle", "/nowhere/ca.pem", "STOA_CA_BUNDLE: /nowhere/ca.pem is not a readable file"),
        ("stoa_ca_bundle", "README.md", f"STOA_CA_BUNDLE: {ROOT / 'README.md'} contains no PEM certificates"),
        ("stoa_prices_file", "/nowhere/p.json", "STOA_PRICES_FILE: /nowhere/p.json is not a readable file"),
        (
            "ratelimit_storage_uri",
            "mongodb://x",
            "RATELIMIT_STORAGE_URI: must be machine://, memory:// or redis://",
        ),
    ],
)
def test_an_invalid_setting_is_named_with_the_reason(setting: str, value: object, says: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(**{setting: value})
    assert str(refusal.value).startswith(says)


def test_all_invalid_settings_are_reported() -> None:
    with pytest.raises(SettingsError) as refusal:
        load(port=0, stoa_workers=0)
    assert len(str(refusal.value).splitlines()) == 2


def test_invalid_secrets_are_not_printed() -> None:
    with pytest.raises(SettingsError) as refusal:
        load(smtp_url="http://ada:hunter2hunter2@mail")
    assert "hunter2" not in str(refusal.value)


def test_an_empty_value_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("SMTP_URL", "")
    settings = load()
    assert settings.port == 8000
    assert settings.smtp_url is None


def test_the_secret_is_generated_once_and_private(tmp_path: Path) -> None:
    settings = load(stoa_data_dir=tmp_path / "data", stoa_secret_key="")
    secret = settings.secret_key
    assert len(secret) == 64
    assert settings.secret_key == secret
    path = tmp_path / "data" / "secret_key"
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("no")
    with pytest.raises(SettingsError, match="damaged"):
        _ = settings.secret_key


def test_an_unusable_data_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"STOA_DATA_DIR: .* cannot be used"):
        _ = load(stoa_data_dir=tmp_path / "file", stoa_secret_key="").secret_key


def test_insecure_public_settings_cause_warnings() -> None:
    assert load().warnings() == []
    assert load(stoa_base_url="http://192.168.1.9:8000").warnings() == []
    insecure = load(stoa_base_url="http://stoa.example.org").warnings()
    assert [warning.split(":")[0].split(" ")[0] for warning in insecure] == ["STOA_BASE_URL", "SMTP_URL"]
    assert load(stoa_base_url="https://stoa.example.org", smtp_url="smtp://mail").warnings() == []


def test_the_example_lists_exactly_all_settings() -> None:
    named = re.findall(r"^# ([A-Z0-9_]+)=", EXAMPLE, re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


def test_the_example_shows_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    shown = dict(re.findall(r"^# ([A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        default = field.default
        if default in (None, "", frozenset(), ()) or isinstance(default, SecretStr):
            continue  # shown as an example or empty
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        text = text.lower() if isinstance(default, bool) else text
        assert shown[name.upper()] == text


def test_all_values_of_the_example_are_valid(tmp_path: Path) -> None:
    lines = re.findall(r"^# ([A-Z0-9_]+=.*)$", EXAMPLE, re.MULTILINE)
    taken = tmp_path / ".env"
    # files that are not there, and a provider that must be complete
    left_out = ("STOA_PRICES_FILE", "STOA_PROVIDERS_FILE", "OIDC_")
    taken.write_text("\n".join(line for line in lines if not line.startswith(left_out)))
    assert load_settings(_env_file=taken).stoa_admins == {"ada@example.org", "grace@example.org"}


def test_commands_report_invalid_settings_without_a_traceback() -> None:
    done = subprocess.run(
        [ROOT / ".venv/bin/flask", "billing", "balance", "alice@example.org"],
        cwd=ROOT,
        env=os.environ | {"PORT": "eighty"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: PORT: Input should be a valid integer")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"stoa_data_dir": "/dev/null/data"}, "STOA_DATA_DIR: /dev/null/data"),
        ({"stoa_prices_file": "LICENSE"}, "STOA_PRICES_FILE: "),
    ],
)
def test_errors_found_on_use_are_reported_the_same_way(
    wrong: dict[str, str], says: str, postgres_url: str
) -> None:
    with pytest.raises(ClickException) as refusal:
        create_app(load(**wrong), database_url=postgres_url)
    assert refusal.value.message.startswith(says)


def test_a_lost_database_is_reported_without_its_password(app: Flask) -> None:
    commands = CommandGroup("lose")

    @commands.command("it")
    def lose() -> None:
        cause = psycopg.OperationalError("cannot reach postgresql://a:hunter2hunter2@db/stoa\nmore")
        raise OperationalError("SELECT 1", {}, cause)

    done = app.test_cli_runner().invoke(commands, ["it"])
    assert done.exit_code == 1
    assert done.output == "Error: The database cannot be used: cannot reach postgresql://a:***@db/stoa.\n"


def test_a_command_before_the_first_start_migrates_the_database(place: Path) -> None:
    def flask(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [ROOT / ".venv/bin/flask", *arguments],
            cwd=ROOT,
            env=os.environ | {"STOA_DATA_DIR": str(place), "DATABASE_URL": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    made = flask("accounts", "create", "alice@example.org")
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.strip()) == 36
    assert flask("billing", "prove").returncode == 0
    assert not postgres.is_running(place)


def test_the_editors_choice_names_agents() -> None:
    assert load(stoa_editors_choice="acme/reviewer, base2,,base2").stoa_editors_choice == (
        "acme/reviewer",
        "base2",
    )
    assert load(stoa_editors_choice="none").stoa_editors_choice == ()
    with pytest.raises(SettingsError, match="is not an agent"):
        load(stoa_editors_choice="acme/Reviewer@1")


def test_play_money_and_a_real_account_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="STOA_STRIPE=demo is play money"):
        load(stoa_stripe="demo", stripe_secret_key="sk_live_1")
    assert load(stoa_stripe="demo", stripe_secret_key="sk_test_stoa_demo_1").stoa_stripe == "demo"
    assert load(stripe_secret_key="rk_live_1").stoa_stripe == ""
