"""Everything under deploy/ held against whoever will read it.

Usage: check.py PORTCULLIS KUBECTL HELM [CHECKOV]

Renders the Kustomize overlays and the Helm chart, validates every resource against the schemas of the supported versions (unknown
fields are errors) and prometheus-operator's, checks every configuration in them with `portcullis check`, the rules and their
tests with promtool, every query of the dashboard and every metric either names, that each alert has its entry in the runbook, the
units with systemd-analyze, and, where it is given, everything rendered with checkov. Prints what it did; exits with 1 if anything is
wrong.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
VERSIONS = ["1.30", "1.34", "1.37"]
MONITORING = {"PodMonitor": "podmonitors", "ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}
# What checkov asks for and why it is not so.
SKIPPED_CHECKS = {
    "CKV_K8S_11": "a limit of CPU throttles a proxy in the middle of a request",
    "CKV_K8S_10": "the sample and values leave the application's requests to its owner",
    "CKV_K8S_12": "as above",
    "CKV_K8S_13": "as above",
    "CKV_K8S_8": "the chart's application has probes once it names a path",
    "CKV_K8S_9": "as above",
    "CKV_K8S_14": "images are named by tag here and by digest by whoever deploys",
    "CKV_K8S_43": "as above",
    "CKV_K8S_15": "an image with a fixed tag need not be pulled again",
    "CKV_K8S_21": "the namespace is for whoever deploys to say",
    "CKV_K8S_40": "65532 is the user of distroless images",
    "CKV2_K8S_6": "the network policy of these pods is beside them",
}
failures: list[str] = []


def run(*command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)


def expect(holds: bool, what: str) -> None:
    if not holds:
        failures.append(what)
        print(f"FAILED: {what}")


def succeed(result: subprocess.CompletedProcess, what: str) -> str:
    expect(result.returncode == 0, f"{what}: {result.stdout}{result.stderr}")
    return result.stdout


def render(kubectl: str, helm: str) -> dict[str, str]:
    """Every shape as it would be applied."""
    chart = DEPLOY / "helm/portcullis"
    succeed(run(helm, "lint", "--strict", chart), "helm lint")
    monitoring = ["--set", "monitoring.podMonitor.enabled=true", "--set", "monitoring.rules.enabled=true"]
    sidecar = ["--set", "shape=sidecar", "--set", "application.probe=/healthz"]
    edge = ["--set", "tlsSecretName=tls", "--set", "autoscaling.enabled=false"]
    page = (DEPLOY / "README.md").read_text()
    (values,) = re.findall(r"^```yaml values\n(.*?)^```", page, re.S | re.M)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(values)
        file.flush()
        as_shown = succeed(run(helm, "template", "r", chart, "-f", file.name), "helm template with the page's values")
    refused = run(helm, "template", "r", chart, "--set", "shape=neither")
    expect(refused.returncode != 0, "the chart takes a shape that is none")
    return {
        "kustomize-sidecar": succeed(run(kubectl, "kustomize", DEPLOY / "kubernetes/sidecar"), "kustomize"),
        "kustomize-edge": succeed(run(kubectl, "kustomize", DEPLOY / "kubernetes/edge"), "kustomize"),
        "helm-default": succeed(run(helm, "template", "r", chart), "helm template"),
        "helm-sidecar": succeed(run(helm, "template", "r", chart, *sidecar, *monitoring), "helm template"),
        "helm-page": as_shown,
        "helm-edge": succeed(run(helm, "template", "r", chart, *edge, *monitoring), "helm template"),
    }


def check_resources(rendered: dict[str, str], portcullis: str) -> None:
    for shape, text in rendered.items():
        resources = [resource for resource in yaml.safe_load_all(text) if resource]
        kinds = sorted(resource["kind"] for resource in resources)
        for resource in resources:
            what = f"{shape} {resource['kind']} {resource['metadata']['name']}"
            if resource["kind"] in MONITORING:
                schema = json.loads((ROOT / f"tests/schemas/{MONITORING[resource['kind']]}.json").read_text())
                for error in jsonschema.Draft7Validator(schema).iter_errors(resource):
                    expect(False, f"{what}: {error.json_path}: {error.message}")
            else:
                for version in VERSIONS:
                    try:
                        kubernetes_validate.validate(resource, version, strict=True)
                    except Exception as error:  # Whatever it is, it is no valid resource.
                        expect(False, f"{what} for {version}: {error}")
            if resource["kind"] == "ConfigMap":
                with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                    file.write(resource["data"]["portcullis.yaml"])
                    file.flush()
                    succeed(run(portcullis, "check", "-c", file.name, "--without-secrets"), what)
            if resource["kind"] == "Deployment":
                check_pods(what, resource, resources)
        print(f"{shape}: {len(resources)} resources for {', '.join(VERSIONS)}: {', '.join(kinds)}")


def check_pods(what: str, deployment: dict, resources: list[dict]) -> None:
    """What the schemas cannot know: that names and labels find each other, and that pods are restricted."""
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    spec = deployment["spec"]["template"]["spec"]
    for resource in resources:
        selector = resource.get("spec", {}).get("selector", resource.get("spec", {}).get("podSelector", {}))
        selector = selector.get("matchLabels", selector) if isinstance(selector, dict) else {}
        if resource["kind"] in ("Service", "PodMonitor", "NetworkPolicy", "PodDisruptionBudget"):
            expect(bool(selector) and selector.items() <= labels.items(), f"{what}: {resource['kind']} selects nothing")
        if resource["kind"] == "HorizontalPodAutoscaler":
            expect(resource["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"], f"{what}: autoscaler")
    maps = [resource["metadata"]["name"] for resource in resources if resource["kind"] == "ConfigMap"]
    for volume in spec["volumes"]:
        if "configMap" in volume:
            expect(volume["configMap"]["name"] in maps, f"{what}: no such ConfigMap")
    accounts = [resource["metadata"]["name"] for resource in resources if resource["kind"] == "ServiceAccount"]
    expect(spec["serviceAccountName"] in accounts, f"{what}: no such account")
    for container in spec["containers"] + spec.get("initContainers", []):
        security = container["securityContext"]
        restricted = not security["allowPrivilegeEscalation"] and security["capabilities"]["drop"] == ["ALL"]
        expect(restricted and security["readOnlyRootFilesystem"], f"{what}: {container['name']} is not restricted")


def check_monitoring() -> None:
    rules = DEPLOY / "prometheus/rules.yaml"
    succeed(run("promtool", "check", "rules", rules), "promtool check rules")
    print(succeed(run("promtool", "test", "rules", DEPLOY / "prometheus/rules_test.yaml"), "promtool test rules").strip())
    groups = yaml.safe_load(rules.read_text())["groups"]
    resource = yaml.safe_load((DEPLOY / "kubernetes/monitoring/rules.yaml").read_text())
    expect(resource["spec"]["groups"] == groups, "the PrometheusRule has other rules")
    chart = yaml.safe_load((DEPLOY / "helm/portcullis/rules.yaml").read_text())
    expect(chart["groups"] == groups, "the chart has other rules")
    runbook = (ROOT / "docs/runbook.md").read_text()
    tested = (DEPLOY / "prometheus/rules_test.yaml").read_text()
    alerts = [rule for group in groups for rule in group["rules"]]
    for rule in alerts:
        name = rule["alert"]
        expect(f"\n## {name}\n" in runbook, f"{name} is not in the runbook")
        expect(rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}", f"{name} leads elsewhere")
        expect(f'alertname="{name}"' in tested, f"{name} is not tested")
    headings = set(re.findall(r"^## (\w+)$", runbook, re.M))
    expect(headings == {rule["alert"] for rule in alerts}, "the runbook has entries of no alert")

    dashboard = json.loads((DEPLOY / "grafana/portcullis.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    plain = [query.replace("$__rate_interval", "5m").replace("$namespace", ".*") for query in queries]
    expect(len(queries) > 25 and not any("$" in query for query in plain), "the dashboard")
    ids = [panel["id"] for panel in dashboard["panels"]]
    expect(len(ids) == len(set(ids)), "two panels have one id")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        records = [{"record": f"q{number}", "expr": query} for number, query in enumerate(plain)]
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}, file)
        file.flush()
        succeed(run("promtool", "check", "rules", file.name), "the dashboard's queries")

    documented = set(re.findall(r"^\| `(portcullis_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.M))
    for text in plain + [rule["expr"] for rule in alerts]:
        for metric in re.findall(r"\bportcullis_\w+", text):
            base = re.sub(r"_bucket$", "", metric)
            expect(base in documented, f"`{metric}` is no metric: {text}")
    print(f"{len(alerts)} alerts, each tested and in the runbook; {len(queries)} queries of the dashboard")


def check_units(portcullis: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for unit in (DEPLOY / "systemd").glob("portcullis.s*"):
            # The program need not be installed here.
            (folder / unit.name).write_text(unit.read_text().replace("/usr/local/bin/portcullis", portcullis))
        units = sorted(folder.iterdir())
        told = run("systemd-analyze", "verify", *units)
        expect(told.returncode == 0 and not told.stderr.strip(), f"systemd-analyze verify: {told.stderr}")
        security = run("systemd-analyze", "security", "--offline=true", folder / "portcullis.service").stdout
    level = re.search(r"exposure level for portcullis.service: ([\d.]+)", security)
    expect(level is not None and float(level[1]) < 2.0, f"systemd-analyze security: {security[-300:]}")
    print(f"units verified; exposure {level[1] if level else '?'}")


def check_with_checkov(rendered: dict[str, str], checkov: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for shape, text in rendered.items():
            (pathlib.Path(folder) / f"{shape}.yaml").write_text(text)
        skipped = ",".join(SKIPPED_CHECKS)
        told = run(checkov, "-d", folder, "--framework", "kubernetes", "--skip-download", "--skip-check", skipped,
                   "--compact", "--quiet", "-o", "json")
    report = json.loads(told.stdout or "{}")
    summary = report.get("summary", {})
    for check in report.get("results", {}).get("failed_checks", []):
        expect(False, f"checkov {check['check_id']} {check['check_name']}: {check['resource']}")
    expect(summary.get("passed", 0) > 100, f"checkov looked at nothing: {told.stdout[:300]}{told.stderr[:300]}")
    print(f"checkov: {summary.get('passed')} passed, {summary.get('failed')} failed, {len(SKIPPED_CHECKS)} kinds left out")


def main() -> None:
    portcullis, kubectl, helm, *rest = sys.argv[1:]
    portcullis = str(pathlib.Path(portcullis).resolve())
    rendered = render(kubectl, helm)
    check_resources(rendered, portcullis)
    check_monitoring()
    check_units(portcullis)
    if rest:
        check_with_checkov(rendered, rest[0])
    if failures:
        sys.exit(1)


main()
