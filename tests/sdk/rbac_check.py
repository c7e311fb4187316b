"""What Stytch's official package makes of authorization checks, by its local check.

Reads a list of checks in JSON; writes for each `allowed`, `denied` or `other_organization`.
"""

import json
import sys

from stytch.b2b.models.rbac import OrgPolicy, Policy
from stytch.b2b.models.sessions import AuthorizationCheck
from stytch.shared import m2m_authorization, rbac_local
from stytch.shared.policy_cache import _merge_policies


def verdict(asked):
    if asked["what"] == "machine":
        params = m2m_authorization.AuthorizationCheckParams(
            has_scopes=asked["held"], required_scopes=asked["required"]
        )
        return "allowed" if m2m_authorization.perform_authorization_check(params) else "denied"
    policy = _merge_policies(Policy(**asked["policy"]), OrgPolicy(**asked["organization_policy"]))
    check = AuthorizationCheck(**asked["check"])
    perform = (
        rbac_local.perform_authorization_check
        if asked["what"] == "member"
        else rbac_local.perform_scope_authorization_check
    )
    try:
        perform(policy, asked["held"], asked["organization_id"], check)
        return "allowed"
    except rbac_local.TenancyError:
        return "other_organization"
    except rbac_local.RBACPermissionError:
        return "denied"


json.dump([verdict(asked) for asked in json.load(sys.stdin)], sys.stdout)
