"""What the SCIM 2.0 routes of an organisation's directory do: what the service is, users, groups.

`scim_routes` imports this with the first request.
"""

from typing import Any

from flask import Response, request
from flask.typing import ResponseReturnValue
from scim2_models import (
    Context,
    Meta,
    NotFoundException,
    PatchOp,
    ResourceType,
    Schema,
    ScimFilter,
    SearchRequest,
    ServiceProviderConfig,
)

from models.core.db import db, now
from models.core.errors import DomainError, NotFound
from models.orgs import directory, provisioning
from models.orgs.directory import ScimGroup, ScimUser
from views.orgs.api.scim_protocol import (
    MAX_OPERATIONS,
    MAX_SCANNED,
    PROVIDER,
    DirectoryGroup,
    DirectoryGroupMember,
    DirectoryUser,
    check_scanned,
    equalities,
    generic,
    listed,
    location,
    one,
    payload,
    query_of,
    searched,
    window,
)
from views.orgs.api.scim_routes import scim_org

ENDPOINTS = frozenset({"ServiceProviderConfig", "ResourceTypes", "Schemas", "Users", "Groups"})
NOT_STORED = ("id", "meta", "groups", "password")
MANAGER = ":manager"

# -- what the service is -------------------------------------------------------------------------------------


def service() -> ResponseReturnValue:
    """What this service supports."""
    config = PROVIDER.config
    assert config is not None
    config = config.model_copy(
        update={
            "meta": Meta(resource_type="ServiceProviderConfig", location=location("ServiceProviderConfig"))
        }
    )
    return one(config, search=query_of(ServiceProviderConfig))


def resource_types() -> ResponseReturnValue:
    """The resource types."""
    found = [_described(each, "ResourceTypes", str(each.id)) for each in PROVIDER.resource_types]
    return listed(ResourceType, len(found), found, query_of(ResourceType))


def resource_type(id: str) -> ResponseReturnValue:
    """One resource type."""
    return _discovered(PROVIDER.resource_types, ResourceType, "ResourceTypes", id)


def schemas() -> ResponseReturnValue:
    """The schemas."""
    found = [_described(each, "Schemas", str(each.id)) for each in PROVIDER.schemas]
    return listed(Schema, len(found), found, query_of(Schema))


def schema(id: str) -> ResponseReturnValue:
    """One schema."""
    return _discovered(PROVIDER.schemas, Schema, "Schemas", id)


def _discovered(all: Any, model: Any, kind: str, id: str) -> Response:
    found = next((each for each in all if str(each.id) == id), None)
    if found is None:
        raise NotFoundException(detail=f"{id} not found")
    return one(_described(found, kind, id), search=query_of(model))


def _described(each: Any, kind: str, id: str) -> Any:
    return each.model_copy(update={"meta": Meta(resource_type=kind[:-1], location=location(kind, id))})


# -- users ---------------------------------------------------------------------------------------------------

USER_NAMES = {"username": "user_name", "externalid": "external_id", "id": "id"}


def users() -> ResponseReturnValue:
    """List users. Query: `filter`, `startIndex`, `count`, `attributes`, `excludedAttributes`."""
    return _found_users(query_of(DirectoryUser))


def search_users() -> ResponseReturnValue:
    """List users. The body has what the query has otherwise."""
    return _found_users(searched(DirectoryUser))


def _found_users(search: SearchRequest[Any]) -> Response:
    (equal, exact), (offset, limit) = equalities(search, USER_NAMES), window(search)
    if exact:
        total, rows = directory.list_users(scim_org().id, offset=offset, limit=limit, **equal)
        return listed(DirectoryUser, total, _users(rows), search)
    total, rows = directory.list_users(scim_org().id, offset=0, limit=MAX_SCANNED, **equal)
    check_scanned(total)
    matching = _matching(search, _users(rows))
    return listed(DirectoryUser, len(matching), matching[offset : offset + limit], search)


def create_user() -> ResponseReturnValue:
    """Create a user."""
    wanted = DirectoryUser.model_validate(payload(), scim_ctx=Context.RESOURCE_CREATION_REQUEST)
    row = _save_user(None, wanted)
    return one(_users([row])[0], created=True, search=query_of(DirectoryUser))


