// The official Node SDK of Stytch against `portcullis emulate`: every call the stand-in offers, and what must fail.
//
// Run by `.ci/run` with the variables that `portcullis demo --export` writes. Exits with 1 on the first surprise.

import { createRequire } from "node:module";

const { B2BClient } = createRequire(process.env.PORTCULLIS_NODE_PACKAGES + "/")("stytch");
const { EMULATOR_URL, PROJECT_ID, PROJECT_SECRET, TOKEN_OTHER_ORG, TOKEN_ADMIN } = process.env;
const connect = (secret) => new B2BClient({ project_id: PROJECT_ID, secret, env: EMULATOR_URL + "/" });
const client = connect(PROJECT_SECRET);
let passed = 0;

function check(what, holds) {
  if (!holds) {
    console.log(`FAILED: ${what}`);
    process.exit(1);
  }
  passed += 1;
}

async function fails(what, kind, call) {
  try {
    await call();
  } catch (error) {
    const found = error.error_type ?? error.code ?? error.name;
    check(`${what}: ${found}`, found === kind);
    return;
  }
  check(`${what} did not fail`, false);
}

const session = await client.sessions.authenticate({ session_token: TOKEN_OTHER_ORG });
const { organization_id, member_id, member_session_id } = session.member_session;
check("authenticate by token", session.member.member_id === member_id && session.session_jwt);
const session_jwt = session.session_jwt;
check("authenticate by JWT", (await client.sessions.authenticate({ session_jwt })).member_session);

const list = async (query) => (await client.sessions.get(query)).member_sessions;
check("list", (await list({ organization_id, member_id })).length === 1);
check("list by slug", (await list({ organization_id: "globex", member_id })).length === 1);
await fails("unknown member", "member_not_found", () => list({ organization_id, member_id: "nobody" }));
check("keys", (await client.sessions.getJWKS({ project_id: PROJECT_ID })).keys[0].x5tS256);

const local = await client.sessions.authenticateJwtLocal({ session_jwt });
check("local JWT", local.member_id === member_id);
const wants = (organization_id, action) => ({ organization_id, resource_id: "reports", action });
const granted = { session_jwt, authorization_check: wants(organization_id, "read") };
check("local RBAC, granted", await client.sessions.authenticateJwtLocal(granted));
await fails("local RBAC, not granted", "invalid_permissions", () =>
  client.sessions.authenticateJwtLocal({ session_jwt, authorization_check: wants(organization_id, "write") }));
await fails("local RBAC, elsewhere", "tenancy_mismatch", () =>
  client.sessions.authenticateJwtLocal({ session_jwt, authorization_check: wants("organization-test-x", "read") }));
const admin = await client.sessions.authenticate({ session_token: TOKEN_ADMIN });
const remote = (session_token, authorization_check) => client.sessions.authenticate({ session_token, authorization_check });
const allowed = await remote(TOKEN_ADMIN, wants(admin.member_session.organization_id, "write"));
check("remote RBAC, granted", allowed.verdict.authorized);
await fails("remote RBAC, not granted", "session_authorization_error", () =>
  remote(TOKEN_OTHER_ORG, wants(organization_id, "write")));

check("policy", (await client.rbac.policy()).policy.roles.length > 0);
check("organization policy", (await client.rbac.organizations.getOrgPolicy({ organization_id })).org_policy.roles);
check("organization", (await client.organizations.get({ organization_id: "globex" })).organization.organization_id === organization_id);
check("member", (await client.organizations.members.get({ organization_id, member_id })).member.email_address === "otto@globex.example");

const machine = await client.m2m.token({
  client_id: "m2m-client-test-cccccccc-0000-4000-8000-000000000001",
  client_secret: "m2m-secret-emulator",
});
const claims = await client.m2m.authenticateToken({ access_token: machine.access_token, required_scopes: ["read:reports"] });
check("machine token", claims.client_id.startsWith("m2m-client-test-"));

await client.sessions.revoke({ member_session_id });
await client.sessions.revoke({ member_session_id });
await fails("revoked, by token", "session_not_found", () => client.sessions.authenticate({ session_token: TOKEN_OTHER_ORG }));
await fails("revoked, by JWT", "session_not_found", () => client.sessions.authenticate({ session_jwt }));
check("revoked, local JWT lives on", await client.sessions.authenticateJwtLocal({ session_jwt }));
check("revoked, listed no more", (await list({ organization_id, member_id })).length === 0);
await fails("wrong secret", "unauthorized_credentials", () => connect("wrong").rbac.policy());
console.log(`${passed} passed, 0 failed`);
