//! Assertions are verified by whoever has the key set, through rotations, and say what the permit says.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use http::HeaderName;

use super::*;
use crate::identity::{ClientId, MachineToken, Scopes, Secret};
use crate::policy::Subject;

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn settings(es256: bool, seed: Option<&str>) -> AssertionSettings {
    AssertionSettings {
        header: HeaderName::from_static("x-auth-assertion"),
        issuer: "portcullis".to_owned(),
        es256,
        lifetime: Duration::from_secs(60),
        rotate_every: Duration::from_secs(3_600),
        seed: seed.map(|seed| Secret::new(seed.to_owned())),
    }
}

fn assertions(es256: bool, seed: &str) -> Assertions {
    Assertions::new(settings(es256, Some(seed)), at(NOW)).unwrap()
}

fn caller(scope: &str) -> Caller {
    let token = MachineToken {
        client_id: ClientId::parse("m2m-client-1").unwrap(),
        scopes: Scopes::parse(scope),
        issued_at: at(NOW),
        expires_at: at(NOW + 3_600),
    };
    Caller { subject: Subject::Machine(Arc::new(token)), evidence_age: Duration::ZERO }
}

/// The claims, if a key of the set verifies them.
fn verified(token: &HeaderValue, key_set: &Value) -> Option<Value> {
    let token = token.to_str().unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let header: Value = serde_json::from_slice(&decode(signed.split('.').next().unwrap())).unwrap();
    let key = key_set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"])?;
    assert_eq!(key["alg"], header["alg"]);
    let part = |name: &str| decode(key[name].as_str().unwrap());
    let verifies = match key["kty"].as_str().unwrap() {
        "OKP" => UnparsedPublicKey::new(&ED25519, part("x")).verify(signed.as_bytes(), &decode(signature)),
        _ => {
            let point = [vec![4], part("x"), part("y")].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(signed.as_bytes(), &decode(signature))
        }
    };
    verifies.is_ok().then(|| serde_json::from_slice(&decode(signed.split('.').nth(1).unwrap())).unwrap())
}

#[test]
fn an_assertion_says_who_for_whom_and_until_when() {
    for es256 in [false, true] {
        let made = assertions(es256, "one secret of a deployment");
        let token = made.assert(&caller("read:x"), "app", at(NOW)).unwrap();
        let claims = verified(&token, &made.key_set(at(NOW))).unwrap();
        assert_eq!(
            claims,
            json!({
                "iss": "portcullis", "aud": "app", "sub": "m2m-client-1", "kind": "machine",
                "client_id": "m2m-client-1", "scopes": ["read:x"], "iat": NOW - 2, "exp": NOW + 60,
            })
        );
    }
}

#[test]
fn keys_overlap_and_are_known_before_they_sign() {
    let made = assertions(false, "one secret of a deployment");
    let mut known = made.key_set(at(NOW));
    for second in (NOW..NOW + 4 * 3_600).step_by(30) {
        let token = made.assert(&caller("x"), "app", at(second)).unwrap();
        // Whoever read the key set up to a period ago knows the key of every assertion made since.
        assert!(verified(&token, &known).is_some(), "at {second}");
        if (second - NOW) % 3_600 == 3_570 {
            known = made.key_set(at(second));
        }
    }
    assert_eq!(known["keys"].as_array().unwrap().len(), 3);
}

#[test]
fn every_replica_with_the_secret_has_the_keys_and_nobody_else() {
    let (one, other) =
        (assertions(true, "one secret of a deployment"), assertions(true, "one secret of a deployment"));
    let token = one.assert(&caller("x"), "app", at(NOW)).unwrap();
    assert!(verified(&token, &other.key_set(at(NOW))).is_some());
    for stranger in [
        Assertions::new(settings(true, Some("another secret altogether")), at(NOW)).unwrap(),
        Assertions::new(settings(true, None), at(NOW)).unwrap(),
    ] {
        assert_eq!(verified(&token, &stranger.key_set(at(NOW))), None);
    }
}

#[test]
fn one_is_kept_until_half_its_time_is_over_or_it_would_say_something_else() {
    let made = assertions(true, "one secret of a deployment");
    let first = made.assert(&caller("x"), "app", at(NOW)).unwrap();
    assert_eq!(made.assert(&caller("x"), "app", at(NOW + 29)).unwrap(), first);
    assert_ne!(made.assert(&caller("x y"), "app", at(NOW + 29)).unwrap(), first);
    assert_ne!(made.assert(&caller("x"), "other", at(NOW + 29)).unwrap(), first);
    assert_ne!(made.assert(&caller("x"), "app", at(NOW + 30)).unwrap(), first);
    // Never past the end of what it rests on.
    let late = made.assert(&caller("x"), "app", at(NOW + 3_590)).unwrap();
    let claims = verified(&late, &made.key_set(at(NOW + 3_590))).unwrap();
    assert_eq!(claims["exp"], NOW + 3_600);
}

#[test]
fn other_settings_keep_the_keys_before_known_and_a_made_up_secret() {
    let first = Arc::new(Assertions::new(settings(false, None), at(NOW)).unwrap());
    let token = first.assert(&caller("x"), "app", at(NOW)).unwrap();
    let longer = AssertionSettings { lifetime: Duration::from_secs(120), ..settings(false, None) };
    let same = Assertions::succeeding(longer, at(NOW), Some(&first)).unwrap();
    assert_eq!(same.key_set(at(NOW)), first.key_set(at(NOW)), "the made-up secret stays");
    let other =
        Assertions::succeeding(settings(true, Some("one secret of a deployment")), at(NOW), Some(&first))
            .unwrap();
    assert!(verified(&token, &other.key_set(at(NOW + 59))).is_some());
    assert!(verified(&token, &other.key_set(at(NOW + 3_600))).is_none());
}

#[test]
fn keys_of_settings_before_stay_for_their_time_and_never_pile_up() {
    let mut assertions = Arc::new(assertions(false, "one secret of a deployment"));
    let token = assertions.assert(&caller("read:x"), "app", at(NOW)).unwrap();
    for turn in 1..=10 {
        let other = settings(turn % 2 == 1, Some("another secret of a deployment"));
        assertions = Arc::new(Assertions::succeeding(other, at(NOW + turn), Some(&assertions)).unwrap());
    }
    assert!(verified(&token, &assertions.key_set(at(NOW + 60))).is_some());
    assert_eq!(assertions.before.len(), 9, "each of the three sets once, however often they took turns");
    assert_eq!(assertions.key_set(at(NOW + 3_700))["keys"].as_array().unwrap().len(), 3);
    assert!(verified(&token, &assertions.key_set(at(NOW + 3_700))).is_none());
    let next = settings(false, Some("a third secret of a deployment"));
    let next = Assertions::succeeding(next, at(NOW + 3_700), Some(&assertions)).unwrap();
    assert_eq!(next.before.len(), 3, "what has had its time is not carried along");
}