def user(id: str) -> ResponseReturnValue:
    """One user."""
    return one(_users([directory.scim_user(scim_org().id, id)])[0], search=query_of(DirectoryUser))


def replace_user(id: str) -> ResponseReturnValue:
    """Replace a user."""
    row = directory.scim_user(scim_org().id, id)
    wanted = DirectoryUser.model_validate(payload(), scim_ctx=Context.RESOURCE_REPLACEMENT_REQUEST)
    wanted.replace(_users([row])[0])
    return one(_users([_save_user(row, wanted)])[0], search=query_of(DirectoryUser))


def patch_user(id: str) -> ResponseReturnValue:
    """Change some attributes of a user."""
    row = directory.scim_user(scim_org().id, id)
    resource = _users([row])[0]
    _patch(DirectoryUser, resource, id)
    return one(_users([_save_user(row, resource)])[0], search=query_of(DirectoryUser))


def delete_user(id: str) -> ResponseReturnValue:
    """Delete a user; their membership ends."""
    provisioning.delete_user(scim_org(), directory.scim_user(scim_org().id, id), now())
    db.session.commit()
    return "", 204


def _save_user(row: ScimUser | None, resource: Any) -> ScimUser:
    attributes = resource.model_dump(scim_ctx=Context.DEFAULT)
    for name in NOT_STORED:
        attributes.pop(name, None)
    mails = sorted(resource.emails or [], key=lambda each: (not each.primary, each.type != "work"))
    saved = provisioning.save_user(
        scim_org(),
        row,
        user_name=resource.user_name,
        external_id=resource.external_id,
        email=provisioning.address_of(resource.user_name, [each.value for each in mails if each.value]),
        active=resource.active is not False,
        attributes=attributes,
        now=now(),
    )
    db.session.commit()
    return saved


def _users(rows: Any) -> list[Any]:
    groups = directory.groups_of_users([row.id for row in rows])
    return [
        DirectoryUser.model_validate(
            {
                **row.attributes,
                "id": row.id,
                "externalId": row.external_id,
                "userName": row.user_name,
                "active": row.active,
                "groups": [
                    {
                        "value": each.id,
                        "display": each.display_name,
                        "type": "direct",
                        "$ref": location("Groups", each.id),
                    }
                    for each in groups[row.id]
                ]
                or None,
                "meta": _meta(row, "User"),
            }
        )
        for row in rows
    ]


def _matching(search: SearchRequest[Any], resources: list[Any]) -> list[Any]:
    assert search.filter is not None
    return [each for each in resources if search.filter.match(each)]


def _meta(row: ScimUser | ScimGroup, kind: str) -> dict[str, Any]:
    return {
        "resourceType": kind,
        "created": row.created_at,
        "lastModified": row.updated_at,
        "location": location(f"{kind}s", row.id),
    }


def _patch(model: Any, resource: Any, id: str) -> None:
    """Apply the PATCH of this request. Raises SCIMException, ValidationError, or DomainError (413) for too many operations."""
    body = payload()
    operations = body.get("Operations")
    if isinstance(operations, list) and len(operations) > MAX_OPERATIONS:
        raise DomainError(f"A PATCH has at most {MAX_OPERATIONS} operations.", status=413)
    for operation in operations if isinstance(operations, list) else []:
        if not isinstance(operation, dict):
            continue
        path, value = str(operation.get("path") or ""), operation.get("value")
        if path.endswith(MANAGER) and isinstance(value, str):
            operation["value"] = {"value": value}  # Entra sends the id alone
        elif not path and isinstance(value, dict) and value.get("id") == id:
            operation["value"] = {name: each for name, each in value.items() if name != "id"}  # Okta
    change = generic(PatchOp, model).model_validate(body, scim_ctx=Context.RESOURCE_PATCH_REQUEST)
    change.patch(resource)


# -- groups --------------------------------------------------------------------------------------------------

GROUP_NAMES = {"displayname": "display_name", "externalid": "external_id", "id": "id"}


def groups() -> ResponseReturnValue:
    """List groups. Query as for users."""
    return _found_groups(query_of(DirectoryGroup))


def search_groups() -> ResponseReturnValue:
    """List groups. The body has what the query has otherwise."""
    return _found_groups(searched(DirectoryGroup))


