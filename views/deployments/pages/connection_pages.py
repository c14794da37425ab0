"""What deployments of a project reach: credentials of providers, and the resources that the project has there."""

from collections.abc import Mapping

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.deployments import infrastructure_resource, provider_credential
from models.deployments.credential_checks import verify_credential
from models.deployments.provider_credential import PROVIDERS, credential_of
from models.deployments.resource_ending import destroy_at_provider, end_resource, resource_to_destroy
from models.ledger import Account
from models.projects import Project
from models.projects.project_listing import people_of
from views.deployments.pages.ship_blueprint import ship_form, ship_page
from views.projects.pages.project_blueprint import entered, viewed_project, viewer, viewer_may
from views.web.htmx import render, see_other, toast
from views.web.org_guards import viewed_account

NAMES = {"railway": "Railway", "cloudflare": "Cloudflare"}


@ship_page("/connections")
def connections(project_id: str) -> ResponseReturnValue:
    """The credentials of the account and the resources of the project. Raises NotFound, Forbidden."""
    return _page(viewed_project(project_id), {"provider": "cloudflare", "account_id": ""}, {})


@ship_form("/connections", limit="20/minute;200/day")
def add_credential(project_id: str) -> ResponseReturnValue:
    """Store a token, after its provider was asked. 422 without it if it is wrong. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "manage_projects")
    values = {"provider": entered("provider"), "account_id": entered("account_id").strip()}
    token, account = entered("api_token").strip(), viewed_account()
    metadata = {"account_id": values["account_id"][:100]} if values["account_id"] else {}
    if not token:
        return _page(project, values, {"api_token": "Enter the token."})
    try:
        provider_credential.check_credential(viewer(), account, values["provider"], token, metadata)
        db.session.rollback()  # no transaction is open while the provider is asked
        said = verify_credential(values["provider"], token)
        row, _ = provider_credential.store_credential(
            viewer(), account, values["provider"], token, {**said, **metadata}
        )
    except (
        Invalid,
        provider_credential.ProviderTokenRefused,
        provider_credential.ProviderTokenUnverified,
    ) as error:
        db.session.rollback()
        fields = error.fields if isinstance(error, Invalid) and error.fields else {}
        return _page(viewed_project(project_id), values, fields or {"api_token": error.message})
    db.session.commit()
    toast(f"{NAMES[row.provider]} accepted the token. It is stored encrypted.")
    return see_other(url_for("deployments.connections", project_id=project_id))


@ship_page("/credentials/<provider>/removal")
def ask_credential_removal(project_id: str, provider: str) -> ResponseReturnValue:
    """Ask whether to forget a credential. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "manage_projects")
    if provider not in PROVIDERS or credential_of(viewed_account().id, provider) is None:
        raise NotFound("There is no credential of this provider.")
    return render(
        "deployments/credential_removal.html",
        partial="deployments/_credential_removal.html",
        project=project,
        provider=provider,
        name=NAMES[provider],
    )


@ship_form("/credentials/<provider>/removal")
def remove_credential(project_id: str, provider: str) -> ResponseReturnValue:
    """Forget a credential. Raises NotFound, Forbidden."""
    viewed_project(project_id, "manage_projects")
    provider_credential.remove_credential(viewer(), viewed_account(), provider)
    db.session.commit()
    toast("The credential is gone. What it made at the provider stays there.")
    return see_other(url_for("deployments.connections", project_id=project_id))


@ship_page("/resources/<resource_id>/removal")
def ask_resource_removal(project_id: str, resource_id: str) -> ResponseReturnValue:
    """Ask whether to destroy a resource. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "manage_projects")
    return render(
        "deployments/resource_removal.html",
        partial="deployments/_resource_removal.html",
        project=project,
        resource=infrastructure_resource.resource_of(project, resource_id),
    )


@ship_form("/resources/<resource_id>/removal")
def remove_resource(project_id: str, resource_id: str) -> ResponseReturnValue:
    """Destroy a resource at its provider, as well as that works. Raises NotFound, Forbidden."""
    viewed_project(project_id, "manage_projects")
    ending = resource_to_destroy(viewer(), project_id, resource_id)
    db.session.rollback()
    end_resource(ending, destroy_at_provider(ending))
    db.session.commit()
    toast("The resource is gone from the project.")
    return see_other(url_for("deployments.connections", project_id=project_id))


def _page(project: Project, values: Mapping[str, str], errors: Mapping[str, str]) -> ResponseReturnValue:
    account: Account = viewed_account()
    credentials = provider_credential.credentials_of(viewer(), account)
    response = render(
        "deployments/connections.html",
        partial="deployments/_credential_form.html" if errors else None,
        status=422 if errors else 200,
        project=project,
        credentials=credentials,
        resources=infrastructure_resource.resources_of(project),
        people=people_of(each.user_id for each in credentials),
        names=NAMES,
        providers=[(key, NAMES[key]) for key in PROVIDERS],
        values=values,
        errors=errors,
        may_manage=viewer_may("manage_projects"),
    )
    response.headers["Cache-Control"] = "no-store"
    return response
