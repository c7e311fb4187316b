//! The small readings that turn a reader's complaint into a place and a hint.

use super::*;

#[test]
fn an_unknown_key_is_read_out_of_the_readers_sentence() {
    let (key, known) = unknown_key("unknown field `a`, expected one of `b`, `c`").unwrap();
    assert_eq!((key.as_str(), known), ("a", vec!["b".to_owned(), "c".to_owned()]));
    assert!(unknown_key("invalid type: string").is_none());
}

#[test]
fn only_close_names_are_suggested() {
    assert_eq!(
        did_you_mean("upstraem", ["upstream", "url"].into_iter()).unwrap(),
        "did you mean `upstream`?"
    );
    assert_eq!(did_you_mean("zzz", ["upstream", "url"].into_iter()), None);
}

#[test]
fn a_line_and_a_column_of_letters_become_a_place_in_bytes() {
    let text = "ab\n\u{e9}\u{e9}x\n";
    assert_eq!(offset(text, 2, 3), 7);
    assert_eq!(offset(text, 9, 9), text.len());
}

#[test]
fn text_becomes_what_the_shape_wants_only_where_it_did_not_come_from_the_file() {
    let overrides = [("limits.max_headers".to_owned(), "7".to_owned())];
    let layers =
        Layers::new(serde_json::json!({ "limits": { "max_streams": "7" } }), std::iter::empty(), &overrides);
    let mut tree = layers.merged().unwrap();
    let limits = Path::default().key("limits");
    assert!(coerce(&mut tree, &limits.key("max_headers"), &layers));
    assert!(!coerce(&mut tree, &limits.key("max_streams"), &layers));
    assert_eq!(tree["limits"], serde_json::json!({ "max_headers": 7, "max_streams": "7" }));
}
