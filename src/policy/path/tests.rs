//! Spellings of a path and the one form they have, or why they have none.

use proptest::prelude::*;

use super::*;

fn canonical(raw: &str) -> String {
    CanonicalPath::parse(raw).unwrap_or_else(|error| panic!("{raw}: {error}")).to_string()
}

#[test]
fn equal_paths_have_one_form() {
    for (raw, expected) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/%61/%7Eb", "/a/~b"),
        ("/%c3%a9", "/%C3%A9"),
        ("/a/./b", "/a/b"),
        ("/a/b/..", "/a/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/b/.", "/a/b/"),
        ("/..a/.b.", "/..a/.b."),
        ("/a%20b", "/a%20b"),
        ("/a%25", "/a%25"),
        ("/a%25zz", "/a%25zz"),
        ("/a:b@c,d=e+f", "/a:b@c,d=e+f"),
        ("/a|b[c]", "/a%7Cb%5Bc%5D"),
    ] {
        assert_eq!(canonical(raw), expected, "{raw}");
    }
}

#[test]
fn ambiguous_paths_are_refused() {
    use PathError::*;
    for (raw, expected) in [
        ("", NoLeadingSlash),
        ("a", NoLeadingSlash),
        ("*", NoLeadingSlash),
        ("/..", AboveRoot),
        ("/a/../..", AboveRoot),
        ("/%2e%2e/a", AboveRoot),
        ("//a", EmptySegment),
        ("/a//b", EmptySegment),
        ("/a\\b", Backslash),
        ("/a%5Cb", Backslash),
        ("/a%5cb", Backslash),
        ("/a%00", Control),
        ("/a%0d%0ab", Control),
        ("/a%7f", Control),
        ("/a#b", Fragment),
        ("/é", NotAscii),
        ("/a b", NotAscii),
        ("/%ff", NotUtf8),
        ("/%c0%ae", NotUtf8),
        ("/%", BrokenEncoding),
        ("/%2", BrokenEncoding),
        ("/%zz", BrokenEncoding),
        ("/%252e", EncodedTwice),
        ("/%25%32%65", EncodedTwice),
        ("/..;/admin", DisguisedDots),
        ("/a/..%2Fadmin", DisguisedDots),
        ("/a/..%3bx", DisguisedDots),
        ("/a/...", DisguisedDots),
        ("/a/%20/b", DisguisedDots),
        ("/a/.%20", DisguisedDots),
        ("/a/%2e%2e%20/b", DisguisedDots),
        ("/a/%20..", DisguisedDots),
        ("/a/..%C2%A0/b", DisguisedDots),
        ("/a/%E3%80%80", DisguisedDots),
        ("/a/..%E2%80%8B/b", DisguisedDots),
        ("/a/%EF%BC%8E%EF%BC%8E/b", DisguisedDots),
        ("/a/%E2%80%A6", DisguisedDots),
        ("/a/%EF%BB%BF..;x/b", DisguisedDots),
        ("/a/.%20%2Fb", DisguisedDots),
        ("/a;/%20;x", DisguisedDots),
    ] {
        assert_eq!(CanonicalPath::parse(raw), Err(expected), "{raw}");
    }
}

#[test]
fn other_readings_are_what_origins_make_of_it_that_decode_drop_cut_or_trim() {
    for (raw, others) in [
        ("/a/b", Ok(&[][..])),
        ("/a%20b", Ok(&[])),
        ("/a.b/.c/d", Ok(&[])),
        ("/users%3Apurge", Ok(&["/users:purge"])),
        ("/admin;x/users", Ok(&["/admin/users"])),
        ("/admin%3bx/users", Ok(&["/admin/users", "/admin;x/users"])),
        ("/admin%2Fusers", Ok(&["/admin/users"])),
        ("/admin;x%2Fy", Ok(&["/admin", "/admin/y", "/admin;x/y"])),
        ("/;/admin", Err(PathError::EmptySegment)),
        ("/a%2F%2Fb", Err(PathError::EmptySegment)),
        // A proxy behind us may decode, and end the path there.
        ("/admin%23x/users", Ok(&["/admin"])),
        ("/admin/users%3Fx=%2Fy", Ok(&["/admin/users", "/admin/users%3Fx=/y"])),
        ("/%3Fx", Ok(&["/"])),
        ("/a;x%3Fy/b%23", Ok(&["/a", "/a/b", "/a/b%23", "/a;x"])),
        // Windows ignores dots and blanks at the end of a name.
        ("/exact.", Ok(&["/exact"])),
        ("/exact..", Ok(&["/exact"])),
        ("/exact%20", Ok(&["/exact"])),
        ("/a.%20/b%C2%A0", Ok(&["/a/b"])),
        ("/a%E2%80%8B/b", Ok(&["/a/b"])),
        ("/exact.;x", Ok(&["/exact", "/exact."])),
        ("/a.%3Fx", Ok(&["/a", "/a."])),
        // Cut, then decoded, then dropped.
        ("/admin%3Bx%23/y", Ok(&["/admin", "/admin%3Bx", "/admin/y", "/admin;x", "/admin;x%23/y"])),
    ] {
        let path = CanonicalPath::parse(raw).unwrap();
        let read = path.other_readings();
        let read = read.map(|paths| paths.iter().map(|path| path.as_str().to_owned()).collect::<Vec<_>>());
        assert_eq!(
            read,
            others.map(|others| others.iter().map(|path| (*path).to_owned()).collect()),
            "{raw}"
        );
    }
}

#[test]
fn encoded_slashes_and_parameters_pass_only_where_the_route_says_so() {
    let slash = CanonicalPath::parse("/a%2fb").unwrap();
    assert_eq!(slash.as_str(), "/a%2Fb");
    assert_eq!(slash.check_allowed(false, true), Err(PathError::EncodedSlash));
    assert_eq!(slash.check_allowed(true, false), Ok(()));
    for raw in ["/a;b=c", "/a%3bb"] {
        let parameter = CanonicalPath::parse(raw).unwrap();
        assert_eq!(parameter.check_allowed(true, false), Err(PathError::Parameter));
        assert_eq!(parameter.check_allowed(false, true), Ok(()));
    }
}

proptest! {
    #[test]
    fn the_canonical_form_is_its_own_canonical_form(raw in "/[ -~é]{0,40}") {
        if let Ok(path) = CanonicalPath::parse(&raw) {
            prop_assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path.clone()));
            prop_assert!(!path.segments().any(|segment| matches!(segment, "." | "..")));
        }
    }

    #[test]
    fn encoding_letters_changes_nothing(raw in "/[a-z]{1,8}/[a-z.]{1,8}") {
        let encoded: String = raw.bytes().map(|byte| match byte {
            b'/' => "/".to_owned(),
            byte => format!("%{byte:02x}"),
        }).collect();
        prop_assert_eq!(CanonicalPath::parse(&encoded), CanonicalPath::parse(&raw));
    }
}
