//! Deliveries signed by Svix's official package, and the gateway's answer beside that package's own.

use serde_json::{Value, json};

use crate::support::{Ask, USUAL, World, ask_script, python};

const SECRETS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
const STRANGE: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// One delivery and what must come of it.
struct Delivery {
    what: &'static str,
    id: &'static str,
    secrets: &'static [&'static str],
    /// Seconds ago by its own date.
    ago: i64,
    tampered: bool,
    white_label: bool,
    taken: bool,
    /// Whether anything is forgotten by it.
    acted_on: bool,
}

const GOOD: Delivery = Delivery {
    what: "as it comes",
    id: "msg_1",
    secrets: &[SECRETS[0]],
    ago: 0,
    tampered: false,
    white_label: false,
    taken: true,
    acted_on: true,
};

const DELIVERIES: [Delivery; 12] = [
    GOOD,
    Delivery { what: "replayed", acted_on: false, ..GOOD },
    Delivery { what: "the next try at it, dated anew", ago: -2, acted_on: false, ..GOOD },
    Delivery { what: "tampered with", id: "msg_2", tampered: true, taken: false, acted_on: false, ..GOOD },
    Delivery { what: "nearly too old", id: "msg_3", ago: 295, ..GOOD },
    Delivery { what: "too old", id: "msg_4", ago: 302, taken: false, acted_on: false, ..GOOD },
    Delivery { what: "nearly too early", id: "msg_5", ago: -295, ..GOOD },
    Delivery { what: "too early", id: "msg_6", ago: -305, taken: false, acted_on: false, ..GOOD },
    Delivery { what: "by the secret of before", id: "msg_7", secrets: &[SECRETS[1]], ..GOOD },
    Delivery {
        what: "by a new secret and one of ours",
        id: "msg_8",
        secrets: &[STRANGE, SECRETS[0]],
        ..GOOD
    },
    Delivery {
        what: "by a stranger",
        id: "msg_9",
        secrets: &[STRANGE],
        taken: false,
        acted_on: false,
        ..GOOD
    },
    Delivery { what: "under its white-label names", id: "msg_10", white_label: true, ..GOOD },
];

/// Must show 8.
#[tokio::test]
async fn deliveries_of_the_official_package_are_taken_as_it_would_take_them() {
    let Some(python) = python("svix") else { return };
    let secrets = SECRETS.map(|secret| format!("{{ value: {secret} }}")).join(", ");
    let world = World::with(&format!("webhooks: {{ secrets: [ {secrets} ] }}\n{USUAL}"), &[]).await;
    let now = jiff::Timestamp::now().as_second();
    let event = json!({
        "project_id": world.emulator.project_id(), "event_id": "webhook-event-test-1", "action": "UPDATE",
        "object_type": "member", "source": "DIRECT", "id": world.persona("VIEWER").member_id, "vertical": "B2B",
    });
    let (signed, other) = (event.to_string(), event.to_string().replace("UPDATE", "DELETE"));
    let asked: Vec<Value> = DELIVERIES
        .iter()
        .map(|delivery| {
            json!({
                "id": delivery.id, "timestamp": now - delivery.ago, "secrets": delivery.secrets, "signed": signed,
                "sent": if delivery.tampered { &other } else { &signed }, "accepted_by": SECRETS,
            })
        })
        .collect();
    for (delivery, answer) in DELIVERIES.iter().zip(ask_script(&python, "tests/sdk/svix_sign.py", &asked)) {
        let what = delivery.what;
        assert_eq!(answer["verifies"], delivery.taken, "{what}: the package's own verdict");
        let before =
            world.metric("portcullis_revocations_total{source=\"webhook\"}").await.unwrap_or_default();
        let name = |part: &str| format!("{}-{part}", if delivery.white_label { "webhook" } else { "svix" });
        let request = Ask::new("POST", "/.portcullis/webhooks/stytch")
            .header(&name("id"), delivery.id)
            .header(&name("timestamp"), &(now - delivery.ago).to_string())
            .header(&name("signature"), answer["signature"].as_str().unwrap())
            .body(if delivery.tampered { other.clone() } else { signed.clone() });
        let told = world.send(request).await;
        assert_eq!(told.status, if delivery.taken { 200 } else { 400 }, "{what}: {}", told.text());
        let after =
            world.metric("portcullis_revocations_total{source=\"webhook\"}").await.unwrap_or_default();
        assert_eq!(after - before, f64::from(u8::from(delivery.acted_on)), "{what}");
        println!("{what}: {}, acted on: {}", told.status, delivery.acted_on);
    }
}
