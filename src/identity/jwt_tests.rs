use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use super::*;
use crate::identity::jwks;

const NOW: i64 = 1_780_000_000;

/// The name alone.
fn subject(token: &str, issuer: &Issuer, keys: &[Key], now: i64) -> Result<String, Refusal> {
    super::subject(token, issuer, keys, now).map(|subject| subject.name)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer's keys: one of each kind.
struct Signer {
    p256: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
    rsa: RsaKeyPair,
}

impl Signer {
    fn new() -> Signer {
        let random = SystemRandom::new();
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, p256.as_ref(), &random);
        let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
        // ring makes no RSA keys; this one is for nothing else.
        let rsa: String = include_str!("jwt_tests_rsa.b64").split_whitespace().collect();
        let rsa = base64::engine::general_purpose::STANDARD.decode(rsa).expect("base64");
        Signer {
            p256: p256.expect("a key"),
            ed25519: Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).expect("a key"),
            rsa: RsaKeyPair::from_pkcs8(&rsa).expect("a key"),
        }
    }

    fn rsa_jwk(&self) -> Value {
        let RsaPublicKeyComponents::<Vec<u8>> { n, e } = self.rsa.public().into();
        let strip = |bytes: &[u8]| b64(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]);
        let (n, e) = (strip(&n), strip(&e));
        json!({"kty": "RSA", "kid": "r", "n": n, "e": e})
    }

    fn set(&self) -> Value {
        let point = self.p256.public_key().as_ref();
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "p", "use": "sig", "alg": "ES256",
             "x": b64(&point[1..33]), "y": b64(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": b64(self.ed25519.public_key())},
            self.rsa_jwk(),
            {"kty": "EC", "crv": "P-521", "kid": "q", "x": "AA", "y": "AA"},
            {"kty": "RSA", "kid": "enc", "use": "enc", "n": "AQAB", "e": "AQAB"},
            "not even a key",
        ]})
    }

    fn keys(&self) -> Vec<Key> {
        jwks::parse(self.set().to_string().as_bytes()).expect("keys").0
    }

    /// Signs with the key that this algorithm is for; an unknown one with the P-256 key.
    fn token(&self, header: &str, claims: &str, algorithm: &str) -> String {
        let message = format!("{}.{}", b64(header), b64(claims));
        let (bytes, random) = (message.as_bytes(), SystemRandom::new());
        let rsa = |padding: &'static dyn ring::signature::RsaEncoding| {
            let mut signed = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(padding, &random, bytes, &mut signed).expect("signed");
            signed
        };
        let signed = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "EdDSA" => self.ed25519.sign(bytes).as_ref().to_vec(),
            _ => self.p256.sign(&random, bytes).expect("signed").as_ref().to_vec(),
        };
        format!("{message}.{}", b64(signed))
    }
}

fn issuer() -> Issuer {
    Issuer { issuer: "https://issuer.example".into(), audience: "rater".into(), jwks: "jwks.json".into() }
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": "rater", "sub": "alice", "exp": NOW + 60})
}

fn with(changed: Value) -> String {
    let mut claims = claims();
    for (name, value) in changed.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    claims.to_string()
}

const ES256: &str = r#"{"alg":"ES256","kid":"p"}"#;