def _found_groups(search: SearchRequest[Any]) -> Response:
    (equal, exact), (offset, limit) = equalities(search, GROUP_NAMES), window(search)
    if exact:
        total, rows = directory.list_groups(scim_org().id, offset=offset, limit=limit, **equal)
        return listed(DirectoryGroup, total, _groups(rows), search)
    total, rows = directory.list_groups(scim_org().id, offset=0, limit=MAX_SCANNED, **equal)
    check_scanned(total)
    matching = _matching(search, _groups(rows))
    return listed(DirectoryGroup, len(matching), matching[offset : offset + limit], search)


def create_group() -> ResponseReturnValue:
    """Create a group."""
    wanted = DirectoryGroup.model_validate(payload(), scim_ctx=Context.RESOURCE_CREATION_REQUEST)
    return one(_groups([_save_group(None, wanted)])[0], created=True, search=query_of(DirectoryGroup))


def group(id: str) -> ResponseReturnValue:
    """One group."""
    return one(_groups([directory.scim_group(scim_org().id, id)])[0], search=query_of(DirectoryGroup))


def replace_group(id: str) -> ResponseReturnValue:
    """Replace a group."""
    row = directory.scim_group(scim_org().id, id)
    wanted = DirectoryGroup.model_validate(payload(), scim_ctx=Context.RESOURCE_REPLACEMENT_REQUEST)
    wanted.replace(_groups([row])[0])
    return one(_groups([_save_group(row, wanted)])[0], search=query_of(DirectoryGroup))


def patch_group(id: str) -> ResponseReturnValue:
    """Change a group or its members."""
    row = directory.scim_group(scim_org().id, id)
    resource = _groups([row])[0]
    _patch(DirectoryGroup, resource, id)
    return one(_groups([_save_group(row, resource)])[0], search=query_of(DirectoryGroup))


def delete_group(id: str) -> ResponseReturnValue:
    """Delete a group; its users leave its team."""
    provisioning.delete_group(scim_org(), directory.scim_group(scim_org().id, id), now())
    db.session.commit()
    return "", 204


def _save_group(row: ScimGroup | None, resource: DirectoryGroup) -> ScimGroup:
    saved = provisioning.save_group(
        scim_org(),
        row,
        display_name=resource.display_name or "",
        external_id=resource.external_id,
        member_ids=[each.value for each in resource.members or [] if each.value],
        now=now(),
    )
    db.session.commit()
    return saved


def _groups(rows: Any) -> list[DirectoryGroup]:
    members = directory.members_of_groups([row.id for row in rows])
    return [
        DirectoryGroup.model_validate(
            {
                "id": row.id,
                "externalId": row.external_id,
                "displayName": row.display_name,
                "members": [_member(each) for each in members[row.id]] or None,
                "meta": _meta(row, "Group"),
            }
        )
        for row in rows
    ]


def _member(row: ScimUser) -> DirectoryGroupMember:
    return DirectoryGroupMember.model_validate(
        {"value": row.id, "type": "User", "$ref": location("Users", row.id)}
    )


# -- everything ----------------------------------------------------------------------------------------------


def search_everything() -> ResponseReturnValue:
    """List users, then groups."""
    both = DirectoryUser | DirectoryGroup
    search, org_id = searched(both), scim_org().id
    users, user_rows = directory.list_users(org_id, limit=MAX_SCANNED)
    groups, group_rows = directory.list_groups(org_id, limit=MAX_SCANNED)
    check_scanned(users + groups)
    found = [*_users(user_rows), *_groups(group_rows)]
    if search.filter is not None:
        filters = {
            model: generic(ScimFilter, model)(str(search.filter)) for model in (DirectoryUser, DirectoryGroup)
        }
        found = [each for each in found if filters[type(each)].match(each)]
    offset, limit = window(search)
    return listed(both, len(found), found[offset : offset + limit], search)


def nothing(rest: str) -> ResponseReturnValue:
    """Any other address, and other methods of these (405)."""
    if rest.split("/")[0] in ENDPOINTS and rest.count("/") < 2:
        raise DomainError(f"{request.method} is not supported for /{rest}.", status=405)
    raise NotFound(f"There is no /{rest}.")
