//! What Kubernetes gets, as it is rendered: restricted pods that fit this build's command line, two
//! of them that are never gone at once, and nothing that leads nowhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use rater::identity::Identities;
use rater::metrics::Metrics;
use serde_json::Value;

use super::runbook::understood;
use super::tools::tool;
use super::yaml::documents;
use super::{file, text};
use crate::harness::run;

const EXAMPLE: &str = "k8s/overlays/example";

/// Every object of a kustomization; `None` where nothing here can render one.
fn rendered(test: &str, folder: &str) -> Option<Vec<Value>> {
    let output = tool(test, "scripts/kustomize.sh", &[folder])?;
    assert_eq!(output.code(), Some(0), "{output:?}");
    Some(documents(&output.stdout))
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// What an object makes pods from.
fn pods(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Deployment" | "Job" => Some(&object["spec"]["template"]),
        "CronJob" => Some(&object["spec"]["jobTemplate"]["spec"]["template"]),
        _ => None,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether labels have all that a selector names.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().filter(|wanted| !wanted.is_empty());
    wanted.is_some_and(|wanted| wanted.iter().all(|(name, value)| labels[name] == *value))
}

/// Everything that is wrong.
fn faults(objects: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut pod_labels = Vec::new();
    for object in objects {
        if let Some(template) = pods(object) {
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            let mut fault = |wrong: bool, what: &str| {
                if wrong {
                    faults.push(format!("{name}: {what}"));
                }
            };
            pod_faults(&template["spec"], &mut fault);
            for container in list(&template["spec"]["containers"]) {
                container_faults(container, &mut fault);
            }
            named_faults(&template["spec"], objects, &mut fault);
            let labels = &template["metadata"]["labels"];
            let guarded = of_kind(objects, "NetworkPolicy").any(|policy| {
                let types = &policy["spec"]["policyTypes"];
                selects(&policy["spec"]["podSelector"]["matchLabels"], labels)
                    && *types == serde_json::json!(["Ingress", "Egress"])
            });
            fault(!guarded, "no network policy bounds what comes and goes");
            pod_labels.push((object["kind"].clone(), labels.clone()));
        }
    }
    let mut fault = |wrong: bool, what: &str| {
        if wrong {
            faults.push(what.to_owned());
        }
    };
    whole_faults(objects, &pod_labels, &mut fault);
    of_kind(objects, "Deployment").for_each(|deployment| deployment_faults(&deployment["spec"], &mut fault));
    of_kind(objects, "CronJob").for_each(|job| routine_faults(&job["spec"], &mut fault));
    faults
}

fn pod_faults(pod: &Value, fault: &mut impl FnMut(bool, &str)) {
    let security = &pod["securityContext"];
    fault(security["runAsNonRoot"] != true, "may run as root");
    fault(security["runAsUser"].as_i64().is_none_or(|user| user == 0), "has no user of its own");
    fault(security["seccompProfile"]["type"] != "RuntimeDefault", "has no seccomp profile");
    fault(pod["automountServiceAccountToken"] != false, "gets a token");
    fault(pod["serviceAccountName"] != "rater", "has another service account");
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        fault(pod[host] == true, "shares what is the node's");
    }
    let kinds = ["configMap", "secret"];
    let all_ours = list(&pod["volumes"]).all(|volume| kinds.iter().any(|kind| volume[*kind].is_object()));
    fault(!all_ours, "mounts something of the node's");
}

fn container_faults(container: &Value, fault: &mut impl FnMut(bool, &str)) {
    let security = &container["securityContext"];
    fault(security["allowPrivilegeEscalation"] != false, "may gain privileges");
    fault(security["readOnlyRootFilesystem"] != true, "can write to its image");
    fault(security["capabilities"]["drop"] != serde_json::json!(["ALL"]), "keeps capabilities");
    fault(security["capabilities"]["add"].is_array(), "adds capabilities");
    fault(security["privileged"] == true, "is privileged");
    for (kind, what) in [("requests", "cpu"), ("requests", "memory"), ("limits", "cpu"), ("limits", "memory")]
    {
        fault(container["resources"][kind][what].is_null(), &format!("has no {what} among its {kind}"));
    }
    let arguments: Vec<&str> = list(&container["args"]).map(|word| word.as_str().unwrap_or("?")).collect();
    if let Err(said) = understood(&arguments) {
        fault(true, &format!("{arguments:?} is no command of this build: {said}"));
        return;
    }
    let help = run("", &[&arguments[..1], &["--help"]].concat()).stdout;
    for variable in list(&container["env"]) {
        let name = variable["name"].as_str().unwrap_or("?");
        // With its value, or without where that is nobody's to see.
        let named = ["=", "]"].iter().any(|end| help.contains(&format!("[env: {name}{end}")));
        let known = named || !name.starts_with("RATER_");
        fault(!known, &format!("{name} is no variable of `rater {}`", arguments[0]));
    }
}