#[test]
fn each_algorithm_counts_with_its_own_key_and_no_other() {
    let signer = Signer::new();
    let keys = signer.keys();
    assert_eq!(keys.len(), 3);
    let of = |kid: &str, alg: &str, by: &str| {
        let header = json!({"alg": alg, "kid": kid, "typ": "JWT"}).to_string();
        subject(&signer.token(&header, &claims().to_string(), by), &issuer(), &keys, NOW)
    };
    for (kid, alg) in [("p", "ES256"), ("e", "EdDSA"), ("r", "RS256"), ("r", "PS256")] {
        assert_eq!(of(kid, alg, alg), Ok("alice".into()), "{alg}");
        for (other, _) in [("p", ""), ("e", ""), ("r", ""), ("x", "")].iter().filter(|(o, _)| *o != kid) {
            assert_eq!(of(other, alg, alg), Err(Refusal::UnknownKey), "{alg} as {other}");
        }
    }
    // The padding is part of the algorithm.
    assert_eq!(of("r", "RS256", "PS256"), Err(Refusal::Signature));
    assert_eq!(of("r", "PS256", "RS256"), Err(Refusal::Signature));
    for alg in ["none", "None", "NONE", "", "HS256", "HS512", "RS384", "ES384", "es256", "ES256K"] {
        for kid in ["p", "e", "r"] {
            assert_eq!(of(kid, alg, "ES256"), Err(Refusal::UnknownKey), "{alg}");
        }
    }
    // Two keys are for RSA's or others' algorithms: without a kid the algorithm must leave no choice.
    let unnamed = signer.token(r#"{"alg":"ES256"}"#, &claims().to_string(), "ES256");
    assert_eq!(subject(&unnamed, &issuer(), &keys, NOW), Ok("alice".into()));
}

#[test]
fn a_public_key_is_no_secret_and_a_missing_signature_is_none() {
    let signer = Signer::new();
    let keys = signer.keys();
    let check = |token: &str| subject(token, &issuer(), &keys, NOW);
    let claims = b64(claims().to_string());
    // HMAC over the public key's own bytes, the classic.
    let message = format!("{}.{claims}", b64(r#"{"alg":"HS256","kid":"p"}"#));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.p256.public_key().as_ref());
    let forged = format!("{message}.{}", b64(ring::hmac::sign(&secret, message.as_bytes())));
    assert_eq!(check(&forged), Err(Refusal::UnknownKey));
    let none = format!("{}.{claims}.", b64(r#"{"alg":"none"}"#));
    assert_eq!(check(&none), Err(Refusal::UnknownKey));
    assert_eq!(check(&format!("{}.{claims}.", b64(ES256))), Err(Refusal::Signature));
    // All zeros was a valid signature to some (r = s = 0).
    assert_eq!(check(&format!("{}.{claims}.{}", b64(ES256), b64([0; 64]))), Err(Refusal::Signature));
    // A key that comes with the token is nobody's.
    let own = json!({"alg": "ES256", "jwk": signer.set()["keys"][0], "kid": "mine"}).to_string();
    assert_eq!(check(&signer.token(&own, &self::claims().to_string(), "ES256")), Err(Refusal::UnknownKey));
    let other = Signer::new();
    assert_eq!(check(&other.token(ES256, &self::claims().to_string(), "ES256")), Err(Refusal::Signature));
}

#[test]
fn claims_of_the_wrong_kind_or_for_others_make_nobody() {
    let signer = Signer::new();
    let keys = signer.keys();
    let check = |claims: &str| subject(&signer.token(ES256, claims, "ES256"), &issuer(), &keys, NOW);
    let far = i64::MAX;
    for (changed, expected) in [
        (json!({"exp": NOW + 1}), Ok("alice".to_owned())),
        (json!({"exp": NOW - 29}), Ok("alice".into())),
        (json!({"exp": NOW - 30}), Err(Refusal::TokenExpired)),
        (json!({"exp": 0}), Err(Refusal::TokenExpired)),
        (json!({"exp": LAST}), Ok("alice".into())),
        (json!({"exp": LAST + 1}), Err(Refusal::Unreadable)),
        // In milliseconds.
        (json!({"exp": (NOW + 60) * 1000}), Err(Refusal::Unreadable)),
        (json!({"exp": -1}), Err(Refusal::Unreadable)),
        (json!({"exp": -far}), Err(Refusal::Unreadable)),
        (json!({"exp": far}), Err(Refusal::Unreadable)),
        (json!({"exp": u64::MAX}), Err(Refusal::Unreadable)),
        (json!({"exp": 1e300}), Err(Refusal::Unreadable)),
        (json!({"exp": -1e300}), Err(Refusal::Unreadable)),
        (json!({"exp": (NOW + 5) as f64 + 0.5}), Ok("alice".into())),
        (json!({"exp": (NOW + 60).to_string()}), Err(Refusal::Unreadable)),
        (json!({"exp": null}), Err(Refusal::Unreadable)),
        (json!({"exp": true}), Err(Refusal::Unreadable)),
        (json!({"exp": [NOW + 60]}), Err(Refusal::Unreadable)),
        (json!({"nbf": NOW + 30}), Ok("alice".into())),
        (json!({"nbf": NOW + 31}), Err(Refusal::TokenNotYet)),
        (json!({"nbf": "later"}), Err(Refusal::Unreadable)),
        (json!({"nbf": LAST}), Err(Refusal::TokenNotYet)),
        (json!({"nbf": far}), Err(Refusal::Unreadable)),
        (json!({"nbf": -1e300}), Err(Refusal::Unreadable)),
        (json!({"aud": "other"}), Err(Refusal::Audience)),
        (json!({"aud": "Rater"}), Err(Refusal::Audience)),
        (json!({"aud": []}), Err(Refusal::Audience)),
        (json!({"aud": ["other", "rater"]}), Ok("alice".into())),
        (json!({"aud": ["rater", 1]}), Err(Refusal::Unreadable)),
        (json!({"aud": {"rater": 1}}), Err(Refusal::Unreadable)),
        (json!({"aud": null}), Err(Refusal::Unreadable)),
        (json!({"iss": "https://issuer.example/"}), Err(Refusal::Issuer)),
        (json!({"iss": ["https://issuer.example"]}), Err(Refusal::Unreadable)),
        (json!({"sub": ["alice"]}), Err(Refusal::Unreadable)),
        (json!({"sub": null}), Err(Refusal::Unreadable)),
    ] {
        assert_eq!(check(&with(changed.clone())), expected, "{changed}");
    }
    for missing in ["iss", "aud", "sub", "exp"] {
        let mut without = claims();
        without.as_object_mut().expect("claims").remove(missing);
        assert_eq!(check(&without.to_string()), Err(Refusal::Unreadable), "{missing}");
    }
    // Which of two would count is nobody's guess.
    let twice = with(json!({})).replacen('{', r#"{"sub":"mallory","#, 1);
    assert_eq!(check(&twice), Err(Refusal::Unreadable));
    let later = with(json!({})).replacen('{', r#"{"exp":9999999999,"#, 1);
    assert_eq!(check(&later), Err(Refusal::Unreadable));
}

#[test]
fn what_is_no_token_of_the_plain_form_is_nobodys() {
    let signer = Signer::new();
    let keys = signer.keys();
    let check = |token: &str| subject(token, &issuer(), &keys, NOW);
    let good = signer.token(ES256, &claims().to_string(), "ES256");
    assert_eq!(check(&good), Ok("alice".into()));
    for token in ["", ".", "..", "...", "a.b.c", &format!("{good}.x"), &format!("{good}=")] {
        assert!(check(token).is_err(), "{token}");
    }
    // The last character of a signature has bits to spare: only one way of writing it counts.
    let (rest, last) = good.split_at(good.len() - 1);
    let others = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars();
    for other in others.filter(|c| !last.contains(*c)) {
        assert!(check(&format!("{rest}{other}")).is_err(), "{other}");
    }
    let headers = [
        r#"{"alg":"ES256","kid":"p","crit":["exp"],"exp":1}"#,
        r#"{"alg":"ES256","kid":"p","b64":false,"crit":["b64"]}"#,
        r#"{"alg":"ES256","kid":"p","crit":null}"#,
        r#"{"alg":"ES256","kid":"p","crit":[]}"#,
        r#"{"alg":"ES256","kid":"p","b64":null}"#,
        r#"{"alg":"ES256","alg":"ES256","kid":"p"}"#,
        r#"{"alg":["ES256"],"kid":"p"}"#,
        r#"{"kid":"p"}"#,
        r#"{"alg":"ES256","kid":7}"#,
    ];
    for header in headers {
        let token = signer.token(header, &claims().to_string(), "ES256");
        assert_eq!(check(&token), Err(Refusal::Unreadable), "{header}");
    }
    let long = with(json!({"note": "x".repeat(MAX_TOKEN)}));
    assert_eq!(check(&signer.token(ES256, &long, "ES256")), Err(Refusal::Unreadable));
}

#[test]
fn a_set_with_a_secret_or_an_unclear_choice_is_refused() {
    let signer = Signer::new();
    let wrong = |set: Value| jwks::parse(set.to_string().as_bytes()).expect_err("refused");
    let good = signer.set()["keys"][0].clone();
    assert!(wrong(json!({"keys": []})).contains("no key"));
    assert!(wrong(json!([])).contains("no JWK set"));
    assert!(wrong(json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]})).contains("a secret"));
    let error =
        wrong(json!({"keys": [good, {"kty": "EC", "crv": "P-256", "d": "c2VjcmV0", "x": "", "y": ""}]}));
    assert!(error.contains("a secret") && !error.contains("c2VjcmV0"), "{error}");
    // Which of two would count is nobody's guess.
    let other = Signer::new().set()["keys"][0].clone();
    assert!(wrong(json!({"keys": [good, other]})).contains("same kid"));
    let mut wider = good.clone();
    wider.as_object_mut().expect("a key").remove("alg");
    assert!(wrong(json!({"keys": [good, wider]})).contains("same kid"));
}

#[test]
fn one_name_of_two_keys_for_different_algorithms_is_no_unclear_choice() {
    let signer = Signer::new();
    let good = signer.set()["keys"][0].clone();
    let mut rsa = signer.rsa_jwk();
    rsa["kid"] = "p".into();
    // The first one twice, as a set that was put together from two may have it.
    let set = json!({"keys": [good, rsa, good]});
    let (keys, passed_over) = jwks::parse(set.to_string().as_bytes()).expect("keys");
    assert_eq!((keys.len(), passed_over.len()), (2, 0));
    for alg in ["ES256", "RS256"] {
        let header = json!({"alg": alg, "kid": "p"}).to_string();
        let token = signer.token(&header, &claims().to_string(), alg);
        assert_eq!(subject(&token, &issuer(), &keys, NOW), Ok("alice".into()), "{alg}");
    }
}

#[test]
fn a_key_that_can_not_be_used_is_passed_over_unless_it_leaves_none() {
    let signer = Signer::new();
    let good = signer.set()["keys"][0].clone();
    let rsa = |n: Vec<u8>| json!({"kty": "RSA", "kid": "s", "n": b64(n), "e": "AQAB"});
    let mut padded_text = signer.rsa_jwk();
    padded_text["n"] = format!("{}==", padded_text["n"].as_str().expect("text")).into();
    let mut confused = good.clone();
    confused["alg"] = "RS256".into();
    let mut cut = good.clone();
    cut["x"] = "AA".into();
    for (unusable, why) in [
        (rsa(vec![255; 128]), "1024 bits"),
        // Bytes of zero do not make it longer.
        (rsa([[0; 128], [255; 128]].concat()), "1024 bits"),
        (padded_text, "not base64url"),
        (confused, "alg does not fit"),
        (cut, "32 bytes"),
    ] {
        let alone = json!({"keys": [unusable]}).to_string();
        let error = jwks::parse(alone.as_bytes()).expect_err("none is left");
        assert!(error.contains(why) && error.contains("no key"), "{error}");
        // Also where it has the name of a good one.
        let set = json!({"keys": [unusable, good]}).to_string();
        let (keys, passed_over) = jwks::parse(set.as_bytes()).expect("one is left");
        assert!(matches!(&passed_over[..], [one] if one.contains(why)), "{passed_over:?}");
        let token = signer.token(ES256, &claims().to_string(), "ES256");
        assert_eq!(subject(&token, &issuer(), &keys, NOW), Ok("alice".into()), "{why}");
        assert_eq!(keys.len(), 1);
    }
}

#[test]
fn a_key_that_is_for_one_padding_alone_is_not_for_the_other() {
    let signer = Signer::new();
    let mut only = signer.rsa_jwk();
    only["alg"] = "PS256".into();
    let (keys, _) = jwks::parse(json!({"keys": [only]}).to_string().as_bytes()).expect("a key");
    let token = signer.token(r#"{"alg":"RS256","kid":"r"}"#, &claims().to_string(), "RS256");
    assert_eq!(subject(&token, &issuer(), &keys, NOW), Err(Refusal::UnknownKey));
}
