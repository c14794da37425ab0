"""Billing details of an account: name, address and tax ids, printed on receipts."""

import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, mapped_column

from models.billing.payments.countries import COUNTRIES
from models.core import jobs
from models.core.db import NOW, Base, db
from models.core.errors import Invalid
from models.ledger import Account
from models.ledger.sanitizing import clean_text

TAX_ID_TYPES = {
    "au_abn": "Australia ABN",
    "br_cnpj": "Brazil CNPJ",
    "ca_bn": "Canada BN",
    "cn_tin": "China TIN",
    "eu_vat": "EU VAT",
    "de_stn": "Germany Steuernummer",
    "hk_br": "Hong Kong BR",
    "is_vat": "Iceland VAT",
    "in_gst": "India GSTIN",
    "il_vat": "Israel VAT",
    "jp_cn": "Japan corporate number",
    "li_uid": "Liechtenstein UID",
    "mx_rfc": "Mexico RFC",
    "nz_gst": "New Zealand GST",
    "no_vat": "Norway VAT",
    "rs_pib": "Serbia PIB",
    "sg_uen": "Singapore UEN",
    "za_vat": "South Africa VAT",
    "kr_brn": "South Korea BRN",
    "ch_uid": "Switzerland UID",
    "ch_vat": "Switzerland VAT",
    "tw_vat": "Taiwan VAT",
    "th_vat": "Thailand VAT",
    "tr_tin": "Türkiye TIN",
    "ua_vat": "Ukraine VAT",
    "ae_trn": "United Arab Emirates TRN",
    "gb_vat": "United Kingdom VAT",
    "us_ein": "United States EIN",
}
"""Labels by Stripe's tax id type."""
MAX_TAX_IDS = 5
"""Stripe's limit per customer in Checkout."""
LENGTHS = {"name": 150, "line1": 200, "line2": 200, "city": 100, "state": 100, "postal_code": 20}
ADDRESS = ("line1", "line2", "city", "state", "postal_code", "country")
"""Fields of Stripe's address."""
REQUIRED = {
    "name": "Enter the name for your receipts.",
    "line1": "Enter the street and number.",
    "city": "Enter the city.",
    "country": "Choose a country.",
}
_TAX_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ./-]{3,38}[A-Za-z0-9]", re.ASCII)


@dataclass(frozen=True, slots=True)
class TaxId:
    """A tax id; `type` is Stripe's."""

    type: str
    value: str


@dataclass(frozen=True, slots=True)
class BillingAddress:
    """Name, postal address and tax ids. `country` is an ISO 3166-1 code."""

    name: str
    line1: str
    city: str
    country: str
    line2: str = ""
    state: str = ""
    postal_code: str = ""
    tax_ids: list[TaxId] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The lines of an envelope, and one per tax id."""
        city = " ".join(filter(None, (self.postal_code, self.city)))
        city = ", ".join(filter(None, (city, self.state)))
        country = COUNTRIES.get(self.country, self.country)
        ids = [f"{TAX_ID_TYPES.get(each.type, each.type)}: {each.value}" for each in self.tax_ids]
        return [line for line in (self.name, self.line1, self.line2, city, country, *ids) if line]


class BillingDetails(Base):
    """The current billing details of an account. Purchases store a copy (`Purchase.billing`)."""

    __tablename__ = "billing_details"
    __table_args__ = (
        CheckConstraint(
            "((num_nonnulls(user_id, org_id) = 1) AND (account_id = COALESCE(org_id, user_id)))",
            name="single_owner",
        ),
        Index("idx_billing_details_user", "user_id", postgresql_where=text("(user_id IS NOT NULL)")),
        Index("idx_billing_details_org", "org_id", postgresql_where=text("(org_id IS NOT NULL)")),
    )

    account_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The fields of BillingAddress."""
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


def billing_snapshot(account_id: str) -> dict[str, Any] | None:
    """The account's billing details as JSON, for a purchase; None if it has none."""
    row = db.session.get(BillingDetails, account_id, populate_existing=True)
    return row.details if row else None


def billing_address(snapshot: dict[str, Any] | None) -> BillingAddress | None:
    """Read a snapshot; None if there is none."""
    if snapshot is None:
        return None
    return BillingAddress(**snapshot | {"tax_ids": [TaxId(**each) for each in snapshot["tax_ids"]]})


def save_billing_details(account: Account, values: dict[str, str], tax_ids: list[tuple[str, str]]) -> None:
    """Save the account's billing details, and enqueue sending them to Stripe. Ignores tax ids without a value. Flushes.

    Raises Invalid with `fields`; the keys of tax ids are `tax_id_value_<index>` and `tax_id_type_<index>`.
    """
    cleaned = {name: clean_text(values.get(name, "")).strip() for name in (*LENGTHS, "country")}
    errors = {name: message for name, message in REQUIRED.items() if not cleaned[name]}
    errors |= {
        name: f"Use at most {limit} characters."
        for name, limit in LENGTHS.items()
        if len(cleaned[name]) > limit
    }
    errors |= {name: "Use one line." for name in LENGTHS if not cleaned[name].isprintable()}
    if cleaned["country"] and cleaned["country"] not in COUNTRIES:
        errors["country"] = "Choose a country from the list."
    ids: list[TaxId] = []
    for index, (type, value) in enumerate(tax_ids[:MAX_TAX_IDS]):
        if not value.strip():
            continue
        if type not in TAX_ID_TYPES:
            errors[f"tax_id_type_{index}"] = "Choose the type."
        if not _TAX_ID.fullmatch(value.strip()):
            errors[f"tax_id_value_{index}"] = "Use 5 to 40 letters, digits, spaces, dots, slashes or hyphens."
        ids.append(TaxId(type, value.strip()))
    if errors:
        raise Invalid("Check your billing details.", fields=errors)
    details = asdict(BillingAddress(**cleaned, tax_ids=list(dict.fromkeys(ids))))
    statement = insert(BillingDetails).values(
        account_id=account.id, user_id=account.user_id, org_id=account.org_id, details=details
    )
    db.session.execute(
        statement.on_conflict_do_update(
            index_elements=["account_id"], set_={"details": details, "updated_at": func.now()}
        )
    )
    jobs.enqueue(jobs.send_billing_details, account_id=account.id)


def keep_collected_details(account: Account, details: dict[str, Any]) -> None:
    """Store details that Stripe's Checkout collected, unless the account has some. Flushes."""
    db.session.execute(
        insert(BillingDetails)
        .values(account_id=account.id, user_id=account.user_id, org_id=account.org_id, details=details)
        .on_conflict_do_nothing()
    )