/// What a pod refers to must be there, or be a secret that somebody brings.
fn named_faults(pod: &Value, objects: &[Value], fault: &mut impl FnMut(bool, &str)) {
    const SECRETS: [&str; 4] = ["rater-tls", "rater-routine-tls", "rater-database", "rater-migrator"];
    let maps: BTreeSet<&str> =
        of_kind(objects, "ConfigMap").filter_map(|map| map["metadata"]["name"].as_str()).collect();
    for volume in list(&pod["volumes"]) {
        if let Some(map) = volume["configMap"]["name"].as_str() {
            fault(!maps.contains(map), &format!("there is no ConfigMap {map}"));
        }
        if let Some(secret) = volume["secret"]["secretName"].as_str() {
            fault(!SECRETS.contains(&secret), &format!("nobody brings the secret {secret}"));
        }
    }
    for container in list(&pod["containers"]) {
        for mount in list(&container["volumeMounts"]) {
            fault(mount["readOnly"] != true, "mounts what it could write");
            // What is mounted by a path below never changes.
            fault(!mount["subPath"].is_null(), "would not see a file that changes");
        }
        for variable in list(&container["env"]) {
            if let Some(secret) = variable["valueFrom"]["secretKeyRef"]["name"].as_str() {
                fault(!SECRETS.contains(&secret), &format!("nobody brings the secret {secret}"));
            }
        }
    }
}

fn whole_faults(objects: &[Value], pods: &[(Value, Value)], fault: &mut impl FnMut(bool, &str)) {
    let services: Vec<&Value> =
        pods.iter().filter(|(kind, _)| kind == "Deployment").map(|(_, labels)| labels).collect();
    let hits = |selector: &Value| {
        let all = pods.iter().filter(|(_, labels)| selects(selector, labels)).count();
        all == services.len() && services.iter().all(|labels| selects(selector, labels))
    };
    let one = |kind: &str| of_kind(objects, kind).count() == 1;
    for kind in ["Deployment", "Service", "CronJob", "Job", "PodDisruptionBudget", "ServiceAccount"] {
        fault(!one(kind), &format!("there is not one {kind}"));
    }
    let budget = of_kind(objects, "PodDisruptionBudget").next().unwrap_or(&Value::Null);
    fault(
        !hits(&budget["spec"]["selector"]["matchLabels"]),
        "the budget is not for the service's pods alone",
    );
    fault(budget["spec"]["minAvailable"] != 1, "all instances may be taken away at once");
    let service = of_kind(objects, "Service").next().unwrap_or(&Value::Null);
    fault(!hits(&service["spec"]["selector"]), "the service is not for its pods alone");
    let account = of_kind(objects, "ServiceAccount").next().unwrap_or(&Value::Null);
    fault(account["automountServiceAccountToken"] != false, "the account hands out its token");
    for certificate in of_kind(objects, "Certificate") {
        let issuer = &certificate["spec"]["issuerRef"];
        let kind = issuer["kind"].as_str().unwrap_or("Issuer");
        let there = of_kind(objects, kind).any(|known| known["metadata"]["name"] == issuer["name"]);
        fault(!there, &format!("there is no {kind} {}", issuer["name"]));
    }
    for issuer in of_kind(objects, "Issuer").filter(|issuer| issuer["spec"]["ca"].is_object()) {
        let secret = &issuer["spec"]["ca"]["secretName"];
        let made = of_kind(objects, "Certificate")
            .any(|made| made["spec"]["secretName"] == *secret && made["spec"]["isCA"] == true);
        fault(!made, &format!("nobody makes the authority {secret}"));
    }
    for monitor in of_kind(objects, "ServiceMonitor") {
        let selector = &monitor["spec"]["selector"]["matchLabels"];
        fault(!selects(selector, &service["metadata"]["labels"]), "the monitor looks at no service");
        let port = &monitor["spec"]["endpoints"][0]["port"];
        let known = list(&service["spec"]["ports"]).any(|known| known["name"] == *port);
        fault(!known, "the monitor looks at no port");
    }
}

