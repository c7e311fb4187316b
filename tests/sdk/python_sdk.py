"""The official Python SDK of Stytch against `portcullis emulate`: every call the stand-in offers, and what must fail.

Run by `.ci/run` with the variables that `portcullis demo --export` writes. Exits with 1 on the first surprise.
"""

import os
import sys

from stytch import B2BClient
from stytch.b2b.models.sessions import AuthorizationCheck
from stytch.core.response_base import StytchError

API = os.environ["EMULATOR_URL"] + "/"
client = B2BClient(os.environ["PROJECT_ID"], os.environ["PROJECT_SECRET"], environment=API, suppress_warnings=True)
passed = 0


def check(what, holds):
    global passed
    if not holds:
        print(f"FAILED: {what}")
        sys.exit(1)
    passed += 1


def fails(what, kind, call):
    try:
        call()
    except StytchError as error:
        check(f"{what}: {error.details.error_type}", error.details.error_type == kind)
    except Exception as error:  # local checks raise classes of their own
        check(f"{what}: {type(error).__name__}", type(error).__name__ == kind)
    else:
        check(f"{what} did not fail", False)


viewer, admin = os.environ["TOKEN_VIEWER"], os.environ["TOKEN_ADMIN"]
session = client.sessions.authenticate(session_token=viewer)
organization, member = session.member_session.organization_id, session.member_session.member_id
check("authenticate by token", session.member.member_id == member and session.session_jwt)
check("authenticate by JWT", client.sessions.authenticate(session_jwt=session.session_jwt).member_session)

listed = client.sessions.get(organization_id=organization, member_id=member)
check("list", len(listed.member_sessions) == 2)
check("list by slug and external id", client.sessions.get(organization_id="acme", member_id="payroll-1").member_sessions)
fails("unknown member", "member_not_found", lambda: client.sessions.get(organization_id="acme", member_id="nobody"))
check("keys", client.sessions.get_jwks(project_id=os.environ["PROJECT_ID"]).keys[0].x5tS256)

local = client.sessions.authenticate_jwt_local(session_jwt=session.session_jwt)
check("local JWT", local is not None and local.member_id == member)
may_read = AuthorizationCheck(organization_id=organization, resource_id="reports", action="read")
may_write = AuthorizationCheck(organization_id=organization, resource_id="reports", action="write")
elsewhere = AuthorizationCheck(organization_id="organization-test-x", resource_id="reports", action="read")
local_check = lambda wanted: client.sessions.authenticate_jwt_local(
    session_jwt=session.session_jwt, authorization_check=wanted
)
check("local RBAC, granted", local_check(may_read) is not None)
fails("local RBAC, not granted", "RBACPermissionError", lambda: local_check(may_write))
fails("local RBAC, elsewhere", "TenancyError", lambda: local_check(elsewhere))
remote_check = lambda token, wanted: client.sessions.authenticate(session_token=token, authorization_check=wanted)
check("remote RBAC, granted", remote_check(admin, may_write).verdict.authorized)
fails("remote RBAC, not granted", "session_authorization_error", lambda: remote_check(viewer, may_write))
fails("remote RBAC, elsewhere", "session_authorization_tenancy_error", lambda: remote_check(viewer, elsewhere))

check("policy", client.rbac.policy().policy.roles)
check("organization policy", client.rbac.organizations.get_org_policy(organization_id=organization).org_policy.roles)
check("organization", client.organizations.get(organization_id="acme").organization.organization_id == organization)
found = client.organizations.members.get(organization_id=organization, member_id=member)
check("member", found.member.email_address == "vera@acme.example")
by_email = client.organizations.members.get(organization_id=organization, email_address="vera@acme.example")
check("member by address", by_email.member_id == member)

machine = client.m2m.token(
    client_id="m2m-client-test-cccccccc-0000-4000-8000-000000000001", client_secret="m2m-secret-emulator"
)
claims = client.m2m.authenticate_token(machine.access_token, required_scopes=["read:reports"])
check("machine token", claims.client_id.startswith("m2m-client-test-"))

client.sessions.revoke(member_session_id=session.member_session.member_session_id)
client.sessions.revoke(member_session_id=session.member_session.member_session_id)
fails("revoked, by token", "session_not_found", lambda: client.sessions.authenticate(session_token=viewer))
fails("revoked, by JWT", "session_not_found", lambda: client.sessions.authenticate(session_jwt=session.session_jwt))
check("revoked, local JWT lives on", client.sessions.authenticate_jwt_local(session_jwt=session.session_jwt) is not None)
check("revoked, listed no more", len(client.sessions.get(organization_id=organization, member_id=member).member_sessions) == 1)

wrong = B2BClient(os.environ["PROJECT_ID"], "wrong", environment=API, suppress_warnings=True)
fails("wrong secret", "unauthorized_credentials", lambda: wrong.rbac.policy())
print(f"{passed} passed, 0 failed")