fn deployment_faults(spec: &Value, fault: &mut impl FnMut(bool, &str)) {
    let (pod, container) = (&spec["template"]["spec"], &spec["template"]["spec"]["containers"][0]);
    fault(spec["replicas"].as_i64() < Some(2), "there are fewer than two instances");
    fault(spec["strategy"]["rollingUpdate"]["maxUnavailable"] != 0, "a rollout takes instances away first");
    fault(
        !selects(&spec["selector"]["matchLabels"], &spec["template"]["metadata"]["labels"]),
        "no pod is its own",
    );
    let spread: Vec<&Value> =
        list(&pod["topologySpreadConstraints"]).map(|spread| &spread["topologyKey"]).collect();
    fault(!spread.iter().any(|key| **key == "kubernetes.io/hostname"), "one node may hold all instances");
    for (probe, path) in
        [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
    {
        let get = &container[probe]["httpGet"];
        fault(get["path"] != path || get["port"] != "admin", &format!("{probe} does not look at {path}"));
    }
    let grace = list(&container["env"]).find(|variable| variable["name"] == "RATER_SHUTDOWN_GRACE");
    let grace = grace.and_then(|grace| grace["value"].as_str()?.strip_suffix('s')?.parse::<i64>().ok());
    let pause = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64();
    let given = pod["terminationGracePeriodSeconds"].as_i64();
    let enough =
        matches!((grace, pause, given), (Some(grace), Some(pause), Some(given)) if given > grace + pause);
    fault(!enough, "a stop is cut short before its grace is over");
}

fn routine_faults(spec: &Value, fault: &mut impl FnMut(bool, &str)) {
    let job = &spec["jobTemplate"]["spec"];
    let pod = &job["template"]["spec"];
    fault(spec["concurrencyPolicy"] != "Forbid", "two routine runs may go on at once");
    fault(pod["restartPolicy"] != "Never", "an exit code is lost in a restart");
    let fails = list(&job["podFailurePolicy"]["rules"]).any(|rule| {
        let codes = &rule["onExitCodes"];
        rule["action"] == "FailJob"
            && codes["operator"] == "In"
            && codes["values"] == serde_json::json!([2])
            && codes["containerName"] == pod["containers"][0]["name"]
    });
    fault(!fails, "exit code 2 does not fail the job at once");
    fault(job["backoffLimit"].as_i64() < Some(1), "a pod that is lost is not made again");
    let arguments: Vec<&Value> = list(&pod["containers"][0]["args"]).collect();
    let by_name = arguments.iter().any(|argument| **argument == "--request-id=$(JOB_NAME)");
    let name = list(&pod["containers"][0]["env"]).find(|variable| variable["name"] == "JOB_NAME");
    let path = name.map(|name| &name["valueFrom"]["fieldRef"]["fieldPath"]);
    let named = path.is_some_and(|path| *path == "metadata.labels['batch.kubernetes.io/job-name']");
    fault(!(by_name && named), "a pod that is tried again does not find its run");
}

#[test]
fn the_manifests_hold_what_they_promise() {
    for folder in ["k8s/base", EXAMPLE] {
        let Some(objects) = rendered("the_manifests_hold_what_they_promise", folder) else { return };
        assert_eq!(faults(&objects), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn an_images_tag_is_spelled_out_where_it_is_deployed() {
    let Some(objects) = rendered("an_images_tag_is_spelled_out_where_it_is_deployed", EXAMPLE) else {
        return;
    };
    for template in objects.iter().filter_map(pods) {
        let image = template["spec"]["containers"][0]["image"].as_str().unwrap();
        let (_, tag) = image.split_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert_eq!(tag, env!("CARGO_PKG_VERSION"));
    }
}

/// Each of these, taken away or changed, is seen.
#[test]
fn what_is_wrong_with_a_manifest_is_told() {
    let Some(objects) = rendered("what_is_wrong_with_a_manifest_is_told", EXAMPLE) else { return };
    const POD: &str = "/spec/template/spec";
    const CRON: &str = "/spec/jobTemplate/spec";
    let wrongs = [
        ("Deployment", "/spec", "replicas", "1", "fewer than two"),
        ("Deployment", POD, "automountServiceAccountToken", "true", "gets a token"),
        ("Deployment", POD, "securityContext", "{}", "may run as root"),
        ("Deployment", POD, "topologySpreadConstraints", "[]", "one node may hold all"),
        ("Deployment", POD, "terminationGracePeriodSeconds", "30", "cut short"),
        ("Deployment", "/spec/template/spec/containers/0", "securityContext", "{}", "keeps capabilities"),
        ("Deployment", "/spec/template/spec/containers/0", "resources", "{}", "no memory among its limits"),
        (
            "Deployment",
            "/spec/template/spec/containers/0",
            "readinessProbe",
            "{}",
            "does not look at /readyz",
        ),
        (
            "Deployment",
            "/spec/template/spec/containers/0",
            "args",
            r#"["server"]"#,
            "no command of this build",
        ),
        (
            "Deployment",
            "/spec/template/spec/containers/0/env/0",
            "name",
            r#""RATER_LISTENS""#,
            "no variable of",
        ),
        (
            "Deployment",
            "/spec/template/spec/volumes/0/configMap",
            "name",
            r#""x""#,
            "there is no ConfigMap x",
        ),
        (
            "Deployment",
            "/spec/template/metadata/labels",
            "app.kubernetes.io/component",
            r#""x""#,
            "no network policy",
        ),
        (
            "Service",
            "/spec/selector",
            "app.kubernetes.io/component",
            r#""routine""#,
            "the service is not for",
        ),
        ("ServiceAccount", "", "automountServiceAccountToken", "true", "hands out its token"),
        ("PodDisruptionBudget", "/spec", "minAvailable", "0", "taken away at once"),
        ("CronJob", "/spec", "concurrencyPolicy", r#""Allow""#, "at once"),
        ("CronJob", CRON, "podFailurePolicy", "{}", "exit code 2"),
        (
            "CronJob",
            "/spec/jobTemplate/spec/template/spec",
            "restartPolicy",
            r#""OnFailure""#,
            "lost in a restart",
        ),
        (
            "CronJob",
            "/spec/jobTemplate/spec/template/spec/containers/0/env/0",
            "name",
            r#""X""#,
            "does not find its run",
        ),
        ("ServiceMonitor", "/spec/endpoints/0", "port", r#""web""#, "looks at no port"),
        ("Issuer", "/metadata", "name", r#""x""#, "there is no Issuer"),
        ("Issuer", "/spec/ca", "secretName", r#""x""#, "nobody makes the authority"),
    ];
    for (kind, place, name, value, told) in wrongs {
        let mut changed = objects.clone();
        let object = changed.iter_mut().find(|object| object["kind"] == kind).unwrap();
        let place = object.pointer_mut(place).unwrap_or_else(|| panic!("{kind} has no {place}"));
        place[name] = serde_json::from_str(value).unwrap();
        let faults = faults(&changed);
        assert!(faults.iter().any(|fault| fault.contains(told)), "{kind} with {name} {value}: {faults:?}");
    }
}

#[test]
fn the_pricebooks_and_the_callers_of_the_manifests_are_good() {
    for folder in ["k8s/base", EXAMPLE] {
        let book = file(&format!("{folder}/pricebook.yaml"));
        let output = run("", &["validate", book.to_str().unwrap()]);
        assert_eq!(output.code(), Some(0), "{output:?}");
        let identities = file(&format!("{folder}/identities.yaml"));
        Identities::load(&identities, Arc::new(Metrics::new())).unwrap();
        // The one caller that the manifests themselves have.
        let routine = "spiffe://cluster.local/ns/billing/sa/rater-routine";
        assert!(text(&format!("{folder}/identities.yaml")).contains(routine));
    }
    assert!(
        text(&format!("{EXAMPLE}/certificates.yaml"))
            .contains("spiffe://cluster.local/ns/billing/sa/rater-routine")
    );
}
